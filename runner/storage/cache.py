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

from runner.errors import CacheError
from runner.storage.hashing import file_checksum
from runner.storage.storage import is_unreachable

CACHE_VARIABLE = "PIX2PIX_CACHE"  # as --cache
MAX_BYTES = 100 * 10**9

_INDEX, _LOCK, _USED = "index.json", "lock", "used"
_FETCHES_AT_ONCE = 8

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
    """Where local copies live; it is created. Raises CacheError where it can't be written.

    Args:
        given: by --cache; "" for what the environment says, or the user's cache folder.
    """
    given = given or os.environ.get(CACHE_VARIABLE, "")
    try:
        home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    except RuntimeError:
        home = ""
    if not given and not home:
        raise CacheError("there is no home folder for local copies of what is in the bucket: give one with --cache.")

    folder = Path(given) if given else Path(home) / "pix2pix-runner"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{secrets.token_hex(4)}"
        probe.write_bytes(b"1")
        probe.unlink()
    except OSError as error:
        raise CacheError(
            f"the cache folder {folder} can't be written ({error.strerror}): it takes local copies of what is in the "
            "bucket; give a folder that can with --cache."
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
        OSError: an object can't be fetched.
        CacheError: the cache folder can't be written, or has no room.
    """
    cache = cache_folder(given)
    copy = cache / "copies" / _digest(root)
    try:
        return _verified(copy, root, objects, fetch)
    except OSError as error:
        # Not the object store's: of it all errors have been put into its own words, with an object's URI.
        if "://" in str(error.filename or error) or is_unreachable(error):
            raise
        size = sum(known.size for known in objects)
        raise CacheError(
            f"the cache folder {cache} can't take a copy of {root.rstrip('#')} of {size:,} bytes "
            f"({error.strerror or error}): make room, or give another folder with --cache."
        ) from error


def _verified(copy: Path, root: str, objects: list[Remote], fetch: Callable[[str, IO[bytes]], None]) -> Path:
    """The folder in which the copy's files are, all of them good."""
    files = copy / "files"
    _keep_in_use(copy)
    files.mkdir(exist_ok=True)

    with _locked(copy / _LOCK):
        # What the store does not have any more must not be taken for a part of it, nor be in the way.
        names = {known.name for known in objects}
        for path in list(files.rglob("*")):
            if path.is_dir() if path.relative_to(files).as_posix() in names else path.is_file():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

        index = {name: entry for name, entry in _read_index(copy).items() if name in names}
        missing = [known for known in objects if not _is_good(files, known, index)]
        if missing:
            make_room(sum(known.size for known in missing), keep=copy)
            with ThreadPoolExecutor(_FETCHES_AT_ONCE) as pool:
                checksums = list(pool.map(lambda known: _fetch(files, root, known, fetch), missing))
            for known, checksum in zip(missing, checksums, strict=True):
                index[known.name] = {"tag": known.tag, "size": known.size, "xxh3": checksum}
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
    """Makes a copy's folder, and keeps it from being deleted by others as long as this process runs."""
    while not _is_kept(copy):
        copy.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(copy / _USED, os.O_WRONLY | os.O_CREAT, 0o666)  # open until the process ends
        except FileNotFoundError:  # another process has just deleted the folder
            continue
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if (older := _in_use.pop(copy, None)) is not None:
            os.close(older)
        _in_use[copy] = descriptor


def _is_kept(copy: Path) -> bool:
    """True where this process holds the lock of the copy that is there, and not of one that was deleted."""
    try:
        there, held = (copy / _USED).stat(), os.fstat(_in_use[copy])
    except (KeyError, FileNotFoundError):
        return False
    return os.path.samestat(there, held)


def _is_good(files: Path, known: Remote, index: Mapping[str, Mapping[str, object]]) -> bool:
    """True where the copy of an object is the one that was fetched, and the object has not changed since."""
    entry = index.get(known.name)
    path = files / known.name
    if entry is None or (entry.get("tag"), entry.get("size")) != (known.tag, known.size) or not path.is_file():
        return False
    try:
        return path.stat().st_size == known.size and file_checksum(path) == entry.get("xxh3")
    except OSError:
        return False


def _fetch(files: Path, root: str, known: Remote, fetch: Callable[[str, IO[bytes]], None]) -> str:
    """Fetches one object; its checksum."""
    path = files / known.name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
    try:
        with open(temporary, "wb") as stream:
            fetch(known.name, stream)
        if (size := temporary.stat().st_size) != known.size:
            raise OSError(
                f"{root}: of {known.name} {size} bytes came instead of {known.size}; has it changed meanwhile?"
            )

        checksum = file_checksum(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return checksum


def _read_index(copy: Path) -> dict[str, dict[str, object]]:
    try:
        index = json.loads((copy / _INDEX).read_bytes())
    except (OSError, ValueError):
        return {}
    entries = index.items() if isinstance(index, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict)}


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
    """Bytes of the files below a folder, which others may be deleting."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
