"""Small made-up pictures, and pictures that EXIF turns."""

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from gan.data.pictures import ORIENTATION

TRANSPOSED = {  # how the pixels are stored, by the EXIF orientation that turns them upright
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def smooth_picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Soft blobs, a dozen pixels wide, of many colours."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (1, 3, -(-height // 12) + 1, -(-width // 12) + 1))
    fine = torch.nn.functional.interpolate(torch.from_numpy(coarse), scale_factor=12, mode="bilinear")
    return fine[0, :, :height, :width].permute(1, 2, 0).round().byte().numpy()


def gradient_png(number: int, width: int = 280, height: int = 140) -> bytes:
    """A PNG of a gradient whose blue is the number, so that no two are equal."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    image = np.stack([columns % 256, rows % 256, np.full_like(rows, number)], axis=-1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def as_stored(upright: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    """A picture's pixels as a file stores them, and the EXIF that says how to turn them upright."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    how = TRANSPOSED[orientation]
    return (upright if how is None else upright.transpose(how)), exif
