"""The stages of fetching a data set, one after another. A folder appears complete, by one rename, or not at all."""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gan.data.pictures import SUFFIXES
from runner.data.fetching.download import ARCHIVE, Patience, download
from runner.data.fetching.known_sets import KNOWN_SETS
from runner.data.fetching.members import BLOCK_BYTES, ArchiveError, DamagedError
from runner.data.fetching.origin import Origin, find_origin
from runner.data.fetching.progress import shown_progress
from runner.data.fetching.record import Record, measured, read_record, write_record
from runner.data.fetching.unpacking import Limits, unpack
from runner.data.fetching.web import Unreachable
from runner.data.listing import list_files
from runner.errors import DataError, Exit, FullError, ResourceError, StorageError, UserError
from runner.number_format import byte_size, counted
from runner.storage.folder import TEMPORARY, Folder
from runner.storage.storage import is_full

_UNPACKED = "unpacked"
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_SPLIT = re.compile(r"(train|val|valid|validation|test)[ab]?", re.IGNORECASE)
_MAX_FOLDERS_SHOWN = 8


class _Stopped(UserError):
    """The command was told to stop."""

    def __init__(self, text: str, exit_code: Exit) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def fetch(
    source: str, directory: str, sha256: str | None, limits: Limits | None = None, patience: Patience | None = None
) -> None:
    """Fetches an archive, unpacks it into a folder that is new or empty, and prints what lies there.

    Args:
        source: a name of KNOWN_SETS, an http or https address, or the path of an archive.
        sha256: the archive's SHA-256, 64 hexadecimal digits in lower case; None where it is not known.

    Raises:
        DataError: the source or the archive can't be used. Nothing is left, but what came of a broken download.
        StorageError, ResourceError: the folder can't be used, or there is no room.
        FullError: the disk got full; the same command goes on.
    """
    origin, target = find_origin(source), _find_target(directory)
    if _is_complete(origin, target, sha256):
        Folder(str(target.parent)).remove(_work_name(origin, target))  # of a start that was killed at its very end
        print(f"nothing to do: {directory} was fetched from {origin.shown} before, and has all of its files")
        _print_summary(origin, directory, target)
        return

    _check_place(target, directory)
    with _work_folder(origin, target) as work, _errors_named(origin, work, directory):
        _fill(origin, target, work, sha256, limits or Limits(), patience or Patience())
    _print_summary(origin, directory, target)


def _find_target(directory: str) -> Path:
    """The absolute path of DIR, links followed. Raises DataError where it is no folder."""
    try:
        target = Path(directory).expanduser().resolve()
        if target.exists() and not target.is_dir():
            raise DataError(f"{directory} is a file: give a folder that is new or empty.")
    except (OSError, RuntimeError) as error:
        raise DataError(f"{directory} can't be a folder ({error}): give another.") from None
    return target


def _is_complete(origin: Origin, target: Path, sha256: str | None) -> bool:
    """True where DIR holds all that was once fetched from the same origin; False where it is new or empty.

    Raises:
        DataError: it holds anything else.
    """
    try:
        if not target.exists() or not any(target.iterdir()):
            return False
    except OSError as error:
        raise DataError(f"{target} can't be read ({error.strerror}): give another folder.") from None
    record = read_record(Folder(str(target)))
    if record is None:
        raise DataError(f"{target} is not empty: give a folder that is new or empty.")

    if origin.path:
        with _opened(origin.path) as stream:
            same = record.sha256 == _sha256(stream)
    else:
        same = record.identity == origin.identity
    if not same:
        raise DataError(f"{target} holds what was fetched from {record.origin}: give another folder, or delete it.")
    if sha256 not in (None, record.sha256):
        raise DataError(
            f"{target} was fetched from there before, but from an archive whose SHA-256 is {record.sha256}, not "
            f"{sha256} as --sha256 says: give another folder, or delete it."
        )
    count, size = measured(target)
    if (count, size) != (record.files, record.size):
        raise DataError(
            f"{target} was fetched from there before, but it has been changed since: {counted(record.files, 'file')} "
            f"of {byte_size(record.size)} then, {count} of {byte_size(size)} now. Give another folder, or "
            "delete it to fetch it again."
        )
    return True


def _check_place(target: Path, directory: str) -> None:
    """Raises where the new folder can't be renamed to DIR."""
    if target.exists() and (target.is_mount() or target == Path.cwd()):
        what = "a disk of its own" if target.is_mount() else "the folder that you are in"
        inside = Path(directory) / "pairs"
        raise DataError(f"{directory} is {what}, and can't be replaced: give a folder in it, such as {inside}.")
    try:
        Folder(str(target.parent)).check_writable()
    except StorageError as error:
        raise StorageError(f"DIR is {directory}: {error}") from None


