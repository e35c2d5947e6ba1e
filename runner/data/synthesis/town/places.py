"""Draws a scene: the kind of place, its streets and river, and what is on each block."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from runner.data.synthesis.canvas import Stencil, on_canvas
from runner.data.synthesis.plane import (
    Cell,
    Frame,
    Outline,
    along_line,
    area,
    direction,
    length,
    middle,
    offset_line,
    sides,
)
from runner.data.synthesis.scene import ROAD_WIDTH_PX, Area, Building, Land, Piece, Road, RoadKind, Scene, Tree
from runner.data.synthesis.town.blocks import hall_and_parking, houses, rows_around_a_yard, school, slabs
from runner.data.synthesis.town.chance import pick
from runner.data.synthesis.town.parks import park, square
from runner.data.synthesis.town.river import River, draw_river, give_way
from runner.data.synthesis.town.streets import StreetPlan, lay_streets, refined

Block = Callable[[np.random.Generator, Cell], Iterator[Piece]]

_PAVEMENT_PX = 7.0
_MARGIN_PX = 45.0
_SMALLEST_LOT_PX2 = 700.0


@dataclass(frozen=True)
class _PlaceKind:
    """A kind of place.

    Attributes:
        plan: how its streets are laid.
        bend: how much they bend; 0 for straight ones.
        blocks: what is on a block, and the land below it, each with its probability.
        river: the probability of a river.
    """

    plan: StreetPlan
    bend: float
    blocks: tuple[tuple[tuple[Block, Land], float], ...]
    river: float = 0.0


_S, _R, _P, _M = RoadKind.SECONDARY, RoadKind.RESIDENTIAL, RoadKind.PRIMARY, RoadKind.MOTORWAY
_ROWS = (rows_around_a_yard, Land.COMMERCIAL)
_QUIET_ROWS = (rows_around_a_yard, Land.RESIDENTIAL)
_HALL = (hall_and_parking, Land.COMMERCIAL)
_SLABS = (slabs, Land.RESIDENTIAL)
_SCHOOL = (school, Land.RESIDENTIAL)
_HOUSES = (houses, Land.RESIDENTIAL)
_PARK = (park, Land.RESIDENTIAL)
_SQUARE = (square, Land.RESIDENTIAL)

_PLACES: tuple[tuple[_PlaceKind, float], ...] = (
    (  # a dense old town
        _PlaceKind(
            StreetPlan((_P, _S, _R), 46_000, 0.16),
            0.35,
            (
                (_ROWS, 0.40),
                (_QUIET_ROWS, 0.34),
                (_HALL, 0.08),
                (_SCHOOL, 0.07),
                (_PARK, 0.06),
                (_SQUARE, 0.05),
            ),
            river=0.08,
        ),
        0.27,
    ),
    (  # a suburb of bent streets
        _PlaceKind(
            StreetPlan((_S, _R, _R), 30_000, 0.10),
            1.0,
            ((_HOUSES, 0.82), (_PARK, 0.08), (_SCHOOL, 0.07), (_HALL, 0.03)),
            river=0.12,
        ),
        0.20,
    ),
    (  # both banks of a river
        _PlaceKind(
            StreetPlan((_P, _S, _R), 46_000, 0.12),
            0.3,
            (
                (_ROWS, 0.26),
                (_QUIET_ROWS, 0.34),
                (_SLABS, 0.10),
                (_HALL, 0.08),
                (_PARK, 0.16),
                (_SQUARE, 0.06),
            ),
            river=1.0,
        ),
        0.21,
    ),
    (  # a large park and the town around it
        _PlaceKind(
            StreetPlan((_S, _P, _R), 42_000, 0.14, park_px2=150_000),
            0.5,
            ((_QUIET_ROWS, 0.45), (_ROWS, 0.15), (_SLABS, 0.16), (_PARK, 0.18), (_SCHOOL, 0.06)),
        ),
        0.14,
    ),
    (  # an estate of slabs along a motorway
        _PlaceKind(
            StreetPlan((_M, _S, _R), 62_000, 0.08),
            0.5,
            ((_SLABS, 0.60), (_SCHOOL, 0.14), (_HALL, 0.12), (_PARK, 0.14)),
            river=0.1,
        ),
        0.18,
    ),
)


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draws a place of a random kind. Everything in it is determined by `rng`."""
    place = pick(rng, _PLACES)
    river = draw_river(rng) if rng.random() < place.river else None
    frame = _draw_frame(rng, place.bend, river)

    # First a flat plan, of which only the blocks near the canvas are filled.
    cells, roads = lay_streets(rng, place.plan)
    plan: list[Piece] = [refined(road) for road in roads]
    for cell in cells:
        if on_canvas(map(frame.to_canvas, cell.corners), _MARGIN_PX):
            plan.extend(_fill(rng, cell, frame, place))

    # Then everything is mapped to the canvas, and cut off at its edge.
    pieces: list[Piece] = []
    for piece in plan:
        mapped = piece.mapped(frame.to_canvas)
        if on_canvas(_points(mapped), _MARGIN_PX):
            pieces.extend(_seen(mapped) if isinstance(mapped, Road) else [mapped])
    pieces.extend(_rows_of_trees(rng, pieces))

    if river is not None:
        banks = Stencil()
        banks.add(river.ground())
        pieces = [*give_way(pieces, banks, river), *river.pieces()]

    return _assemble(rng, pieces, river.course if river is not None else ())


