"""Reading one picture of a pair and checking it, knowing nothing of where it comes from."""

import io
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = (".jpg", ".jpeg", ".png")
FORMATS = ("JPEG", "PNG")


class PictureError(ValueError):
    """A picture that can't be used, with the reason."""


class Pair(NamedTuple):
    """The two halves of one picture, each (H, W, 3) uint8."""

    satellite: NDArray[np.uint8]
    map: NDArray[np.uint8]


def read_pair(data: bytes, patch_size: int) -> Pair:
    """Decodes the bytes of a JPEG or PNG, turns it upright, and splits it: left satellite, right map.

    Raises:
        PictureError: it can't be decoded, is no picture, has an odd width, or halves smaller than a patch.
    """
    picture = decode_picture(data)
    check_pair_size(picture.shape[1], picture.shape[0], patch_size)
    half = picture.shape[1] // 2
    return Pair(satellite=picture[:, :half], map=picture[:, half:])


def check_pair_size(width: int, height: int, patch_size: int) -> None:
    """Raises PictureError where a picture of this size can't give two halves of one patch or more."""
    if width % 2:
        raise PictureError(f"its width of {width} pixels is odd: it can't be two halves of the same size")
    if min(width // 2, height) < patch_size:
        raise PictureError(
            f"its halves of {width // 2}x{height} pixels are smaller than one patch of {patch_size}x{patch_size}"
        )


def decode_picture(data: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a JPEG or PNG, turned upright by its EXIF orientation; alpha is laid on white.

    Raises:
        PictureError: the bytes are no whole JPEG or PNG.
    """
    if not data:
        raise PictureError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and of large pictures; errors are raised
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return np.asarray(to_rgb(ImageOps.exif_transpose(image)))
    except UnidentifiedImageError:
        raise PictureError("it is not a JPEG or PNG picture") from None
    except Exception as error:  # a decoder fed with damaged bytes raises nearly anything
        raise PictureError(f"it can't be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error


def picture_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a JPEG or PNG after its EXIF orientation, from its header alone.

    Raises:
        PictureError: the bytes do not begin like a JPEG or PNG.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                return (image.height, image.width) if turned else (image.width, image.height)
    except Exception as error:
        raise PictureError("it is not a JPEG or PNG picture") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode that JPEG and PNG have: grey, palette, CMYK, alpha, 16 bits a channel."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
