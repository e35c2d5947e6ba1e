"""What both halves of a pair show: land, water, roads, buildings and trees, in pixels of the canvas."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum

from runner.data.synthesis.plane import Outline

Mapping = Callable[[complex], complex]


class Land(Enum):
    """What an area of ground is used for; the map has one colour for each."""

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
    """The hierarchy of roads, the lowest first: also the order in which they are drawn."""

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
    """The material of a roof: seen from above only."""

    TIN = "tin"
    TILE = "tile"
    COPPER = "copper"
    BITUMEN = "bitumen"
    CONCRETE = "concrete"
    WHITE = "white"


@dataclass(frozen=True)
class Area:
    """Ground of one use; a later area covers an earlier one."""

    land: Land
    outline: Outline

    def mapped(self, mapping: Mapping) -> "Area":
        """The same with every point moved."""
        return Area(self.land, tuple(map(mapping, self.outline)))


@dataclass(frozen=True)
class Road:
    """A road or, where `kind` is None, a footpath, along a line."""

    kind: RoadKind | None
    line: Outline

    @property
    def width(self) -> float:
        """Pixels from kerb to kerb."""
        return 4.0 if self.kind is None else ROAD_WIDTH_PX[self.kind]

    def mapped(self, mapping: Mapping) -> "Road":
        """The same with every point moved."""
        return Road(self.kind, tuple(map(mapping, self.line)))


@dataclass(frozen=True)
class Building:
    """Adjoining parts of four corners under one roof; a part's ridge runs along its first side.

    `height` is in pixels, as long as the shadow it throws where the sun stands at 45 degrees.
    """

    parts: tuple[Outline, ...]
    height: int
    roof: Roof
    pitched: bool

    def mapped(self, mapping: Mapping) -> "Building":
        """The same with every point moved."""
        parts = tuple(tuple(map(mapping, part)) for part in self.parts)
        return Building(parts, self.height, self.roof, self.pitched)


@dataclass(frozen=True)
class Tree:
    """A crown of `radius` pixels; the map shows a tree that stands in a row along a street."""

    at: complex
    radius: int
    in_row: bool = False

    def mapped(self, mapping: Mapping) -> "Tree":
        """The same, moved."""
        return Tree(mapping(self.at), self.radius, self.in_row)


Piece = Area | Road | Building | Tree


@dataclass(frozen=True)
class Scene:
    """One place, complete; each tuple is in the order of drawing, the lowest first.

    `shadow` is the unit direction in which shadows fall and `shadow_length` their pixels for each
    pixel of height; `river` is the middle line of a river, empty where there is none.
    """

    areas: tuple[Area, ...]
    roads: tuple[Road, ...]
    paths: tuple[Road, ...]
    buildings: tuple[Building, ...]
    trees: tuple[Tree, ...]
    river: Outline
    shadow: complex
    shadow_length: float
