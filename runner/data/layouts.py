"""How a folder of pictures is laid out: pairs side by side, or A and B in folders of their own; and where val lies.

    pairs      train/ and val/, where each picture is a pair: A in its left half, B in its right half
    folders    A/train and B/train, or trainA and trainB, or train/A and train/B; val likewise; A and B of a pair have
               the same name, apart from the suffix. The folders may also be called satellite and map.

The validation folder may be called val, valid, validation or test.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from runner.data.listing import list_files, printable
from runner.errors import DataError

PAIRS, FOLDERS = "pairs", "folders"

_TRAIN_NAMES = ("train",)
_VAL_NAMES = ("val", "valid", "validation", "test")
_SIDES = (("A", "B"), ("satellite", "map"))
_MAX_SHOWN = 8


class SplitFolders(NamedTuple):
    """The folders of one split: one of pairs, or two, A's and B's."""

    folders: tuple[Path, ...]

    @property
    def layout(self) -> str:
        """`pairs` or `folders`."""
        return PAIRS if len(self.folders) == 1 else FOLDERS

    def shown(self, root: Path) -> str:
        """The folders, relative to the source: `train/`, or `A/train + B/train`."""
        names = [printable(folder.relative_to(root).as_posix()) for folder in self.folders]
        return "the folder itself" if names == ["."] else f"{names[0]}/" if len(names) == 1 else " + ".join(names)


class Layout(NamedTuple):
    """Where the pictures of each split lie. `val` is None where a share of the training pictures is taken for it."""

    train: SplitFolders
    val: SplitFolders | None


def find_layout(root: Path, wanted: str, val_fraction: float | None) -> Layout:
    """Finds the folders of both splits.

    Args:
        wanted: `auto`, `pairs` or `folders`.
        val_fraction: the share of the training pictures that is used where there is no validation folder.

    Raises:
        DataError: no layout fits, or two do; the text says what was looked for and what was found.
    """
    field = f"data.source is {str(root)!r}"
    train = _find_split(root, _TRAIN_NAMES, wanted, field)
    if train is None and val_fraction is not None:
        # Without a folder for each split, the pictures lie in the folder itself.
        train = _find_split(root, ("",), wanted, field)
    if train is None:
        raise DataError(
            f"{field}: it has no pictures to train on.\n{_looked_for(root, wanted)}\n"
            "Pictures outside of folders are used with a share of them to validate with: --set data.val_fraction=0.1"
        )

    val = _find_split(root, _VAL_NAMES, wanted, field, like=train.layout)
    if val is None and val_fraction is None:
        raise DataError(
            f"{field}: it has {train.shown(root)} to train on, and no val/ directory to validate with.\n"
            f"{_looked_for(root, wanted, for_training=False)}\n"
            "Or take a share of the training pictures: --set data.val_fraction=0.1"
        )
    return Layout(train, val)


def find_validation(root: Path) -> SplitFolders:
    """The folders of pictures for validation alone: the folder's val or, where it has no splits, the folder itself.

    Raises:
        DataError: the directory does not exist, or has pictures to train on and none to validate with.
    """
    field = f"--data is {str(root)!r}"
    if not root.is_dir():
        raise DataError(f"{field}: there is no such directory. Give a directory of pairs, or one with val/.")
    if found := _find_split(root, _VAL_NAMES, "auto", field):
        return found
    # Validation must not use the pictures of the training.
    if train := _find_split(root, _TRAIN_NAMES, "auto", field):
        raise DataError(
            f"{field}: it has {train.shown(root)} but no val/. Give a directory of pairs, or one with val/."
        )
    return _find_split(root, ("",), "auto", field) or SplitFolders((root,))


def _find_split(
    root: Path, names: Sequence[str], wanted: str, field: str, like: str | None = None
) -> SplitFolders | None:
    """The folders of the first of a split's names that is there.

    Args:
        names: "" stands for the folder itself.
        like: the layout of the other split, which this one must have too.
    """
    for name in names:
        found = [] if wanted == PAIRS else _side_folders(root, name)
        one_folder = _child(root, name)
        # A and B in train/ don't make train/ a folder of pairs, unless it has other pictures, too.
        if one_folder and wanted != FOLDERS and (not found or _has_others(one_folder, found)):
            found = [*found, SplitFolders((one_folder,))]

        found = [split for split in found if like in (None, split.layout)]
        if len(found) > 1:
            shown = " and ".join(split.shown(root) for split in found)
            raise DataError(
                f"{field}: its layout is not clear: {shown} both hold pictures. Move one of them away, or say which "
                "is meant: --set data.layout=pairs (one picture a pair) or --set data.layout=folders (A and B apart)."
            )
        if found:
            return found[0]
    return None


def _side_folders(root: Path, split: str) -> list[SplitFolders]:
    """All pairs of folders, A's and B's, that a split of that name has."""
    found = []
    for sides in _SIDES:
        ways = [[_child(_child(root, split), side) for side in sides]]  # train/A
        if split:
            ways.append([_child(_child(root, side), split) for side in sides])  # A/train
            ways += [[_child(root, f"{split}{mark}{side}") for side in sides] for mark in ("", "_", "-")]  # trainA
        found += [SplitFolders((a, b)) for a, b in ways if a and b]
    return found


def _child(folder: Path | None, name: str) -> Path | None:
    """The folder of that name in a folder, in capitals or not; None where there is none."""
    if folder is None or not name:
        return folder
    if (folder / name).is_dir():
        return folder / name
    same = [path for path in _folders_in(folder) if path.name.casefold() == name.casefold()]
    return same[0] if same else None


def _folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder, sorted, without hidden ones."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{printable(str(folder))}: that folder can't be read ({error.strerror})") from None


def _has_others(folder: Path, apart: Sequence[SplitFolders]) -> bool:
    """True where there are pictures in a folder outside of its folders A and B."""
    inside = [
        f"{side.relative_to(folder).as_posix()}/" for split in apart for side in split.folders
        if side.is_relative_to(folder)
    ]  # fmt: skip
    return any(not name.startswith(tuple(inside)) for name in list_files(folder).pictures)


def _looked_for(root: Path, wanted: str, *, for_training: bool = True) -> str:
    """What was looked for and what is there, for errors."""
    split = "train" if for_training else "val"
    ways = {
        PAIRS: f"{split}/ with one picture a pair (A, the satellite, in its left half; B, the map, in its right half)",
        FOLDERS: f"A/{split} + B/{split}, {split}A + {split}B, or {split}/A + {split}/B, with one picture a side and "
        "the same name on both (satellite and map are taken for A and B too)",
    }
    lines = [f"  {way}" for layout, way in ways.items() if wanted in ("auto", layout)]

    folders = [f"{printable(path.name)}/" for path in _folders_in(root)]
    pictures = sum(1 for name in list_files(root).pictures if "/" not in name)
    there = folders[:_MAX_SHOWN]
    there += [f"{len(folders) - _MAX_SHOWN} more folders"] if len(folders) > _MAX_SHOWN else []
    there += [f"{pictures} picture{'s' if pictures > 1 else ''} outside of folders"] if pictures else []
    if not for_training:
        lines.append(f"  the folder may be called {', '.join(_VAL_NAMES)}")
    return "\n".join(["Looked for:", *lines, f"Found: {', '.join(there) or 'nothing'}."])
