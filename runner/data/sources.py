"""Where pictures of pairs come from: a directory, in one of the layouts of `runner.data.layouts`, or the synthesis."""

import errno
import hashlib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from gan.data.pictures import PictureError
from runner.config.schema import Data, Synthetic
from runner.data.layouts import PAIRS, SplitFolders, find_layout, find_validation
from runner.data.listing import list_files, printable
from runner.errors import DataError

SPLITS = ("train", "val")
SYNTHETIC = "synthetic"

_NAMES_SHOWN = 5
_UNREADABLE = "unreadable"
_PUT_PICTURES = (
    "Put JPEG, PNG, TIFF or WebP pictures there: pairs with the satellite half on the left and the map half on the "
    "right, or the satellite pictures in A and the maps in B."
)
_STORE_FORMAT = 1  # part of the fingerprint: raise it when the same source and settings give other patches


@dataclass(frozen=True)
class Picture:
    """A pair, not read yet.

    Attributes:
        name: unique in its split, and the same in every layout.
        paths: one file with both halves, or A's file and B's; none where the pair is drawn.
        index: its position in the split, from which a synthetic pair is drawn.
        problem: why it can't be read, where that is known without reading; else "".
        digest: what it held when the source was looked through, see `Source.contents`; "" where that is not known.
    """

    split: str
    name: str
    paths: tuple[str, ...]
    index: int
    problem: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Source:
    """The pictures of both splits, in the order in which their patches are stored.

    Attributes:
        seed: what synthetic pictures are drawn from; None for pictures that are read.
        description: where the pictures are, for the screen.
        passed_over: files in the folders of pictures that are no pictures.
        notes: what the person should know about the layout, a sentence each.
    """

    pictures: Sequence[Picture]
    seed: int | None = None
    description: str = ""
    passed_over: Sequence[Picture] = ()
    notes: Sequence[str] = ()

    def verifiable(self) -> list[Picture]:
        """The pictures with what each holds, so that whoever reads them later knows whether it reads the same."""
        pictures = []
        for picture in self.pictures:
            digest = self.contents[f"{picture.split}/{picture.name}"] if picture.paths else ""
            problem = picture.problem or (_why_unreadable(digest) if _UNREADABLE in digest else "")
            pictures.append(replace(picture, problem=problem, digest=digest))
        return pictures

    @cached_property
    def contents(self) -> Mapping[str, str]:
        """SHA-256 of the file, or of both files, of each picture, under "split/name". Reads all files once."""
        return read_contents(self.pictures)


def read_contents(pictures: Sequence[Picture]) -> dict[str, str]:
    """SHA-256 of the files of each picture, under "split/name"; for a file that can't be read the reason."""
    return {
        f"{picture.split}/{picture.name}": " ".join(map(_file_digest, picture.paths)) or "None" for picture in pictures
    }


def find_source(data: Data) -> Source:
    """Lists the pictures. Reads none of them.

    Raises:
        DataError: the directory does not exist, has no layout that is known, or a split has no pictures.
    """
    return synthetic_source(data.synthetic) if data.source == SYNTHETIC else _directory_source(data)


def synthetic_source(synthetic: Synthetic) -> Source:
    """Pictures that are drawn when they are read."""
    counts = {"train": synthetic.train, "val": synthetic.val}
    pictures = [Picture(split, picture_name(index), (), index) for split in SPLITS for index in range(counts[split])]
    return Source(pictures, synthetic.seed)


def validation_source(root: Path) -> Source:
    """Lists pictures for validation alone: those of the folder's val/ or, where it has none, of the folder.

    Raises:
        DataError: the directory does not exist, has pictures to train on but no val/, or has no pictures.
    """
    found = find_validation(root)
    pictures, passed_over = _read_split(found, "val", root)
    if not pictures:
        raise DataError(f"--data is {str(root)!r}: {found.shown(root)} holds no pictures. {_PUT_PICTURES}")
    return Source(pictures, description=f"{found.layout} in {found.shown(root)}", passed_over=passed_over)


def store_fingerprint(source: Source, data: Data) -> str:
    """The name of this source's patch store: 16 hexadecimal digits. Reads all files of the source."""
    return fingerprint_contents(source.contents, source.seed, data)


