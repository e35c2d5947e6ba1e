"""`python -m runner.data check`: each kind of trouble is found, named, and shown; a sound set has none."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import runner.data.__main__
from runner.config.schema import Data
from runner.data.checking.findings import Report, examine
from runner.data.sources import find_source
from tests.support.pictures import pair_picture, satellite_and_map, smooth_picture

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sound set."""
    for number, split in enumerate(["train"] * 8 + ["val"] * 3):
        (tmp_path / "data" / split).mkdir(parents=True, exist_ok=True)
        pair_picture(number, 80, 80).save(tmp_path / "data" / split / f"{number}.png")
    return tmp_path / "data"


def report_on(root: Path) -> Report:
    return examine(find_source(Data(source=str(root))))


def mirrored(root: Path) -> None:
    with Image.open(root / "train/2.png") as image:
        sides = [ImageOps.mirror(image.crop((left, 0, left + 80, 80))) for left in (0, 80)]
    Image.fromarray(np.concatenate([np.asarray(side) for side in sides], axis=1)).save(root / "val/new.png")


def saved_again(root: Path) -> None:
    with Image.open(root / "train/2.png") as image:
        image.resize((160, 80)).save(root / "val/new.png", compress_level=1)
        image.save(root / "val/new.jpg", quality=50)
    (root / "val/new.png").unlink()


DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "torn": (lambda r: (r / "val/new.png").write_bytes((r / "val/8.png").read_bytes()[:-90]), "unusable", "decoded"),
    "empty": (lambda r: (r / "val/new.png").write_bytes(b""), "unusable", "the file is empty"),
    "gone": (lambda r: (r / "val/new.png").symlink_to(r / "nowhere.png"), "unusable", "can't be read"),
    "gif": (lambda r: (r / "val/new.gif").write_bytes(b"GIF89a"), "unusable", "not a JPEG, PNG, TIFF or WebP"),
    "odd": (lambda r: pair_picture(20, 80, 80).crop((0, 0, 159, 80)).save(r / "val/new.png"), "unusable", "159 pixels"),
    "single": (lambda r: Image.fromarray(smooth_picture(80, 160, 99)).save(r / "val/new.png"), "no pairs", ""),
    "swapped": (
        lambda r: Image.fromarray(np.concatenate(satellite_and_map(20, 80, 80)[::-1], 1)).save(r / "val/new.png"),
        "swapped sides",
        "",
    ),
    "blue": (lambda r: Image.new("RGB", (160, 80), "blue").save(r / "val/new.png"), "one colour", "A and B of one col"),
    "larger": (lambda r: pair_picture(20, 90, 80).save(r / "val/new.png"), "mixed shapes", "160x90 pixels"),
    "copy": (lambda r: shutil.copy(r / "train/2.png", r / "val/new.png"), "duplicates", "as train/2.png"),
    "mirrored": (mirrored, "near duplicates", "100 % like train/2.png"),
    "saved again": (saved_again, "near duplicates", "100 % like train/2.png"),
}


def test_a_sound_set_needs_no_attention(root: Path) -> None:
    report = report_on(root)
    assert report.findings == []
    assert [(row["split"], row["pictures"], row["usable"], row["sizes"]) for row in report.rows()] == [
        ("train", 8, 8, {"160x80": 8}),
        ("val", 3, 3, {"160x80": 3}),
    ]


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_kind_of_trouble_is_found_alone_and_named(root: Path, damage: str) -> None:
    inflict, kind, note = DAMAGES[damage]
    inflict(root)
    (finding,) = report_on(root).findings
    assert finding.kind == kind
    ((name, said),) = finding.files.items()
    assert name.startswith("val/new.")
    assert note in said


