"""Blocks with buildings: rows around a yard, slabs on lawns, houses in gardens, halls, schools.

A lot is the land of a block without its streets and pavements, in the coordinates of the plan.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from runner.data.synthesis.plane import (
    Cell,
    Outline,
    area,
    contains,
    dot,
    length,
    middle,
    rectangle,
    scatter,
    sides,
    unit,
)
from runner.data.synthesis.scene import Area, Building, Land, Piece, Road, RoadKind, Roof, Tree
from runner.data.synthesis.town.chance import pick

_Roofs = tuple[tuple[Roof, float], ...]

_OLD_TOWN: _Roofs = (
    *((Roof.TIN, 0.46), (Roof.TILE, 0.18), (Roof.COPPER, 0.10)),
    *((Roof.WHITE, 0.14), (Roof.BITUMEN, 0.12)),
)
_SLAB: _Roofs = ((Roof.BITUMEN, 0.45), (Roof.CONCRETE, 0.40), (Roof.WHITE, 0.15))
_HOUSE: _Roofs = ((Roof.TILE, 0.60), (Roof.BITUMEN, 0.15), (Roof.TIN, 0.15), (Roof.COPPER, 0.10))
_HALL: _Roofs = ((Roof.CONCRETE, 0.40), (Roof.WHITE, 0.25), (Roof.BITUMEN, 0.20), (Roof.TIN, 0.15))
_PITCHED = (Roof.TIN, Roof.TILE, Roof.COPPER)
_DEEPEST_PITCHED_PX = 52.0


def _building(rng: np.random.Generator, parts: tuple[Outline, ...], height: float, roofs: _Roofs) -> Building:
    # Deep houses have flat roofs.
    roof = pick(rng, roofs)
    pitched = roof in _PITCHED and all(length(part[3] - part[0]) < _DEEPEST_PITCHED_PX for part in parts)
    return Building(parts, round(height * rng.uniform(0.75, 1.3)), roof, pitched)


def _grove(rng: np.random.Generator, outline: Outline, spacing: float, low: int, high: int) -> Iterator[Tree]:
    for point in scatter(rng, outline, spacing):
        yield Tree(point, int(rng.integers(low, high + 1)))


def rows_around_a_yard(rng: np.random.Generator, lot: Cell) -> Iterator[Piece]:
    """Houses wall to wall along the streets, around a yard with a drive. Without a yard where the lot is thin."""
    depth = rng.uniform(26, 38)
    yard = lot.shrunk(depth + 5)
    if yard is None or area(yard.corners) < 1000:
        yield from _solid_row(rng, lot)
        return

    height = rng.uniform(16, 30)
    gate_side = int(np.argmax([length(b - a) for a, b in sides(lot.corners)]))
    yield from _yard(rng, yard)
    for group in _row_groups(rng, lot, depth, gate_side):
        yield _building(rng, tuple(group), height, _OLD_TOWN)

    # The drive: from the longest side straight into the lot, and then towards the middle of the yard.
    a, b = list(sides(lot.corners))[gate_side]
    inwards = unit(b - a) * 1j
    gate = (a + b) * 0.5
    yard_middle = middle(yard.corners)
    bend = gate + inwards * dot(yard_middle - gate, inwards)
    yield Road(RoadKind.SERVICE, (gate - inwards * 20, bend, bend + (yard_middle - bend) * 1.6))


def _solid_row(rng: np.random.Generator, lot: Cell) -> Iterator[Building]:
    """Houses side by side that cover a whole lot, which is too thin for a yard."""
    # The lot is cut across, again and again, and the last house takes what is left.
    along = lot.longest
    rest: Cell | None = lot
    height = rng.uniform(12, 20)
    at = min(dot(corner, along) for corner in lot.corners)
    end = max(dot(corner, along) for corner in lot.corners)
    while rest is not None and at < end:
        at += rng.uniform(45, 80)
        cut = along * (at if end - at > 30 else end + 1)
        house, rest = rest.clipped(cut, along * 1j, 0), rest.clipped(cut, -along * 1j, 0)
        if house is not None and area(house.corners) > 300:
            yield _building(rng, _quarters(house.corners), height, _OLD_TOWN)


def _quarters(corners: Outline) -> tuple[Outline, ...]:
    """Divides a convex outline into parts with four corners."""
    if len(corners) == 4:
        return (corners,)

    # One part per corner, from there to the middle of the outline.
    center = middle(corners)
    halves = [(a + b) * 0.5 for a, b in sides(corners)]
    return tuple((corner, halves[i], center, halves[i - 1]) for i, corner in enumerate(corners))


def _row_groups(rng: np.random.Generator, lot: Cell, depth: float, gate_side: int) -> Iterator[list[Outline]]:
    """The outlines of houses along each side. The two that meet at a corner form one house."""
    corners = lot.corners
    count = len(corners)
    headings = [unit(b - a) for a, b in sides(corners)]

    # The corners of the yard. The limit keeps those of sharp corners from moving far away.
    inner = []
    for i in range(count):
        before, after = headings[i - 1] * 1j, headings[i] * 1j
        inner.append(corners[i] + (before + after) * (depth / max(0.6, 1 + dot(before, after))))

    at_corner: list[list[Outline]] = [[] for _ in range(count)]
    for i in range(count):
        following = (i + 1) % count
        start, end, along = corners[i], corners[following], headings[i]
        span = length(end - start)
        first = max(0.0, dot(inner[i] - start, along)) + rng.uniform(6, 40)
        last = span - max(0.0, dot(end - inner[following], along)) - rng.uniform(6, 40)

        # No space between the corner houses: one part fills the whole side.
        if last - first < 24:
            if span > 1:
                at_corner[i].append((start, end, inner[following], inner[i]))
            continue

        across = along * 1j * depth
        a, b = start + along * first, start + along * last
        at_corner[i].append((start, a, a + across, inner[i]))
        at_corner[following].append((b, end, inner[following], b + across))
        yield from _middle_houses(rng, (a, b), across, gate=i == gate_side)

    yield from (parts for parts in at_corner if parts)


def _middle_houses(
    rng: np.random.Generator, row: tuple[complex, complex], across: complex, gate: bool
) -> Iterator[list[Outline]]:
    start, end = row
    along, span = unit(end - start), length(end - start)
    count = max(1, round(span / rng.uniform(50, 90)))
    cuts = [span * (i + (rng.uniform(-0.2, 0.2) if 0 < i < count else 0)) / count for i in range(count + 1)]

    for low, high in pairwise(cuts):
        if rng.random() < 0.10:  # a gap between houses
            continue
        a, b = start + along * low, start + along * high

        # Neighbours differ in depth, so that the walls of yards are uneven.
        back = across * rng.uniform(0.8, 1.0)

        # The house at the gate is divided in two by the drive.
        if gate and low <= span / 2 <= high:
            for c, d in ((a, start + along * (span / 2 - 9)), (start + along * (span / 2 + 9), b)):
                if dot(d - c, along) > 10:
                    yield [(c, d, d + back, c + back)]
        else:
            yield [(a, b, b + back, a + back)]


def _yard(rng: np.random.Generator, yard: Cell) -> Iterator[Piece]:
    lawn = yard.shrunk(rng.uniform(4, 11))
    if lawn is None or area(lawn.corners) < 500:
        return
    along = lawn.longest
    if rng.random() < 0.7:
        yield Area(Land.GRASS, lawn.corners)
        yield from _grove(rng, lawn.corners, rng.uniform(15, 26), 7, 12)
    elif rng.random() < 0.6:
        yield from _parking(lawn.corners, along)

    place = middle(lawn.corners) + along * rng.uniform(-30, 30) + along * 1j * rng.uniform(-12, 12)
    annexe = rectangle(place, along, rng.uniform(34, 60), rng.uniform(24, 32))
    if rng.random() < 0.55 and all(contains(yard.corners, corner) for corner in annexe):
        yield _building(rng, (annexe,), 9, _OLD_TOWN)


def _parking(outline: Outline, along: complex) -> Iterator[Piece]:
    """A rectangle around the middle, the largest of several sizes that fits into the outline."""
    reach = [corner - middle(outline) for corner in outline]
    width = 2 * max(abs(dot(r, along)) for r in reach)
    depth = 2 * max(abs(dot(r, along * 1j)) for r in reach)
    for share in (0.95, 0.85, 0.75, 0.65, 0.55):
        lot = rectangle(middle(outline), along, width * share, depth * share)
        if all(contains(outline, corner) for corner in lot):
            yield Area(Land.PARKING, lot)
            return


def slabs(rng: np.random.Generator, lot: Cell) -> Iterator[Piece]:
    """Parallel blocks of flats on a lawn with trees, each with a drive."""
    wide = [unit(b - a) for a, b in sides(lot.corners) if length(b - a) > 110]
    along = wide[rng.integers(len(wide))] if wide else lot.longest
    depth, gap, height = rng.uniform(26, 34), rng.uniform(44, 66), rng.uniform(20, 34)

    lawn = lot.shrunk(3)
    if lawn is not None:
        yield Area(Land.GRASS, lawn.corners)
        yield from _grove(rng, lawn.corners, rng.uniform(30, 44), 7, 12)

    for start, end, at in _bands(lot, along, depth + gap, depth + 10):
        span = end - start
        count = max(1, round(span / 170))
        for i in range(count):
            width = min(span / count - 14, rng.uniform(90, 175))
            if width < 44:
                continue
            center = at + along * (start + span * (i + 0.5) / count)
            slab = rectangle(center, along, width, depth)
            yield _building(rng, (slab,), height, _SLAB)
        drive = at + along * 1j * (depth / 2 + 11)
        yield Road(RoadKind.SERVICE, (drive + along * (start - 26), drive + along * (end - 14)))


def _bands(lot: Cell, along: complex, pitch: float, depth: float) -> Iterator[tuple[float, float, complex]]:
    """Strips across the lot in the direction `along`, every `pitch` pixels, where a building can be.

    Yields:
        (start, end, point): a point in the middle of the strip's depth, and its ends as distances from the point.
    """
    across = along * 1j
    near = min(lot.corners, key=lambda corner: dot(corner, across))
    room = max(dot(corner - near, across) for corner in lot.corners)
    at = depth / 2
    while at + depth / 2 <= room:
        # At three lines, because a slanted side may cut off a corner of the strip.
        reaches = [_reach(lot.corners, near + across * (at + edge * depth), along) for edge in (-0.49, 0, 0.49)]
        known = [reach for reach in reaches if reach is not None]
        if len(known) == 3:
            start, end = max(low for low, _ in known), min(high for _, high in known)
            if end - start > 44:
                yield start, end, near + across * at
        at += pitch


def _reach(outline: Outline, point: complex, along: complex) -> tuple[float, float] | None:
    """The distances from the point at which a line through it enters and leaves a convex outline."""
    # A convex outline meets the line twice, or at a corner more often.
    meets = []
    for a, b in sides(outline):
        low, high = dot(a - point, along * 1j), dot(b - point, along * 1j)
        if (low >= 0) != (high >= 0):
            meets.append(dot(a + (b - a) * (low / (low - high)) - point, along))
    return (min(meets), max(meets)) if len(meets) >= 2 else None


def houses(rng: np.random.Generator, lot: Cell) -> Iterator[Piece]:
    """Detached houses along the streets, with gardens behind them."""
    yield Area(Land.GARDEN, lot.corners)
    inner = lot.shrunk(62)
    core = inner.corners if inner is not None else lot.corners
    yield from _grove(rng, lot.corners, 46, 5, 9)
    if inner is not None:
        yield from _grove(rng, core, 26, 6, 11)

    built: list[complex] = []
    for a, b in sides(lot.corners):
        span = length(b - a)
        if span < 60:
            continue
        along = unit(b - a)
        at = rng.uniform(8, 20)
        while at < span - 46:
            width, depth = rng.uniform(27, 38), rng.uniform(22, 29)
            setback = rng.uniform(13, 18)
            center = a + along * (at + width / 2) + along * 1j * (setback + depth / 2)
            at += width + rng.uniform(15, 26)

            # Near a corner, a house of the other street may be there already.
            if any(length(center - other) < 44 for other in built):
                continue
            built.append(center)

            house = rectangle(center, along, width, depth)
            parts: tuple[Outline, ...] = (house,)
            if rng.random() < 0.4:
                wing = center + along * (width * rng.uniform(-0.25, 0.25)) + along * 1j * (depth / 2 + 5)
                parts = (rectangle(wing, along * 1j, 16, width * 0.4), house)
            yield _building(rng, parts, 8, _HOUSE)

            if rng.random() < 0.5:  # a footpath from the street
                gate = center + along * (width / 2 + 5) - along * 1j * (setback + depth / 2)
                yield Road(None, (gate - along * 1j * 8, gate + along * 1j * (setback + 14)))


def hall_and_parking(rng: np.random.Generator, lot: Cell) -> Iterator[Piece]:
    """One wide building on most of the lot, and a car park on the rest."""
    along = lot.longest
    cell = lot.shrunk(6) or lot
    center = middle(cell.corners)
    reaches = [dot(corner - center, along) for corner in cell.corners]

    # The lot is divided by a line across it, unless it is short.
    split = min(reaches) + (max(reaches) - min(reaches)) * rng.uniform(0.55, 0.7)
    if max(reaches) - min(reaches) < 150:
        split = max(reaches) + 1

    built = cell.clipped(center + along * split, along * 1j, 0)
    open_land = cell.clipped(center + along * (split + 8), -along * 1j, 0)
    if built is not None and area(built.corners) > 500:
        yield _building(rng, _quarters(built.corners), 13, _HALL)
    if open_land is not None and area(open_land.corners) > 900:
        yield from _parking(open_land.corners, along)


def school(rng: np.random.Generator, lot: Cell) -> Iterator[Piece]:
    """A building with three wings, a sports pitch, and lawns."""
    along = lot.longest
    lawn = lot.shrunk(2) or lot
    yield Area(Land.GRASS, lawn.corners)
    yield from _grove(rng, lawn.corners, 36, 7, 11)

    # Bands this far apart: there is one at most.
    bands = list(_bands(lot, along, 1e6, 84))
    if not bands:
        return
    start, end, at = bands[0]
    width = min(120.0, (end - start) * 0.5)
    if width < 80:  # no space for wings
        yield _building(rng, (rectangle(at + along * ((start + end) / 2), along, end - start - 8, 40),), 13, _SLAB)
        return

    center = at + along * (start + width / 2 + 4)
    across = along * 1j
    wings = [rectangle(center + along * side * (width / 2 - 13) + across * 20, across, 44, 26) for side in (-1, 1)]
    yield _building(rng, (*wings, rectangle(center - across * 16, along, width, 28)), 13, _SLAB)

    pitch_width = min(110.0, end - start - width - 26)
    if pitch_width > 40:
        yield Area(Land.PITCH, rectangle(at + along * (end - pitch_width / 2 - 6), along, pitch_width, 62))