def fingerprint_contents(contents: Mapping[str, str], seed: int | None, data: Data) -> str:
    """The name of the patch store of a source with such contents, in this order."""
    text = f"{_STORE_FORMAT} {data.patching} {data.patch_size} {_digest(contents, seed)}"
    # 64 bits are enough: a storage has few stores, and a name of 16 digits can be read.
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_picture(picture: Picture, seed: int | None) -> list[bytes]:
    """The bytes of a picture's files, read or drawn: see `gan.data.pictures.read_pair`.

    Args:
        seed: the seed of a synthetic source; None for any other.

    Raises:
        PictureError: it is not a whole pair, or could not be read when the source was looked through.
        OSError: a file can't be read.
    """
    if picture.problem:
        raise PictureError(picture.problem)
    if picture.paths:
        return [Path(path).read_bytes() for path in picture.paths]
    from runner.data.synthesis import draw_pair

    return [draw_pair(seed or 0, picture.split, picture.index)]


def check_unchanged(picture: Picture, files: Sequence[bytes]) -> None:
    """Raises OSError where a picture's files hold something else than when the source was looked through."""
    if picture.digest and " ".join(hashlib.sha256(data).hexdigest() for data in files) != picture.digest:
        raise OSError(errno.ESTALE, "it holds something else than before", picture.paths[0])


def picture_name(index: int) -> str:
    """The file name of a synthetic picture."""
    return f"{index + 1:05d}.jpg"


def describe_passed_over(source: Source) -> str:
    """How many files in the folders of pictures are no pictures, and the names of the first."""
    num_files = len(source.passed_over)
    names = list(dict.fromkeys(file.name.rpartition("/")[2] for file in source.passed_over))
    more = f" and {len(names) - _NAMES_SHOWN} more names" if len(names) > _NAMES_SHOWN else ""
    return (
        f"passed over in the folders of pictures: {num_files} file{'s' if num_files > 1 else ''} that "
        f"{'are no pictures' if num_files > 1 else 'is no picture'} ({', '.join(names[:_NAMES_SHOWN])}{more})"
    )


def _directory_source(data: Data) -> Source:
    """The pictures of both splits of a directory. Raises DataError like `find_source`."""
    root = Path(data.source)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(
            f"data.source is {data.source!r}: that directory {what}. It must hold train/ and val/ with one "
            "picture a pair (left satellite, right map), or be `synthetic`."
        )
    layout = find_layout(root, data.layout, data.val_fraction)

    notes = []
    train, passed_over = _read_split(layout.train, "train", root)
    if layout.val is not None:
        val, more = _read_split(layout.val, "val", root)
        passed_over += more
        description = f"{layout.train.layout} in {layout.train.shown(root)} and {layout.val.shown(root)}"
        if data.val_fraction is not None:
            notes.append(f"data.val_fraction has no effect: {layout.val.shown(root)} is there to validate with")
    else:
        train, val = _split_by_name(train, data)
        description = f"{layout.train.layout} in {layout.train.shown(root)}, {len(val)} of them to validate with"

    for split, pictures, folders in (("train", train, layout.train), ("val", val, layout.val or layout.train)):
        if not pictures:
            raise DataError(
                f"data.source is {data.source!r}: {folders.shown(root)} holds no pictures to "
                f"{'train on' if split == 'train' else 'validate with'}. {_PUT_PICTURES}"
            )
    return Source([*train, *val], description=description, passed_over=passed_over, notes=notes)


def _read_split(split: SplitFolders, name: str, root: Path) -> tuple[list[Picture], list[Picture]]:
    """The pictures of a split, sorted by name, and the files that were passed over."""
    listings = [list_files(folder) for folder in split.folders]
    passed_over = [
        picture
        for folder, listing in zip(split.folders, listings, strict=True)
        for picture in _single_files(folder, listing.passed_over, name)
    ]

    if split.layout == PAIRS:
        return _single_files(split.folders[0], listings[0].pictures, name), passed_over

    pictures = _match_sides(split.folders, [listing.pictures for listing in listings], name)
    if pictures and all(picture.problem for picture in pictures):
        raise DataError(
            f"{split.shown(root)}: no picture of one has the name of a picture of the other.\n"
            f"{_first_problems(pictures)}\n"
            "A and B of a pair must have the same name, apart from the suffix."
        )
    return pictures, passed_over


