"""Every read and write of a run's files: whole objects, in a folder (`folder.py`) or in a bucket (`bucket.py`).

What the rest of the project may rely on is what both can promise. An object is whole or absent, even after a power
cut. It can be put, put if it is absent, and replaced where it still has the tag that was seen last (compare and swap).
It can be read, from some byte on too, listed and deleted. Logs grow by whole lines.
"""

import contextlib
import errno
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runner.errors import CacheError, StorageError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXTS = tuple(os.strerror(number) for number in _FULL)
UNREACHABLE = "the object store can't be used"  # how each Unreachable begins
LOOKED_UP = (
    "Looked up from the environment: endpoint, region and credentials (for s3:// AWS_ENDPOINT_URL, AWS_REGION, "
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)."
)
_ALMOST_URI = re.compile(r"(?P<scheme>s3|gs|az):/?(?P<rest>(?!/).*)", re.IGNORECASE | re.DOTALL)


@contextlib.contextmanager
def unfenced() -> Iterator[None]:
    """A `committing` for whoever needs no permission."""
    yield


class Changed(Exception):
    """An object is not as it was seen last: somebody else has replaced or removed it."""


class Unreachable(OSError):
    """An object store has refused a request, or not answered, again and again. Nothing was lost that it had taken."""


@dataclass(frozen=True)
class Storage(ABC):
    """A folder, or what is below a prefix of a bucket. It need not exist yet.

    All names below are relative to it, and use `/`. Methods raise OSError where their docstring names no other
    behaviour: FileNotFoundError for what is not there, Unreachable for an object store that does not answer.

    Attributes:
        root: the folder's absolute path, or the URI.
    """

    root: str

    # What a storage is like.

    is_remote = False
    """Whether each request goes over a network and costs something: then logs are written, and polled, less often."""

    row_interval_s = 0.0
    """Seconds between two writes of a log that grows with each step; with 0 each row is written at once."""

    poll_interval_s = 0.0
    """Seconds between two looks at what may have changed, at least."""

    @staticmethod
    def open(path: str | Path, cache: str | None = None) -> "Storage":
        """The storage at a path or URI; raises StorageError for what is neither, and an unknown home folder.

        Args:
            cache: see `open_storage`.
        """
        if is_uri(path):
            from runner.storage.bucket import Bucket  # its library is loaded where it is needed

            return Bucket.at_uri(str(path), cache)
        from runner.storage.folder import Folder

        return Folder.at_path(path)

    # Where it is.

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name without its parents."""

    @property
    @abstractmethod
    def shown(self) -> str:
        """As a user would type it."""

    @abstractmethod
    def at(self, name: str) -> "Storage":
        """A folder inside this one."""

    @abstractmethod
    def above(self, levels: int) -> "Storage":
        """The folder that many levels above this one."""

    # What there is.

    @abstractmethod
    def absence(self) -> str:
        """In words that nothing is there; "" where something is.

        The first question to a storage that is to be read. Raises StorageError where it can't be answered soon.
        """

    @abstractmethod
    def exists(self, name: str = "") -> bool:
        """True where there is an object or a folder with that name."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of an object. Raises FileNotFoundError where there is none with that name."""

    @abstractmethod
    def names(self, name: str = "") -> list[str]:
        """The sorted names in a folder, without those of unfinished writes. Empty where there is no folder."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """The bytes of the objects in this folder, without those further down. Empty where there is no folder."""

    @abstractmethod
    def total_bytes(self) -> int:
        """Bytes of all objects below this folder. 0 where there is no folder."""

    def nearest(self) -> "Storage":
        """This folder, or the nearest one above it that there is. Raises StorageError where that can't be found out."""
        return self

    @abstractmethod
    def free_bytes(self) -> int:
        """Bytes that can still be written. `sys.maxsize` where that is unknown."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raises StorageError where it can't be written to, or does not do what runs rely on. It leaves nothing."""

    # Reading.

    @abstractmethod
    def read_tagged(self, name: str) -> tuple[bytes, str]:
        """The content of an object, and the tag that it has. Raises FileNotFoundError where there is none."""

    def read(self, name: str) -> bytes:
        """The content of an object. Raises FileNotFoundError where there is none."""
        return self.read_tagged(name)[0]

    def read_if_there(self, name: str) -> bytes:
        """The content of an object; b"" where there is none."""
        try:
            return self.read(name)
        except FileNotFoundError:
            return b""

    def read_text(self, name: str) -> str:
        """The content of a UTF-8 object. Raises FileNotFoundError or UnicodeDecodeError."""
        return self.read(name).decode()

    @abstractmethod
    def read_from(self, name: str, start: int) -> tuple[bytes, str]:
        """The bytes of a log from byte `start` on, and a text that identifies this log.

        The text changes when `write` replaces the log, and stays the same when `append` adds to it.

        Raises:
            FileNotFoundError: there is no such log.
        """

    # Writing.

    def make_folder(self, name: str = "") -> None:  # noqa: B027 - most storages need none
        """Creates a folder and its parents, where a storage needs that before something can be written there."""

    @abstractmethod
    def write(self, name: str, data: bytes | memoryview) -> None:
        """Puts a whole object. Readers see the old bytes or the new ones, never a mixture."""

    @abstractmethod
    def writing(self, name: str, *, synced: bool = True) -> AbstractContextManager[BinaryIO]:
        """A stream. When the block ends without an error, its bytes are the object `name`.

        Args:
            synced: safe from a power cut too; else only after `sync`.
        """

    def sync(self, name: str) -> None:  # noqa: B027 - for most storages what is written is safe
        """Waits until an object's bytes are safe from a power cut."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Puts a whole object if there is none with that name. Returns False, and changes nothing, if there is."""

    @abstractmethod
    def replace(self, name: str, data: bytes, tag: str) -> str:
        """Puts a whole object in the place of the one with this tag; the new tag.

        Of two that replace the same one, the second one fails. `data` must differ from all that was there before, for
        the tag of some storages depends on nothing else.

        Raises:
            Changed: the object has another tag by now, or is gone.
        """

    @abstractmethod
    def append(self, name: str, data: bytes, *, synced: bool = True) -> None:
        """Adds bytes at the end of a log. Creates it where there is none.

        Args:
            synced: safe from a power cut when this returns, with all that was added before.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Deletes an object, or a folder with all that is in it. Does nothing where there is none."""

    @abstractmethod
    def set_aside(self, name: str, new_name: str) -> None:
        """Gives a damaged object or folder another name, under which nobody uses it."""

    # Folders that appear whole.

    @abstractmethod
    def new_folder(
        self,
        name: str,
        last: str,
        committing: Callable[[], AbstractContextManager[None]] = unfenced,
        *,
        replaces: bool = True,
    ) -> AbstractContextManager["NewFolder"]:
        """A folder inside this one that counts once the block has ended without an error, and then whole.

        Args:
            last: the file that makes it count: the block ends with `NewFolder.finish`, which writes it.
            committing: entered while it begins to count; what it raises leaves an older folder as it is.
            replaces: take the place of an older one with that name.

        Raises:
            Changed: it does not replace, and there is one; or another process has written the same one meanwhile.
        """

    def finish_replacements(self) -> None:  # noqa: B027 - where one object makes a folder count, none is half done
        """Undoes what a crash has left of a replacement of a folder inside this one."""

    @abstractmethod
    def is_unfinished(self, name: str, last: str) -> bool:
        """True for a folder that a broken-off `new_folder` has left under its name, without its last file."""

    @abstractmethod
    def remove_unfinished(self, last: str, idle_s: float = 0.0) -> None:
        """Deletes what broken-off writes of new folders have left in this one.

        Args:
            idle_s: seconds for which nothing must have been written there; where that is unknown it stays.
        """

    # Between processes.

    @abstractmethod
    def exclusive(self, check: Callable[[], None] = lambda: None) -> AbstractContextManager[None]:
        """Around changes of this folder by its owner.

        Where the storage has locks, one process at a time is inside. Elsewhere each object that is written in the block
        is replaced by the tag that was seen last, before `check` was called.

        Args:
            check: raises where the process does not own the folder any more.
        """

    # On this machine.

    @abstractmethod
    def local_copy(self, name: str = "") -> Path:
        """A path where this machine can read an object, or a folder and all that is in it.

        For libraries that take a path. What is written there need not reach the storage.
        """

    @abstractmethod
    def scratch(self, name: str) -> Path:
        """A folder of this machine for a library that writes files itself, as Ray and wandb do."""

    def keep_scratch(self, name: str) -> None:  # noqa: B027 - a folder has it already
        """Puts what is in the folder `scratch(name)` into the storage."""


