"""Synthetic pairs: an invented place as a satellite sees it, and its map."""

import hashlib
import io

import numpy as np
from PIL import Image

from runner.data.synthesis.canvas import SIDE_PX
from runner.data.synthesis.map import draw_map
from runner.data.synthesis.satellite import draw_satellite
from runner.data.synthesis.town.places import draw_scene

__all__ = ["SYNTHESIS_VERSION", "draw_pair"]

SYNTHESIS_VERSION = 1
"""Part of the fingerprint of synthetic data. Raise it when a pixel of any picture may change."""

_SPLITS = ("train", "val")


def draw_pair(seed: int, split: str, index: int) -> bytes:
    """Draws picture `index` of a split: a JPEG of 1200x600 pixels, the satellite on the left, the map on the right.

    The same arguments give the same bytes on any processor, with the same versions of Pillow and numpy. Other
    arguments give another place.

    Raises:
        ValueError: the split is neither "train" nor "val", or the index is negative.
    """
    if split not in _SPLITS:
        raise ValueError(f'split is "{split}", but synthetic pictures have "train" and "val" only.')
    if index < 0:
        raise ValueError(f"index is {index}: pictures of a split are counted from 0.")

    scene = draw_scene(_generator(seed, split, index, "scene"))
    pair = Image.new("RGB", (2 * SIDE_PX, SIDE_PX))
    pair.paste(draw_satellite(_generator(seed, split, index, "satellite"), scene), (0, 0))
    pair.paste(draw_map(_generator(seed, split, index, "map"), scene), (SIDE_PX, 0))

    # All options are given, so that another default of Pillow does not change the bytes.
    jpeg = io.BytesIO()
    pair.save(jpeg, "JPEG", quality=90, subsampling="4:2:0", optimize=False, progressive=False)
    return jpeg.getvalue()


def _generator(seed: int, split: str, index: int, part: str) -> np.random.Generator:
    """A separate random stream for each part of each picture, so that a change in one part does not affect others."""
    name = f"{seed}/{split}/{index}/{part}".encode()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.sha256(name).digest()[:16], "little")))
