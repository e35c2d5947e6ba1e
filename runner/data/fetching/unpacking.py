"""An archive's members become files in a new folder, and nothing else: no link, no device, nothing outside it.

Files and folders are made here one by one, with new names and plain rights; nothing that an archive says of owners,
rights and times is used. One member that breaks a rule refuses the archive.
"""

import errno
import os
import re
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runner.data.fetching.members import FILE, FOLDER, ArchiveError, Member, read_members
from runner.number_format import byte_size

_MAX_NAME_BYTES, _MAX_PATH_BYTES, _MAX_DEPTH = 255, 1024, 32
_MAX_SHOWN = 80  # characters of a name in a message


@dataclass(frozen=True)
class Limits:
    """What an archive may become, at most.

    Attributes:
        size: bytes of an archive, and of all of its files.
        entries: files and folders.
        ratio: bytes unpacked for one that is packed. Pictures have 1 to 2, a deflated bomb 1000.
        free_size: bytes that are unpacked whatever the ratio: label maps that were never compressed look like bombs.
    """

    size: int = 200 * 10**9
    entries: int = 10**6
    ratio: float = 100.0
    free_size: int = 10**9


@dataclass
class Unpacked:
    """How many files there are, and their bytes."""

    files: int = 0
    size: int = 0


def unpack(archive: BinaryIO, folder: Path, limits: Limits, show: Callable[[int], None]) -> Unpacked:
    """Unpacks an archive into a folder that it creates.

    Args:
        archive: the file, open for reading.
        show: gets the number of the archive's bytes that have been read.

    Raises:
        ArchiveError: it is damaged, not honest, or too large. The folder holds a part of it then.
        OSError: the folder can't be written.
    """
    folder.mkdir()
    unpacking = _Unpacking(archive, folder, limits, show)
    for member in read_members(archive):
        unpacking.add(member)
    return unpacking.done


class _Unpacking:
    """The state of unpacking one archive."""

    def __init__(self, archive: BinaryIO, folder: Path, limits: Limits, show: Callable[[int], None]) -> None:
        self._archive, self._folder, self._limits, self._show = archive, folder, limits, show
        self._packed = 1  # bytes of the archive that have been read; zip may go back
        # Each path as it was written and its kind, by what a file system takes for the same name.
        self._taken: dict[str, tuple[str, str]] = {}
        self.done = Unpacked()

    def add(self, member: Member) -> None:
        """Makes a member's file or folder."""
        if member.kind not in (FILE, FOLDER):
            raise ArchiveError(f"member {_shown(member.name)} is {member.kind}: such members are not unpacked.")
        parts = _checked_parts(member)
        for depth in range(1, len(parts)):
            self._add_folder("/".join(parts[:depth]), member)

        path = "/".join(parts)
        if member.kind == FOLDER:
            self._add_folder(path, member)
        else:
            self._take(path, FILE, member)
            self._write(path, member)

    def _add_folder(self, path: str, member: Member) -> None:
        if path and self._take(path, FOLDER, member):
            (self._folder / path).mkdir()

    def _take(self, path: str, kind: str, member: Member) -> bool:
        """Notes that a path is used. Returns False for a folder that is there already."""
        folded = unicodedata.normalize("NFC", path.casefold())
        known = self._taken.get(folded)
        if known is None:
            if len(self._taken) >= self._limits.entries:
                raise ArchiveError(f"it has more than {self._limits.entries} files and folders.")
            self._taken[folded] = (path, kind)
            return True

        if known == (path, FOLDER) == (path, kind):
            return False
        name = _shown(member.name)
        if known == (path, kind):
            raise ArchiveError(f"member {name} is there twice: which of them is meant can't be known.")
        if known[0] == path:
            raise ArchiveError(f"member {name} would be a file and a folder at once.")
        raise ArchiveError(
            f"members {_shown(known[0])} and {_shown(path)} differ in upper and lower case or accents only: many file "
            "systems take them for one name."
        )

    def _write(self, path: str, member: Member) -> None:
        """Writes a file's bytes, and counts them: what the archive says of its size may be a lie."""
        target = self._folder / path
        self._check_size(self.done.size + member.size)
        if member.size > shutil.disk_usage(self._folder).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

        # Never an existing file, and through no link, even if something else should write here.
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        with open(descriptor, "wb") as stream:
            for block in member.blocks():
                self.done.size += len(block)
                self._packed = max(self._packed, self._archive.tell())
                self._check_size(self.done.size)
                self._check_ratio(member)
                stream.write(block)
        self.done.files += 1
        self._show(self._packed)

    def _check_size(self, size: int) -> None:
        if size > self._limits.size:
            raise ArchiveError(f"its files have more than {byte_size(self._limits.size)}.")

    def _check_ratio(self, member: Member) -> None:
        size = self.done.size
        if size > self._limits.free_size and size > self._limits.ratio * self._packed:
            raise ArchiveError(
                f"it is a bomb, or like one: at member {_shown(member.name)} {byte_size(self._packed)} of it have "
                f"become {byte_size(size)}, and {self._limits.ratio:g} times as much is allowed."
            )


def _checked_parts(member: Member) -> list[str]:
    """A member's path below the new folder, name by name. Raises ArchiveError where it is no plain path."""
    name = member.name
    kinds = set() if name.isascii() and name.isprintable() else set(map(unicodedata.category, name))
    rule = None
    if "Cs" in kinds:
        rule = "its name is no UTF-8"
    elif "\0" in name:
        rule = "its name has a NUL"
    elif kinds & {"Cc", "Zl", "Zp"}:
        rule = "its name has a control character"
    elif "\\" in name:
        rule = "its name has a backslash, which some programs take for a slash"
    elif name.startswith("/"):
        rule = "its path is absolute"
    elif re.match(r"[A-Za-z]:", name):
        rule = "its path begins with a drive letter"
    elif ".." in name.split("/"):
        rule = "its path has `..`, which leads out of the folder"
    elif member.kind == FILE and name.endswith("/"):
        rule = "it is a file with the name of a folder"
    if rule:
        raise ArchiveError(f"member {_shown(name)}: {rule}.")

    parts = [part for part in name.split("/") if part not in ("", ".")]
    if member.kind == FILE and not parts:
        raise ArchiveError(f"member {_shown(name)}: it is a file without a name.")
    longest = max((len(part.encode()) for part in parts), default=0)
    if longest > _MAX_NAME_BYTES or len(name.encode()) > _MAX_PATH_BYTES or len(parts) > _MAX_DEPTH:
        raise ArchiveError(
            f"member {_shown(name)}: its name is too long ({_MAX_NAME_BYTES} bytes, {_MAX_PATH_BYTES} in a path, and "
            f"{_MAX_DEPTH} folders are allowed)."
        )
    return parts


def _shown(name: str) -> str:
    """A member's name for a message, with nothing in it that could move a terminal's cursor."""
    # Of a name that is no UTF-8, its bytes: 'a\xff.jpg'.
    data = name.encode(errors="surrogateescape")
    shown = repr(name) if data == name.encode(errors="replace") else repr(data)[1:]
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."
