"""Which pictures a command is given, and the files that it makes of them: decided before anything is written."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from runner.errors import DataError
from runner.storage.folder import Storage

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
OUTPUT_SUFFIX = ".png"
MAX_SHOWN = 8


class PictureFile(NamedTuple):
    """A picture to be read, and the name of what is made of it."""

    path: Path
    output: str


def find_pictures(inputs: Sequence[str], out: Storage) -> list[PictureFile]:
    """Every file that was named, and those with a picture's suffix that stand in a folder that was named.

    Raises:
        DataError: one isn't there, two have one stem, or a file that stands beside the inputs would be lost.
    """
    paths = {path.absolute(): path for given in inputs for path in expand(Path(given))}
    pictures = [PictureFile(path, path.stem + OUTPUT_SUFFIX) for path in paths.values()]
    refuse_same_stems(pictures)
    folders = dict.fromkeys(picture.path.parent for picture in pictures)
    beside_inputs = out.exists() and any(out.local_path.samefile(folder) for folder in folders)
    for picture in pictures:
        target = out.local_path / picture.output
        if target.exists() and (beside_inputs or target.samefile(picture.path)):
            raise DataError(
                f"--out is {out.shown}: {picture.output} stands there already, among the inputs, and would be "
                f"overwritten by that of {picture.path}: give another folder"
            )
    return pictures


def expand(path: Path) -> list[Path]:
    """A file as it is; the pictures in a folder, sorted by name, hidden ones left out."""
    try:
        if path.is_file():
            return [path]
        pictures = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
        )
    except OSError as error:
        raise DataError(f"{path}: there is no such picture or folder ({error.strerror})") from None
    if not pictures:
        raise DataError(f"{path}: no picture stands directly in that folder ({', '.join(SUFFIXES)})")
    return pictures


def refuse_same_stems(pictures: Sequence[PictureFile]) -> None:
    """Raises DataError where two pictures would be written to one file."""
    by_output: dict[str, list[PictureFile]] = {}
    for picture in pictures:
        by_output.setdefault(picture.output.casefold(), []).append(picture)
    clashes = [same for same in by_output.values() if len(same) > 1]
    if clashes:
        lines = [f"  {same[0].output} would come from {', '.join(str(each.path) for each in same)}" for same in clashes]
        lines[MAX_SHOWN:] = [f"  and {len(lines) - MAX_SHOWN} more"] if len(lines) > MAX_SHOWN else []
        raise DataError(
            "\n".join(["inputs of the same name can't share a folder:", *lines, "Rename them, or use two --out."])
        )
