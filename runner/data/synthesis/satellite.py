"""The satellite half of a pair: ground, roads and roofs from above, with light and texture."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from runner.data.synthesis.canvas import Canvas, Colour
from runner.data.synthesis.light import Relief, develop
from runner.data.synthesis.plane import Outline, along_line, dot, length, middle, offset_line, rectangle, unit
from runner.data.synthesis.scene import Area, Building, Land, Road, RoadKind, Roof, Scene

_GROUND: dict[Land, Colour] = {
    Land.RESIDENTIAL: (128, 124, 112),
    Land.COMMERCIAL: (140, 136, 128),
    Land.GARDEN: (102, 111, 78),
    Land.PARK: (110, 121, 82),
    Land.GRASS: (104, 115, 77),
    Land.FOREST: (52, 66, 44),
    Land.PLAZA: (172, 162, 146),
    Land.PARKING: (112, 112, 112),
    Land.PITCH: (74, 128, 92),
    Land.WATER: (44, 66, 72),
}
_ROUGHNESS: dict[Land, int] = {
    Land.RESIDENTIAL: 120,
    Land.COMMERCIAL: 90,
    Land.GARDEN: 150,
    Land.PARK: 150,
    Land.GRASS: 140,
    Land.FOREST: 200,
    Land.PLAZA: 60,
    Land.PARKING: 50,
    Land.PITCH: 30,
    Land.WATER: 22,
}
_ROOF: dict[Roof, Colour] = {
    Roof.TIN: (186, 190, 190),
    Roof.TILE: (150, 92, 72),
    Roof.COPPER: (118, 150, 132),
    Roof.BITUMEN: (112, 110, 108),
    Roof.CONCRETE: (158, 154, 146),
    Roof.WHITE: (214, 214, 208),
}
_CARS: tuple[Colour, ...] = (
    *((236, 236, 232), (222, 222, 220), (206, 208, 210), (150, 154, 158), (44, 46, 50), (60, 62, 66)),
    *((122, 62, 54), (70, 84, 108)),
)
_LANES_PX: dict[RoadKind, tuple[float, ...]] = {
    RoadKind.MOTORWAY: (19, 8),
    RoadKind.PRIMARY: (13, 4.5),
    RoadKind.SECONDARY: (9.5, 4),
    RoadKind.RESIDENTIAL: (6,),
    RoadKind.SERVICE: (),
}
"""Distances from the middle of a road at which cars drive or park, on both sides."""
_ASPHALT: Colour = (84, 84, 86)
_PAVEMENT: Colour = (150, 146, 138)
_PAINT: Colour = (196, 196, 190)
_PATH: Colour = (170, 156, 132)


@dataclass(frozen=True)
class _Ground:
    """What is drawn before light is added: the colour, roughness and height of each surface."""

    colour: Canvas
    roughness: Canvas
    height: Canvas


def draw_satellite(rng: np.random.Generator, scene: Scene) -> Image.Image:
    """Draws the scene from above, 600 by 600 pixels, RGB. `rng` is for cars, things on roofs, texture and noise."""
    ground = _Ground(
        Canvas("RGB", _GROUND[Land.RESIDENTIAL], scale=2),
        Canvas("L", _ROUGHNESS[Land.RESIDENTIAL], scale=1),
        Canvas("L", 0, scale=1),
    )

    for area in scene.areas:
        _draw_area(rng, ground, area)
    for path in scene.paths:
        ground.colour.line(path.line, _PATH, path.width, rounded=True)
    _draw_roads(rng, ground, scene)
    for building in scene.buildings:
        _draw_building(rng, ground, building, scene.shadow)

    relief = Relief.lit(ground.height.reduced(), scene.trees, scene.shadow, scene.shadow_length)
    return develop(rng, ground.colour.reduced(), ground.roughness.reduced(), relief)


def _shaded(colour: Colour, percent: int) -> Colour:
    red, green, blue = (min(255, channel * percent // 100) for channel in colour)
    return red, green, blue


def _draw_area(rng: np.random.Generator, ground: _Ground, area: Area) -> None:
    colour = _shaded(_GROUND[area.land], int(rng.integers(94, 107)))
    if area.land is Land.WATER:  # always the same blue, with a pale shore
        colour = _GROUND[Land.WATER]
        ground.colour.border(area.outline, (160, 154, 142), 5)
    ground.colour.polygon(area.outline, colour)
    ground.roughness.polygon(area.outline, _ROUGHNESS[area.land])
    if area.land is Land.PARKING:
        _park_cars(rng, ground, area.outline)
    elif area.land is Land.PITCH:
        _mark_pitch(ground, area.outline)


def _park_cars(rng: np.random.Generator, ground: _Ground, outline: Outline) -> None:
    """Fills most places of a car park, in rows along its first side."""
    along, across = unit(outline[1] - outline[0]), unit(outline[3] - outline[0])
    width, depth = length(outline[1] - outline[0]), length(outline[3] - outline[0])
    row = 9.0
    while row < depth - 8:
        place = 8.0
        while place < width - 8:
            at = outline[0] + along * place + across * row
            if rng.random() < 0.72:
                _draw_car(rng, ground, at, across)
            place += 7.0
        row += 21.0


def _draw_car(rng: np.random.Generator, ground: _Ground, at: complex, heading: complex) -> None:
    body = rectangle(at, heading, rng.uniform(9.5, 12), 5)
    ground.colour.polygon(body, _CARS[rng.integers(len(_CARS))])
    ground.height.polygon(body, 3)  # a car casts a short shadow


def _mark_pitch(ground: _Ground, outline: Outline) -> None:
    center = middle(outline)
    inner = tuple(center + (corner - center) * 0.88 for corner in outline)
    ground.colour.border(inner, (206, 214, 204), 1)
    ground.colour.line(((inner[0] + inner[1]) * 0.5, (inner[2] + inner[3]) * 0.5), (206, 214, 204), 1)


def _draw_roads(rng: np.random.Generator, ground: _Ground, scene: Scene) -> None:
    streets = [(road, road.kind) for road in scene.roads if road.kind is not None]
    for road, kind in streets:
        if kind > RoadKind.SERVICE:
            ground.colour.line(road.line, _PAVEMENT, road.width + 7)

    # Above all pavements, so that none of them crosses a junction.
    for road, kind in streets:
        ground.colour.line(road.line, _shaded(_ASPHALT, 118 - 5 * kind), road.width, rounded=True)
        ground.roughness.line(road.line, 36, road.width + 4)

    for road, kind in streets:
        _mark_lanes(ground, road, kind)
        _drive_cars(rng, ground, road, kind)


def _mark_lanes(ground: _Ground, road: Road, kind: RoadKind) -> None:
    if kind is RoadKind.MOTORWAY:
        ground.colour.line(road.line, (104, 112, 84), 5)
        for side in (-1, 1):
            ground.colour.dashes(offset_line(road.line, side * 13), _PAINT, 1, dash=9, gap=9)
    elif kind is RoadKind.PRIMARY:
        ground.colour.line(road.line, _PAINT, 1)
        for side in (-1, 1):
            ground.colour.dashes(offset_line(road.line, side * 8.5), _PAINT, 0.9, dash=8, gap=9)
    elif kind is RoadKind.SECONDARY:
        ground.colour.dashes(road.line, _PAINT, 0.9, dash=9, gap=8)


def _drive_cars(rng: np.random.Generator, ground: _Ground, road: Road, kind: RoadKind) -> None:
    """Draws cars in the lanes of wide roads, and at the kerb of narrow ones."""
    spacing = 46 if kind > RoadKind.RESIDENTIAL else 30
    for lane in _LANES_PX[kind]:
        for side in (-1, 1):
            line = offset_line(road.line, side * lane)
            for at, heading in along_line(line, spacing, float(rng.uniform(0, spacing))):
                if rng.random() < 0.5:
                    _draw_car(rng, ground, at + heading * rng.uniform(-12, 12), heading)


def _draw_building(rng: np.random.Generator, ground: _Ground, building: Building, shadow: complex) -> None:
    base = _shaded(_ROOF[building.roof], int(rng.integers(88, 110)))
    for part in building.parts:
        ground.height.polygon(part, building.height)
        ground.roughness.polygon(part, 46)
        if building.pitched:
            _draw_pitched(ground, part, base, shadow)
        else:
            _draw_flat(rng, ground, part, base)


def _draw_pitched(ground: _Ground, part: Outline, base: Colour, shadow: complex) -> None:
    """Draws a roof with a ridge. The slope that faces the sun is brighter."""
    a, b, c, d = part
    ridge = (a + d) * 0.5, (b + c) * 0.5
    # From -1 (away from the sun) to 1 (towards it).
    facing = dot(unit((a + b) - (c + d)), -shadow)
    near, far = _shaded(base, 92 + int(30 * facing)), _shaded(base, 92 - int(30 * facing))
    ground.colour.polygon((a, b, ridge[1], ridge[0]), near)
    ground.colour.polygon((ridge[0], ridge[1], c, d), far)
    ground.colour.line(ridge, _shaded(base, 112), 1)

    # Chimneys.
    for at, _ in along_line(ridge, 17, 9):
        ground.colour.polygon(rectangle(at + (a - d) * 0.12, unit(b - a), 3, 4), _shaded(base, 58))


def _draw_flat(rng: np.random.Generator, ground: _Ground, part: Outline, base: Colour) -> None:
    """Draws a flat roof with a parapet around it, and vents and hatches on it."""
    center = middle(part)
    along = unit(part[1] - part[0])
    ground.colour.polygon(part, _shaded(base, 116))
    inner = tuple(corner + unit(center - corner) * 3.5 for corner in part)
    ground.colour.polygon(inner, base)
    if length(part[3] - part[0]) > 60 and length(part[1] - part[0]) > 60 and rng.random() < 0.6:
        _draw_skylights(ground, part, base)

    # Each vent has a dark copy below it, for its shadow.
    for _ in range(int(rng.integers(2, 6))):
        u, v = rng.uniform(0.12, 0.88), rng.uniform(0.2, 0.8)
        at = part[0] + (part[1] - part[0]) * u + (part[3] - part[0]) * v
        size = rng.uniform(3, 9)
        ground.colour.polygon(rectangle(at - 1.5j, along, size + 1, size * 0.7 + 1), _shaded(base, 50))
        ground.colour.polygon(rectangle(at, along, size, size * 0.7), _shaded(base, int(rng.integers(80, 135))))


def _draw_skylights(ground: _Ground, part: Outline, base: Colour) -> None:
    """Draws rows of glass across the roof of a wide hall."""
    count = max(2, int(length(part[1] - part[0]) / 26))
    for i in range(count):
        share = (i + 0.5) / count
        low, high = part[0] + (part[1] - part[0]) * share, part[3] + (part[2] - part[3]) * share
        start, end = low + (high - low) * 0.1, low + (high - low) * 0.9
        ground.colour.line((start, end), _shaded(base, 62), 6)
        ground.colour.line(offset_line((start, end), 5), _shaded(base, 122), 4)
