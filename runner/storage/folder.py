"""The storage in a folder of the local machine, or of a mounted network drive.

A write that matters is whole or absent, even after a power cut: the bytes go to a file with a temporary name, the disk
confirms them (fsync), and a rename puts the file in its place. Processes keep out of each other's way by locks of the
file system (flock), which the system releases when a process dies.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runner.errors import StorageError
from runner.storage.storage import Changed, NewFolder, Storage, is_uri, unfenced

TEMPORARY = ".tmp-"
_REPLACED = "replaced_"

_LOCK_WAIT_S, _LOCK_POLL_S = 10.0, 0.01


@dataclass(frozen=True)
class Folder(Storage):
    """A folder; `root` is its absolute path. What `Storage` does not say of a method is said here."""

    @classmethod
    def at_path(cls, path: str | Path) -> "Folder":
        """The folder at a path. Raises StorageError for a home folder that is unknown."""
        try:
            return cls(str(Path(expand_home(str(path))).absolute()))
        except ValueError as error:
            raise StorageError(f"{path}: it {error}") from None

    @property
    def local_path(self) -> Path:
        """The folder's path. Only for what is a folder on this machine by nature: the drill's, and `--out`."""
        return Path(self.root)

    def local_copy(self, name: str = "") -> Path:
        """Its own path."""
        return self._path(name) if name else self.local_path

    def scratch(self, name: str) -> Path:
        """A folder inside."""
        return self._path(name)

    def above(self, levels: int) -> "Folder":
        """Of a link, the folder above the one that it leads to."""
        return Folder(str(self.local_path.resolve().parents[levels - 1]))

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.local_path.name

    @property
    def shown(self) -> str:
        """Its path, relative where it lies below the working directory."""
        try:
            here = Path.cwd()
        except FileNotFoundError:  # somebody has removed it meanwhile
            return self.root
        return str(self.local_path.relative_to(here)) if self.local_path.is_relative_to(here) else self.root

    def at(self, name: str) -> "Folder":
        """A folder inside this one."""
        return Folder(f"{self.root}/{name}" if name else self.root)

    def _path(self, name: str) -> Path:
        # Not `local_path / name`: that would leave this folder where a name begins with a slash.
        return Path(f"{self.root}/{name}")

    # What there is.

    def absence(self) -> str:
        """Looks for a folder: a file is none."""
        return "" if self.local_path.is_dir() else "there is no such folder"

    def exists(self, name: str = "") -> bool:
        """True where there is a file or a folder with that name, or a link to one."""
        return self._path(name).exists()

    def size(self, name: str) -> int:
        """Bytes of a file. Raises FileNotFoundError where there is no file with that name."""
        path = self._path(name)
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return path.stat().st_size

    def names(self, name: str = "") -> list[str]:
        """The sorted names in a folder, without those of unfinished writes. Empty where there is no folder."""
        return [entry for entry in self._all_names(name) if not entry.startswith(TEMPORARY)]

    def temporary_names(self, name: str = "") -> list[str]:
        """The sorted names of unfinished writes in a folder. Empty where there is no folder."""
        return [entry for entry in self._all_names(name) if entry.startswith(TEMPORARY)]

    def _all_names(self, name: str) -> list[str]:
        path = self._path(name)
        try:
            return sorted(os.listdir(path))  # noqa: PTH208 - names are asked for, not paths
        except (FileNotFoundError, NotADirectoryError):
            if path.exists():  # a file
                raise
            return []

    def sizes(self) -> dict[str, int]:
        """Without files of unfinished writes."""
        return {name: self.size(name) for name in self.names() if self._path(name).is_file()}

    def total_bytes(self) -> int:
        """Bytes of all files below this folder. 0 where there is no folder."""
        return sum(entry.st_size for entry in self._stats_below() if stat.S_ISREG(entry.st_mode))

    def idle_s(self) -> float:
        """Seconds since anything in this folder or below was written."""
        newest = max((entry.st_mtime for entry in self._stats_below()), default=0.0)
        with contextlib.suppress(FileNotFoundError):
            newest = max(newest, self.local_path.stat().st_mtime)
        return time.time() - newest

    def _stats_below(self) -> Iterator[os.stat_result]:
        for parent, folders, files in os.walk(self.root):
            for name in (*folders, *files):
                with contextlib.suppress(FileNotFoundError):  # another process may delete it while we look
                    yield Path(parent, name).stat()

    def free_bytes(self) -> int:
        """Bytes that can still be written where the folder is or will be. `sys.maxsize` where that is unknown."""
        existing = self.local_path
        while not existing.exists():
            existing = existing.parent
        # f_bavail leaves out the blocks that only root may use.
        space = os.statvfs(existing)
        # Some network drives give all numbers as zero.
        return space.f_bavail * space.f_frsize if space.f_blocks else sys.maxsize

    def nearest(self) -> "Folder":
        """This folder, or the nearest one above it that there is. Raises StorageError where that can't be found out."""
        existing = self.local_path
        try:
            while not existing.exists():
                existing = existing.parent
        except OSError as error:
            raise StorageError(f"{self.shown}: {existing} can't be entered ({error.strerror}).") from None
        return Folder(str(existing))

    def check_writable(self) -> None:
        """Raises StorageError where it is no folder that can be written to, nor can be made.

        A file is written and removed, on most systems without ever having a name: rights alone do not tell of a disk
        that is full or that was mounted for reading only.
        """
        existing = self.nearest().local_path
        if not existing.is_dir():
            raise StorageError(
                f"{self.shown}: {existing} is a file, so that no folder can be made there; give another."
            )
        if not os.access(existing, os.W_OK | os.X_OK):
            raise StorageError(f"{self.shown}: {existing} can't be written to; give a folder that can.")
        try:
            _write_and_remove(existing)
        except OSError as error:
            raise StorageError(
                f"{self.shown}: {existing} can't be written to ({error.strerror or error}); give a folder that can."
            ) from None

    # Reading.

    def read(self, name: str) -> bytes:
        """The content of a file. Raises FileNotFoundError where there is none."""
        return self._path(name).read_bytes()

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        """The tag is a digest of the content."""
        content = self.read(name)
        return content, _digest(content)

    def read_from(self, name: str, start: int) -> tuple[bytes, str]:
        """The text is the file's number in its file system, which another file gets when it is replaced."""
        with open(self._path(name), "rb") as stream:
            stream.seek(start)
            return stream.read(), str(os.fstat(stream.fileno()).st_ino)

    # Writing.

    def make_folder(self, name: str = "") -> None:
        """Creates a folder and its parents where they do not exist."""
        self._path(name).mkdir(parents=True, exist_ok=True)

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Replaces a whole file. Readers see the old bytes or the new ones, never a mixture."""
        with self.writing(name) as stream:
            stream.write(data)

    @contextlib.contextmanager
    def writing(self, name: str, *, synced: bool = True) -> Iterator[BinaryIO]:
        """A stream into a file with a temporary name, which takes its name at the end of the block."""
        path = self._path(name)
        temporary = path.with_name(_temporary_name())
        try:
            with open(temporary, "wb") as stream:
                yield stream
                if synced:
                    stream.flush()
                    os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

        # The rename is safe from a power cut only once the folder itself is on the disk.
        if synced:
            _sync(path.parent)

    def sync(self, name: str) -> None:
        """Waits until the disk has a file's bytes. Raises OSError where it can't take them."""
        _sync(self._path(name))

    def create(self, name: str, data: bytes) -> bool:
        """By a link: it fails where the name is taken."""
        path = self._path(name)
        temporary = path.with_name(_temporary_name())
        try:
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def replace(self, name: str, data: bytes, tag: str) -> str:
        """Under the folder's lock. Not to be called inside `exclusive`, which holds it."""
        with self.exclusive():
            try:
                _, now = self.read_tagged(name)
            except FileNotFoundError:
                raise Changed(f"{name} is gone") from None
            if now != tag:
                raise Changed(f"{name} has been replaced")
            self.write(name, data)
        return _digest(data)

    def append(self, name: str, data: bytes, *, synced: bool = True) -> None:
        """In one write."""
        with open(self._path(name), "ab", buffering=0) as stream:
            start = stream.tell()
            if stream.write(data) != len(data):  # the disk is full: leave no torn line
                stream.truncate(start)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            if synced:
                os.fsync(stream.fileno())

    def rename(self, name: str, new_name: str) -> None:
        """Moves a file or folder inside this one. Raises OSError where a folder has the new name."""
        self._path(name).rename(self._path(new_name))
        _sync(self._path(new_name).parent)

    def set_aside(self, name: str, new_name: str) -> None:
        """By a rename."""
        self.rename(name, new_name)

    def remove(self, name: str) -> None:
        """Deletes a file, or a folder with all that is in it. Does nothing where there is none."""
        path = self._path(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink(missing_ok=True)

    # Folders that appear whole.

    @contextlib.contextmanager
    def new_folder(
        self,
        name: str,
        last: str,
        committing: Callable[[], AbstractContextManager[None]] = unfenced,
        *,
        replaces: bool = True,
    ) -> Iterator[NewFolder]:
        """The files are written into a folder with a temporary name, which takes its name at the end of the block."""
        temporary = f"{TEMPORARY}{name}-{secrets.token_hex(4)}"
        self.make_folder(temporary)
        try:
            place = self.at(temporary)
            with place.exclusive():  # so that nobody takes it for a leftover
                yield _TemporaryFolder(place, last)
            # Where a worker died while it wrote a file, another one has written that file.
            for leftover in place.temporary_names():
                place.remove(leftover)

            with committing():
                self._give_name(temporary, name, replaces=replaces)
        finally:
            self._discard(temporary)

    def _give_name(self, temporary: str, name: str, *, replaces: bool) -> None:
        if not replaces:
            try:
                self.rename(temporary, name)
            except OSError:
                if not self.exists(name):
                    raise
                raise Changed(f"{name} is there already") from None
            return
        # The older folder keeps its files until the new one has its name: see finish_replacements.
        if self.exists(name):
            self.rename(name, _REPLACED + name)
        self.rename(temporary, name)
        self.remove(_REPLACED + name)

    def _discard(self, temporary: str) -> None:
        """Deletes an unfinished folder. Whoever still writes into it does not find it any more."""
        if self.exists(temporary):
            # First another name: a deletion takes time, in which more files could be written here.
            away = _temporary_name()
            self.rename(temporary, away)
            self.remove(away)

    def finish_replacements(self) -> None:
        """Undoes a replacement that a crash has broken off: the older folder gets its name back."""
        for replaced in self.names():
            name = replaced.removeprefix(_REPLACED)
            if name == replaced:
                continue
            # The new folder has its name already: the older one is not needed any more.
            if self.exists(name):
                self.remove(replaced)
            else:
                self.rename(replaced, name)

    def is_unfinished(self, name: str, last: str) -> bool:
        """False: what is unfinished has another name."""
        return False

    def remove_unfinished(self, last: str, idle_s: float = 0.0) -> None:
        """Those that nobody has locked."""
        for name in self.temporary_names():
            leftover = self.at(name)
            is_free = leftover.is_unlocked() or not leftover.local_path.is_dir()
            if is_free and (not idle_s or leftover.idle_s() > idle_s):
                self.remove(name)

    # Locks between processes.

    @contextlib.contextmanager
    def exclusive(self, check: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Where its file system has locks, by a lock on the folder, inside which `check` is called.

        A process that was suspended in the block would hold the lock for ever, so this method enters the block without
        it after ten seconds.
        """
        try:
            descriptor = os.open(self.root, os.O_RDONLY)
        except OSError:  # there is no folder that could be locked
            check()
            yield
            return
        try:
            give_up_at = time.monotonic() + _LOCK_WAIT_S
            while not _try_lock(descriptor) and time.monotonic() < give_up_at:
                time.sleep(_LOCK_POLL_S)
            check()
            yield
        finally:
            os.close(descriptor)

    def is_unlocked(self) -> bool:
        """True where no process is in a block that locks this folder. False where that is unknown."""
        try:
            descriptor = os.open(self.root, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)


def expand_home(path: str) -> str:
    """A path as people write it, where `~` and `~person` are home folders; raises ValueError where that is unknown."""
    # Not pathlib, which would also take `./` away, as in ./~x.
    expanded = os.path.expanduser(path)  # noqa: PTH111
    if expanded.startswith("~"):
        raise ValueError(
            f"begins with a home folder that is unknown: give the whole path, or ./{path} if that is meant"
        )
    return expanded


def open_folder(path: str, option: str = "--storage") -> Folder:
    """The folder that a command's option names, where only a folder of this machine will do; nothing is created.

    Raises:
        StorageError: it can't be a folder that is written to.
    """
    try:
        if is_uri(path):
            raise StorageError(f"{path}: it must be a folder of this machine.")
        folder = Folder.at_path(path)
        folder.check_writable()
    except StorageError as error:
        raise StorageError(f"{option} is {error}") from None
    return folder


def write_file(path: str | Path, content: bytes) -> None:
    """Writes a file that a person has named, whole or not at all; raises StorageError where that fails."""
    target = Path(path).absolute()
    try:
        Folder.at_path(target.parent).write(target.name, content)
    except OSError as error:
        raise StorageError(f"{path}: it can't be written ({error.strerror}); give another file") from error


def why_no_file(path: Path) -> str:
    """What keeps a file from being written at a path, before any work; "" where nothing seems to."""
    if path.is_dir():
        return "is a folder"
    return "" if path.absolute().parent.is_dir() else "lies in no folder that exists"


class _TemporaryFolder(NewFolder):
    """A folder with a temporary name."""

    def __init__(self, place: Folder, last: str) -> None:
        self.place, self._last = place, last

    def writing(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A stream for one of its files."""
        return self.place.writing(name)

    def path_of(self, name: str) -> str:
        """The name itself: nobody else writes here."""
        return name

    def finish(self, data: bytes) -> None:
        """Writes the last file."""
        self.place.write(self._last, data)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _temporary_name() -> str:
    """A name for an unfinished write. It does not contain the file's name, which may already have maximal length."""
    return f"{TEMPORARY}{secrets.token_hex(8)}"


def _try_lock(descriptor: int) -> bool:
    """True where the lock was taken, or the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _write_and_remove(folder: Path) -> None:
    """Writes a file that nobody sees; raises OSError where that fails."""
    if hasattr(os, "O_TMPFILE"):
        try:
            descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600)
        except OSError as error:
            # Not all file systems have files without names.
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                raise
        else:
            with open(descriptor, "wb") as file:
                file.write(bytes(1))
            return

    path = folder / _temporary_name()
    try:
        path.write_bytes(bytes(1))
    finally:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Waits until the disk has a file's bytes, or a folder's new and renamed entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
