"""Every read and write of a run's files. They lie in a folder of the local machine, or of a mounted network drive.

A write that matters is whole or absent, even after a power cut: the bytes go to a file with a temporary name, the disk
confirms them (fsync), and a rename puts the file in its place.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runner.errors import StorageError

TEMPORARY = ".tmp-"

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXTS = tuple(os.strerror(number) for number in _FULL)
_LOCK_WAIT_S, _LOCK_POLL_S = 10.0, 0.01


@dataclass(frozen=True)
class Storage:
    """A folder, which need not exist yet. All names below are relative to it, and use `/`.

    Methods raise the OSError of the system where their docstring names no other behaviour.

    Attributes:
        root: the folder's absolute path.
    """

    root: str

    @classmethod
    def open(cls, path: str | Path) -> "Storage":
        """The folder at a path. Raises StorageError for a URI, and for a home folder that is unknown."""
        if "://" in str(path):
            raise StorageError(f"{path}: object stores are not supported yet; give a local or shared folder.")
        try:
            return cls(str(Path(expand_home(str(path))).absolute()))
        except ValueError as error:
            raise StorageError(f"{path}: it {error}") from None

    @property
    def local_path(self) -> Path:
        """The folder's path. Only for what is a folder on this machine by nature: the drill's, and `--out`."""
        return Path(self.root)

    def local_copy(self, name: str = "") -> Path:
        """A path where this machine can read a file, or a folder and all that is in it: here, its own.

        For memory maps, and for libraries that take a path. What is written there need not reach the storage.
        """
        return self._path(name) if name else self.local_path

    def scratch(self, name: str) -> Path:
        """A folder of this machine for a library that writes files itself, as Ray and wandb do: here, one inside."""
        return self._path(name)

    def above(self, levels: int) -> "Storage":
        """The folder that many levels above this one; of a link, above the folder that it leads to."""
        return Storage(str(self.local_path.resolve().parents[levels - 1]))

    @property
    def name(self) -> str:
        """The folder's name without its parents."""
        return self.local_path.name

    @property
    def shown(self) -> str:
        """The folder as a user would type it: relative where it lies below the working directory."""
        try:
            here = Path.cwd()
        except FileNotFoundError:  # somebody has removed it meanwhile
            return self.root
        return str(self.local_path.relative_to(here)) if self.local_path.is_relative_to(here) else self.root

    def at(self, name: str) -> "Storage":
        """A folder inside this one."""
        return Storage(f"{self.root}/{name}" if name else self.root)

    def _path(self, name: str) -> Path:
        # Not `local_path / name`: that would leave this folder where a name begins with a slash.
        return Path(f"{self.root}/{name}")

    # What there is.

    def exists(self, name: str = "") -> bool:
        """True where there is a file or a folder with that name."""
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

    def nearest(self) -> "Storage":
        """This folder, or the nearest one above it that there is. Raises StorageError where that can't be found out."""
        existing = self.local_path
        try:
            while not existing.exists():
                existing = existing.parent
        except OSError as error:
            raise StorageError(f"{self.shown}: {existing} can't be entered ({error.strerror}).") from None
        return Storage(str(existing))

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

    def read_text(self, name: str) -> str:
        """The content of a UTF-8 file. Raises FileNotFoundError or UnicodeDecodeError."""
        return self.read(name).decode()

    def read_from(self, name: str, start: int) -> tuple[bytes, str]:
        """The bytes of a file from byte `start` on, and a text that identifies this file.

        The text changes when `write` replaces the file, and stays the same when `append` adds to it.

        Raises:
            FileNotFoundError: there is no such file.
        """
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
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A stream. When the block ends without an error, its bytes are the file `name`, safe on the disk."""
        with self.writing_unsynced(name) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # The rename is safe from a power cut only once the folder itself is on the disk.
        _sync(self._path(name).parent)

    @contextlib.contextmanager
    def writing_unsynced(self, name: str) -> Iterator[BinaryIO]:
        """Like `writing`, but a power cut may take the file, or a part of it, until `sync` has been called."""
        path = self._path(name)
        temporary = path.with_name(_temporary_name())
        try:
            with open(temporary, "wb") as stream:
                yield stream
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def sync(self, name: str) -> None:
        """Waits until a file's bytes are on the disk. Raises OSError where the disk can't take them."""
        _sync(self._path(name))

    def create(self, name: str, data: bytes) -> bool:
        """Writes a whole file if there is none with that name. Returns False, and changes nothing, if there is."""
        path = self._path(name)
        temporary = path.with_name(_temporary_name())
        try:
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            # A link fails where the name is taken, and a rename does not.
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def append(self, name: str, data: bytes, *, synced: bool = True) -> None:
        """Adds bytes at the end of a file in one write. Creates the file where there is none.

        Args:
            synced: wait until the disk has these bytes, and all that were added before.
        """
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

    def remove(self, name: str) -> None:
        """Deletes a file, or a folder with all that is in it. Does nothing where there is none."""
        path = self._path(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink(missing_ok=True)

    # Locks between processes.

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process at a time is in a block that locks this folder, where its file system has locks.

        The system releases the lock of a process that has died. A process that was suspended in the block would hold
        the lock for ever, so this method enters the block without the lock after ten seconds.
        """
        try:
            descriptor = os.open(self.root, os.O_RDONLY)
        except OSError:  # there is no folder that could be locked
            yield
            return
        try:
            give_up_at = time.monotonic() + _LOCK_WAIT_S
            while not _try_lock(descriptor) and time.monotonic() < give_up_at:
                time.sleep(_LOCK_POLL_S)
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


def write_file(path: str | Path, content: bytes) -> None:
    """Writes a file that a person has named, whole or not at all; raises StorageError where that fails."""
    target = Path(path).absolute()
    try:
        Storage.open(target.parent).write(target.name, content)
    except OSError as error:
        raise StorageError(f"{path}: it can't be written ({error.strerror}); give another file") from error


def why_no_file(path: Path) -> str:
    """What keeps a file from being written at a path, before any work; "" where nothing seems to."""
    if path.is_dir():
        return "is a folder"
    return "" if path.absolute().parent.is_dir() else "lies in no folder that exists"


def is_full(error: BaseException | None) -> bool:
    """True where an error, or one that caused it, says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(text in str(error) for text in _FULL_TEXTS):  # Ray gives errors of other processes as text
            return True
        error = error.__cause__ or error.__context__
    return False


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


def open_storage(path: str, option: str = "--storage") -> Storage:
    """The folder that a command's option names; nothing is created.

    Raises:
        StorageError: it can't be a folder that is written to.
    """
    try:
        storage = Storage.open(path)
        storage.check_writable()
    except StorageError as error:
        raise StorageError(f"{option} is {error}") from None
    return storage
