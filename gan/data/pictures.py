"""Reading one picture of a pair and checking it, knowing nothing of where it comes from."""

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
except ImportError:  # a machine that only trains need not have it
    simplejpeg = None

SUFFIXES = (".jpg", ".jpeg", ".png")
FORMATS = ("JPEG", "PNG")
MAX_PIXELS = 2 * 89_478_485  # as Pillow's own limit: half a gigabyte as bytes of RGB
STRIP_ROWS = 1024
SEAM_COLUMNS = 16
SEAM_STEP = 6.0  # in real pairs 9 and more; up to 4.1 within a map or a satellite picture
QUIET = threading.Lock()
ORIENTATION = 0x0112  # EXIF's number for it
UPRIGHT = 1


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
    return split_pair(picture)


def split_pair(picture: NDArray[np.uint8]) -> Pair:
    """The halves of a decoded picture (H, 2W, 3), as views; raises PictureError where its width is odd."""
    width = picture.shape[1]
    if width % 2:
        raise PictureError(f"its width of {width} pixels is odd: it can't be two halves of the same size")
    return Pair(satellite=picture[:, : width // 2], map=picture[:, width // 2 :])


def looks_like_pair(picture: NDArray[np.uint8]) -> bool:
    """True for a picture (H, W, 3) twice as wide as high with a break in the middle that it has nowhere near.

    The break is the mean step between the two columns there, against those between their neighbours.
    """
    height, width = picture.shape[:2]
    if width != 2 * height or height <= SEAM_COLUMNS:
        return False
    middle = picture[:, height - SEAM_COLUMNS - 1 : height + SEAM_COLUMNS + 1].astype(np.int16)
    steps = np.abs(np.diff(middle, axis=1)).mean(axis=(0, 2))
    return bool(steps[SEAM_COLUMNS] > SEAM_STEP * np.delete(steps, SEAM_COLUMNS).mean())


def check_pair_size(width: int, height: int, patch_size: int) -> None:
    """Raises PictureError where a picture of this size can't give two halves of one patch or more."""
    if width % 2:
        raise PictureError(f"its width of {width} pixels is odd: it can't be two halves of the same size")
    if min(width // 2, height) < patch_size:
        raise PictureError(
            f"its halves of {width // 2}x{height} pixels are smaller than one patch of {patch_size}x{patch_size}"
        )


def decode_picture(data: bytes, formats: Sequence[str] = FORMATS, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a picture, turned upright by its EXIF orientation; alpha is laid on white.

    Of a file that holds several pictures, the first.

    Args:
        formats: Pillow's names of those allowed, JPEG, PNG or TIFF.

    Raises:
        PictureError: the bytes are no whole picture in one of these formats, or one of more pixels.
    """
    if not data:
        raise PictureError("the file is empty")
    try:
        with opened(data, formats) as image:
            check_num_pixels(*image.size, max_pixels)
            is_plain = is_plain_jpeg(image)
        pixels = decode_plain_jpeg(data) if is_plain else None
        if pixels is not None:
            return pixels
        with opened(data, formats) as image:
            return rgb_pixels(image)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(f"it is not a {' or '.join(formats)} picture, or damaged at its beginning") from None
    except Exception as error:  # a decoder fed with damaged bytes raises nearly anything
        raise PictureError(f"it can't be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error


def check_num_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises PictureError for a picture larger than any that is meant, which a small file can claim to be."""
    if width * height > max_pixels:
        raise PictureError(f"its {width}x{height} pixels are more than {max_pixels:,}: cut it into smaller pictures")


@contextlib.contextmanager
def opened(data: bytes, formats: Sequence[str] = FORMATS) -> Iterator[Image.Image]:
    """Pillow's picture, only its header read, and none of its warnings: of odd metadata and of large pictures.

    Pillow's own limit of pixels is lifted: whoever decodes has one. One thread at a time: limit and filters of
    warnings are the whole process's.
    """
    with QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(io.BytesIO(data), formats=tuple(formats)) as image:
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def rgb_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of Pillow's picture, upright; in strips, for Pillow copies a picture at each conversion.

    The picture given is turned, too.
    """
    if image.mode == "F":
        raise PictureError("its pixels are fractions of no known range: save it with 8 or 16 bits a channel")
    load_pixels(image)
    if orientation_of(image) != UPRIGHT:
        ImageOps.exif_transpose(image, in_place=True)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, STRIP_ROWS):
        strip = image.crop((0, top, image.width, min(top + STRIP_ROWS, image.height)))
        pixels[top : top + STRIP_ROWS] = np.asarray(to_rgb(strip))
    return pixels


def load_pixels(image: Image.Image) -> None:
    """Decodes Pillow's picture, where that has not been done.

    A raw TIFF opened by its name Pillow would map into memory, and take rows to be as long there as they are once the
    picture has been turned; without a name it reads the file.
    """
    if not isinstance(image, ImageFile.ImageFile):
        return
    name, image.filename = image.filename, ""
    try:
        image.load()
    finally:
        image.filename = name


def orientation_of(image: Image.Image) -> int:
    """EXIF's number for how the picture is to be turned; upright where its EXIF says nothing, or can't be read."""
    try:
        return int(image.getexif().get(ORIENTATION, UPRIGHT))
    except Exception:  # as a decoder; the pixels may be sound all the same
        return UPRIGHT


def is_plain_jpeg(image: Image.Image) -> bool:
    """True for a colour or grey JPEG that stands upright, of which only the header has been read."""
    return image.format == "JPEG" and image.mode in ("RGB", "L") and orientation_of(image) == UPRIGHT


def decode_plain_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """(H, W, 3) uint8 RGB by libjpeg-turbo, several times as fast as Pillow and with the same bytes.

    None where simplejpeg isn't installed or finds anything wrong: Pillow then says what that is.
    """
    if simplejpeg is None:
        return None
    try:
        return simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=True)
    except ValueError:
        return None


def picture_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a JPEG or PNG after its EXIF orientation, from its header alone.

    Raises:
        PictureError: the bytes do not begin like a JPEG or PNG.
    """
    try:
        with opened(data) as image:
            turned = orientation_of(image) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else (image.width, image.height)
    except Exception as error:
        raise PictureError("it is not a JPEG or PNG picture") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode that JPEG, PNG and TIFF have: grey, palette, CMYK, alpha, 16 bits a channel."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise PictureError("its pixels lie outside 0 to 65535: save it with 8 or 16 bits a channel")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