# The folder beside DIR, where all is made.


def _work_name(origin: Origin, target: Path) -> str:
    """The same for the same command, so that it finds what an earlier start has left."""
    digest = hashlib.sha256(f"{origin.identity} {target.name}".encode(errors="surrogateescape")).hexdigest()
    return f"{TEMPORARY}fetch-{digest[:16]}"


@contextlib.contextmanager
def _work_folder(origin: Origin, target: Path) -> Iterator[Folder]:
    """A folder beside DIR for this command alone. What is left of it in the end is a download that can go on.

    Raises:
        StorageError: another command is using it, or it belongs to somebody else.
    """
    parent = Folder(str(target.parent))
    new_parents = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    work = parent.at(_work_name(origin, target))
    try:
        parent.make_folder()
        with contextlib.suppress(FileExistsError):
            work.local_path.mkdir(0o700)
        descriptor = os.open(work.root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise StorageError(f"{work.root} can't be made ({error.strerror}): give a folder elsewhere.") from None

    try:
        _lock(descriptor, work)
        try:
            work.remove(_UNPACKED)  # of a start that was killed
            yield work
        finally:
            work.remove(_UNPACKED)
            if not _kept_bytes(work):
                work.remove("")
                for folder in new_parents:
                    with contextlib.suppress(OSError):  # DIR lies there now
                        folder.rmdir()
    finally:
        os.close(descriptor)


def _lock(descriptor: int, work: Folder) -> None:
    """Raises StorageError where the folder is another command's, or another person's."""
    if os.fstat(descriptor).st_uid != os.geteuid():
        raise StorageError(f"{work.root} belongs to another user: give a folder elsewhere.")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have been the folder of a command that has just ended, and is gone.
        free = work.exists() and work.local_path.stat().st_ino == os.fstat(descriptor).st_ino
    except BlockingIOError:
        free = False
    except OSError:
        free = True  # this file system has no locks
    if not free:
        raise StorageError(f"another command is fetching the same into {work.above(1).shown}: wait until it has ended.")


def _kept_bytes(work: Folder) -> int:
    """How much of a download is there."""
    return work.size(ARCHIVE) if work.exists(ARCHIVE) else 0


# What went wrong, in words.


@contextlib.contextmanager
def _errors_named(origin: Origin, work: Folder, directory: str) -> Iterator[None]:
    """Errors of the block get the origin's name, what is left, and what to do."""
    try:
        yield

    # What is fetched is wrong, or can't be had.
    except Unreachable as error:
        raise DataError(_dead_address(origin, error, work, directory)) from error
    except DataError as error:
        work.remove(ARCHIVE)  # or the same command would find it again
        remedy = f" {error.remedy}" if isinstance(error, ArchiveError) else ""
        raise DataError(f"{origin.shown}: {error} Nothing was put into {directory}.{remedy}") from error

    # This machine can't take it, or the person ends it.
    except ResourceError as error:
        raise ResourceError(f"{origin.shown}: {error}") from error
    except OSError as error:
        if is_full(error):
            raise FullError(_going_on("the disk is full: make room", work)) from error
        raise StorageError(f"{error.filename or directory}: {error.strerror or error}.") from error
    except KeyboardInterrupt:
        raise _Stopped(_going_on("interrupted", work), Exit.INTERRUPTED) from None
    except SystemExit:
        raise _Stopped(_going_on("stopped", work), Exit.STOPPED) from None


def _going_on(what: str, work: Folder) -> str:
    """What the same command will find."""
    if not (kept := _kept_bytes(work)):
        return f"{what}; nothing is left, and the same command begins again"
    return f"{what}; the same command goes on with the {byte_size(kept)} that are kept in {work.shown}"


def _dead_address(origin: Origin, error: Unreachable, work: Folder, directory: str) -> str:
    """Why an address has brought no archive, and the other ways to get one."""
    lines = [f"{origin.shown}: {error.reason}."]
    if _kept_bytes(work):
        lines.append(_going_on("It broke off", work) + ".")
    if origin.known and origin.known.note:
        lines.append(f"{origin.known.name}: {origin.known.note}.")

    file = origin.known.url.rpartition("/")[2] if origin.known else "ARCHIVE"
    others = [name for name in KNOWN_SETS if origin.known is None or name != origin.known.name]
    ways = {
        file: "the archive, downloaded by other means such as a browser",
        "URL": "another address of it, a mirror's",
        "NAME": f"another set: {', '.join(others)}",
    }
    lines.append("Other ways:")
    lines += [f"  python -m runner.data fetch {way} {shlex.quote(directory)}: {what}" for way, what in ways.items()]
    return "\n".join(lines)


# The stages.


def _fill(origin: Origin, target: Path, work: Folder, sha256: str | None, limits: Limits, patience: Patience) -> None:
    """Gets the archive, unpacks it, and puts the folder in its place. Raises what `_errors_named` names."""
    if origin.address:
        print(f"fetching {origin.shown}", flush=True)
        download(origin.address, work, patience, limits.size)

    with _opened(origin.path or work.local_path / ARCHIVE) as stream:
        digest = _sha256(stream)
        if sha256 not in (None, digest):
            raise DamagedError(
                f"its SHA-256 is {digest}, not {sha256} as --sha256 says: it is another one, or altered."
            )
        size, free = os.fstat(stream.fileno()).st_size, work.free_bytes()
        if size > free:
            raise ResourceError(
                f"the archive has {byte_size(size)} and needs at least as much again when it is unpacked, but there is "
                f"room for {byte_size(free)}: make room, or give a folder on another disk."
            )
        stream.seek(0)
        with shown_progress("unpacking", 0, size) as show:
            unpacked = unpack(stream, work.local_path / _UNPACKED, limits, show)

    top = _top_folder(work.local_path / _UNPACKED)
    if not list_files(top).pictures:
        what = f"{counted(unpacked.files, 'file')}, none of {', '.join(SUFFIXES)}"
        raise DataError(f"it holds no pictures ({what}): give an archive of pairs.")
    count, size = measured(top)
    if unpacked.files > count:
        print(f"left out: {counted(unpacked.files - count, 'hidden file')} beside the pictures' folder")
    write_record(Folder(str(top)), Record(origin.shown, origin.identity, digest, count, size))

    _put_in_place(top, target, work)
    work.remove(ARCHIVE)


def _put_in_place(folder: Path, target: Path, work: Folder) -> None:
    """Renames a folder that is complete to DIR. Raises StorageError where DIR is not empty any more."""
    _sync_file_system(folder)
    try:
        Folder(str(target.parent)).rename(f"{work.name}/{folder.relative_to(work.local_path)}", target.name)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise StorageError(f"{target} has been filled by another program meanwhile: give another folder.") from None
        raise


def _opened(path: Path) -> BinaryIO:
    """A file to read. Raises DataError where it can't be read."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}).") from None


def _sha256(stream: BinaryIO) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    size = os.fstat(stream.fileno()).st_size
    digest = hashlib.sha256()
    with shown_progress("checking", 0, size) as show:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            show(stream.tell())
    return digest.hexdigest()


def _top_folder(folder: Path) -> Path:
    """The folder that becomes DIR: below folders that hold nothing but one other folder."""
    while True:
        inside = [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name != "__MACOSX"]
        if len(inside) != 1 or not inside[0].is_dir() or _SPLIT.fullmatch(inside[0].name):
            return folder
        folder = inside[0]


def _sync_file_system(folder: Path) -> None:
    """Waits until the disk has all files of the folder's file system: for 100,000 of them sooner than one by one."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)


# What lies there in the end.


def _print_summary(origin: Origin, directory: str, target: Path) -> None:
    """Prints the pictures of each folder, as a training would find them, and the next commands."""
    listing = list_files(target)
    counts = Counter(path.rpartition("/")[0] or "." for path in listing.pictures)
    shown = [f"{counted(count, 'picture')} in {folder}" for folder, count in sorted(counts.items())]
    if len(shown) > _MAX_FOLDERS_SHOWN:
        shown = [*shown[:_MAX_FOLDERS_SHOWN], f"... and {len(shown) - _MAX_FOLDERS_SHOWN} more folders"]
    print(f"{directory}: {', '.join(shown)}")

    known = origin.known
    if known:
        print(f"each picture is a pair: left {known.left}, right {known.right}")
        if missing := [split for split in known.splits if split not in counts]:
            print(f"unlike the original {known.name}, it has no {' and no '.join(missing)}")
    if nested := [path for path in listing.passed_over if path.lower().endswith(_ARCHIVES)]:
        print(f"{counted(len(nested), 'archive')} in it stayed a file, such as {nested[0]}")

    place = shlex.quote(directory)
    direction = f" --set data.direction={known.direction}" if known and known.direction != "map_to_satellite" else ""
    print(f"next: python -m runner.data check {place}")
    print(f"      python -m runner.tune experiments/batch_sweep.yaml --set data.source={place}{direction}")
