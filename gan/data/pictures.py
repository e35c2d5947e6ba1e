"""Decodes the bytes of a picture, checks them, and splits the picture into the two halves of a pair."""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

try:
    import simplejpeg  # type: ignore[import-untyped]
except ImportError:  # optional: Pillow gives the same bytes, and takes longer
    simplejpeg = None

SUFFIXES = (".jpg", ".jpeg", ".png")
FORMATS = ("JPEG", "PNG")
_MAX_PIXELS = 2 * 89_478_485  # Pillow's limit for an error: half a gigabyte of RGB bytes
STRIP_ROWS = 1024
ORIENTATION = 0x0112  # the EXIF tag

_UPRIGHT = 1  # the value of that tag for a picture that needs no turning
_SEAM_COLUMNS = 16
_SEAM_STEP = 6.0  # real pairs have 9 and more; within a map or a satellite picture it is 4.1 at most
_QUIET = threading.Lock()


class PictureError(ValueError):
    """A picture can't be used. The text gives the reason, and refers to the picture as "it"."""


class Pair(NamedTuple):
    """The two halves of one picture, each (H, W, 3) uint8."""

    satellite: NDArray[np.uint8]
    map: NDArray[np.uint8]


def read_pair(data: bytes, patch_size: int) -> Pair:
    """Decodes a JPEG or PNG, turns it upright, and splits it: the left half is the satellite, the right half the map.

    Raises:
        PictureError: the bytes can't be decoded, or the picture has an odd width, or halves smaller than a patch.
    """
    picture = decode_picture(data)
    check_pair_size(picture.shape[1], picture.shape[0], patch_size)
    return split_pair(picture)


