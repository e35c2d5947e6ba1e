"""Where pictures of pairs come from: a directory with train/ and val/, or the synthesis."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.config.schema import Data, Synthetic
from runner.errors import DataError

SPLITS = ("train", "val")

_SYNTHETIC = "synthetic"
_STORE_FORMAT = 1  # part of the fingerprint: raise it when the same source and settings give other patches


@dataclass(frozen=True)
class Picture:
    """A picture with both halves of a pair, not read yet.

    Attributes:
        path: the picture's file; None where it is drawn.
        index: its position in the split, from which a synthetic picture is drawn.
    """

    split: str
    name: str
    path: str | None
    index: int


@dataclass(frozen=True)
class Source:
    """The pictures of both splits, in the order in which their patches are stored.

    Attributes:
        seed: what synthetic pictures are drawn from; None for pictures that are read.
    """

    pictures: Sequence[Picture]
    seed: int | None = None


def find_source(data: Data) -> Source:
    """Lists the pictures. Reads none of them.

    Raises:
        DataError: the directory or one of its splits does not exist, or a split has no files.
    """
    return synthetic_source(data.synthetic) if data.source == _SYNTHETIC else _directory_source(Path(data.source))


def synthetic_source(synthetic: Synthetic) -> Source:
    """Pictures that are drawn when they are read."""
    counts = {"train": synthetic.train, "val": synthetic.val}
    pictures = [Picture(split, picture_name(index), None, index) for split in SPLITS for index in range(counts[split])]
    return Source(pictures, synthetic.seed)


def validation_source(folder: Path) -> Source:
    """Lists pictures for validation alone: those of the folder's val/ or, where it has none, of the folder.

    Raises:
        DataError: the directory does not exist, has a train/ but no val/, or has no pictures.
    """
    pairs = folder / "val" if (folder / "val").is_dir() else folder
    # A folder with train/ alone is refused: validation must not use the pictures of the training.
    if not pairs.is_dir() or (pairs == folder and (folder / "train").is_dir()):
        problem = "it has train/ but no val/" if pairs.is_dir() else "there is no such directory"
        raise DataError(f"--data is {str(folder)!r}: {problem}. Give a directory of pairs, or one with val/.")

    pictures = _pictures_below(pairs, "val")
    if not pictures:
        raise DataError(
            f"--data is {str(folder)!r}: {pairs} holds no pairs. Put JPEG or PNG pictures there, each with the "
            "satellite half on the left and the map half on the right."
        )
    return Source(pictures)


def store_fingerprint(source: Source, data: Data) -> str:
    """The name of this source's patch store: 16 hexadecimal digits. Reads all files of the source."""
    text = f"{_STORE_FORMAT} {data.patching} {data.patch_size} {_source_digest(source)}"
    # 64 bits are enough: a storage has few stores, and a name of 16 digits can be read.
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_picture(picture: Picture, seed: int | None) -> bytes:
    """The bytes of a picture's file, read or drawn.

    Args:
        seed: the seed of a synthetic source; None for any other.

    Raises:
        OSError: the file can't be read.
    """
    if picture.path is not None:
        return Path(picture.path).read_bytes()
    from runner.data.synthesis import draw_pair

    return draw_pair(seed or 0, picture.split, picture.index)


def picture_name(index: int) -> str:
    """The file name of a synthetic picture."""
    return f"{index + 1:05d}.jpg"


def _directory_source(folder: Path) -> Source:
    """All files below train/ and val/, except hidden ones, sorted by name. Raises DataError like `find_source`."""
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
        in_split = _pictures_below(folder / split, split)
        if not in_split:
            raise DataError(
                f"data.source is {str(folder)!r}: {split}/ holds no pairs. Put JPEG or PNG pictures into "
                f"{folder / split}, each with the satellite half on the left and the map half on the right."
            )
        pictures += in_split
    return Source(pictures)


def _pictures_below(folder: Path, split: str) -> list[Picture]:
    """All files below a folder, except hidden ones, sorted by name."""
    # A file system lists files in any order. The order decides the content of the store, so it must be fixed.
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    return [Picture(split, name, str((folder / name).absolute()), index) for index, name in enumerate(files)]


def _source_digest(source: Source) -> str:
    """SHA-256 of the names and bytes of all pictures. It does not depend on the directory's path."""
    digest = hashlib.sha256()

    # A synthetic picture has no bytes yet. Version and seed determine them.
    if source.seed is not None:
        from runner.data.synthesis import SYNTHESIS_VERSION

        digest.update(f"synthetic {SYNTHESIS_VERSION} {source.seed}".encode())

    for picture in source.pictures:
        # An unreadable file counts with its reason, because the store leaves it out.
        content = picture.path and _file_digest(picture.path)
        digest.update(f"\n{picture.split}/{picture.name} {content}".encode())
    return digest.hexdigest()


def _file_digest(path: str) -> str:
    """SHA-256 of a file, or the reason why it can't be read."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable ({error.strerror})"
