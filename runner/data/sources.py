"""Where pictures of pairs come from: a directory with train/ and val/, or drawn ones."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.config.schema import Data, Synthetic
from runner.errors import DataError

SPLITS = ("train", "val")
SYNTHETIC = "synthetic"
STORE_FORMAT = 1


@dataclass(frozen=True)
class Picture:
    """One file of pairs, not read yet. `path` is None for a drawn one, whose index then says which."""

    split: str
    name: str
    path: str | None
    index: int


@dataclass(frozen=True)
class Source:
    """The pictures of both splits, in the order that their patches are stored in; `seed` draws synthetic ones."""

    pictures: Sequence[Picture]
    seed: int | None = None


def find_source(data: Data) -> Source:
    """Lists the pictures; nothing is decoded.

    Raises:
        DataError: the directory, a split, or every file of a split is missing.
    """
    return synthetic_source(data.synthetic) if data.source == SYNTHETIC else directory_source(Path(data.source))


def synthetic_source(synthetic: Synthetic) -> Source:
    """Pictures that will be drawn when they are read."""
    counts = {"train": synthetic.train, "val": synthetic.val}
    pictures = [Picture(split, picture_name(index), None, index) for split in SPLITS for index in range(counts[split])]
    return Source(pictures, synthetic.seed)


def picture_name(index: int) -> str:
    """File name of a drawn picture."""
    return f"{index + 1:05d}.jpg"


def directory_source(folder: Path) -> Source:
    """Every file below train/ and val/, hidden ones left out, sorted by name."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(
            f"data.source is {str(folder)!r}: that directory {what}. It must hold train/ and val/ with one "
            "picture a pair (left satellite, right map), or be `synthetic`."
        )
    for split in SPLITS:
        if not (folder / split).is_dir():
            raise DataError(
                f"data.source is {str(folder)!r}: it has no {split}/ directory. Put the pairs to "
                f"{'train on' if split == 'train' else 'validate with'} into {folder / split}."
            )
    pictures: list[Picture] = []
    for split in SPLITS:
        in_split = pictures_below(folder / split, split)
        if not in_split:
            raise DataError(
                f"data.source is {str(folder)!r}: {split}/ holds no pairs. Put JPEG or PNG pictures into "
                f"{folder / split}, each with the satellite half on the left and the map half on the right."
            )
        pictures += in_split
    return Source(pictures)


def pictures_below(folder: Path, split: str) -> list[Picture]:
    """Every file below a folder, hidden ones left out, sorted by name."""
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    return [Picture(split, name, str((folder / name).absolute()), index) for index, name in enumerate(files)]


def validation_source(folder: Path) -> Source:
    """The pairs to validate with alone, in the folder's val/ or, where it has none, in the folder itself.

    Raises:
        DataError: there is no such directory, or no picture in it.
    """
    pairs = folder / "val" if (folder / "val").is_dir() else folder
    if not pairs.is_dir() or (pairs == folder and (folder / "train").is_dir()):
        problem = "it has train/ but no val/" if pairs.is_dir() else "there is no such directory"
        raise DataError(f"--data is {str(folder)!r}: {problem}. Give a directory of pairs, or one with val/.")
    pictures = pictures_below(pairs, "val")
    if not pictures:
        raise DataError(
            f"--data is {str(folder)!r}: {pairs} holds no pairs. Put JPEG or PNG pictures there, each with the "
            "satellite half on the left and the map half on the right."
        )
    return Source(pictures)


def store_fingerprint(source: Source, data: Data) -> str:
    """The name of the patch store that this source gives: 16 hexadecimal digits."""
    text = f"{STORE_FORMAT} {data.patching} {data.patch_size} {source_digest(source)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def source_digest(source: Source) -> str:
    """SHA-256 of what the source holds: names and bytes, but not where it stands."""
    digest = hashlib.sha256()
    if source.seed is not None:
        from runner.data.synthesis import SYNTHESIS_VERSION

        digest.update(f"synthetic {SYNTHESIS_VERSION} {source.seed}".encode())
    for picture in source.pictures:
        content = picture.path and file_digest(picture.path)
        digest.update(f"\n{picture.split}/{picture.name} {content}".encode())
    return digest.hexdigest()


def file_digest(path: str) -> str:
    """SHA-256 of a file, or what keeps it from being read."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable ({error.strerror})"


def read_picture(picture: Picture, seed: int | None) -> bytes:
    """The picture's bytes: read, or drawn. Raises OSError where it can't be read."""
    if picture.path is not None:
        return Path(picture.path).read_bytes()
    from runner.data.synthesis import draw_pair

    return draw_pair(seed or 0, picture.split, picture.index)