def split_pair(picture: NDArray[np.uint8]) -> Pair:
    """The halves of a decoded picture (H, 2W, 3), as views. Raises PictureError where its width is odd."""
    width = picture.shape[1]
    if width % 2:
        raise PictureError(f"its width of {width} pixels is odd: it can't be two halves of the same size")
    return Pair(satellite=picture[:, : width // 2], map=picture[:, width // 2 :])


def check_pair_size(width: int, height: int, patch_size: int) -> None:
    """Raises PictureError where the width is odd, or a half is smaller than a patch."""
    if width % 2:
        raise PictureError(f"its width of {width} pixels is odd: it can't be two halves of the same size")
    if min(width // 2, height) < patch_size:
        raise PictureError(
            f"its halves of {width // 2}x{height} pixels are smaller than one patch of {patch_size}x{patch_size}"
        )


def looks_like_pair(picture: NDArray[np.uint8]) -> bool:
    """True for a picture (H, W, 3) that is twice as wide as high, and has a seam in the middle.

    There is a seam where the mean difference between the two middle columns is much larger than that between the
    columns next to them.
    """
    height, width = picture.shape[:2]
    if width != 2 * height or height <= _SEAM_COLUMNS:
        return False

    # int16, because differences of uint8 would wrap around.
    middle = picture[:, height - _SEAM_COLUMNS - 1 : height + _SEAM_COLUMNS + 1].astype(np.int16)
    steps = np.abs(np.diff(middle, axis=1)).mean(axis=(0, 2))
    return bool(steps[_SEAM_COLUMNS] > _SEAM_STEP * np.delete(steps, _SEAM_COLUMNS).mean())


def decode_picture(data: bytes, formats: Sequence[str] = FORMATS, max_pixels: int = _MAX_PIXELS) -> NDArray[np.uint8]:
    """Decodes a picture, turns it upright by its EXIF orientation, and lays transparent parts on white.

    Where a file holds several pictures, this is the first.

    Args:
        formats: Pillow's names of the formats that are allowed: JPEG, PNG or TIFF.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        PictureError: the bytes are no complete picture in one of these formats, or it has more than `max_pixels`.
    """
    if not data:
        raise PictureError("the file is empty")

    try:
        # The header first: what follows depends on it.
        with _opened(data, formats) as image:
            _check_num_pixels(*image.size, max_pixels)
            is_plain = _is_plain_jpeg(image)
        pixels = _decode_plain_jpeg(data) if is_plain else None
        if pixels is not None:
            return pixels

        with _opened(data, formats) as image:
            return rgb_pixels(image)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(f"it is not a {' or '.join(formats)} picture, or damaged at its beginning") from None
    except Exception as error:  # a decoder may raise anything for damaged bytes
        raise PictureError(f"it can't be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error


def picture_size(data: bytes) -> tuple[int, int]:
    """The (width, height) of a JPEG or PNG after it has been turned upright. Reads only its header.

    Raises:
        PictureError: the bytes do not begin like a JPEG or PNG.
    """
    try:
        with _opened(data) as image:
            turned = _orientation_of(image) in (5, 6, 7, 8)  # by a quarter
            return (image.height, image.width) if turned else (image.width, image.height)
    except Exception as error:
        raise PictureError("it is not a JPEG or PNG picture") from error


def load_pixels(image: Image.Image) -> None:
    """Decodes Pillow's picture, if it has not been decoded yet."""
    if not isinstance(image, ImageFile.ImageFile):
        return

    # Where a raw TIFF has a file name, Pillow maps the file into memory, and then takes the length of a row from the
    # turned picture, which is wrong. Without a name it reads the file.
    name, image.filename = image.filename, ""
    try:
        image.load()
    finally:
        image.filename = name


def rgb_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of Pillow's picture, turned upright.

    This also turns `image`. Raises PictureError where the pixel values have no known range.
    """
    if image.mode == "F":
        raise PictureError("its pixels are fractions of no known range: save it with 8 or 16 bits a channel")

    load_pixels(image)
    if _orientation_of(image) != _UPRIGHT:
        ImageOps.exif_transpose(image, in_place=True)

    # Strip by strip, because Pillow copies a picture at each conversion.
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, STRIP_ROWS):
        strip = image.crop((0, top, image.width, min(top + STRIP_ROWS, image.height)))
        pixels[top : top + STRIP_ROWS] = np.asarray(to_rgb(strip))
    return pixels


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode of JPEG, PNG and TIFF to RGB: grey, palette, CMYK, alpha, 16 bits per channel."""
    # Pillow's conversion would clip 16 bits to 255 instead of scaling them.
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise PictureError("its pixels lie outside 0 to 65535: save it with 8 or 16 bits a channel")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")

    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _check_num_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises PictureError for too many pixels. A small file may claim to be a picture that does not fit in memory."""
    if width * height > max_pixels:
        raise PictureError(f"its {width}x{height} pixels are more than {max_pixels:,}: cut it into smaller pictures")


@contextlib.contextmanager
def _opened(data: bytes, formats: Sequence[str] = FORMATS) -> Iterator[Image.Image]:
    """Pillow's picture, of which only the header has been read. Pillow's warnings are suppressed.

    Pillow's limit of pixels is lifted, because the callers have limits. Limit and warning filters belong to the whole
    process, so only one thread at a time is in here.
    """
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(io.BytesIO(data), formats=tuple(formats)) as image:
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, from 1 to 8. Upright where there is none, or it can't be read."""
    try:
        return int(image.getexif().get(ORIENTATION, _UPRIGHT))
    except Exception:  # Pillow may raise anything for damaged EXIF, and the pixels may be good
        return _UPRIGHT


def _is_plain_jpeg(image: Image.Image) -> bool:
    """True for an upright JPEG in colour or grey. Reads only its header."""
    return image.format == "JPEG" and image.mode in ("RGB", "L") and _orientation_of(image) == _UPRIGHT


def _decode_plain_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """(H, W, 3) uint8 RGB by libjpeg-turbo. It is several times as fast as Pillow, and gives the same bytes.

    None where simplejpeg is not installed, or finds an error. Pillow then gives the reason.
    """
    if simplejpeg is None:
        return None
    try:
        # With these settings libjpeg-turbo gives Pillow's bytes.
        return simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=True)
    except ValueError:
        return None
