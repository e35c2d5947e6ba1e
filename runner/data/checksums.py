"""Written files are safe on the disk, and unchanged when they are read later."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from runner.process.processes import num_cores
from runner.storage.hashing import file_checksum
from runner.storage.storage import Storage


class SyncBehind:
    """Syncs files of a folder to the disk in a thread, while the next files are written.

    So there is little to wait for at the end. Use it as a context manager.
    """

    def __init__(self, folder: Storage) -> None:
        self._folder = folder
        # One thread is enough: it waits for the disk, not for a core.
        self._pool = ThreadPoolExecutor(1, "sync")
        self._syncs: list[Future[None]] = []

    def __enter__(self) -> "SyncBehind":
        return self

    def add(self, name: str) -> None:
        """Queues a file that is complete now. Returns at once."""
        self._syncs.append(self._pool.submit(self._folder.sync, name))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Waits until all files are on the disk. Raises OSError where one of them could not be written."""
        self._pool.shutdown(cancel_futures=error is not None)
        # result() raises the error of a failed sync. Where the block has failed, its own error is raised instead.
        if error is None:
            for sync in self._syncs:
                sync.result()


def first_damaged(folder: Path, checksums: Mapping[str, str]) -> str | None:
    """Reads files on all cores, and compares their checksums.

    Args:
        checksums: the right checksum of each file, by its name in `folder`.

    Returns:
        The name of the first damaged file. None where all are right.

    Raises:
        OSError: a file can't be read.
    """
    # Threads are enough: xxhash and reading release the interpreter lock.
    with ThreadPoolExecutor(num_cores()) as pool:
        found = pool.map(lambda name: file_checksum(folder / name), checksums)
        for (name, expected), checksum in zip(checksums.items(), found, strict=True):
            if checksum != expected:
                return name
    return None
