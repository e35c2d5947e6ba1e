"""The map half of a pair: a flat colour for each use of land, roads with edges, buildings, labels."""

import numpy as np
from PIL import Image

from runner.data.synthesis.canvas import Canvas, Colour
from runner.data.synthesis.labels import write_labels
from runner.data.synthesis.scene import Area, Land, RoadKind, Scene

_LAND_COLOUR: dict[Land, Colour] = {
    Land.RESIDENTIAL: (224, 223, 223),
    Land.COMMERCIAL: (240, 219, 217),
    Land.GARDEN: (221, 232, 204),
    Land.PARK: (200, 248, 204),
    Land.GRASS: (206, 235, 176),
    Land.FOREST: (172, 208, 158),
    Land.PLAZA: (238, 236, 228),
    Land.PARKING: (240, 238, 240),
    Land.PITCH: (170, 224, 203),
    Land.WATER: (170, 211, 223),
}
_ROAD_COLOUR: dict[RoadKind, Colour] = {
    RoadKind.SERVICE: (255, 255, 255),
    RoadKind.RESIDENTIAL: (255, 255, 255),
    RoadKind.SECONDARY: (247, 250, 190),
    RoadKind.PRIMARY: (252, 214, 163),
    RoadKind.MOTORWAY: (233, 146, 160),
}
_CASING: dict[RoadKind, Colour] = {
    RoadKind.SERVICE: (200, 198, 197),
    RoadKind.RESIDENTIAL: (190, 187, 186),
    RoadKind.SECONDARY: (138, 144, 40),
    RoadKind.PRIMARY: (172, 122, 44),
    RoadKind.MOTORWAY: (208, 62, 96),
}
_EDGE: dict[Land, Colour] = {
    Land.PARKING: (205, 190, 205),
    Land.PITCH: (125, 190, 165),
    Land.COMMERCIAL: (226, 196, 194),
}
_BUILDING: Colour = (217, 208, 201)
_WALL: Colour = (186, 171, 160)
_FOOTPATH: Colour = (240, 136, 122)
_TREE: Colour = (171, 212, 160)
_CASING_PX = 1.1


def draw_map(rng: np.random.Generator, scene: Scene) -> Image.Image:
    """Draws the scene as a map of 600 by 600 pixels, RGB. `rng` is for the labels alone."""
    canvas = Canvas("RGB", _LAND_COLOUR[Land.RESIDENTIAL], scale=2)
    for area in scene.areas:
        _draw_area(canvas, area)

    for path in scene.paths:
        canvas.line(path.line, (250, 246, 243), 4)
        canvas.dashes(path.line, _FOOTPATH, 1.6, dash=5, gap=3)
    _draw_roads(canvas, scene)

    # All walls first, so that there is none between the parts of one building.
    for building in scene.buildings:
        for part in building.parts:
            canvas.border(part, _WALL, 2)
        for part in building.parts:
            canvas.polygon(part, _BUILDING)
    for tree in scene.trees:
        if tree.in_row:
            canvas.disc(tree.at, 3.6, _TREE)

    # Labels are written at the final size, so that they stay sharp.
    picture = canvas.reduced()
    write_labels(rng, picture, scene)
    return picture


def _draw_area(canvas: Canvas, area: Area) -> None:
    canvas.polygon(area.outline, _LAND_COLOUR[area.land])
    if area.land in _EDGE:
        canvas.border(area.outline, _EDGE[area.land], 1)


def _draw_roads(canvas: Canvas, scene: Scene) -> None:
    # All edges first, so that none of them crosses a junction.
    for road in scene.roads:
        if road.kind is not None:
            canvas.line(road.line, _CASING[road.kind], road.width + 2 * _CASING_PX, rounded=True)
    for road in scene.roads:
        if road.kind is not None:
            canvas.line(road.line, _ROAD_COLOUR[road.kind], road.width, rounded=True)
    for road in scene.roads:
        if road.kind is RoadKind.MOTORWAY:
            canvas.line(road.line, _CASING[road.kind], 2)
