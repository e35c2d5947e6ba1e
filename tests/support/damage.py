"""Ways to damage a file, or an object of a storage."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from runner.storage.folder import Folder
from runner.storage.storage import Storage


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


# The last one is about files by nature.
OBJECT_DAMAGES = {how: damage for how, damage in FILE_DAMAGES.items() if how != "unreadable"}


def damage_object(storage: Storage, name: str, damage: Callable[[Path], None]) -> None:
    """Does to an object of any storage what one of these does to a file."""
    if isinstance(storage, Folder):
        damage(storage.local_path / name)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(storage.read(name))
        damage(path)
        if path.is_file():
            storage.write(name, path.read_bytes())
        else:
            storage.remove(name)
