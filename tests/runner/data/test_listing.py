"""Which files of a folder are pictures, and which are passed over."""

import os
from pathlib import Path

import pytest
from PIL import Image

from runner.config.schema import Data
from runner.data.listing import list_files, printable
from runner.data.shards import cut_in_this_process
from runner.data.sources import Source, find_source
from runner.storage.storage import Storage
from tests.support.pictures import encoded, pair_picture

PNG = encoded(pair_picture(0))


def source_of(root: Path) -> Source:
    return find_source(Data(source=str(root), layout="pairs"))


def write(path: Path, content: bytes = PNG) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    [
        "Thumbs.db",
        "notes.txt",
        ".DS_Store",
        "._1.png",
        "__MACOSX/._1.png",
        "__MACOSX/train/1.png",
        ".ipynb_checkpoints/1-checkpoint.png",
        ".git/objects/00/11",
        "desktop.ini",
        "labels.csv",
        "pictures.zip",
        "sound.wav",
        "no_suffix",
    ],
)
def test_what_is_no_picture_is_passed_over(tmp_path: Path, name: str) -> None:
    write(tmp_path / "1.png")
    write(tmp_path / name, PNG if name.endswith("png") else b"RIFF\0\0\0\0WAVEfmt of some other program")
    assert list_files(tmp_path) == (["1.png"], [name])


@pytest.mark.parametrize(
    "name", ["1.PNG", "2.Jpeg", "3.jfif", "4.tif", "5.TIFF", "6.webp", "png_without_suffix", "7.img"]
)
def test_pictures_are_known_by_their_suffix_or_by_their_first_bytes(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert list_files(tmp_path) == ([name], [])


@pytest.mark.parametrize("name", ["old.bmp", "moving.GIF", "phone.heic"])
def test_a_picture_of_a_format_that_is_not_read_is_bad_and_not_passed_over(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, b"BM of another format")
    assert list_files(tmp_path).pictures == [name]


def test_links_to_pictures_and_folders_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/a/1.png")
    (tmp_path / "train").mkdir()
    (tmp_path / "train/set").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train/2.png").symlink_to(tmp_path / "elsewhere/a/1.png")
    assert list_files(tmp_path / "train") == (["2.png", "set/a/1.png"], [])


def test_a_link_that_goes_round_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "train/a/1.png")
    (tmp_path / "train/a/up").symlink_to(tmp_path / "train")
    (tmp_path / "train/a/self").symlink_to(tmp_path / "train/a")
    assert list_files(tmp_path / "train") == (["a/1.png"], ["a/self", "a/up"])


def test_a_link_to_nothing_is_a_bad_picture_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "1.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "2.png")
    os.mkfifo(tmp_path / "pipe")
    assert list_files(tmp_path) == (["1.png"], ["2.png", "pipe"])


def test_a_name_that_is_no_utf8_is_used_and_shown_with_escapes(tmp_path: Path) -> None:
    name = os.fsdecode(b"stra\xdfe\n.png")
    for split in ("train", "val"):
        write(tmp_path / split / name)
    data = Data(source=str(tmp_path), patch_size=64)
    source = find_source(data)
    assert [picture.name for picture in source.pictures] == ["stra\\xdfe\\n.png"] * 2
    store = Storage.open(tmp_path / "store")
    store.make_folder()
    for report in cut_in_this_process(source, data, store):
        assert (report.patches, report.left_out) == (1, [])


def test_printable_leaves_other_languages_as_they_are() -> None:
    assert printable("Übersicht/地図 1.png") == "Übersicht/地図 1.png"
    assert printable("a\tb\x1b[31m") == "a\\tb\\x1b[31m"


def test_passed_over_files_are_in_no_fingerprint(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / split / "1.png")
    before = source_of(tmp_path)
    write(tmp_path / "train/Thumbs.db", b"anything")
    after = source_of(tmp_path)
    assert after.contents == before.contents
    assert [file.name for file in after.passed_over] == ["Thumbs.db"]


def test_a_tiff_and_a_webp_pair_are_cut_as_a_png_pair_is(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for kind in ("png", "tiff", "webp"):
            path = tmp_path / kind / split / f"1.{kind}"
            path.parent.mkdir(parents=True)
            pair_picture(1).save(path, lossless=True)
    data = Data(patch_size=64)
    digests = set()
    for kind in ("png", "tiff", "webp"):
        store = Storage.open(tmp_path / f"{kind} store")
        store.make_folder()
        reports = cut_in_this_process(source_of(tmp_path / kind), data, store)
        assert [report.left_out for report in reports] == [[], []]
        with Image.open(tmp_path / kind / "train" / f"1.{kind}") as image:
            digests.add(image.convert("RGB").tobytes())
    assert len(digests) == 1
