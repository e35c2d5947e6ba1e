"""Files that were made are known to be on the disk, and to be what they were."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from xxhash import xxh3_64

from runner.storage.folder import Storage
from runner.trial.resources import num_cores

BLOCK_BYTES = 2**20  # what the caches still hold when it is looked at


class SyncBehind:
    """Has the disk take files of a folder while others are made, so that the end has little to wait for."""

    def __init__(self, folder: Storage) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(1, "sync")
        self._syncs: list[Future[None]] = []

    def __enter__(self) -> "SyncBehind":
        return self

    def add(self, name: str) -> None:
        """A file that is whole now; returns at once."""
        self._syncs.append(self._pool.submit(self._folder.sync, name))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Waits until the disk has all files; raises OSError where it has not taken one."""
        self._pool.shutdown(cancel_futures=error is not None)
        if error is None:
            for sync in self._syncs:
                sync.result()


def file_checksum(path: Path) -> str:
    """XXH3 of a file, 16 hexadecimal digits; raises OSError where it can't be read."""
    digest = xxh3_64()
    block = memoryview(bytearray(BLOCK_BYTES))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def first_damaged(folder: Path, checksums: Mapping[str, str]) -> str | None:
    """The first of some files that does not have its checksum, looked for on all cores; None where all have."""
    with ThreadPoolExecutor(num_cores()) as pool:
        found = pool.map(lambda name: file_checksum(folder / name), checksums)
        return next(
            (name for name, checksum in zip(checksums, found, strict=True) if checksum != checksums[name]), None
        )
