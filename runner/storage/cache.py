"""Copies of a bucket's objects on this machine, for memory maps and for libraries that take a path.

A copy is found again by the next run, verified by the checksum that was taken when it was fetched, and fetched again
where the object has another tag by now. Processes of one machine share it: one fetches while the others wait. What was
not used for longest goes first where the copies take more than their limit.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

from xxhash import xxh3_64

from runner.errors import StorageError

CACHE_VARIABLE = "PIX2PIX_CACHE"  # as --cache
MAX_BYTES = 100 * 10**9

_INDEX, _LOCK, _USED = "index.json", "lock", "used"
_FETCHES_AT_ONCE = 8
_BLOCK_BYTES = 2**20

# Locks of copies that this process uses: they are held until it ends, and keep others from deleting these copies.
_in_use: dict[Path, int] = {}


class Remote(NamedTuple):
    """An object as its store lists it.

    Attributes:
        name: relative to the folder that is copied.
        tag: changes with the content.
    """

    name: str
    size: int
    tag: str


def cache_folder(given: str) -> Path:
    """Where local copies live; it is created. Raises StorageError where it can't be written.

    Args:
        given: by --cache; "" for what the environment says, or the user's cache folder.
    """
    given = given or os.environ.get(CACHE_VARIABLE, "")
    try:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    except RuntimeError:
        home = ""
    if not given and not home:
        raise StorageError("there is no home folder for local copies of what is in the bucket: give one with --cache.")

    folder = Path(given) if given else Path(home) / "pix2pix-runner"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{secrets.token_hex(4)}"
        probe.write_bytes(b"1")
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"{'--cache' if given else 'the cache folder'}: {folder} can't be written ({error.strerror}): it takes "
            "local copies of what is in the bucket; give a folder that can with --cache."
        ) from error
    return folder


def scratch_folder(given: str, root: str, name: str) -> Path:
    """A folder for files that a library writes by itself, for one name below one storage. It is created."""
    folder = cache_folder(given) / "scratch" / _digest(root) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def copy_folder(given: str, root: str, objects: list[Remote], fetch: Callable[[str, IO[bytes]], None]) -> Path:
    """A local folder with verified copies of these objects, and of no others.

    Args:
        given: see cache_folder.
        root: of the folder in its store; names the copy.
        fetch: writes an object's bytes to a stream, by its name.

    Raises:
        OSError: an object can't be fetched, or the disk has no room.
    """
    copy = cache_folder(given) / "copies" / _digest(root)
    files = copy / "files"
    files.mkdir(parents=True, exist_ok=True)
    _keep_in_use(copy)

    with _locked(copy / _LOCK):
        index = _read_index(copy)
        missing = [known for known in objects if not _is_good(files, known, index)]
        if missing:
            make_room(sum(known.size for known in missing), keep=copy)
            with ThreadPoolExecutor(_FETCHES_AT_ONCE) as pool:
                checksums = list(pool.map(lambda known: _fetch(files, known, fetch), missing))
            for known, checksum in zip(missing, checksums, strict=True):
                index[known.name] = {"tag": known.tag, "size": known.size, "xxh3": checksum}

        # What the store does not have any more must not be taken for a part of it.
        names = {known.name for known in objects}
        for path in [path for path in files.rglob("*") if path.is_file()]:
            if path.relative_to(files).as_posix() not in names:
                path.unlink()
        index = {name: entry for name, entry in index.items() if name in names}
        _write(copy / _INDEX, json.dumps(index).encode())
    os.utime(copy / _USED)
    return files


def make_room(size: int, keep: Path) -> None:
    """Deletes the copies that were not used for longest, until all take at most MAX_BYTES and the disk has room.

    Args:
        size: bytes that are about to be written.
        keep: a copy that stays.
    """
    folder = keep.parent
    copies = [copy for copy in folder.iterdir() if copy != keep and (copy / _USED).exists()]
    sizes = {copy: _total_bytes(copy) for copy in [*copies, keep]}
    taken = sum(sizes.values())
    for copy in sorted(copies, key=lambda copy: (copy / _USED).stat().st_mtime):
        if taken + size <= MAX_BYTES and shutil.disk_usage(folder).free > size:
            return
        with open(copy / _USED, "rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # a process uses it
                continue
            shutil.rmtree(copy, ignore_errors=True)
            taken -= sizes[copy]


def _keep_in_use(copy: Path) -> None:
    """Keeps a copy from being deleted by others as long as this process runs."""
    if copy not in _in_use or not (copy / _USED).exists():
        descriptor = os.open(copy / _USED, os.O_WRONLY | os.O_CREAT)  # open until the process ends
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        _in_use[copy] = descriptor


def _is_good(files: Path, known: Remote, index: Mapping[str, Mapping[str, object]]) -> bool:
    """True where the copy of an object is the one that was fetched, and the object has not changed since."""
    entry = index.get(known.name)
    path = files / known.name
    if entry is None or (entry["tag"], entry["size"]) != (known.tag, known.size) or not path.is_file():
        return False
    try:
        return path.stat().st_size == known.size and _checksum(path) == entry["xxh3"]
    except OSError:
        return False


def _fetch(files: Path, known: Remote, fetch: Callable[[str, IO[bytes]], None]) -> str:
    """Fetches one object; its checksum."""
    path = files / known.name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    try:
        with open(temporary, "wb") as stream:
            fetch(known.name, stream)
        if (size := temporary.stat().st_size) != known.size:
            raise OSError(f"{known.name}: {size} bytes came instead of {known.size}")
        checksum = _checksum(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return checksum


def _checksum(path: Path) -> str:
    digest = xxh3_64()
    block = memoryview(bytearray(_BLOCK_BYTES))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def _read_index(copy: Path) -> dict[str, dict[str, object]]:
    try:
        index = json.loads((copy / _INDEX).read_bytes())
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    temporary.write_bytes(content)
    temporary.replace(path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time, where the file system has locks."""
    with open(path, "ab") as stream:
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _total_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
