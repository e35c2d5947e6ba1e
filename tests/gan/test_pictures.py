import io

import numpy as np
import pytest
from PIL import Image

from gan.pictures import PictureError, decode_picture, picture_size, read_pair


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def colourful(width: int = 140, height: int = 70) -> Image.Image:
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([columns, rows, columns + rows], axis=-1).astype(np.uint8))


def test_the_left_half_is_the_satellite_and_the_right_half_the_map() -> None:
    pair = read_pair(encoded(colourful()), 64)
    whole = np.asarray(colourful())
    np.testing.assert_array_equal(pair.satellite, whole[:, :70])
    np.testing.assert_array_equal(pair.map, whole[:, 70:])


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGB", "1"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "PNG16"])
def test_any_mode_comes_out_as_rgb(mode: str, kind: str) -> None:
    if kind == "PNG16":
        image = Image.fromarray(np.asarray(colourful().convert("L")).astype(np.uint16) * 257)
        grey = decode_picture(encoded(image))
        np.testing.assert_array_equal(grey[..., 0], np.asarray(colourful().convert("L")))
        return
    if (kind == "JPEG" and mode in "P1") or (kind == "PNG" and mode == "CMYK"):
        return
    image = colourful().convert(mode)
    decoded = decode_picture(encoded(image, kind))
    assert decoded.shape == (70, 140, 3)
    difference = np.abs(decoded.astype(int) - np.asarray(image.convert("RGB")).astype(int))
    assert difference.mean() < 4


def test_transparency_is_laid_on_white() -> None:
    image = Image.new("RGBA", (140, 70), (255, 0, 0, 0))
    assert (decode_picture(encoded(image)) == 255).all()


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(colourful(140, 70), "JPEG", exif=exif)
    assert decode_picture(data).shape == (140, 70, 3)
    assert picture_size(data) == (70, 140)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not a picture at all", "not a JPEG or PNG"),
        (encoded(colourful(), "GIF"), "not a JPEG or PNG"),
        (encoded(colourful(), "JPEG")[:900], "can't be decoded"),
        (encoded(colourful())[:-40], "can't be decoded"),
        (encoded(colourful(141, 70)), "141 pixels is odd"),
        (encoded(colourful(120, 70)), "60x70 pixels are smaller than one patch of 64x64"),
        (encoded(colourful(140, 60)), "70x60 pixels are smaller"),
    ],
)
def test_a_bad_picture_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        read_pair(data, 64)
