"""Streets by division: land is cut in two again and again, and each cut becomes a road."""

from dataclasses import dataclass

import numpy as np

from runner.data.synthesis.plane import Cell, area, contains, cross, dot, length, middle, rectangle, unit
from runner.data.synthesis.scene import Road, RoadKind

_EXTENT_PX = 1120.0
_MAX_CUTS = 9


@dataclass(frozen=True)
class StreetPlan:
    """How land is cut.

    Attributes:
        kinds: the kind of road for the first cut, the second, and so on. The last is for all further cuts.
        block_px2: the mean area of land that is not cut any more.
        skew: the largest angle of a cut, as a tangent.
        park_px2: land around the middle is not cut below this area; 0 for no such park.
    """

    kinds: tuple[RoadKind, ...]
    block_px2: float
    skew: float
    park_px2: float = 0.0


def lay_streets(rng: np.random.Generator, plan: StreetPlan) -> tuple[list[Cell], list[Road]]:
    """Draws blocks and the roads between them, on a plan of 1120 by 1120 pixels around the origin."""
    cells: list[Cell] = []
    roads: list[Road] = []
    focus = complex(rng.uniform(-60, 60), rng.uniform(-60, 60))
    ground = Cell(rectangle(0j, 1 + 0j, _EXTENT_PX, _EXTENT_PX), (RoadKind.RESIDENTIAL,) * 4)

    pending = [(ground, 0)]
    while pending:
        cell, depth = pending.pop()
        size = area(cell.corners)
        is_park = size < plan.park_px2 and contains(cell.corners, focus)
        if is_park or depth >= _MAX_CUTS or size < plan.block_px2 * rng.uniform(0.75, 1.5):
            cells.append(cell)
            continue

        kind = plan.kinds[min(depth, len(plan.kinds) - 1)]
        halves, road = _cut(rng, cell, kind, plan.skew)
        roads.append(road)
        pending.extend((half, depth + 1) for half in halves)
    return cells, roads


def _cut(rng: np.random.Generator, cell: Cell, kind: RoadKind, skew: float) -> tuple[list[Cell], Road]:
    # Across the longest side, at a random point near its middle, so that blocks do not become too long.
    along = cell.longest
    reaches = [dot(along, corner) for corner in cell.corners]
    low, high = min(reaches), max(reaches)
    at = low + (high - low) * rng.uniform(0.38, 0.62)
    middle_point = middle(cell.corners)
    origin = middle_point + along * (at - dot(along, middle_point))
    across = unit(along * 1j + along * rng.uniform(-skew, skew))
    halves = [half for way in (across, -across) if (half := cell.clipped(origin, way, kind)) is not None]

    # The road runs between the two points where the cut meets the outline.
    ends = sorted(
        (corner for corner in halves[0].corners if abs(cross(across, corner - origin)) < 1e-6),
        key=lambda corner: dot(across, corner),
    )
    return halves, Road(kind, (ends[0], ends[-1]))


def refined(road: Road, step_px: float = 42.0) -> Road:
    """The same road with a point at least every `step_px` pixels, so that it can be bent."""
    start, end = road.line[0], road.line[-1]
    count = max(1, round(length(end - start) / step_px))
    return Road(road.kind, tuple(start + (end - start) * (i / count) for i in range(count + 1)))
