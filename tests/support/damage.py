"""Ways to damage a file."""

import shutil
from collections.abc import Callable
from pathlib import Path


def cut_to(keep: Callable[[int], int]) -> Callable[[Path], None]:
    """Leaves so many bytes of a file as `keep` makes of their number."""

    def cut(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: keep(len(content))])

    return cut


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def make_unreadable(path: Path) -> None:
    """Puts a folder in the file's place, which not even root can read as a file."""
    path.unlink()
    path.mkdir()


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


FILE_DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": cut_to(lambda size: 0),
    "half": cut_to(lambda size: size // 2),
    "all but one byte": cut_to(lambda size: size - 1),
    "one bit flipped": flip_a_bit,
    "missing": remove,
    "unreadable": make_unreadable,
}
