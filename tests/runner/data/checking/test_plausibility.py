"""Pictures that are no pairs are refused before anything is made of them; swapped sides are said."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from runner.config.schema import Data
from runner.data.checking.plausibility import check_plausible
from runner.data.sources import find_source
from runner.errors import DataError
from tests.support.pictures import pair_picture, satellite_and_map, smooth_picture

Draw = Callable[[int], NDArray[np.uint8]]


def noise(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (70, 140, 3)).astype(np.uint8)


def notes_on(root: Path, draw: Draw, num_pictures: int = 6, **changes: object) -> list[str]:
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for number in range(num_pictures):
            Image.fromarray(draw(number)).save(root / split / f"{number}.png")
    data = Data(source=str(root), **changes)  # type: ignore[arg-type]
    return check_plausible(find_source(data), f"data.source is {data.source!r}", is_told=data.layout == "pairs")


@pytest.mark.parametrize(
    ("draw", "seen"),
    [
        (lambda n: smooth_picture(140, 140, n), "go on from the left half into the right half"),
        (lambda n: smooth_picture(70, 140, n), "go on from the left half into the right half"),
        (lambda n: np.full((90, 90, 3), n, np.uint8), "not about twice as wide as high, such as 90x90 pixels"),
        (lambda n: np.full((91, 91, 3), n, np.uint8), "not about twice as wide as high, such as 91x91 pixels"),
        (lambda n: np.full((200, 90, 3), n, np.uint8), "such as 90x200 pixels"),
    ],
    ids=["square", "wide", "one colour", "odd", "portrait"],
)
def test_single_pictures_are_refused_with_what_was_seen_and_what_to_do(tmp_path: Path, draw: Draw, seen: str) -> None:
    with pytest.raises(DataError) as caught:
        notes_on(tmp_path / "data", draw)
    assert seen in str(caught.value)
    assert "A/train + B/train" in str(caught.value)
    assert "--set data.layout=pairs" in str(caught.value)
    (note,) = notes_on(tmp_path / "again", draw, layout="pairs")
    assert seen in note


@pytest.mark.parametrize(
    "draw",
    [
        lambda n: np.asarray(pair_picture(n)),
        lambda n: np.asarray(pair_picture(n, height=40)),
        lambda n: np.asarray(pair_picture(n, width=40)),
        noise,
        lambda n: np.full((70, 140, 3), 255, np.uint8),
    ],
    ids=["square halves", "wide halves", "high halves", "noise", "one colour"],
)
def test_what_may_be_a_pair_passes(tmp_path: Path, draw: Draw) -> None:
    assert notes_on(tmp_path, draw) == []


def test_a_few_odd_pictures_among_pairs_refuse_nothing(tmp_path: Path) -> None:
    assert notes_on(tmp_path, lambda n: smooth_picture(70, 140, n) if n < 2 else np.asarray(pair_picture(n))) == []


def test_swapped_sides_are_said(tmp_path: Path) -> None:
    (note,) = notes_on(tmp_path, lambda n: np.concatenate(satellite_and_map(n)[::-1], axis=1))
    assert "the sides may be swapped: in 12 of 12 pictures" in note
    assert "data.direction=satellite_to_map" in note


def test_real_pairs_pass_and_their_halves_alone_do_not(tmp_path: Path, maps: Path) -> None:
    paths = sorted(maps.glob("*/*.jpg"))[:8]
    whole = [np.asarray(Image.open(path)) for path in paths]
    assert notes_on(tmp_path / "pairs", lambda n: whole[n], len(whole)) == []
    for side in (slice(600), slice(600, None)):
        with pytest.raises(DataError, match="of 16 that were looked at, 16 go on"):
            notes_on(tmp_path / str(side), lambda n: whole[n][:, side], len(whole))  # noqa: B023 - used at once
    (note,) = notes_on(tmp_path / "swapped", lambda n: np.roll(whole[n], 600, axis=1), len(whole))
    assert "in 16 of 16 pictures" in note