def test_pictures_that_no_patch_fits_into_need_attention_and_small_ones_a_setting(
    tmp_path: Path, capsys: Capture
) -> None:
    for side, code, said in (
        (50, 1, "too small: 6 pictures are smaller than the smallest patch, 64x64 pixels"),
        (130, 0, "--set data.patch_size=128 uses all pictures (the default is 256)"),
    ):
        for number, split in enumerate(["train"] * 4 + ["val"] * 2):
            folder = tmp_path / str(side) / split
            folder.mkdir(parents=True, exist_ok=True)
            pair_picture(number, side, side).save(folder / f"{number}.png")
        assert runner.data.__main__.main(["check", str(tmp_path / str(side))]) == code
        assert said in capsys.readouterr().out


def test_more_bad_pictures_than_a_run_allows_are_called_so(root: Path) -> None:
    (root / "val/new.png").write_bytes(b"")
    (finding,) = report_on(root).findings
    assert finding.text == ("1 picture can't be used: 8 % of all, and more than 5 % (data.max_bad_fraction) stop a run")


def test_most_pictures_of_a_kind_are_said_in_one_sentence(root: Path) -> None:
    for path in root.glob("*/*.png"):
        with Image.open(path) as image:
            pixels = np.asarray(image)
        Image.fromarray(np.roll(pixels, 80, axis=1)).save(path)
    (finding,) = report_on(root).findings
    assert "the sides may be swapped: in 11 of 11 pictures" in finding.text


def test_a_second_copy_within_train_is_no_leak(root: Path) -> None:
    shutil.copy(root / "train/2.png", root / "train/new.png")
    (finding,) = report_on(root).findings
    assert finding.text == "1 picture is there a second time"
    shutil.copy(root / "train/2.png", root / "val/new.png")
    (finding,) = report_on(root).findings
    assert "1 of val is in train, too" in finding.text


def test_the_command_prints_writes_and_exits_with_1_where_something_needs_attention(
    root: Path, tmp_path: Path, capsys: Capture
) -> None:
    outputs = ["--json", str(tmp_path / "found.json"), "--sheet", str(tmp_path / "sheet.jpg")]
    assert runner.data.__main__.main(["check", str(root), *outputs]) == 0
    assert "nothing needs attention" in capsys.readouterr().out

    (root / "train/notes.txt").write_text("not a picture")
    for number in range(7):
        (root / f"val/bad{number}.png").write_bytes(b"")
    assert runner.data.__main__.main(["check", str(root), *outputs]) == 1
    said = capsys.readouterr().out
    assert "unusable: 7 pictures can't be used" in said
    assert "val/bad0.png: the file is empty" in said
    assert "and 2 more (--json FILE has all)" in said
    assert "1 file that is no picture (notes.txt)" in said

    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["needs_attention"], found["passed_over"]) == (True, ["notes.txt"])
    assert len(found["findings"][0]["files"]) == 7
    with Image.open(io.BytesIO((tmp_path / "sheet.jpg").read_bytes())) as sheet:
        assert sheet.format == "JPEG"
        corners = [sheet.getpixel((13 + 268 * column, 60)) for column in range(5)]
        last_row = [sheet.getpixel((13 + 268 * column, 60 + 3 * 172)) for column in range(5)]
    red = (190, 20, 20)
    assert np.abs(np.subtract(corners, red)).max() < 60, "what is flagged comes first, in red frames"
    assert np.abs(np.subtract(last_row, red)).max(axis=1).min() > 60


@pytest.mark.parametrize(
    ("directory", "options", "message"),
    [
        ("nowhere", [], "that directory does not exist"),
        ("data/train/1.png", [], "that directory is a file"),
        ("data/train", [], "it has no pictures to train on"),
        ("data", ["--json", "nowhere/found.json"], "lies in no folder that exists"),
        ("data", ["--sheet", "data"], "is a folder"),
    ],
)
def test_what_cannot_be_examined_is_refused(
    root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, directory: str, options: list[str], message: str
) -> None:
    monkeypatch.chdir(root.parent)
    assert runner.data.__main__.main(["check", directory, *options]) == 2
    assert message in capsys.readouterr().err


def test_real_pairs_need_no_attention(maps: Path) -> None:
    assert report_on(maps).findings == []
