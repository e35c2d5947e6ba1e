"""The pictures that a command reads, and the names of the files that it will write."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gan.data.pictures import SUFFIXES
from runner.errors import DataError
from runner.storage.folder import Folder

_OUTPUT_SUFFIX = ".png"
_MAX_SHOWN = 8


class PictureFile(NamedTuple):
    """A picture to read, and the name of the file with its translation."""

    path: Path
    output: str


def find_pictures(inputs: Sequence[str], out: Folder) -> list[PictureFile]:
    """The pictures that the inputs name: files as they are, and of folders the files with a picture's suffix.

    Args:
        out: the folder for the translations.

    Raises:
        DataError: an input is missing, two pictures have one stem, or a file among the inputs would be overwritten.
    """
    # A picture that is named twice, itself and by its folder, is translated once.
    paths = {path.absolute(): path for given in inputs for path in _expand(Path(given))}
    pictures = [PictureFile(path, path.stem + _OUTPUT_SUFFIX) for path in paths.values()]
    _refuse_same_stems(pictures)

    folders = dict.fromkeys(picture.path.parent for picture in pictures)
    beside_inputs = out.exists() and any(out.local_path.samefile(folder) for folder in folders)
    # An earlier translation may be replaced. A file that lies among the inputs may not.
    for picture in pictures:
        target = out.local_path / picture.output
        if target.exists() and (beside_inputs or target.samefile(picture.path)):
            raise DataError(
                f"--out is {out.shown}: {picture.output} is there already, among the inputs, and the translation of "
                f"{picture.path} would overwrite it: give another folder"
            )
    return pictures


def _expand(path: Path) -> list[Path]:
    """A file itself; of a folder its pictures sorted by name, without hidden ones."""
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
        raise DataError(f"{path}: there is no picture directly in that folder ({', '.join(SUFFIXES)})")
    return pictures


def _refuse_same_stems(pictures: Sequence[PictureFile]) -> None:
    """Raises DataError where the translations of two pictures would have one name."""
    # On some file systems A.png and a.png are one file.
    by_output: dict[str, list[PictureFile]] = {}
    for picture in pictures:
        by_output.setdefault(picture.output.casefold(), []).append(picture)
    clashes = [same for same in by_output.values() if len(same) > 1]
    if clashes:
        lines = [f"  {same[0].output} would come from {', '.join(str(each.path) for each in same)}" for same in clashes]
        lines[_MAX_SHOWN:] = [f"  and {len(lines) - _MAX_SHOWN} more"] if len(lines) > _MAX_SHOWN else []
        raise DataError(
            "\n".join(["inputs of the same name can't share a folder:", *lines, "Rename them, or use two --out."])
        )
