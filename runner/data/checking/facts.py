"""What the files of each picture say, looked at one by one: size, damage, halves, and a thumbnail to compare."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gan.data.pictures import PictureError, decode_picture, half_size
from runner.data.checking.plausibility import Look, look_of, sides_of
from runner.data.sources import Picture, read_picture
from runner.process.processes import num_cores

THUMBNAIL = 16  # pixels, high and wide
_ONE_COLOUR = 4.0  # of 255: what JPEG leaves of a surface of one colour


class Facts(NamedTuple):
    """What one picture shows.

    Attributes:
        problem: why it can't be used; "" where it can. It has no look and no thumbnail then.
        num_bytes: of its file, or of both files.
        digest: SHA-256 of that content.
        look: its size, its middle, and how flat its halves are.
        constant_sides: which of A and B have one colour only.
        thumbnail: the brightness of A and B in (2, 16, 16), the mean of each 0 and the length of all 1. A side of one
            colour is zero. None where both are.
    """

    picture: Picture
    problem: str = ""
    num_bytes: int = 0
    digest: str = ""
    look: Look | None = None
    constant_sides: str = ""
    thumbnail: NDArray[np.float32] | None = None

    @property
    def half_size(self) -> tuple[int, int]:
        """(width, height) of each half; zeros where it has no look."""
        return (self.look.size[0] // 2, self.look.size[1]) if self.look else (0, 0)

    @property
    def smallest_side(self) -> int:
        """The smaller of both: no patch is larger."""
        return min(self.half_size)

    @property
    def name(self) -> str:
        """As in the store's quarantine: "train/1.jpg"."""
        return f"{self.picture.split}/{self.picture.name}"


def collect_facts(pictures: Sequence[Picture], advance: Callable[[], None] = lambda: None) -> list[Facts]:
    """Reads all pictures, one on each core at a time.

    Args:
        advance: called once for each picture.
    """
    with ThreadPoolExecutor(num_cores()) as pool:
        facts = []
        for fact in pool.map(_facts_of, pictures):
            facts.append(fact)
            advance()
        return facts


def halves_of(picture: Picture) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A and B of a picture, (H, W, 3) each. Raises OSError or PictureError where it can't be read."""
    pixels = [decode_picture(data) for data in read_picture(picture, None)]
    return sides_of(pixels)


def _facts_of(picture: Picture) -> Facts:
    try:
        files = read_picture(picture, None)
    except (OSError, PictureError) as error:
        return Facts(picture, f"it can't be read ({error.strerror})" if isinstance(error, OSError) else str(error))

    num_bytes = sum(map(len, files))
    digest = hashlib.sha256(b"".join(files)).hexdigest()
    try:
        pixels = [decode_picture(data) for data in files]
    except PictureError as error:
        return Facts(picture, str(error), num_bytes, digest)

    halves = sides_of(pixels)
    constant = "".join(side for side, half in zip("AB", halves, strict=True) if _is_constant(half))
    problem = ""
    try:
        half_size(files)
    except PictureError as error:  # its pixels can be looked at all the same
        problem = str(error)
    return Facts(picture, problem, num_bytes, digest, look_of(pixels), constant, _thumbnail(halves))


def _is_constant(half: NDArray[np.uint8]) -> bool:
    # Some of the pixels are enough, and quick.
    channels = np.moveaxis(half[::4, ::4], 2, 0).reshape(3, -1).astype(np.float32)
    return channels.size > 0 and float(channels.std(axis=1).max()) < _ONE_COLOUR


def _thumbnail(halves: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32] | None:
    """See `Facts.thumbnail`."""
    sides = np.zeros((2, THUMBNAIL, THUMBNAIL), np.float32)
    for side, half in zip(sides, halves, strict=True):
        if not half.size:
            continue
        small = Image.fromarray(half).convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        values = np.asarray(small, np.float32)
        values = values - values.mean()
        length = float(np.linalg.norm(values))
        if length > _ONE_COLOUR * THUMBNAIL:
            side[...] = values / length

    length = float(np.linalg.norm(sides))
    return (sides / length).astype(np.float32) if length else None
