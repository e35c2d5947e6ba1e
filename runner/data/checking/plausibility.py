"""Whether pictures are what they are taken for: pairs, with the satellite half on the left.

A statistic over a sample, looked at before anything is made of the pictures. What it can't tell, it lets pass.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gan.data.halves import Middle, flat_share, middle_of
from gan.data.pictures import PictureError, decode_picture
from runner.data.sources import SPLITS, Picture, Source, read_picture
from runner.errors import DataError
from runner.process.processes import num_cores

_SAMPLE_PER_SPLIT = 12
# Width by height of a pair. Two halves of 4:3 or 3:4 would be 2.67 or 1.5 wide: nothing is refused for that alone.
_NEAR_2_TO_1 = (1.8, 2.2)
_MOST = 0.8
_FLATTER_BY = 0.05  # of all pixels; between the halves of the study's pairs it is 0.15 and more


class Look(NamedTuple):
    """What one picture looks like.

    Attributes:
        size: (width, height) of the file, or of the two halves together.
        middle: a seam where the halves are two files.
        flat_shares: of the satellite half and of the map half.
    """

    size: tuple[int, int]
    middle: Middle
    flat_shares: tuple[float, float]

    @property
    def may_be_pair(self) -> bool:
        """False where it looks like one picture: it goes on in its middle, or is far from twice as wide as high."""
        low, high = _NEAR_2_TO_1
        is_near = low <= self.size[0] / self.size[1] <= high
        return self.middle is Middle.SEAM or (is_near and self.middle is not Middle.CONTINUED)

    @property
    def is_swapped(self) -> bool:
        """True where the half that is taken for the satellite's is the flatter one, as a drawn map is."""
        satellite, map_ = self.flat_shares
        return satellite > map_ + _FLATTER_BY


def check_plausible(source: Source, field: str, *, is_told: bool = False) -> list[str]:
    """Looks at a sample of a directory's pictures.

    Args:
        field: the beginning of an error: which field or option names the directory, and its value.
        is_told: the person has said that they are pairs.

    Returns:
        What the person should know, a sentence each.

    Raises:
        DataError: they look like single pictures, not pairs.
    """
    if source.seed is not None:
        return []
    looks = [look for look in look_at(sample(source.pictures)) if look is not None]
    if not looks:
        return []  # why none of them can be read is said where they are cut

    notes = []
    if problem := single_pictures(looks):
        if not is_told:
            raise DataError(
                f"{field}: its pictures do not look like pairs: {problem}.\n"
                "A pair is one picture with the satellite half on the left and the map half on the right. Join the two "
                "pictures of each pair side by side, or put them into A/train + B/train and A/val + B/val, with the "
                "same name in both. If they are pairs all the same: --set data.layout=pairs"
            )
        notes.append(f"the pictures do not look like pairs: {problem}; they are cut in halves, as data.layout says")
    if swapped := swapped_sides(looks):
        notes.append(swapped)
    return notes


def sample(pictures: Sequence[Picture], per_split: int = _SAMPLE_PER_SPLIT) -> list[Picture]:
    """Some pictures of each split, evenly spread."""
    chosen: list[Picture] = []
    for split in SPLITS:
        in_split = [picture for picture in pictures if picture.split == split]
        num_chosen = min(per_split, len(in_split))
        chosen += [in_split[index * len(in_split) // num_chosen] for index in range(num_chosen)]
    return chosen


def look_at(pictures: Sequence[Picture]) -> list[Look | None]:
    """What each picture looks like; None where it can't be read."""
    with ThreadPoolExecutor(num_cores()) as pool:
        return list(pool.map(_look_at, pictures))


def single_pictures(looks: Sequence[Look]) -> str:
    """What most of the pictures show instead of pairs; "" where they may be pairs."""
    single = [look for look in looks if not look.may_be_pair]
    if len(single) <= len(looks) / 2:
        return ""

    seen = f"of {len(looks)} that were looked at, "
    if continued := sum(look.middle is Middle.CONTINUED for look in single):
        seen += f"{continued} go on from the left half into the right half as one picture does"
    if others := [look for look in single if look.middle is not Middle.CONTINUED]:
        (width, height), _ = Counter(look.size for look in others).most_common(1)[0]
        seen += " and " if continued else ""
        seen += f"{len(others)} are not about twice as wide as high, such as {width}x{height} pixels"
    return seen


def swapped_sides(looks: Sequence[Look]) -> str:
    """A sentence where in most pictures the half that is taken for the satellite's looks like the map; else ""."""
    num_swapped = sum(look.is_swapped for look in looks)
    if num_swapped < _MOST * len(looks):
        return ""
    return (
        f"the sides may be swapped: in {num_swapped} of {len(looks)} pictures the left half (A), which is taken for "
        "the satellite picture, has larger areas of one colour than the right half (B), as a drawn map has. If the "
        "drawing is on the left, --set data.direction=satellite_to_map trains from the drawing to the picture"
    )


def sides_of(pixels: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A and B, (H, W, 3) each, of the decoded files of a picture: one with both halves, or two."""
    if len(pixels) == 2:
        return pixels[0], pixels[1]
    (whole,) = pixels
    width = whole.shape[1]
    # A picture of odd width has no halves. It is refused where it is cut, and looked at here all the same.
    return whole[:, : width // 2], whole[:, width - width // 2 :]


def look_of(pixels: Sequence[NDArray[np.uint8]]) -> Look:
    """What the decoded files of a picture look like: one with both halves, or A and B."""
    a, b = sides_of(pixels)
    width = sum(picture.shape[1] for picture in pixels)
    middle = middle_of(pixels[0]) if len(pixels) == 1 else Middle.SEAM
    return Look((width, a.shape[0]), middle, (flat_share(a), flat_share(b)))


def _look_at(picture: Picture) -> Look | None:
    try:
        return look_of([decode_picture(data) for data in read_picture(picture, None)])
    except (OSError, PictureError):
        return None
