"""What a fetched folder says of itself, so that the same command finds it complete."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from runner.storage.folder import Storage

RECORD = ".fetched.json"

_FORMAT = 1


@dataclass(frozen=True)
class Record:
    """Where a folder's files come from.

    Attributes:
        origin: for people; without user, password and query.
        identity: tells the origin from others.
        sha256: of the archive.
        files, size: how many files there are, and their bytes; this record not counted.
    """

    origin: str
    identity: str
    sha256: str
    files: int
    size: int


def write_record(folder: Storage, record: Record) -> None:
    """Writes a folder's record."""
    folder.write(RECORD, json.dumps({"format": _FORMAT, **asdict(record)}, indent=1).encode())


def read_record(folder: Storage) -> Record | None:
    """A folder's record; None where it has none that can be read."""
    try:
        fields = json.loads(folder.read_text(RECORD))
        if fields.pop("format") != _FORMAT:
            return None
        return Record(**fields)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def files_below(folder: Path) -> Iterator[Path]:
    """All files of a fetched folder but its record."""
    return (path for path in folder.rglob("*") if path.is_file() and path != folder / RECORD)
