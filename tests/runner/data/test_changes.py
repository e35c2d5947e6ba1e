"""What may change in a source without changing what trials learn from, and how the rest is named."""

from pathlib import Path

import pytest

from runner.config.schema import Data
from runner.data.changes import CONTENTS, changes_since
from runner.data.preparation import prepare_patches
from runner.data.shards import cut_in_this_process
from runner.data.sources import Source, find_source, store_fingerprint
from runner.storage.storage import Storage
from tests.support.pictures import encoded, pair_picture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, split in enumerate(["train"] * 4 + ["val"] * 2):
        (tmp_path / "data" / split).mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / split / f"{number}.png").write_bytes(encoded(pair_picture(number)))
    (tmp_path / "data/train/torn.png").write_bytes(encoded(pair_picture(9))[:200])
    return tmp_path / "data"


def data_of(root: Path) -> Data:
    return Data(source=str(root), patch_size=64, max_bad_fraction=0.5)


def prepared(root: Path) -> tuple[Storage, str]:
    """A store of the source, and its fingerprint."""
    source, data = find_source(data_of(root)), data_of(root)
    patches = Storage.open(root.parent / "patches")
    fingerprint = store_fingerprint(source, data)
    prepare_patches(data, source, fingerprint, patches, cut_in_this_process, lambda text: None)
    return patches.at(fingerprint), fingerprint


def changed(root: Path, store: Storage, fingerprint: str) -> list[str] | None:
    assert store_fingerprint(find_source(data_of(root)), data_of(root)) != fingerprint
    return changes_since(find_source(data_of(root)), data_of(root), store, fingerprint)


def test_pictures_that_give_no_patches_may_come_change_and_go(root: Path) -> None:
    store, fingerprint = prepared(root)
    (root / "train/torn.png").write_bytes(b"otherwise bad")
    (root / "val/half_copied.jpg").write_bytes(b"")
    assert changed(root, store, fingerprint) == []
    (root / "train/torn.png").unlink()
    assert changed(root, store, fingerprint) == []


def test_pictures_that_are_or_would_be_used_are_named_with_what_happened(root: Path) -> None:
    store, fingerprint = prepared(root)
    (root / "train/0.png").unlink()
    (root / "train/1.png").write_bytes(encoded(pair_picture(7)))
    (root / "train/2.png").write_bytes(b"damaged since")
    (root / "train/torn.png").write_bytes(encoded(pair_picture(9)))
    (root / "val/more.png").write_bytes(encoded(pair_picture(8)))
    assert changed(root, store, fingerprint) == [
        "train/1.png has changed",
        "train/2.png has changed",
        "train/torn.png has changed",
        "val/more.png is new",
        "train/0.png is gone",
    ]


def test_a_store_without_a_record_of_its_source_is_another_one(root: Path) -> None:
    store, fingerprint = prepared(root)
    (root / "train/torn.png").unlink()
    for content in (None, b"{}\n", b"torn {"):
        store.remove(CONTENTS)
        if content is not None:
            store.write(CONTENTS, content)
        assert changed(root, store, fingerprint) is None


def test_a_store_of_the_first_releases_which_took_every_file_for_a_picture_is_known_again(root: Path) -> None:
    (root / "train/Thumbs.db").write_bytes(b"of a file manager")
    (root / "train/.hidden").write_bytes(b"was passed over then, too")
    source, data = find_source(data_of(root)), data_of(root)
    thumbs = next(file for file in source.passed_over if file.name == "Thumbs.db")
    before = Source(sorted([*source.pictures, thumbs], key=lambda picture: (picture.split, picture.name)))
    fingerprint = store_fingerprint(before, data)
    assert changed(root, Storage.open(root.parent / "gone"), fingerprint) == []
