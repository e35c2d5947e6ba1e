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


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A picture as the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def colourful(width: int = 140, height: int = 70) -> Image.Image:
    """One picture, not a pair: its colours go from black to yellow without a break."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([columns, rows, columns + rows], axis=-1).astype(np.uint8))


def satellite_and_map(number: int, height: int = 70, width: int = 70) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The halves of a pair as real ones look: one is textured, the other has large areas of one colour."""
    satellite = smooth_picture(height, width, seed=number)
    noise = np.random.default_rng(number).integers(-9, 10, satellite.shape)
    map_ = np.full_like(satellite, (250, 240, 230))
    map_[height // 3 : height // 2] = (number % 256, 200, 120)
    return np.clip(satellite.astype(int) + noise, 0, 255).astype(np.uint8), map_


def pair_picture(number: int, height: int = 70, width: int = 70) -> Image.Image:
    """A pair as one picture, its halves side by side."""
    return Image.fromarray(np.concatenate(satellite_and_map(number, height, width), axis=1))


def as_stored(upright: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    """A picture's pixels as a file stores them, and the EXIF that says how to turn them upright."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    how = TRANSPOSED[orientation]
    return (upright if how is None else upright.transpose(how)), exif
