import io
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import runner.data.synthesis
from runner.data.synthesis import SYNTHESIS_VERSION, draw_pair
from runner.data.synthesis.canvas import Stencil
from runner.data.synthesis.plane import Cell, Outline, rectangle
from runner.data.synthesis.scene import Building, Road, RoadKind, Scene
from runner.data.synthesis.town.blocks import hall_and_parking, houses, rows_around_a_yard, school, slabs
from runner.data.synthesis.town.places import Block, draw_scene
from runner.data.synthesis.town.river import give_way

Levels = NDArray[np.int16]
Mask = NDArray[np.bool_]

ROOT = Path(runner.data.synthesis.__file__).parents[3]
NUM_PAIRS = 10
DRAW_AND_PRINT = (
    "import sys; from runner.data.synthesis import draw_pair; sys.stdout.buffer.write(draw_pair(3, 'val', 4))"
)


def decode(jpeg: bytes) -> Levels:
    """Height, width, RGB; 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(jpeg)), np.int16)


@pytest.fixture(scope="module")
def pairs() -> list[Levels]:
    """Every fourth pixel is enough for what the tests below measure."""
    return [decode(draw_pair(0, "train", index))[::2, ::2] for index in range(NUM_PAIRS)]


@pytest.fixture(scope="module")
def satellites(pairs: list[Levels]) -> list[Levels]:
    return [pair[:, :300] for pair in pairs]


@pytest.fixture(scope="module")
def maps(pairs: list[Levels]) -> list[Levels]:
    return [pair[:, 300:] for pair in pairs]


def draw_in_another_process(disabled_features: list[str]) -> bytes:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "NPY_DISABLE_CPU_FEATURES": " ".join(disabled_features),
    }
    command = [sys.executable, "-W", "error", "-c", DRAW_AND_PRINT]
    return subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60).stdout


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert draw_pair(1, "train", 2) == draw_pair(1, "train", 2)


def test_a_pair_does_not_depend_on_the_pairs_drawn_before_it_nor_on_the_process() -> None:
    for index in (0, 1):
        draw_pair(3, "val", index)
    assert draw_in_another_process([]) == draw_pair(3, "val", 4)


def test_a_pair_does_not_depend_on_the_vector_units_of_the_processor() -> None:
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    if not found:
        pytest.skip("numpy uses no more than its baseline on this processor: nothing to turn off.")
    assert draw_in_another_process(found) == draw_pair(3, "val", 4)


def test_another_seed_split_or_index_gives_another_pair() -> None:
    arguments = [
        (0, "train", 0),
        (1, "train", 0),
        (0, "val", 0),
        (0, "train", 1),
        (-1, "train", 0),
        (2**80, "train", 0),
    ]
    assert len({sha256(draw_pair(*each)).digest() for each in arguments}) == len(arguments)


def test_both_halves_of_the_two_splits_differ() -> None:
    train, val = decode(draw_pair(0, "train", 0)), decode(draw_pair(0, "val", 0))
    for half in (slice(0, 600), slice(600, 1200)):
        assert np.abs(train[:, half] - val[:, half]).mean() > 8


def test_a_pair_is_a_plain_1200x600_rgb_jpeg_of_moderate_size() -> None:
    jpeg = draw_pair(0, "val", 1)
    with Image.open(io.BytesIO(jpeg)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (1200, 600))
        assert not image.getexif()
    assert 50_000 < len(jpeg) < 400_000


@pytest.mark.parametrize(("split", "index", "message"), [("test", 0, 'split is "test"'), ("train", -1, "index is -1")])
def test_a_wrong_split_or_index_is_named(split: str, index: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_pair(0, split, index)


def test_the_version_of_the_pictures_is_a_positive_integer() -> None:
    assert isinstance(SYNTHESIS_VERSION, int)
    assert SYNTHESIS_VERSION >= 1


def near(half: Levels, *colours: tuple[int, int, int]) -> Mask:
    distances = [np.abs(half - np.array(colour, np.int16)).max(axis=-1) for colour in colours]
    return np.asarray(np.minimum.reduce(distances) < 14)


def map_water(half: Levels) -> Mask:
    return near(half, (170, 211, 223))


def satellite_water(half: Levels) -> Mask:
    return np.asarray((half[..., 2] - half[..., 0] > 18) & (half.max(axis=-1) < 110))


def map_roads(half: Levels) -> Mask:
    return near(half, (255, 255, 255), (247, 250, 190), (252, 214, 163), (233, 146, 160))


def satellite_roads(half: Levels) -> Mask:
    """Asphalt: grey, neither in deep shadow nor bright."""
    level = half.mean(axis=-1)
    return np.asarray((np.ptp(half, axis=-1) < 22) & (level > 45) & (level < 115))


def map_green(half: Levels) -> Mask:
    return np.asarray((half[..., 1] - half[..., 2] > 20) & (half[..., 1] > half[..., 0]))


def satellite_green(half: Levels) -> Mask:
    return np.asarray((half[..., 1] - half[..., 2] > 12) & (half[..., 1] >= half[..., 0]))


def map_buildings(half: Levels) -> Mask:
    return near(half, (217, 208, 201))


def satellite_roofs(half: Levels) -> Mask:
    """What is brighter than any ground."""
    return np.asarray(half.mean(axis=-1) > 150)


def correlation(a: Mask, b: Mask) -> float:
    """Pearson's, and 0 where a mask is empty or full."""
    if a.min() == a.max() or b.min() == b.max():
        return 0.0
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize(
    ("on_map", "on_satellite", "lead"),
    [
        (map_water, satellite_water, 0.7),
        (map_roads, satellite_roads, 0.35),
        (map_green, satellite_green, 0.5),
        (map_buildings, satellite_roofs, 0.3),
    ],
)
def test_the_halves_of_a_pair_show_the_same_place(
    maps: list[Levels],
    satellites: list[Levels],
    on_map: Callable[[Levels], Mask],
    on_satellite: Callable[[Levels], Mask],
    lead: float,
) -> None:
    """Each map agrees with its own satellite half by far more than with the next pair's."""
    marked = [on_map(half) for half in maps]
    seen = [on_satellite(half) for half in satellites]
    # Pictures without the thing, a river notify, have nothing to agree on.
    shown = [index for index in range(NUM_PAIRS) if marked[index].mean() > 0.02]
    assert len(shown) >= 2
    own = np.mean([correlation(marked[index], seen[index]) for index in shown])
    other = np.mean([correlation(marked[index], seen[(index + 1) % NUM_PAIRS]) for index in shown])
    assert own > other + lead


