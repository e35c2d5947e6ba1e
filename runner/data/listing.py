"""The files below a folder: which of them are pictures, and which are passed over."""

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from gan.data.pictures import SUFFIXES
from runner.errors import DataError

# Pictures of formats that are not read. They count as bad files, so that nobody misses them unnoticed.
_OTHER_PICTURES = (".bmp", ".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".tga", ".ppm", ".pgm", ".exr", ".psd")
# What a picture without a known suffix begins with: JPEG, PNG, TIFF in both byte orders, WebP.
_BEGINNINGS = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|II\*\x00|MM\x00\*|RIFF....WEBP", re.DOTALL)
_MACOS_FOLDER = "__MACOSX"  # in archives made on a Mac: a hidden file for each real one


class Listing(NamedTuple):
    """Files below a folder, as paths relative to it, in the order of their characters.

    Attributes:
        pictures: what is to be read, links that lead nowhere included.
        passed_over: what is no picture: hidden files, other kinds of files, and links to folders that hold the link.
    """

    pictures: list[str]
    passed_over: list[str]


def list_files(folder: Path) -> Listing:
    """Lists a folder and all below it, through links too.

    Raises:
        DataError: a folder can't be read.
    """
    listing = Listing([], [])
    _list_into(listing, folder, "", [_identity(folder)])
    # A file system lists files in any order. The order decides the content of a store, so it must be fixed.
    listing.pictures.sort()
    listing.passed_over.sort()
    return listing


def printable(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 and control characters become escapes such as `\\xe4`."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _list_into(
    listing: Listing, folder: Path, prefix: str, above: list[tuple[int, int]], *, hidden: bool = False
) -> None:
    """Adds what is below a folder. `above` has the folders on the way to it, to find links that go round."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DataError(f"{printable(str(folder))}: that folder can't be read ({error.strerror})") from None

    for entry in entries:
        name = prefix + entry.name
        is_hidden = hidden or entry.name.startswith(".") or entry.name == _MACOS_FOLDER
        if entry.is_dir():
            identity = _identity(Path(entry.path))
            if identity in above:
                listing.passed_over.append(name)
            else:
                _list_into(listing, Path(entry.path), f"{name}/", [*above, identity], hidden=is_hidden)
        elif not is_hidden and _is_picture(entry):
            listing.pictures.append(name)
        else:
            listing.passed_over.append(name)


def _identity(folder: Path) -> tuple[int, int]:
    """What tells a folder from all others, by whatever path it is reached."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_picture(entry: os.DirEntry[str]) -> bool:
    """True for a file that is taken for a picture, whether it can be read or not."""
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122 - of a name, not of a path
    is_named_so = suffix in SUFFIXES or suffix in _OTHER_PICTURES
    try:
        if not stat.S_ISREG(entry.stat().st_mode):  # reading a pipe or a device could take for ever
            return False
        if is_named_so:
            return True
        with open(entry.path, "rb") as stream:
            return _BEGINNINGS.match(stream.read(12)) is not None
    except OSError:  # a link that leads nowhere, or a file of somebody else
        return is_named_so
