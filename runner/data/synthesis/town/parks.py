"""Parks and squares: lawns, woods, paths, and a pond where there is space."""

from collections.abc import Iterator

import numpy as np

from runner.data.synthesis.plane import Cell, area, blob, circle, contains, length, middle, scatter, sides, unit
from runner.data.synthesis.scene import Area, Land, Piece, Road, Tree

_POND_PX2 = 45_000.0


def park(rng: np.random.Generator, lot: Cell) -> Iterator[Piece]:
    """A lawn with paths that meet at a round plaza, and woods between them."""
    corners = lot.corners
    size = area(corners)
    along = lot.longest
    heart = middle(corners) + along * rng.uniform(-0.1, 0.1) * size / 400
    yield Area(Land.PARK, lot.corners)

    gates = [a + (b - a) * rng.uniform(0.3, 0.7) for a, b in sides(corners)]
    # In a small park, paths into the narrow corners would leave no lawn.
    targets = [*corners, *gates] if size > 12_000 else gates
    spread = 0.30 * min(length(target - heart) for target in targets) + 20

    for index, target in enumerate(targets):
        toward = (target + targets[index - len(corners)]) * 0.5 if size > 12_000 else corners[index]
        wood_middle = heart + (toward - heart) * rng.uniform(0.55, 0.75)
        reach = min(150.0, 0.9 * length(toward - heart)) * rng.uniform(0.75, 1.05)
        wood = blob(rng, wood_middle, unit(toward - heart), reach, reach * rng.uniform(0.6, 0.9))
        if rng.random() < 0.8 and reach > 24:
            yield Area(Land.FOREST, wood)
            yield from (Tree(point, int(rng.integers(8, 14))) for point in scatter(rng, wood, 12.5))

    if size > _POND_PX2 and rng.random() < 0.75:
        reach = min(230.0, size / 420)
        pond_middle = heart + along * (spread + reach * 0.62) * (1 if rng.random() < 0.5 else -1)
        pond = blob(rng, pond_middle, along, reach, reach * rng.uniform(0.55, 0.8))
        if all(contains(corners, point) for point in pond):
            yield Area(Land.WATER, pond)

    yield from (Tree(point, int(rng.integers(6, 11))) for point in scatter(rng, corners, 52))
    for target in targets:
        if rng.random() < 0.75:
            yield Road(None, (heart, target))

    # The plaza covers the ends of the paths.
    round_place = min(22.0, spread * 0.6)
    yield Area(Land.PLAZA, tuple(heart + ray * round_place for ray in circle(16)))
    if rng.random() < 0.5:
        yield Area(Land.WATER, tuple(heart + ray * round_place * 0.4 for ray in circle(12)))

    if size > 12_000:  # a path all around
        ring = tuple(heart + (corner - heart) * 0.62 for corner in corners)
        yield Road(None, (*ring, ring[0]))


def square(rng: np.random.Generator, lot: Cell) -> Iterator[Piece]:
    """A paved square with a fountain, and beds of grass at its corners."""
    yield Area(Land.PLAZA, lot.corners)
    heart = middle(lot.corners)
    for corner in lot.corners:
        reach = 0.62 * length(corner - heart)
        bed = blob(rng, heart + (corner - heart) * 0.55, unit(corner - heart), reach, reach * 0.7)
        yield Area(Land.GRASS, bed)
        yield from (Tree(point, int(rng.integers(6, 9))) for point in scatter(rng, bed, 16))
    yield Area(Land.WATER, tuple(heart + ray * 11 for ray in circle(16)))