def _single_files(folder: Path, files: Sequence[str], split: str) -> list[Picture]:
    """One picture a file."""
    return [
        Picture(split, printable(file), (str((folder / file).absolute()),), index) for index, file in enumerate(files)
    ]


def _first_problems(pictures: Sequence[Picture]) -> str:
    lines = [f"  {picture.name}: {picture.problem}" for picture in pictures[:_NAMES_SHOWN]]
    return "\n".join(lines)


def _match_sides(folders: Sequence[Path], files: Sequence[Sequence[str]], split: str) -> list[Picture]:
    """One picture for each stem that is in A or B, sorted by name; with a problem where it is not once in each."""
    # Some sets mark the side in the name, too: 1_A.jpg and 1_B.jpg.
    marks = [f"_{letter}" for letter in "AB"]
    is_marked = all(_stem(name).endswith(mark) for names, mark in zip(files, marks, strict=True) for name in names)

    sides: list[dict[str, list[str]]] = [{}, {}]
    for by_stem, names, mark in zip(sides, files, marks, strict=True):
        for name in names:
            by_stem.setdefault(_stem(name).removesuffix(mark if is_marked else ""), []).append(name)

    matched = []
    for stem in sides[0].keys() | sides[1].keys():
        found = [by_stem.get(stem, []) for by_stem in sides]
        problem = ""
        for letter, other, names in (("A", "B", found[0]), ("B", "A", found[1])):
            if not names:
                problem = f"it is in {other} and not in {letter}"
            elif len(names) > 1:
                problem = f"{letter} has {len(names)} pictures of that name: {', '.join(map(printable, names))}"
        paths = tuple(
            str((folder / name).absolute()) for folder, names in zip(folders, found, strict=True) for name in names
        )
        matched.append((printable((found[0] or found[1])[0]), paths, problem))
    return [Picture(split, name, paths, index, problem) for index, (name, paths, problem) in enumerate(sorted(matched))]


def _stem(name: str) -> str:
    """A picture's name without its suffix. A Mac writes letters with accents in another way than other systems."""
    return unicodedata.normalize("NFC", str(Path(name).with_suffix("")))


def _split_by_name(pictures: Sequence[Picture], data: Data) -> tuple[list[Picture], list[Picture]]:
    """Divides pictures by the SHA-256 of their names, so that the same name is always on the same side."""
    fraction = data.val_fraction or 0.0
    num_val = max(1, round(fraction * len(pictures)))
    if num_val >= len(pictures):
        raise DataError(
            f"data.val_fraction is {fraction:g}: of {len(pictures)} picture{'s' if len(pictures) > 1 else ''} in "
            f"{data.source!r} none would be left to train on. Give a smaller share, or more pictures."
        )

    chosen = set(sorted((hashlib.sha256(p.name.encode()).digest(), p.name) for p in pictures)[:num_val])
    in_val = [(hashlib.sha256(p.name.encode()).digest(), p.name) in chosen for p in pictures]
    train = [picture for picture, is_val in zip(pictures, in_val, strict=True) if not is_val]
    val = [picture for picture, is_val in zip(pictures, in_val, strict=True) if is_val]
    return (
        [replace(picture, index=index) for index, picture in enumerate(train)],
        [replace(picture, split="val", index=index) for index, picture in enumerate(val)],
    )


def _digest(contents: Mapping[str, str], seed: int | None) -> str:
    """SHA-256 of the names and bytes of all pictures. It does not depend on the directory's path."""
    digest = hashlib.sha256()

    # A synthetic picture has no bytes yet. Version and seed determine them.
    if seed is not None:
        from runner.data.synthesis import SYNTHESIS_VERSION

        digest.update(f"synthetic {SYNTHESIS_VERSION} {seed}".encode())

    # An unreadable file counts with its reason, because the store leaves it out.
    for name, content in contents.items():
        digest.update(f"\n{name} {content}".encode())
    return digest.hexdigest()


def _why_unreadable(digest: str) -> str:
    """The problem of a picture of which a file could not be read, from its digest."""
    reason = digest[digest.index(_UNREADABLE) + len(_UNREADABLE) :]
    return f"it can't be read{reason[: reason.index(')') + 1]}"


def _file_digest(path: str) -> str:
    """SHA-256 of a file, or the reason why it can't be read."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        return f"{_UNREADABLE} ({error.strerror})"
