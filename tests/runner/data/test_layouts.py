"""Where pictures lie: pairs side by side, or A and B apart; folders for validation, or a share of the pictures."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan.data.patches import Patches
from runner.config.schema import Data
from runner.data.preparation import prepare_patches
from runner.data.shards import cut_in_this_process
from runner.data.sources import find_source, store_fingerprint, validation_source
from runner.errors import DataError
from runner.storage.storage import Storage
from tests.support.pictures import pair_picture, satellite_and_map

COUNTS = {"train": 5, "val": 2}


def write_pairs(root: Path, train: str = "train", val: str = "val") -> Path:
    for number, folder in enumerate([train] * COUNTS["train"] + [val] * COUNTS["val"]):
        (root / folder).mkdir(parents=True, exist_ok=True)
        pair_picture(number).save(root / folder / f"{number}.png")
    return root


def write_sides(root: Path, folders: Mapping[str, tuple[str, str]], marks: tuple[str, str] = ("", "")) -> Path:
    """A and B of each split in the folders of the split."""
    for number, split in enumerate(["train"] * COUNTS["train"] + ["val"] * COUNTS["val"]):
        sides = satellite_and_map(number)
        for folder, mark, side in zip(folders.get(split, ()), marks, sides, strict=False):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(side).save(root / folder / f"{number}{mark}.png")
    return root


def prepared(root: Path, storage: Path, **changes: object) -> dict[str, np.ndarray]:
    """Source and target of all patches of both splits."""
    data = Data(source=str(root), patch_size=64, **changes)  # type: ignore[arg-type]
    source = find_source(data)
    patches = Storage.open(storage)
    fingerprint = store_fingerprint(source, data)
    store = prepare_patches(data, source, fingerprint, patches, cut_in_this_process, lambda text: None)
    found = {}
    for split in COUNTS:
        opened = Patches.open(store.folder.local_path, split)
        found[split] = np.stack([side.numpy() for side in opened[list(range(len(opened)))]])
    return found


def named(split: str, way: str) -> tuple[str, str]:
    return tuple(way.format(split=split, side=side) for side in "AB")  # type: ignore[return-value]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test"])
@pytest.mark.parametrize("way", ["{side}/{split}", "{split}{side}", "{split}/{side}", "{split}_{side}"])
def test_the_same_pictures_give_the_same_patches_in_every_layout(tmp_path: Path, way: str, val: str) -> None:
    expected = prepared(write_pairs(tmp_path / "pairs"), tmp_path / "stores")
    folders = {"train": named("train", way), "val": named(val, way)}
    found = prepared(write_sides(tmp_path / "folders", folders), tmp_path / "stores")
    assert found.keys() == expected.keys()
    for split, patches in expected.items():
        np.testing.assert_array_equal(found[split], patches)


@pytest.mark.parametrize(
    ("sides", "marks"),
    [
        (("satellite", "map"), ("", "")),
        (("Satellite", "MAP"), ("", "")),
        (("a", "b"), ("", "")),
        (("A", "B"), ("_A", "_B")),
    ],
)
def test_sides_may_be_called_otherwise(tmp_path: Path, sides: tuple[str, str], marks: tuple[str, str]) -> None:
    folders = {split: (f"{sides[0]}/{split}", f"{sides[1]}/{split}") for split in COUNTS}
    found = prepared(write_sides(tmp_path / "folders", folders, marks), tmp_path / "stores")
    expected = prepared(write_pairs(tmp_path / "pairs"), tmp_path / "stores")
    np.testing.assert_array_equal(found["train"], expected["train"])


def test_the_layout_and_the_folders_that_were_taken_are_said(tmp_path: Path) -> None:
    assert find_source(Data(source=str(write_pairs(tmp_path / "1")))).description == "pairs in train/ and val/"
    write_sides(tmp_path / "2", {"train": ("trainA", "trainB"), "val": ("testA", "testB")})
    assert find_source(Data(source=str(tmp_path / "2"))).description == "folders in trainA + trainB and testA + testB"


def test_the_first_validation_folder_is_taken_and_another_left(tmp_path: Path) -> None:
    write_pairs(tmp_path, val="validation")
    (tmp_path / "test").mkdir()
    pair_picture(9).save(tmp_path / "test/9.png")
    assert find_source(Data(source=str(tmp_path))).description == "pairs in train/ and validation/"


def test_a_folder_that_fits_no_layout_is_answered_with_what_was_looked_for_and_found(tmp_path: Path) -> None:
    write_pairs(tmp_path, train="learn", val="check")
    pair_picture(0).save(tmp_path / "alone.png")
    with pytest.raises(DataError) as caught:
        find_source(Data(source=str(tmp_path)))
    text = str(caught.value)
    for part in ("train/ with one picture a pair", "A/train + B/train", "trainA + trainB", "train/A + train/B"):
        assert part in text
    assert "Found: check/, learn/, 1 picture outside of folders." in text


def test_two_layouts_at_once_are_not_guessed_between(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    write_sides(tmp_path, {"train": ("A/train", "B/train"), "val": ("A/val", "B/val")})
    with pytest.raises(DataError, match=r"A/train [+] B/train and train/ both hold pictures"):
        find_source(Data(source=str(tmp_path)))
    assert find_source(Data(source=str(tmp_path), layout="pairs")).description == "pairs in train/ and val/"
    folders = find_source(Data(source=str(tmp_path), layout="folders"))
    assert folders.description == "folders in A/train + B/train and A/val + B/val"


def test_both_splits_have_the_same_layout(tmp_path: Path) -> None:
    write_sides(tmp_path, {"train": ("trainA", "trainB")})
    write_pairs(tmp_path, train="unused")
    shutil.rmtree(tmp_path / "unused")
    with pytest.raises(DataError, match="no val/ directory to validate with"):
        find_source(Data(source=str(tmp_path)))


def test_a_picture_without_a_partner_is_left_out_and_named(tmp_path: Path) -> None:
    root = write_sides(tmp_path / "data", {split: (f"A/{split}", f"B/{split}") for split in COUNTS})
    (root / "B/train/1.png").unlink()
    (root / "A/train/2.png").rename(root / "A/train/two.png")
    shutil.copy(root / "A/train/3.png", root / "A/train/3.jpg")
    problems = {p.name: p.problem for p in find_source(Data(source=str(root))).pictures if p.problem}
    assert problems == {
        "1.png": "it is in A and not in B",
        "2.png": "it is in B and not in A",
        "two.png": "it is in A and not in B",
        "3.jpg": "A has 2 pictures of that name: 3.jpg, 3.png",
    }
    assert prepared(root, tmp_path / "stores", max_bad_fraction=0.9)["train"].shape[1] == 2


def test_sides_of_two_sizes_are_no_pair(tmp_path: Path) -> None:
    root = write_sides(tmp_path / "data", {split: (f"A/{split}", f"B/{split}") for split in COUNTS})
    Image.fromarray(satellite_and_map(0, 64, 70)[1]).save(root / "B/train/0.png")
    with pytest.raises(DataError, match=r"train/0\.png: in A it has 70x70 pixels and in B 70x64"):
        prepared(root, tmp_path / "stores")


def test_folders_of_which_no_names_match_are_refused_with_names(tmp_path: Path) -> None:
    root = write_sides(tmp_path, {split: (f"A/{split}", f"B/{split}") for split in COUNTS}, ("_left", "_right"))
    with pytest.raises(DataError, match=r"(?s)no picture of one has the name.*0_left.png: it is in A and not in B"):
        find_source(Data(source=str(root)))


def test_a_share_of_the_pictures_is_chosen_by_name_where_no_folder_is_there_to_validate_with(tmp_path: Path) -> None:
    for folder in ("train", ""):
        root = tmp_path / f"data {folder}"
        write_pairs(root, folder, folder)
        source = find_source(Data(source=str(root), val_fraction=0.3))
        val = [picture.name for picture in source.pictures if picture.split == "val"]
        assert val == ["0.png", "6.png"], "the same whatever the machine"
        assert "2 of them to validate with" in source.description
        assert [picture.index for picture in source.pictures] == [0, 1, 2, 3, 4, 0, 1]


def test_a_share_is_not_needed_where_a_folder_is_there_to_validate_with(tmp_path: Path) -> None:
    source = find_source(Data(source=str(write_pairs(tmp_path)), val_fraction=0.3))
    assert source.notes == ["data.val_fraction has no effect: val/ is there to validate with"]
    assert sum(picture.split == "val" for picture in source.pictures) == COUNTS["val"]


def test_a_share_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    pair_picture(0).save(tmp_path / "train/0.png")
    with pytest.raises(DataError, match=r"data\.val_fraction is 0\.5: of 1 picture .* none would be left"):
        find_source(Data(source=str(tmp_path), val_fraction=0.5))


def test_validation_alone_takes_every_layout(tmp_path: Path) -> None:
    write_sides(tmp_path / "1", {"val": ("A/test", "B/test")})
    write_sides(tmp_path / "2", {"val": ("A", "B")})
    write_pairs(tmp_path / "3", train="val")
    for name, num_pictures in (("1", 2), ("2", 2), ("3", 7), ("3/val", 7)):
        assert len(validation_source(tmp_path / name).pictures) == num_pictures
    write_sides(tmp_path / "4", {"train": ("trainA", "trainB")})
    with pytest.raises(DataError, match=r"it has trainA [+] trainB but no val/"):
        validation_source(tmp_path / "4")