def test_satellite_halves_are_varied_and_map_halves_have_few_colours(
    maps: list[Levels], satellites: list[Levels]
) -> None:
    for satellite, drawn_map in zip(satellites, maps, strict=True):
        assert satellite.reshape(-1, 3).std(axis=0).min() > 25
        assert share_of_common_colours(drawn_map) > 0.65
        assert share_of_common_colours(satellite) < 0.6


def share_of_common_colours(half: Levels) -> float:
    """What part of a half its twelve commonest colours make up, in steps of 16."""
    steps = (half + 8) // 16
    counts = np.bincount((steps[..., 0] * 17 + steps[..., 1]).ravel() * 17 + steps[..., 2].ravel())
    return float(np.sort(counts)[-12:].sum() / counts.sum())


def test_woods_are_darker_than_the_lawns_around_them(maps: list[Levels], satellites: list[Levels]) -> None:
    for satellite, drawn_map in zip(satellites, maps, strict=True):
        woods, lawns = near(drawn_map, (172, 208, 158)), near(drawn_map, (200, 248, 204))
        if min(woods.mean(), lawns.mean()) > 0.005:
            assert satellite[woods].mean() + 12 < satellite[lawns].mean()


def test_some_places_have_a_river_a_motorway_or_gardens_and_others_none(maps: list[Levels]) -> None:
    for colour in ((170, 211, 223), (233, 146, 160), (221, 232, 204)):
        shares = [near(half, colour).mean() for half in maps]
        assert min(shares) < 0.02
        assert max(shares) > 0.05


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(np.random.Generator(np.random.Philox(key=key))) for key in range(24)]


def test_no_line_stands_still(scenes: list[Scene]) -> None:
    for scene in scenes:
        for road in (*scene.roads, *scene.paths):
            assert all(a != b for a, b in pairwise(road.line))


@pytest.mark.parametrize("block", [rows_around_a_yard, hall_and_parking, slabs, houses, school])
@pytest.mark.parametrize("corners", [(0j, 90 + 0j, 40 + 60j), (0j, 200 + 0j, 240 + 90j, 120 + 190j, -20 + 120j)])
def test_parts_of_buildings_have_four_corners_on_lots_of_any_shape(block: Block, corners: Outline) -> None:
    lot = Cell(corners, (RoadKind.RESIDENTIAL,) * len(corners))
    for key in range(5):
        pieces = list(block(np.random.Generator(np.random.Philox(key=key)), lot))
        assert all(len(part) == 4 for piece in pieces if isinstance(piece, Building) for part in piece.parts)


def test_buildings_stand_clear_of_roads_that_are_no_drives(scenes: list[Scene]) -> None:
    for scene in scenes:
        asphalt = Stencil()
        for road in scene.roads:
            if road.kind is not None and road.kind > RoadKind.SERVICE:
                asphalt.add_line(road.line, road.width - 4)
        blocked = [building for building in scene.buildings if any(map(asphalt.touches, building.parts))]
        assert len(blocked) <= 0.02 * len(scene.buildings)


def test_a_path_ends_where_a_pond_begins_and_goes_on_behind_it() -> None:
    pond = Stencil()
    pond.add(rectangle(140 + 100j, 1 + 0j, 24, 40))
    for end in range(168, 260, 4):
        before, after = give_way([Road(None, (100 + 100j, complex(end, 100)))], pond)
        assert isinstance(before, Road)
        assert isinstance(after, Road)
        assert (before.line[0], after.line[-1]) == (100 + 100j, complex(end, 100))
        assert before.line[-1].real < 130
        assert after.line[0].real > 150
        assert all(a != b for road in (before, after) for a, b in pairwise(road.line))
