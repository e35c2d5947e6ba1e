"""Geometry of the plane with points as complex numbers: x is real, y imaginary and points down.

Only + - * / and square roots, which every processor rounds alike: a scene is the same on all of them.
A direction is a unit complex number; `1j` times it is the direction a quarter turn clockwise on console,
and outlines run so that their inside lies there.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

Outline = tuple[complex, ...]


def length(vector: complex) -> float:
    """Euclidean length; `abs` of a complex number is left to the C library, which may round otherwise."""
    return math.sqrt(vector.real * vector.real + vector.imag * vector.imag)


def unit(vector: complex) -> complex:
    """The direction of a vector that is not zero."""
    return vector * (1.0 / length(vector))


def dot(a: complex, b: complex) -> float:
    """Scalar product."""
    return a.real * b.real + a.imag * b.imag


def cross(a: complex, b: complex) -> float:
    """Signed area of the parallelogram; positive where b lies on a's inner side."""
    return a.real * b.imag - a.imag * b.real


def direction(half_tangent: float) -> complex:
    """The unit vector at the angle whose half has this tangent: a circle without trigonometry."""
    square = half_tangent * half_tangent
    return complex((1 - square) / (1 + square), 2 * half_tangent / (1 + square))


def circle(num_points: int) -> Outline:
    """Unit directions all around, roughly evenly spaced; num_points is a multiple of 4."""
    quarter_half_tangent = math.sqrt(2) - 1
    quarter = [direction(4 * i / num_points * quarter_half_tangent) for i in range(num_points // 4)]
    return tuple(turn * point for turn in (1, 1j, -1, -1j) for point in quarter)


def sides(outline: Outline) -> Iterator[tuple[complex, complex]]:
    """Each side's start and end."""
    return zip(outline, outline[1:] + outline[:1], strict=True)


def area(outline: Outline) -> float:
    """Square pixels; positive for outlines with their inside where this module expects it."""
    return sum(cross(a, b) for a, b in sides(outline)) / 2


def middle(outline: Outline) -> complex:
    """The mean of the corners."""
    return sum(outline) * (1.0 / len(outline))


def contains(outline: Outline, point: complex) -> bool:
    """True where the point lies inside the outline, convex or not."""
    inside = False
    for a, b in sides(outline):
        if (a.imag > point.imag) != (b.imag > point.imag):
            at = a.real + (point.imag - a.imag) * (b.real - a.real) / (b.imag - a.imag)
            inside ^= at > point.real
    return inside


def rectangle(center: complex, along: complex, width: float, depth: float) -> Outline:
    """Four corners; the first side runs `along` for `width` pixels."""
    half_width, half_depth = along * (width / 2), along * 1j * (depth / 2)
    return (
        center - half_width - half_depth,
        center + half_width - half_depth,
        center + half_width + half_depth,
        center - half_width + half_depth,
    )


def blob(rng: np.random.Generator, center: complex, along: complex, width: float, depth: float) -> Outline:
    """A soft closed shape of 24 points around the centre, at most `width` by `depth` pixels."""
    rays = circle(24)
    radii = [rng.uniform(0.68, 1.0) for _ in range(8)]
    points = []
    for i, ray in enumerate(rays):
        before, after, share = radii[i // 3], radii[(i // 3 + 1) % 8], (i % 3) / 3
        eased = share * share * (3 - 2 * share)
        radius = before + (after - before) * eased
        points.append(center + along * complex(ray.real * width / 2, ray.imag * depth / 2) * radius)
    return tuple(points)


def scatter(rng: np.random.Generator, outline: Outline, spacing: float) -> Iterator[complex]:
    """Points inside the outline, one at a random place in each cell of a grid of this spacing."""
    left, right = min(p.real for p in outline), max(p.real for p in outline)
    top, bottom = min(p.imag for p in outline), max(p.imag for p in outline)
    rows, columns = np.indices((int((bottom - top) / spacing) + 1, int((right - left) / spacing) + 1))
    x = left + (columns + rng.random(columns.shape)) * spacing
    y = top + (rows + rng.random(rows.shape)) * spacing
    inside = np.zeros(x.shape, bool)
    for a, b in sides(outline):
        if a.imag != b.imag:
            slope = (b.real - a.real) / (b.imag - a.imag)
            inside ^= ((a.imag > y) != (b.imag > y)) & (a.real + (y - a.imag) * slope > x)
    yield from map(complex, x[inside].tolist(), y[inside].tolist())


def along_line(line: Sequence[complex], spacing: float, start: float = 0.0) -> Iterator[tuple[complex, complex]]:
    """Points every `spacing` pixels of a line's way, each with the line's direction there."""
    position = start
    for a, b in pairwise(line):
        way = length(b - a)
        if way == 0:
            continue
        heading = unit(b - a)
        while position <= way:
            yield a + heading * position, heading
            position += spacing
        position -= way


def offset_line(line: Outline, distance: float) -> Outline:
    """A line beside another, `distance` pixels towards its inner side (negative: the other side).

    No point may stand on the one before it.
    """
    return tuple(point + mitre * distance for point, mitre in zip(line, _mitres(line), strict=True))


@lru_cache(maxsize=1024)
def _mitres(line: Outline) -> Outline:
    """For each point, where a line one pixel further in has its corner; drawn roads ask for it many times."""
    headings = [unit(b - a) for a, b in pairwise(line)]
    mitres = [headings[0] * 1j]
    for before, after in pairwise(headings):
        # Kept near where the line turns back on itself.
        mitres.append((before + after) * 1j * (1 / max(0.4, 1 + dot(before, after))))
    return (*mitres, headings[-1] * 1j)


@dataclass(frozen=True)
class Cell:
    """A convex piece of land; `borders[i]` says what lies along its side from corner i to corner i+1."""

    corners: Outline
    borders: tuple[int, ...]

    def clipped(self, origin: complex, along: complex, border: int) -> "Cell | None":
        """What lies on the inner side of a line, with `border` on the new side; None where nothing does."""
        corners: list[complex] = []
        borders: list[int] = []
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
        """The cell with side i moved inwards by distances[i] pixels; None where nothing is left."""
        cell: Cell | None = self
        for (a, b), border, distance in zip(sides(self.corners), self.borders, distances, strict=True):
            if cell is None or length(b - a) < 1e-6:
                continue
            along = unit(b - a)
            cell = cell.clipped(a + along * 1j * distance, along, border)
        return cell

    def shrunk(self, distance: float) -> "Cell | None":
        """The cell with every side moved inwards by the same distance; None where nothing is left."""
        return self.inset([distance] * len(self.corners))

    @property
    def longest(self) -> complex:
        """The direction of the longest side."""
        a, b = max(sides(self.corners), key=lambda side: length(side[1] - side[0]))
        return unit(b - a)


@dataclass(frozen=True)
class Frame:
    """Lays a flat plan on the canvas: turned, then bent by a map that keeps right angles right."""

    origin: complex
    turn: complex
    bend: complex
    twist: complex

    def to_canvas(self, point: complex) -> complex:
        """Where a point of the plan lies, in pixels of the canvas."""
        square = point * point
        return self.origin + self.turn * (point + self.bend * square + self.twist * square * point)

    def scale(self, point: complex) -> float:
        """Pixels of the canvas for one of the plan, near a point."""
        return length(1 + 2 * self.bend * point + 3 * self.twist * point * point)
