"""Decodes the bytes of a picture, checks them, and splits the picture into the two halves of a pair."""

import contextlib
import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

try:
    import simplejpeg  # type: ignore[import-untyped]
except ImportError:  # optional: Pillow gives the same bytes, and takes longer
    simplejpeg = None

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp")
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")  # Pillow's names
_MAX_PIXELS = 2 * 89_478_485  # Pillow's limit for an error: half a gigabyte of RGB bytes
STRIP_ROWS = 1024
ORIENTATION = 0x0112  # the EXIF tag

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_UPRIGHT = 1  # the value of that tag for a picture that needs no turning
_UNKNOWN = "it is not a JPEG, PNG, TIFF or WebP picture, or damaged at its beginning"
_QUIET = threading.Lock()

_T = TypeVar("_T")


class PictureError(ValueError):
    """A picture can't be used. The text gives the reason, and refers to the picture as "it"."""


class Pair(NamedTuple):
    """The two halves of one picture, each (H, W, 3) uint8."""

    satellite: NDArray[np.uint8]
    map: NDArray[np.uint8]


def read_pair(files: Sequence[bytes], patch_size: int) -> Pair:
    """Decodes the pictures of a pair, and turns them upright.

    Args:
        files: one picture, whose left half is the satellite and whose right half is the map; or two, the satellite's
            and the map's.

    Raises:
        PictureError: the bytes can't be decoded, the halves differ in size, or are smaller than a patch.
    """
    pictures = _each(files, decode_picture)
    if len(pictures) == 1:
        pair = split_pair(pictures[0])
    else:
        pair = Pair(*pictures)
        _check_same_size(*((half.shape[1], half.shape[0]) for half in pair))
    check_half_size(pair.map.shape[1], pair.map.shape[0], patch_size)
    return pair


def split_pair(picture: NDArray[np.uint8]) -> Pair:
    """The halves of a decoded picture (H, 2W, 3), as views. Raises PictureError where its width is odd."""
    width = picture.shape[1]
    _check_even(width)
    return Pair(satellite=picture[:, : width // 2], map=picture[:, width // 2 :])


def half_size(files: Sequence[bytes]) -> tuple[int, int]:
    """The (width, height) of each half of a pair, from the headers of its files: see `read_pair`.

    Raises:
        PictureError: a file does not begin like a picture, or the halves differ in size.
    """
    sizes = _each(files, picture_size)
    if len(sizes) == 1:
        ((width, height),) = sizes
        _check_even(width)
        return width // 2, height
    _check_same_size(*sizes)
    return sizes[0]


def check_half_size(width: int, height: int, patch_size: int) -> None:
    """Raises PictureError where the half of a pair is smaller than a patch."""
    if min(width, height) < patch_size:
        raise PictureError(
            f"its halves of {width}x{height} pixels are smaller than one patch of {patch_size}x{patch_size}"
        )


def decode_picture(data: bytes, max_pixels: int = _MAX_PIXELS) -> NDArray[np.uint8]:
    """Decodes a JPEG, PNG, TIFF or WebP, turns it upright by its EXIF orientation, and lays transparent parts on white.

    Where a file holds several pictures, this is the first.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        PictureError: the bytes are no complete picture in one of these formats, or it has more than `max_pixels`.
    """
    return _read(data, lambda data: _decode(data, max_pixels))


def picture_size(data: bytes) -> tuple[int, int]:
    """The (width, height) of a picture after it has been turned upright. Reads only its header.

    Raises:
        PictureError: the bytes do not begin like a JPEG, PNG, TIFF or WebP.
    """
    return _read(data, _upright_size)


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


def _each(files: Sequence[bytes], read: Callable[[bytes], _T]) -> list[_T]:
    """Reads each file of a pair. Where there are two, errors say which of them it was."""
    if len(files) == 1:
        return [read(files[0])]

    contents = []
    for side, data in zip("AB", files, strict=True):
        try:
            contents.append(read(data))
        except PictureError as error:
            raise PictureError(f"in {side}: {error}") from error
    return contents


def _check_even(width: int) -> None:
    if width % 2:
        raise PictureError(f"its width of {width} pixels is odd: it can't be two halves of the same size")


def _check_same_size(a: tuple[int, int], b: tuple[int, int]) -> None:
    if a != b:
        raise PictureError(f"in A it has {a[0]}x{a[1]} pixels and in B {b[0]}x{b[1]}: both must have the same size")


def _read(data: bytes, read: Callable[[bytes], _T]) -> _T:
    """Reads a file's bytes and, where that fails, once more without metadata, which should cost no picture."""
    if not data:
        raise PictureError("the file is empty")
    try:
        return read(data)
    except PictureError:
        pixels_alone = _without_metadata(data)
        if pixels_alone is None:
            raise
        return read(pixels_alone)


def _decode(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """As `decode_picture`."""
    try:
        # The header first: what follows depends on it.
        with _opened(data) as image:
            _check_num_pixels(*image.size, max_pixels)
            is_plain = _is_plain_jpeg(image)
        pixels = _decode_plain_jpeg(data) if is_plain else None
        if pixels is not None:
            return pixels

        with _opened(data) as image:
            return rgb_pixels(image)
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(_UNKNOWN) from None
    except Exception as error:  # a decoder may raise anything for damaged bytes
        raise PictureError(f"it can't be decoded: {' '.join(str(error).split()) or type(error).__name__}") from error


def _upright_size(data: bytes) -> tuple[int, int]:
    """As `picture_size`."""
    try:
        with _opened(data) as image:
            # By a quarter. Pillow gives the size of a TIFF as it will be once it is turned.
            turned = _orientation_of(image) in (5, 6, 7, 8) and image.format != "TIFF"
            return (image.height, image.width) if turned else (image.width, image.height)
    except Exception as error:
        raise PictureError(_UNKNOWN) from error


def _without_metadata(data: bytes) -> bytes | None:
    """A PNG without texts and colour profile. None for other data, and where there are none.

    Pillow gives up where these are long or damaged, as 3 MB of editing history are.
    """
    if not data.startswith(_PNG_SIGNATURE):
        return None

    kept, start, is_changed = [_PNG_SIGNATURE], len(_PNG_SIGNATURE), False
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + length + 12  # with its length, its kind and its checksum
        if kind in _PNG_METADATA:
            is_changed = True
        else:
            kept.append(data[start:end])
        start = end
    return b"".join(kept) if is_changed else None


def _check_num_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raises PictureError for too many pixels. A small file may claim to be a picture that does not fit in memory."""
    if width * height > max_pixels:
        raise PictureError(f"its {width}x{height} pixels are more than {max_pixels:,}: cut it into smaller pictures")


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Pillow's picture, of which only the header has been read. Pillow's warnings are suppressed.

    Pillow's limit of pixels is lifted, because the callers have limits. Limit and warning filters belong to the whole
    process, so only one thread at a time is in here.
    """
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
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
