import io
import os
from pathlib import Path

import pytest
from xxhash import xxh3_64

from runner.data.checksums import SyncBehind, first_damaged
from runner.storage import hashing
from runner.storage.folder import Folder
from runner.storage.hashing import HashingStream, file_checksum
from runner.storage.storage import Storage


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1234])
@pytest.mark.parametrize("write_size", [1, 30, 100, 250])
def test_a_file_has_the_checksum_of_what_was_written(
    tmp_path: Path, size: int, write_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "BLOCK_BYTES", 100)
    content, path = os.urandom(size), tmp_path / "file"
    with open(path, "wb") as file:
        stream = HashingStream(file, xxh3_64())
        assert sum(stream.write(content[at : at + write_size]) for at in range(0, size, write_size)) == size
    assert stream.size == size
    assert path.read_bytes() == content
    assert file_checksum(path) == stream.digest.hexdigest()


def test_each_flipped_bit_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "BLOCK_BYTES", 16)
    content, path = bytearray(os.urandom(40)), tmp_path / "file"
    stream = HashingStream(io.BytesIO(), xxh3_64())
    stream.write(content)
    for bit in range(8 * len(content)):
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        assert file_checksum(path) != stream.digest.hexdigest()
        content[bit // 8] ^= 1 << bit % 8


def test_of_many_files_the_damaged_one_is_named(tmp_path: Path) -> None:
    found = {}
    for name in map(str, range(20)):
        (tmp_path / name).write_text(name)
        found[name] = file_checksum(tmp_path / name)
    assert first_damaged(tmp_path, found) is None
    (tmp_path / "13").write_text("31")
    assert first_damaged(tmp_path, found) == "13"


def test_files_are_on_the_disk_when_the_block_ends_and_a_sync_that_fails_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, synced = Storage.open(tmp_path), []

    def note(folder: Storage, name: str) -> None:
        synced.append(name)
        if name == "bad":
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(Folder, "sync", note)
    with SyncBehind(folder) as syncing:
        for name in ("a", "b", "c"):
            syncing.add(name)
    assert synced == ["a", "b", "c"]
    with pytest.raises(OSError, match="Input/output"), SyncBehind(folder) as syncing:
        for name in ("bad", "d"):
            syncing.add(name)
