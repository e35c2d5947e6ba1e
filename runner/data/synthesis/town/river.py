"""A river through a scene: its water, its banks with roads, and how other pieces give way to them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from runner.data.synthesis.canvas import Stencil
from runner.data.synthesis.plane import Outline, along_line, cross, direction, offset_line, unit
from runner.data.synthesis.scene import ROAD_WIDTH_PX, Area, Building, Land, Piece, Road, RoadKind, Tree


@dataclass(frozen=True)
class River:
    """A river.

    Attributes:
        course: its middle line.
        half_width: half of its width in pixels.
        banks: for each side the width of the bank, its land, and the road behind it.
    """

    course: Outline
    half_width: float
    banks: tuple[tuple[float, Land, RoadKind], tuple[float, Land, RoadKind]]

    @property
    def heading(self) -> complex:
        """The direction from the beginning of the course to its end."""
        return unit(self.course[-1] - self.course[0])

    def pieces(self) -> Iterator[Piece]:
        """Water, banks, roads and trees, in pixels of the canvas."""
        for side, (strip, land, kind) in zip((-1, 1), self.banks, strict=True):
            yield Area(land, (*self.course, *reversed(self._edge(side))))
            yield Road(kind, offset_line(self.course, side * (self.half_width + strip + ROAD_WIDTH_PX[kind] / 2)))
            if land is Land.GRASS:
                row = offset_line(self.course, side * (self.half_width + strip * 0.5))
                yield from (Tree(at, 7, in_row=True) for at, _ in along_line(row, 21))
        low, high = (offset_line(self.course, side * self.half_width) for side in (-1, 1))
        yield Area(Land.WATER, (*low, *reversed(high)))

    def ground(self) -> Outline:
        """The outline of water, banks and their roads together."""
        return (*self._edge(-1), *reversed(self._edge(1)))

    def is_bridged_by(self, road: Road) -> bool:
        """True for a road of higher rank that crosses the river, rather than runs along it."""
        if road.kind is None or road.kind < RoadKind.SECONDARY:
            return False
        return abs(cross(self.heading, unit(road.line[-1] - road.line[0]))) > 0.7

    def _edge(self, side: int) -> Outline:
        strip, _, kind = self.banks[(side + 1) // 2]
        return offset_line(self.course, side * (self.half_width + strip + ROAD_WIDTH_PX[kind] + 5))


def draw_river(rng: np.random.Generator) -> River:
    """Draws a river with a smooth course across the canvas, 70 to 140 pixels wide."""
    center = complex(rng.uniform(190, 410), rng.uniform(190, 410))
    along = direction(rng.uniform(-1, 1))

    # A cubic Bézier curve with these four control points.
    bows = [along * 1j * rng.uniform(-250, 250) for _ in range(2)]
    a, b, c, d = (
        center - along * 600,
        center - along * 200 + bows[0],
        center + along * 200 + bows[1],
        center + along * 600,
    )

    course = []
    for i in range(31):
        t = i / 30
        s = 1 - t
        course.append(a * (s * s * s) + b * (3 * s * s * t) + c * (3 * s * t * t) + d * (t * t * t))
    return River(tuple(course), rng.uniform(35, 70), (_draw_bank(rng), _draw_bank(rng)))


def _draw_bank(rng: np.random.Generator) -> tuple[float, Land, RoadKind]:
    strip = rng.uniform(6, 30)
    kind = RoadKind.SECONDARY if rng.random() < 0.6 else RoadKind.RESIDENTIAL
    return strip, Land.GRASS if strip > 14 else Land.PLAZA, kind


def give_way(pieces: Iterable[Piece], water: Stencil, river: River | None = None) -> Iterator[Piece]:
    """Leaves out pieces in the water, and ends roads there, except those that bridge the river.

    Args:
        water: the land that is kept free.
        river: None where the water is a pond.
    """
    for piece in pieces:
        match piece:
            case Area():
                if piece.land not in (Land.PARKING, Land.PITCH) or not water.touches(piece.outline):
                    yield piece

            case Road():
                if river is not None and river.is_bridged_by(piece):
                    yield piece
                else:
                    # Streets go on to the road on the bank, which is inside the land kept for the river.
                    yield from _dry_runs(piece, water, reach=0 if river is None else 3)

            case Building():
                if not any(map(water.touches, piece.parts)):
                    yield piece

            case Tree():
                if not water.covers(piece.at):
                    yield piece


def _dry_runs(road: Road, water: Stencil, reach: int) -> Iterator[Road]:
    """The stretches of a road outside the water. Each goes on for `reach` steps of 4 pixels into the bank."""
    # In steps of 4 pixels, which is the size of a stencil's cell.
    points = [*(point for point, _ in along_line(road.line, 4)), road.line[-1]]
    dry = [not water.covers(point) for point in points]
    if all(dry):
        yield road
        return

    run: list[complex] = []
    for i, point in enumerate(points):
        if any(dry[max(0, i - reach) : i + reach + 1]):
            run.append(point)
        elif run:
            yield from _as_road(road, run)
            run = []
    yield from _as_road(road, run)


def _as_road(road: Road, run: list[complex]) -> Iterator[Road]:
    # Short stubs are dropped. Fewer points make the road smooth again.
    if len(run) > 4:
        yield Road(road.kind, (run[0], *run[8:-4:8], run[-1]))
