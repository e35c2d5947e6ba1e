"""Bytes that a bad disk or somebody has altered are a picture or a PictureError, and never end the process."""

import random
import struct
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from gan.data.pictures import PictureError, decode_picture, picture_size
from tests.support.pictures import colourful, encoded

FORMATS: dict[str, bytes] = {
    "JPEG": encoded(colourful(), "JPEG"),
    "progressive JPEG": encoded(colourful(), "JPEG", progressive=True),
    "grey JPEG": encoded(colourful().convert("L"), "JPEG"),
    "CMYK JPEG": encoded(colourful().convert("CMYK"), "JPEG"),
    "PNG": encoded(colourful()),
    "palette PNG": encoded(colourful().convert("P")),
    "16 bit PNG": encoded(Image.fromarray(np.asarray(colourful().convert("L")).astype(np.uint16) * 257)),
    "TIFF": encoded(colourful(), "TIFF"),
    "packed TIFF": encoded(colourful(), "TIFF", compression="tiff_lzw"),
    "JPEG in TIFF": encoded(colourful(), "TIFF", compression="jpeg"),
    "WebP": encoded(colourful(), "WEBP"),
    "exact WebP": encoded(colourful(), "WEBP", lossless=True),
}
Mutation = Callable[[random.Random, bytes], bytes]


def flip_bytes(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 4, 40])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def flip_header(rng: random.Random, data: bytes) -> bytes:
    return flip_bytes(rng, data[:200]) + data[200:]


def cut_off(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def cut_out(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(200) :]


def repeat(rng: random.Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data)), rng.randrange(1, 400)
    return data[:start] + data[start : start + length] * rng.randrange(2, 50) + data[start:]


def large_number(rng: random.Random, data: bytes) -> bytes:
    """Sizes, offsets and lengths that claim far more than there is."""
    start = rng.randrange(min(len(data) - 4, 400))
    value = rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 65500 << 16])
    return data[:start] + struct.pack(rng.choice([">I", "<I"]), value) + data[start + 4 :]


def splice(rng: random.Random, data: bytes) -> bytes:
    other = rng.choice(list(FORMATS.values()))
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


MUTATIONS: list[Mutation] = [flip_bytes, flip_header, cut_off, cut_out, repeat, large_number, splice]


def try_pictures(seed: int, count: int) -> dict[str, int]:
    """Decodes `count` altered pictures; how many came out, and how many were refused."""
    rng = random.Random(seed)
    outcomes = {"decoded": 0, "refused": 0}
    for _ in range(count):
        data = rng.choice(MUTATIONS)(rng, rng.choice(list(FORMATS.values())))
        try:
            picture_size(data)
        except PictureError as error:
            assert str(error)
        try:
            pixels = decode_picture(data, max_pixels=1_000_000)
        except PictureError as error:
            assert str(error)
            assert "\n" not in str(error)
            outcomes["refused"] += 1
        else:
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
            outcomes["decoded"] += 1
    return outcomes


@pytest.mark.parametrize("seed", range(4))
def test_altered_pictures_are_decoded_or_refused(seed: int) -> None:
    outcomes = try_pictures(seed, 75)
    assert min(outcomes.values()) > 5


def test_altered_pictures_take_little_memory_and_warn_of_nothing() -> None:
    # In a process of its own, because of its memory. libtiff prints lines of its own about broken files.
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from tests.gan.data.test_hostile_pictures import try_pictures
try_pictures(99, 150)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Warning" not in done.stderr