def _draw_frame(rng: np.random.Generator, bend: float, river: River | None) -> Frame:
    origin = complex(rng.uniform(260, 340), rng.uniform(260, 340))
    # Streets run along a river, where there is one.
    turn = direction(rng.uniform(-0.414, 0.414))
    if river is not None:
        turn = river.heading * direction(rng.uniform(-0.05, 0.05))
    bends, twists = (
        direction(rng.uniform(-1, 1)) * rng.choice((-1, 1)).item() * rng.uniform(0.6, 1) * bend for _ in range(2)
    )
    return Frame(origin, turn, bends * 5e-4, twists * 4e-7)


def _fill(rng: np.random.Generator, cell: Cell, frame: Frame, place: _PlaceKind) -> Iterator[Piece]:
    block, land = pick(rng, place.blocks)
    size = area(cell.corners)
    if size < place.plan.park_px2 and size > 1.6 * place.plan.block_px2:
        block = park
    if size < 9_000 and block in (slabs, school, park):
        block, land = rows_around_a_yard, Land.COMMERCIAL

    # Roads have their width on the canvas, so on the plan it is divided by the scale there.
    scale = frame.scale(middle(cell.corners))
    kerbs = [(ROAD_WIDTH_PX[RoadKind(kind)] / 2 + _PAVEMENT_PX) / scale for kind in cell.borders]
    lot = cell.inset(kerbs)

    yield Area(land, tuple(_fine(cell.corners)))
    if lot is not None and area(lot.corners) > _SMALLEST_LOT_PX2:
        for piece in block(rng, lot):
            if isinstance(piece, Area) and piece.outline == lot.corners:
                yield Area(piece.land, tuple(_fine(piece.outline)))
            else:
                yield piece


def _fine(outline: Outline) -> Iterator[complex]:
    """The outline with points about every 30 pixels, so that it bends like the streets around it."""
    for a, b in sides(outline):
        count = max(1, round(length(b - a) / 30))
        yield from (a + (b - a) * (i / count) for i in range(count))


def _rows_of_trees(rng: np.random.Generator, pieces: list[Piece]) -> Iterator[Tree]:
    for piece in pieces:
        if isinstance(piece, Road) and piece.kind is not None and piece.kind >= RoadKind.RESIDENTIAL:
            for side in (-1, 1):
                if rng.random() < 0.38:
                    row = offset_line(piece.line, side * (piece.width / 2 + 4))
                    for at, _ in along_line(row, rng.uniform(15, 28)):
                        yield Tree(at, int(rng.integers(5, 8)), in_row=True)


def _seen(road: Road) -> Iterator[Road]:
    """The visible stretches of a road, each with one more point beyond the edge of the canvas."""
    # The road continues past the edge, so that its end is not visible.
    run: list[complex] = []
    shown = [on_canvas((point,), 20) for point in road.line]
    for i, point in enumerate(road.line):
        if any(shown[max(0, i - 1) : i + 2]):
            run.append(point)
        elif run:
            yield Road(road.kind, tuple(run))
            run = []
    if len(run) > 1:
        yield Road(road.kind, tuple(run))


def _points(piece: Piece) -> Iterable[complex]:
    match piece:
        case Area():
            return piece.outline
        case Road():
            return piece.line
        case Building():
            return (corner for part in piece.parts for corner in part)
        case Tree():
            return (piece.at,)


def _assemble(rng: np.random.Generator, pieces: list[Piece], river: Outline) -> Scene:
    """Sorts the pieces into a scene. Leaves out footpaths through water, and trees on streets or in buildings."""
    # What trees must keep clear of.
    water, taken = Stencil(), Stencil()
    areas = [piece for piece in pieces if isinstance(piece, Area)]
    for ground in areas:
        if ground.land is Land.WATER:
            water.add(ground.outline)
        if ground.land in (Land.WATER, Land.PITCH, Land.PARKING):
            taken.add(ground.outline)

    paths = [piece for piece in pieces if isinstance(piece, Road) and piece.kind is None]
    paths = [piece for piece in give_way(paths, water) if isinstance(piece, Road)]
    streets = [piece for piece in pieces if isinstance(piece, Road) and piece.kind is not None]
    for road in (*paths, *streets):
        taken.add_line(road.line, road.width + 6)

    buildings = [piece for piece in pieces if isinstance(piece, Building)]
    for building in buildings:
        for part in building.parts:
            taken.add(part)

    return Scene(
        areas=tuple(areas),
        roads=tuple(sorted(streets, key=lambda road: road.kind or 0)),
        paths=tuple(paths),
        buildings=tuple(buildings),
        trees=tuple(piece for piece in pieces if isinstance(piece, Tree) and not taken.covers(piece.at)),
        river=river,
        shadow=-1j * direction(rng.uniform(-0.35, 0.35)),
        shadow_length=rng.uniform(0.7, 1.35),
    )
