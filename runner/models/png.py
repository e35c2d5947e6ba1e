"""Writes a PNG row by row, so that a large picture is never in memory as a whole."""

import struct
import zlib
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EIGHT_BITS, _RGB = 8, 2
# The filter "Sub" takes from each byte that of its left neighbour: drawn areas become zeros, and no row needs another.
_SUB = 1
_LEVEL = 4  # a third of the time that zlib's own 6 takes, for files that are a tenth larger
CHUNK_BYTES = 2**20


class PngWriter:
    """Writes an RGB picture into a stream, from top to bottom. `finish` must be called at the end.

    Format: PNG 3rd edition, sections 5 (chunks), 9 (filters) and 11 (IHDR, IDAT, IEND). The bytes depend only on
    the pixels and on zlib.
    """

    def __init__(self, stream: BinaryIO, width: int, height: int) -> None:
        self._stream = stream
        self._deflate = zlib.compressobj(_LEVEL)
        stream.write(_SIGNATURE)
        # The three zeros: compression with deflate, the standard set of filters, no interlacing.
        self._write_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, _EIGHT_BITS, _RGB, 0, 0, 0))

    def write_rows(self, rows: NDArray[np.uint8]) -> None:
        """Adds (rows, W, 3) uint8 at the bottom."""
        height, width, channels = rows.shape
        # Each row begins with one byte that names its filter.
        filtered = np.empty((height, 1 + width * channels), np.uint8)
        filtered[:, 0] = _SUB
        # The first pixel has no left neighbour, so it stays as it is.
        filtered[:, 1 : 1 + channels] = rows[:, 0]
        # uint8 wraps around: the filter is defined modulo 256.
        np.subtract(rows[:, 1:], rows[:, :-1], out=filtered[:, 1 + channels :].reshape(height, width - 1, channels))
        data = filtered.reshape(-1).data
        for start in range(0, len(data), CHUNK_BYTES):
            self._write_data(self._deflate.compress(data[start : start + CHUNK_BYTES]))

    def finish(self) -> None:
        """Writes the end of the pixels and of the file."""
        self._write_data(self._deflate.flush())
        self._write_chunk(b"IEND", b"")

    def _write_data(self, data: bytes) -> None:
        """Writes compressed pixels, unless zlib has kept them all back."""
        if data:
            self._write_chunk(b"IDAT", data)

    def _write_chunk(self, kind: bytes, data: bytes) -> None:
        """Writes a chunk: length, kind, data, and the checksum of kind and data."""
        self._stream.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
