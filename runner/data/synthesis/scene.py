"""What both halves of a pair show: land, water, roads, buildings and trees. Units are pixels of the canvas."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum

from runner.data.synthesis.plane import Outline

Mapping = Callable[[complex], complex]


class Land(Enum):
    """The use of an area of ground. The map has one colour for each."""

    RESIDENTIAL = "residential"
    COMMERCIAL = "commercial"
    GARDEN = "garden"
    PARK = "park"
    GRASS = "grass"
    FOREST = "forest"
    PLAZA = "plaza"
    PARKING = "parking"
    PITCH = "pitch"
    WATER = "water"


class RoadKind(IntEnum):
    """The ranks of roads, the lowest first. They are drawn in this order."""

    SERVICE = 0
    RESIDENTIAL = 1
    SECONDARY = 2
    PRIMARY = 3
    MOTORWAY = 4


ROAD_WIDTH_PX = {
    RoadKind.SERVICE: 9.0,
    RoadKind.RESIDENTIAL: 17.0,
    RoadKind.SECONDARY: 25.0,
    RoadKind.PRIMARY: 34.0,
    RoadKind.MOTORWAY: 48.0,
}


class Roof(Enum):
    """The material of a roof. Only the satellite picture shows it."""

    TIN = "tin"
    TILE = "tile"
    COPPER = "copper"
    BITUMEN = "bitumen"
    CONCRETE = "concrete"
    WHITE = "white"


@dataclass(frozen=True)
class Area:
    """Ground with one use. A later area covers an earlier one."""

    land: Land
    outline: Outline

    def mapped(self, mapping: Mapping) -> "Area":
        """The same with all points mapped."""
        return Area(self.land, tuple(map(mapping, self.outline)))


@dataclass(frozen=True)
class Road:
    """A road along a line. Where `kind` is None, it is a footpath."""

    kind: RoadKind | None
    line: Outline

    @property
    def width(self) -> float:
        """The width in pixels, from kerb to kerb."""
        return 4.0 if self.kind is None else ROAD_WIDTH_PX[self.kind]

    def mapped(self, mapping: Mapping) -> "Road":
        """The same with all points mapped."""
        return Road(self.kind, tuple(map(mapping, self.line)))


@dataclass(frozen=True)
class Building:
    """A building of one or more adjoining parts, each with four corners.

    Attributes:
        parts: outlines. Where the roof is pitched, its ridge runs along the first side.
        height: in pixels. A sun at 45 degrees would cast a shadow of this length.
    """

    parts: tuple[Outline, ...]
    height: int
    roof: Roof
    pitched: bool

    def mapped(self, mapping: Mapping) -> "Building":
        """The same with all points mapped."""
        parts = tuple(tuple(map(mapping, part)) for part in self.parts)
        return Building(parts, self.height, self.roof, self.pitched)


@dataclass(frozen=True)
class Tree:
    """A tree with a crown of `radius` pixels. The map shows only trees in a row along a street."""

    at: complex
    radius: int
    in_row: bool = False

    def mapped(self, mapping: Mapping) -> "Tree":
        """The same tree at another point."""
        return Tree(mapping(self.at), self.radius, self.in_row)


Piece = Area | Road | Building | Tree


@dataclass(frozen=True)
class Scene:
    """One complete place. Each tuple is in the order of drawing, the lowest first.

    Attributes:
        river: the middle line of the river; empty where there is none.
        shadow: the direction in which shadows fall, of length 1.
        shadow_length: pixels of shadow per pixel of height.
    """

    areas: tuple[Area, ...]
    roads: tuple[Road, ...]
    paths: tuple[Road, ...]
    buildings: tuple[Building, ...]
    trees: tuple[Tree, ...]
    river: Outline
    shadow: complex
    shadow_length: float
