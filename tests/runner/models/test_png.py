import io

import numpy as np
import pytest
from PIL import Image

from runner.models.png import CHUNK_BYTES, PngWriter


def written(rows: np.ndarray, cuts: list[int]) -> bytes:
    stream = io.BytesIO()
    png = PngWriter(stream, rows.shape[1], rows.shape[0])
    for part in np.split(rows, cuts):
        png.write_rows(part)
    png.finish()
    return stream.getvalue()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (7, 1), (5, 4), (300, 2000)])
def test_pillow_reads_back_what_was_written(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    with Image.open(io.BytesIO(written(pixels, [])), formats=["PNG"]) as image:
        image.verify()  # the checksums of all chunks
    with Image.open(io.BytesIO(written(pixels, []))) as image:
        assert (image.mode, image.size, image.info) == ("RGB", (width, height), {})
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_the_bytes_do_not_depend_on_how_rows_come_in() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 40, 3)).astype(np.uint8)
    assert written(pixels, [1, 2, 50]) == written(pixels, []) == written(pixels, list(range(1, 60)))


def test_nothing_but_what_is_being_compressed_is_held_back() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (100, 20_000, 3)).astype(np.uint8)
    stream = io.BytesIO()
    png = PngWriter(stream, 20_000, 10_000)
    png.write_rows(rows)
    assert stream.tell() > rows.nbytes - CHUNK_BYTES, "noise does not shrink"
