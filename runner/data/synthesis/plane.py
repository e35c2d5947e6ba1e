"""Geometry of the plane. Points are complex numbers: x is the real part, y the imaginary part, and points down.

Only + - * / and square roots are used, because every processor rounds them in the same way. So a scene is the same on
all of them. A direction is a complex number of length 1. `1j` times it is the direction a quarter turn clockwise on the
screen. Outlines run so that their inside lies in that direction.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

Outline = tuple[complex, ...]


def length(vector: complex) -> float:
    """Euclidean length. Not `abs`, which is computed by the C library, and may be rounded differently."""
    return math.sqrt(vector.real * vector.real + vector.imag * vector.imag)


def unit(vector: complex) -> complex:
    """The direction of a vector that is not zero."""
    return vector * (1.0 / length(vector))


def dot(a: complex, b: complex) -> float:
    """Scalar product."""
    return a.real * b.real + a.imag * b.imag


def cross(a: complex, b: complex) -> float:
    """Signed area of the parallelogram. Positive where b is on the inner side of a."""
    return a.real * b.imag - a.imag * b.real


def direction(half_tangent: float) -> complex:
    """The unit vector at the angle whose half has this tangent. It needs no trigonometric function."""
    square = half_tangent * half_tangent
    return complex((1 - square) / (1 + square), 2 * half_tangent / (1 + square))


def circle(num_points: int) -> Outline:
    """Unit directions all around, spaced roughly evenly. `num_points` is a multiple of 4."""
    quarter_half_tangent = math.sqrt(2) - 1
    quarter = [direction(4 * i / num_points * quarter_half_tangent) for i in range(num_points // 4)]
    return tuple(turn * point for turn in (1, 1j, -1, -1j) for point in quarter)


def sides(outline: Outline) -> Iterator[tuple[complex, complex]]:
    """The start and end of each side."""
    return zip(outline, outline[1:] + outline[:1], strict=True)


def area(outline: Outline) -> float:
    """The area in square pixels. Positive for outlines that run in the direction that this module expects."""
    return sum(cross(a, b) for a, b in sides(outline)) / 2


def middle(outline: Outline) -> complex:
    """The mean of the corners."""
    return sum(outline) * (1.0 / len(outline))


def contains(outline: Outline, point: complex) -> bool:
    """True where the point is inside the outline, which need not be convex."""
    # A ray to the right crosses the outline an odd number of times if the point is inside.
    inside = False
    for a, b in sides(outline):
        if (a.imag > point.imag) != (b.imag > point.imag):
            at = a.real + (point.imag - a.imag) * (b.real - a.real) / (b.imag - a.imag)
            inside ^= at > point.real
    return inside


def rectangle(center: complex, along: complex, width: float, depth: float) -> Outline:
    """The four corners. The first side runs `along`, and is `width` pixels long."""
    half_width, half_depth = along * (width / 2), along * 1j * (depth / 2)
    return (
        center - half_width - half_depth,
        center + half_width - half_depth,
        center + half_width + half_depth,
        center - half_width + half_depth,
    )


def blob(rng: np.random.Generator, center: complex, along: complex, width: float, depth: float) -> Outline:
    """A random smooth closed shape of 24 points around the centre, at most `width` by `depth` pixels."""
    rays = circle(24)
    radii = [rng.uniform(0.68, 1.0) for _ in range(8)]
    points = []
    for i, ray in enumerate(rays):
        before, after, share = radii[i // 3], radii[(i // 3 + 1) % 8], (i % 3) / 3
        # Smooth between two radii, with slope 0 at both.
        eased = share * share * (3 - 2 * share)
        radius = before + (after - before) * eased
        points.append(center + along * complex(ray.real * width / 2, ray.imag * depth / 2) * radius)
    return tuple(points)


def scatter(rng: np.random.Generator, outline: Outline, spacing: float) -> Iterator[complex]:
    """Random points inside the outline, one in each cell of a grid with this spacing."""
    left, right = min(p.real for p in outline), max(p.real for p in outline)
    top, bottom = min(p.imag for p in outline), max(p.imag for p in outline)
    rows, columns = np.indices((int((bottom - top) / spacing) + 1, int((right - left) / spacing) + 1))
    x = left + (columns + rng.random(columns.shape)) * spacing
    y = top + (rows + rng.random(rows.shape)) * spacing

    # The same as `contains`, for all points at once.
    inside = np.zeros(x.shape, bool)
    for a, b in sides(outline):
        if a.imag != b.imag:
            slope = (b.real - a.real) / (b.imag - a.imag)
            inside ^= ((a.imag > y) != (b.imag > y)) & (a.real + (y - a.imag) * slope > x)
    yield from map(complex, x[inside].tolist(), y[inside].tolist())


def along_line(line: Sequence[complex], spacing: float, start: float = 0.0) -> Iterator[tuple[complex, complex]]:
    """Points at every `spacing` pixels along a line, each with the direction of the line there."""
    position = start
    for a, b in pairwise(line):
        way = length(b - a)
        if way == 0:
            continue
        heading = unit(b - a)
        while position <= way:
            yield a + heading * position, heading
            position += spacing
        position -= way  # the rest of the spacing goes on along the next stretch


def offset_line(line: Outline, distance: float) -> Outline:
    """A parallel line, `distance` pixels towards the inner side (negative: towards the other side).

    No point of the line may equal the one before it.
    """
    return tuple(point + mitre * distance for point, mitre in zip(line, _mitres(line), strict=True))


@lru_cache(maxsize=1024)
def _mitres(line: Outline) -> Outline:
    """For each point, the vector to the corner of a parallel line one pixel further in. Cached for roads."""
    headings = [unit(b - a) for a, b in pairwise(line)]
    mitres = [headings[0] * 1j]
    for before, after in pairwise(headings):
        # Limited, because the corner would be far away where the line turns back.
        mitres.append((before + after) * 1j * (1 / max(0.4, 1 + dot(before, after))))
    return (*mitres, headings[-1] * 1j)


@dataclass(frozen=True)
class Cell:
    """A convex piece of land. `borders[i]` is the kind of road along the side from corner i to corner i + 1."""

    corners: Outline
    borders: tuple[int, ...]

    def clipped(self, origin: complex, along: complex, border: int) -> "Cell | None":
        """The part on the inner side of a line, with `border` along the new side. None where there is none."""
        corners: list[complex] = []
        borders: list[int] = []
        # Each corner on the inner side is kept, and each side that crosses the line is cut there.
        depths = [cross(along, corner - origin) for corner in self.corners]
        for i, (a, b) in enumerate(sides(self.corners)):
            depth_a, depth_b = depths[i], depths[(i + 1) % len(depths)]
            if depth_a >= 0:
                corners.append(a)
                borders.append(self.borders[i])
            if (depth_a >= 0) != (depth_b >= 0):
                corners.append(a + (b - a) * (depth_a / (depth_a - depth_b)))
                borders.append(border if depth_a >= 0 else self.borders[i])
        return Cell(tuple(corners), tuple(borders)) if len(corners) >= 3 else None

    def inset(self, distances: Sequence[float]) -> "Cell | None":
        """The cell with side i moved inwards by distances[i] pixels. None where nothing is left."""
        cell: Cell | None = self
        for (a, b), border, distance in zip(sides(self.corners), self.borders, distances, strict=True):
            if cell is None or length(b - a) < 1e-6:
                continue
            along = unit(b - a)
            cell = cell.clipped(a + along * 1j * distance, along, border)
        return cell

    def shrunk(self, distance: float) -> "Cell | None":
        """The cell with all sides moved inwards by the same distance. None where nothing is left."""
        return self.inset([distance] * len(self.corners))

    @property
    def longest(self) -> complex:
        """The direction of the longest side."""
        a, b = max(sides(self.corners), key=lambda side: length(side[1] - side[0]))
        return unit(b - a)


@dataclass(frozen=True)
class Frame:
    """Maps a flat plan to the canvas: turns it, and bends it so that right angles stay right angles."""

    origin: complex
    turn: complex
    bend: complex
    twist: complex

    def to_canvas(self, point: complex) -> complex:
        """Maps a point of the plan to pixels of the canvas."""
        # A complex polynomial is a conformal map, which keeps angles.
        square = point * point
        return self.origin + self.turn * (point + self.bend * square + self.twist * square * point)

    def scale(self, point: complex) -> float:
        """Pixels of the canvas per pixel of the plan, near a point."""
        return length(1 + 2 * self.bend * point + 3 * self.twist * point * point)
