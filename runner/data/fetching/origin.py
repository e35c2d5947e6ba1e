"""What NAME|URL|ARCHIVE means."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from runner.data.fetching.known_sets import KNOWN_SETS, KnownSet
from runner.data.fetching.web import WebAddress
from runner.errors import DataError


@dataclass(frozen=True)
class Origin:
    """Where an archive comes from.

    Attributes:
        shown: for messages and records, without secrets.
        address: on the web; None for a file of this machine.
        path: of a file of this machine; None for the web.
        known: what is known of it, where it was given by a name.
    """

    shown: str
    address: WebAddress | None = None
    path: Path | None = None
    known: KnownSet | None = None

    @property
    def identity(self) -> str:
        """A text that tells this origin from others, and holds no secret."""
        return self.address.identity if self.address else str(self.path)


def find_origin(text: str) -> Origin:
    """Reads what a person has given.

    Raises:
        DataError: it is none of the three; the text says what there is.
    """
    if text in KNOWN_SETS:
        known = KNOWN_SETS[text]
        return Origin(known.url, address=WebAddress.parse(known.url), known=known)

    try:
        path = Path(text).expanduser()
        exists = path.exists()  # with a name that is too long, this alone is an error
    except (OSError, RuntimeError) as error:
        raise DataError(f"there is no file {text} ({error}).") from None
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        address = WebAddress.parse(text)
        return Origin(address.shown, address=address)

    if path.is_file():
        return Origin(str(path), path=path.absolute())
    if path.is_dir():
        raise DataError(f"{path} is a folder, and needs no fetching: use it with --set data.source={path}")
    if exists:
        raise DataError(f"{path} is no plain file: give an archive.")
    raise DataError(_unknown(text))


def _unknown(text: str) -> str:
    """What to say of a text that is no name, address or file."""
    names = ", ".join(KNOWN_SETS)
    if re.fullmatch(r"[\w-]+", text):
        close = difflib.get_close_matches(text.lower(), KNOWN_SETS, n=1)
        hint = f": did you mean `{close[0]}`?" if close else "."
        return f"{text!r} is no data set that is known by name{hint} Names are {names}; a URL or a path will do, too."
    if re.search(r":.*@", text):  # an address without its beginning
        text = text.rpartition("@")[2]
    if "/" in text and re.match(r"[\w-]+(\.[\w-]+)+/", text):
        return f"there is no file {text.partition('?')[0]}. If it is an address, begin it with https://."
    return f"there is no file {text}. Give an archive's path, a URL, or one of the names {names}."