class NewFolder(ABC):
    """A folder that is being written; see `Storage.new_folder`.

    Attributes:
        place: where its files go: for those whose bytes are the same whoever writes them.
    """

    place: Storage

    @abstractmethod
    def writing(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A stream for one of the folder's files."""

    @abstractmethod
    def path_of(self, name: str) -> str:
        """Under which name a file will be found in the folder: by itself that is another one where files of several
        writers may meet."""

    @abstractmethod
    def finish(self, data: bytes) -> None:
        """Writes the last file."""


def is_uri(path: str | Path) -> bool:
    """True for a URI, and False for a path; raises StorageError for what was to be a URI, such as `s3:/bucket`."""
    text = str(path)
    if found := _ALMOST_URI.fullmatch(text):
        uri = f"{found['scheme'].lower()}://{found['rest'] or 'BUCKET/PREFIX'}"
        raise StorageError(
            f"{text}: a bucket's URI has two slashes after the colon: give {uri}, in Python as a text, for pathlib's "
            f"Path takes one away; or ./{text} if a folder of that name is meant."
        )
    return "://" in text


def is_full(error: BaseException | None) -> bool:
    """True where an error, or one that caused it, says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(text in str(error) for text in _FULL_TEXTS):  # Ray gives errors of other processes as text
            return True
        error = error.__cause__ or error.__context__
    return False


def is_unreachable(error: BaseException | None) -> bool:
    """True where an error, or one that caused it, says that an object store can't be used."""
    while error is not None:
        if isinstance(error, Unreachable) or UNREACHABLE in str(error):  # as above
            return True
        error = error.__cause__ or error.__context__
    return False


def raise_unreachable(error: BaseException) -> None:
    """Raises an error again that tells nothing of the object that was asked for: it may well be there, and good."""
    if is_unreachable(error):
        raise error


def takes_nothing(error: BaseException | None) -> bool:
    """True where a storage is full or can't be reached: nothing can be written for now, and nothing is lost."""
    return is_full(error) or is_unreachable(error)


def open_storage(path: str, option: str = "--storage", cache: str | None = None) -> Storage:
    """The storage that a command's option names; nothing is created.

    Args:
        cache: the folder for local copies of what is in a bucket; None for what the environment says.

    Raises:
        StorageError: it can't be written to.
    """
    try:
        storage = Storage.open(path, cache)
        storage.check_writable()
    except CacheError:
        raise
    except StorageError as error:
        raise StorageError(f"{option} is {error}") from None
    return storage
