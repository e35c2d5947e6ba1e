import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan.data import pictures
from gan.data.pictures import (
    PictureError,
    decode_picture,
    load_pixels,
    picture_size,
    read_pair,
    rgb_pixels,
)
from tests.support.pictures import TRANSPOSED, as_stored, colourful, encoded


def test_the_left_half_is_the_satellite_and_the_right_half_the_map() -> None:
    pair = read_pair([encoded(colourful())], 64)
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


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "L"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "TIFF LZW"])
@pytest.mark.parametrize("orientation", TRANSPOSED)
def test_a_picture_is_turned_upright_from_its_bytes_and_by_its_name(
    tmp_path: Path, mode: str, kind: str, orientation: int
) -> None:
    if kind == "JPEG" and mode == "RGBA":
        mode = "CMYK"  # the four channels that a JPEG can have
    upright = colourful(31, 18).convert(mode)
    expected = np.asarray(upright.convert("RGB")).astype(int)
    form, *compressed = kind.split()
    image, exif = as_stored(upright, orientation)
    image.save(tmp_path / "picture", form, exif=exif, **({"compression": "tiff_lzw"} if compressed else {}))
    with Image.open(tmp_path / "picture") as opened:
        load_pixels(opened)
        assert opened.filename
        by_name = rgb_pixels(opened.copy())
    from_bytes = decode_picture((tmp_path / "picture").read_bytes())
    np.testing.assert_array_equal(by_name, from_bytes)
    assert from_bytes.shape == expected.shape
    assert np.abs(from_bytes - expected).mean() < (6 if form == "JPEG" else 0.01)
    assert picture_size((tmp_path / "picture").read_bytes()) == (31, 18)


def with_exif(kind: str, exif: bytes) -> bytes:
    """A picture with bytes of any kind for EXIF."""
    data = encoded(colourful(), kind)
    if kind == "JPEG":
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + data[2:]
    after_header = len(b"\x89PNG\r\n\x1a\n") + 25
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    return data[:after_header] + chunk + data[after_header:]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("exif", [b"nonsense", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x05\x01\x12", b""])
def test_a_picture_with_damaged_exif_is_taken_as_it_lies(kind: str, exif: bytes) -> None:
    data = with_exif(kind, exif)
    np.testing.assert_array_equal(decode_picture(data), decode_picture(encoded(colourful(), kind)))
    assert picture_size(data) == (140, 70)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not a picture at all", "not a JPEG, PNG, TIFF or WebP"),
        (encoded(colourful(), "GIF"), "not a JPEG, PNG, TIFF or WebP"),
        (
            encoded(colourful()).replace(b"IHDR", b"IHDr"),
            "not a JPEG, PNG, TIFF or WebP picture, or damaged at its beginning",
        ),
        (encoded(colourful(), "JPEG")[:900], "can't be decoded"),
        (encoded(colourful())[:-40], "can't be decoded"),
        (encoded(colourful(141, 70)), "141 pixels is odd"),
        (encoded(colourful(120, 70)), "60x70 pixels are smaller than one patch of 64x64"),
        (encoded(colourful(140, 60)), "70x60 pixels are smaller"),
    ],
)
def test_a_bad_picture_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        read_pair([data], 64)


def outcome(data: bytes) -> tuple[int, ...] | str:
    """The pixels' shape and digest, or why there are none."""
    try:
        picture = decode_picture(data)
    except PictureError as error:
        return str(error)
    return (*picture.shape, hash(picture.tobytes()))


def outcome_without_turbo(data: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[int, ...] | str:
    """What a machine without simplejpeg makes of the same bytes."""
    with monkeypatch.context() as patched:
        patched.setattr(pictures, "simplejpeg", None)
        return outcome(data)


@pytest.mark.parametrize("size", [(140, 70), (141, 71)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_both_decoders_give_the_same_bytes(
    size: tuple[int, int], mode: str, subsampling: int, progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = colourful(*size).convert(mode)
    data = encoded(image, "JPEG", quality=60, subsampling=subsampling, progressive=progressive)
    assert outcome(data) == outcome_without_turbo(data, monkeypatch)


def test_both_decoders_give_the_same_bytes_of_real_pairs(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in sorted(maps.glob("*/*"))[::20]:
        data = path.read_bytes()
        assert outcome(data) == outcome_without_turbo(data, monkeypatch)


def test_both_decoders_refuse_the_same_damaged_files(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoded(colourful(64, 32), "JPEG")
    random = np.random.default_rng(0)
    damaged = [whole[:length] for length in range(1, len(whole), 7)]
    for place, value in zip(random.integers(0, len(whole), 200), random.integers(0, 256, 200), strict=True):
        damaged.append(whole[:place] + bytes([value]) + whole[place + 1 :])
    outcomes = [outcome(data) for data in damaged]
    assert outcomes == [outcome_without_turbo(data, monkeypatch) for data in damaged]
    assert {type(each) for each in outcomes} == {str, tuple}, "some can still be read"


def test_a_plain_jpeg_needs_no_pillow_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "to_rgb", None)  # of Pillow's way alone
    for mode in ("RGB", "L"):
        assert decode_picture(encoded(colourful().convert(mode), "JPEG")).shape == (70, 140, 3)


@pytest.mark.parametrize("size", [(140, 70), (1, 1)])
@pytest.mark.parametrize("mode", ["RGB", "L", "I;16", "CMYK", "P"])
def test_a_tiff_of_any_mode_is_read(size: tuple[int, int], mode: str) -> None:
    image = colourful(*size)
    if mode == "I;16":
        data = encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "TIFF")
        image = image.convert("L")
    else:
        image = image.convert(mode)
        data = encoded(image, "TIFF", compression="tiff_adobe_deflate")
    np.testing.assert_array_equal(decode_picture(data), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_a_webp_of_any_mode_is_read(mode: str) -> None:
    image = colourful().convert(mode)
    data = encoded(image, "WEBP", lossless=True)
    np.testing.assert_array_equal(decode_picture(data), np.asarray(image.convert("RGB")))
    assert picture_size(data) == (140, 70)


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with these chunks before its pixels."""
    data, signature_and_header = encoded(colourful()), 8 + 25
    inserted = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return data[:signature_and_header] + inserted + data[signature_and_header:]


@pytest.mark.parametrize(
    "chunk",
    [
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * 3_000_000),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
        (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000))),
        (b"zTXt", b"Comment\0\0not compressed at all"),
        (b"tEXt", b"Comment\0" + b"x" * 3_000_000),
        (b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))),
        (b"iCCP", b"profile\0\7"),
    ],
    ids=["xmp", "packed xmp", "packed text", "damaged text", "text", "profile", "unknown profile"],
)
def test_metadata_of_any_size_costs_no_picture(chunk: tuple[bytes, bytes]) -> None:
    data = png_with(chunk)
    np.testing.assert_array_equal(decode_picture(data), np.asarray(colourful()))
    assert picture_size(data) == (140, 70)


def test_a_picture_of_more_pixels_than_any_that_is_meant_is_refused_by_its_header() -> None:
    data = encoded(Image.new("1", (140, 70)))
    assert decode_picture(data, max_pixels=9800).shape == (70, 140, 3)
    with pytest.raises(PictureError, match="140x70 pixels are more than 9,799"):
        decode_picture(data, max_pixels=9799)


def test_rows_far_apart_are_converted_alike() -> None:
    whole = np.random.default_rng(0).integers(0, 256, (2 * pictures.STRIP_ROWS + 5, 3, 3)).astype(np.uint8)
    np.testing.assert_array_equal(decode_picture(encoded(Image.fromarray(whole))), whole)
