"""All reading and writing on storage: one folder, any pyarrow file system underneath.

A write that matters is whole or absent: temporary name, fsync, rename. Where the file system has no
rename worth the name (an object store), the upload itself is atomic and the temporary name is skipped.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.fs as pa_fs

TEMPORARY = ".tmp-"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_TEXTS = tuple(os.strerror(number) for number in FULL)
LOCK_WAIT_S = 10.0


@dataclass(frozen=True)
class Storage:
    """A folder on a pyarrow file system; every name below is relative to it and uses `/`."""

    filesystem: pa_fs.FileSystem
    root: str

    @classmethod
    def open(cls, path: str | Path) -> "Storage":
        """The folder at a local path (which need not exist yet)."""
        return cls(pa_fs.LocalFileSystem(), str(Path(path).absolute()))

    @property
    def local_path(self) -> Path:
        """The folder as a local path, for memory maps and libraries that insist on one."""
        return Path(self.root)

    @property
    def name(self) -> str:
        """The folder's own name, without its parents."""
        return self.root.rstrip("/").rsplit("/", 1)[-1]

    @property
    def shown(self) -> str:
        """The folder as a person would type it: relative where it lies below the working directory."""
        here = Path.cwd()
        return str(self.local_path.relative_to(here)) if self.local_path.is_relative_to(here) else self.root

    def at(self, name: str) -> "Storage":
        """A folder inside this one."""
        return Storage(self.filesystem, self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def exists(self, name: str = "") -> bool:
        """True where a file or a folder of that name stands."""
        return bool(self.filesystem.get_file_info(self._path(name)).type != pa_fs.FileType.NotFound)

    def size(self, name: str) -> int:
        """Bytes of a file; raises FileNotFoundError where there is none."""
        info = self.filesystem.get_file_info(self._path(name))
        if info.type != pa_fs.FileType.File:
            raise FileNotFoundError(self._path(name))
        return int(info.size)

    def total_bytes(self) -> int:
        """Bytes of all files below this folder; 0 where there is none."""
        selector = pa_fs.FileSelector(self.root, recursive=True, allow_not_found=True)
        return sum(info.size or 0 for info in self.filesystem.get_file_info(selector))

    def names(self, name: str = "") -> list[str]:
        """Names in a folder, sorted; temporary ones are left out; empty where there is no folder."""
        return [base for base in self._all_names(name) if not base.startswith(TEMPORARY)]

    def temporary_names(self, name: str = "") -> list[str]:
        """Names of what unfinished writes left in a folder, sorted."""
        return [base for base in self._all_names(name) if base.startswith(TEMPORARY)]

    def _all_names(self, name: str) -> list[str]:
        selector = pa_fs.FileSelector(self._path(name), allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def make_folder(self, name: str = "") -> None:
        """Creates the folder and its parents."""
        self.filesystem.create_dir(self._path(name), recursive=True)

    def read(self, name: str) -> bytes:
        """The whole file; raises FileNotFoundError where there is none."""
        with self.filesystem.open_input_stream(self._path(name), compression=None) as stream:
            return bytes(stream.read())

    def read_from(self, name: str, start: int) -> tuple[bytes, str]:
        """The file's bytes from a place on, and what names this file until `write` puts another in its place.

        Raises:
            FileNotFoundError: there is none.
        """
        with open(self._path(name), "rb") as stream:
            stream.seek(start)
            return stream.read(), str(os.fstat(stream.fileno()).st_ino)

    def read_text(self, name: str) -> str:
        """The whole file as UTF-8; raises FileNotFoundError or UnicodeDecodeError."""
        return self.read(name).decode()

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Replaces the file as a whole: a reader sees the old bytes or the new ones, never a mixture."""
        with self.writing(name) as stream:
            stream.write(data)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO | pa.NativeFile]:
        """A stream whose bytes become the file `name`, on the disk, when the block ends without an error."""
        with self.writing_unsynced(name) as stream:
            yield stream
            if self._is_local:
                stream.flush()
                os.fsync(stream.fileno())
        if self._is_local:
            sync(os.path.dirname(self._path(name)))

    @contextlib.contextmanager
    def writing_unsynced(self, name: str) -> Iterator[BinaryIO | pa.NativeFile]:
        """As `writing`, but a power cut may still take the file, or part of it, until `sync` of it is over."""
        path = self._path(name)
        if not self._is_local:
            with self.filesystem.open_output_stream(path, compression=None) as stream:
                yield stream
            return
        temporary = f"{os.path.dirname(path)}/{temporary_name()}"
        try:
            with open(temporary, "wb") as stream:
                yield stream
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @property
    def _is_local(self) -> bool:
        return isinstance(self.filesystem, pa_fs.LocalFileSystem)

    def sync(self, name: str) -> None:
        """Waits until the disk has a file's bytes; raises OSError where it can't take them."""
        sync(self._path(name))

    def create(self, name: str, data: bytes) -> bool:
        """Writes a file where none of that name stands, whole or not at all; False where one does."""
        temporary = self._path(temporary_name())
        try:
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.link(temporary, self._path(name))
        except FileExistsError:
            return False
        finally:
            Path(temporary).unlink(missing_ok=True)
        return True

    def append(self, name: str, data: bytes, *, synced: bool = True) -> None:
        """Adds bytes at a file's end in one write.

        Args:
            synced: wait until the disk has them, and what was added before.
        """
        with open(self._path(name), "ab", buffering=0) as stream:
            start = stream.tell()
            if stream.write(data) != len(data):  # a full disk: no torn line may be left
                stream.truncate(start)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            if synced:
                os.fsync(stream.fileno())

    def rename(self, name: str, new_name: str) -> None:
        """Moves a file or folder inside this one; raises OSError where a folder stands in the way."""
        os.rename(self._path(name), self._path(new_name))
        sync(os.path.dirname(self._path(new_name)))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out of blocks that lock this folder too, where its file system can.

        The system lets go of the lock of a process that has died. One that has been stopped in the middle
        of such a block may hold it for ever: after ten seconds the block is entered without it.
        """
        try:
            descriptor = os.open(self.root, os.O_RDONLY)
        except OSError:
            yield
            return
        try:
            give_up_at = time.monotonic() + LOCK_WAIT_S
            while not try_lock(descriptor) and time.monotonic() < give_up_at:
                time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)

    def is_unlocked(self) -> bool:
        """True where no process is in a block that locks this folder, and that can be told."""
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

    def idle_s(self) -> float:
        """Seconds since anything below this folder was written."""
        selector = pa_fs.FileSelector(self.root, recursive=True, allow_not_found=True)
        infos = [self.filesystem.get_file_info(self.root), *self.filesystem.get_file_info(selector)]
        newest = max((info.mtime_ns or 0 for info in infos), default=0)
        return time.time() - newest / 1e9

    def free_bytes(self) -> int:
        """Bytes that can still be written where the folder is, or will be; a file system may not say."""
        place = self.local_path
        while not place.exists():
            place = place.parent
        room = os.statvfs(place)
        return room.f_bavail * room.f_frsize if room.f_blocks else sys.maxsize

    def copy(self, name: str, new_name: str) -> None:
        """Copies a file inside this folder; what stands under the new name may be torn until it returns."""
        self.filesystem.copy_file(self._path(name), self._path(new_name))

    def remove(self, name: str) -> None:
        """Deletes a file or a whole folder; nothing happens where there is none."""
        info = self.filesystem.get_file_info(self._path(name))
        if info.type == pa_fs.FileType.Directory:
            self.filesystem.delete_dir(self._path(name))
        elif info.type != pa_fs.FileType.NotFound:
            self.filesystem.delete_file(self._path(name))


def temporary_name() -> str:
    """A name for an unfinished write; without the file's own, which may be as long as a name can be."""
    return f"{TEMPORARY}{secrets.token_hex(8)}"


def is_full(error: BaseException | None) -> bool:
    """True where an error, or what caused it, is a disk or quota without room; errors of other processes
    come as text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(text in str(error) for text in FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def try_lock(descriptor: int) -> bool:
    """True once the lock is held, or where the file system has none to give."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def sync(path: str) -> None:
    """Makes a file's bytes, or the renames in a folder, last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
