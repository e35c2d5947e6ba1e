"""Pictures become the patch store, in this process here; through Ray Data in test_runs."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from gan.data.patches import Patches
from runner.config.schema import Data
from runner.data.patch_store import PatchStore, describe_store, find_store, read_quarantine
from runner.data.preparation import prepare_patches
from runner.data.shards import ShardReport, cut_in_this_process
from runner.data.sources import Source, find_source, store_fingerprint
from runner.errors import DataError
from runner.storage.storage import Storage
from tests.support.pictures import gradient_png


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    for split, count in (("train", 5), ("val", 2)):
        (folder / split).mkdir(parents=True)
        for number in range(count):
            (folder / split / f"{number}.png").write_bytes(gradient_png(number))
    return folder


def prepare(pairs: Path, tmp_path: Path, said: list[str] | None = None, **changes: object) -> PatchStore:
    data = Data(source=str(pairs), patch_size=64, **changes)  # type: ignore[arg-type]
    source = find_source(data)
    say = [] if said is None else said
    patches = Storage.open(tmp_path / "patches")
    return prepare_patches(data, source, store_fingerprint(source, data), patches, cut_in_this_process, say.append)


def open_split(store: PatchStore, split: str) -> Patches:
    return Patches.open(store.folder.local_path, split)


def test_patches_hold_the_pictures_pixels_in_the_order_of_their_names(pairs: Path, tmp_path: Path) -> None:
    store = prepare(pairs, tmp_path)
    assert (store.num_patches("train"), store.num_patches("val")) == (5 * 4, 2 * 4)
    source, target = open_split(store, "train")[[0, 3, 19]]
    assert source.shape == target.shape == (3, 3, 64, 64)
    assert source[:, 2, 0, 0].tolist() == [0, 0, 4], "the third channel is the picture's number"
    assert target[:, 0, 0, 0].tolist() == [0, 64, 64], "the satellite is the left half"
    assert source[:, 0, 0, 0].tolist() == [140, 204, 204], "the map is the right half"
    assert source[:, 1, 0, 0].tolist() == [0, 64, 64]


def test_the_other_direction_swaps_source_and_target(pairs: Path, tmp_path: Path) -> None:
    folder = prepare(pairs, tmp_path).folder.local_path
    source, target = Patches.open(folder, "train")[[2]]
    other_source, other_target = Patches.open(folder, "train", "satellite_to_map")[[2]]
    assert (source == other_target).all()
    assert (target == other_source).all()


def test_an_index_outside_is_refused(pairs: Path, tmp_path: Path) -> None:
    patches = open_split(prepare(pairs, tmp_path), "val")
    for index in (-1, len(patches)):
        with pytest.raises(IndexError, match=r"0\.\.7"):
            patches[[index]]


def test_a_bad_file_is_left_out_alone_and_named_with_its_reason(pairs: Path, tmp_path: Path) -> None:
    (pairs / "train" / "notes.png").write_text("not a picture")
    (pairs / "train" / "odd.png").write_bytes(gradient_png(0, width=281))
    (pairs / "val" / "torn.png").write_bytes(gradient_png(0)[:-60])
    (pairs / "train" / ".hidden").write_text("nobody's business")
    (pairs / "train" / "large.png").write_bytes(gradient_png(9, width=400, height=200))
    store = prepare(pairs, tmp_path, max_bad_fraction=0.5)
    reasons = {entry["file"]: entry["reason"] for entry in read_quarantine(store)}
    assert reasons.keys() == {"train/notes.png", "train/odd.png", "val/torn.png"}
    assert "odd" in reasons["train/odd.png"]
    assert store.num_patches("train") == 5 * 4 + 3 * 3
    said = "\n".join(describe_store(store))
    assert "left out: 3 bad files" in said
    assert "train/notes.png: it is not a JPEG, PNG, TIFF or WebP picture" in said
    assert "most pictures are 280x140; also used: 1 of 400x200" in said


def test_a_file_that_can_never_be_read_is_a_bad_file(pairs: Path, tmp_path: Path) -> None:
    (pairs / "train/gone.png").symlink_to(tmp_path / "nowhere.png")
    store = prepare(pairs, tmp_path, max_bad_fraction=0.5)
    reason = "it can't be read (No such file or directory)"
    assert read_quarantine(store) == [{"file": "train/gone.png", "reason": reason}]


@pytest.mark.parametrize("change", ["gone", "other content"])
def test_a_picture_that_changes_while_patches_are_made_leaves_no_store_of_its_old_name(
    pairs: Path, tmp_path: Path, change: str
) -> None:
    data = Data(source=str(pairs), patch_size=64, max_bad_fraction=0.9)
    source = find_source(data)
    fingerprint = store_fingerprint(source, data)
    path = pairs / "train/2.png"
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(gradient_png(99))
    patches = Storage.open(tmp_path / "patches")
    with pytest.raises(DataError, match=r"train/2\.png: it could be read when this command began, and now it can't on"):
        prepare_patches(data, source, fingerprint, patches, cut_in_this_process, lambda text: None)
    assert patches.names() == []


def test_too_many_bad_files_stop_the_run_and_leave_nothing(pairs: Path, tmp_path: Path) -> None:
    (pairs / "train" / "bad.png").write_text("bad")
    with pytest.raises(DataError, match=r"1 of 8 files is bad \(12.5 %\)") as caught:
        prepare(pairs, tmp_path)
    assert "train/bad.png: it is not a JPEG, PNG, TIFF or WebP picture" in str(caught.value)
    assert list((tmp_path / "patches").iterdir()) == []
    prepare(pairs, tmp_path, max_bad_fraction=0.2)
    with pytest.raises(DataError, match="1 of 8"):
        prepare(pairs, tmp_path)


def test_a_store_is_found_again_wherever_the_source_stands(pairs: Path, tmp_path: Path) -> None:
    first = prepare(pairs, tmp_path)
    moved = pairs.rename(tmp_path / "elsewhere")
    said: list[str] = []
    assert prepare(moved, tmp_path, said).fingerprint == first.fingerprint
    assert said == []


def test_another_content_or_cut_gives_another_store(pairs: Path, tmp_path: Path) -> None:
    names = {prepare(pairs, tmp_path).fingerprint, prepare(pairs, tmp_path, patching="resize").fingerprint}
    (pairs / "train" / "4.png").write_bytes(gradient_png(77))
    names.add(prepare(pairs, tmp_path).fingerprint)
    assert len(names) == 3


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "one too many", "no description"])
def test_a_damaged_store_is_set_aside_and_built_again(pairs: Path, tmp_path: Path, damage: str) -> None:
    store = prepare(pairs, tmp_path)
    (path,) = store.paths("train")
    good = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(good[:-100])
    elif damage == "flipped":
        path.write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    elif damage == "missing":
        path.unlink()
    elif damage == "one too many":
        shutil.copy(path, path.with_name("train-000001.arrow"))
    else:
        (path.parent / "meta.json").unlink()
    said: list[str] = []
    again = prepare(pairs, tmp_path, said)
    assert again.paths("train")[0].read_bytes() == good
    assert "set aside as patches/damaged-" in said[0]
    assert len(list((tmp_path / "patches").glob("damaged-*"))) == 1


def test_a_store_survives_its_source_but_both_may_not_be_gone(pairs: Path, tmp_path: Path) -> None:
    store = prepare(pairs, tmp_path)
    data, patches = Data(source=str(pairs), patch_size=64), Storage.open(tmp_path / "patches")
    shutil.rmtree(pairs)
    found = prepare_patches(data, None, store.fingerprint, patches, cut_in_this_process, pytest.fail)
    assert found.fingerprint == store.fingerprint
    shutil.rmtree(tmp_path / "patches")
    with pytest.raises(DataError, match="is gone too"):
        prepare_patches(data, None, store.fingerprint, patches, cut_in_this_process, pytest.fail)


def test_two_runs_that_prepare_at_once_do_not_harm_each_other(pairs: Path, tmp_path: Path) -> None:
    data, patches = Data(source=str(pairs), patch_size=64), Storage.open(tmp_path / "patches")
    fingerprint = store_fingerprint(find_source(data), data)

    def overtaken(source: Source, data: Data, folder: Storage) -> Iterator[ShardReport]:
        yield from cut_in_this_process(source, data, folder)
        prepare(pairs, tmp_path)  # another run puts its store in place just before this one does

    def never(source: Source, data: Data, folder: Storage) -> Iterable[ShardReport]:
        raise AssertionError("the store stands")

    store = prepare_patches(data, find_source(data), fingerprint, patches, overtaken, lambda text: None)
    assert find_store(patches, fingerprint) == (store, "")
    assert patches.names() == [fingerprint]
    assert patches.temporary_names() == []
    prepare_patches(data, find_source(data), fingerprint, patches, never, pytest.fail)


def test_the_description_tells_the_counts(pairs: Path, tmp_path: Path) -> None:
    meta = json.loads(prepare(pairs, tmp_path).folder.read("meta.json"))
    assert meta["splits"]["train"]["pictures"] == 5
    assert meta["sizes"] == {"280x140": 7}


def test_what_a_killed_preparation_left_goes_once_it_is_old_and_nobody_holds_it(pairs: Path, tmp_path: Path) -> None:
    patches = Storage.open(tmp_path / "patches")
    names = [".tmp-old", ".tmp-held", ".tmp-young"]
    for name in names:
        patches.make_folder(name)
        patches.write(f"{name}/train-000000.arrow", b"half")
    for name in names[:2]:
        for path in (patches.local_path / name, patches.local_path / name / "train-000000.arrow"):
            os.utime(path, (0, 0))
    with patches.at(".tmp-held").exclusive():
        prepare(pairs, tmp_path)
    assert patches.temporary_names() == [".tmp-held", ".tmp-young"]
