"""The digest and the size of a file, taken while it is written, and the checksum of one that is there."""

from pathlib import Path
from typing import Any, Protocol

from xxhash import xxh3_64

BLOCK_BYTES = 2**20  # small enough to be in the processor's cache when it is hashed


class Digest(Protocol):
    """The part of hashlib's and xxhash's interface that is used here."""

    def update(self, data: Any, /) -> None:
        """Adds bytes."""

    def hexdigest(self) -> str:
        """The digest of all bytes so far, in hexadecimal digits."""


class HashingStream:
    """A stream that passes bytes on to another one, and knows their digest and size."""

    closed = False  # pyarrow asks for it

    def __init__(self, stream: Any, digest: Digest) -> None:
        self._stream = stream
        self.digest = digest
        self.size = 0

    def write(self, data: Any) -> int:
        """Writes bytes to the stream. Returns their number."""
        self.digest.update(data)
        self.size += memoryview(data).nbytes
        self._stream.write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Flushes the stream."""
        self._stream.flush()

    def tell(self) -> int:
        """The number of bytes written so far."""
        return self.size

    def close(self) -> None:
        """Does nothing. The code that opened the stream closes it."""


def file_checksum(path: Path) -> str:
    """XXH3 of a file, 16 hexadecimal digits. Raises OSError where the file can't be read."""
    # One block is used again and again, so that a thread needs one megabyte however large the file is.
    digest = xxh3_64()
    block = memoryview(bytearray(BLOCK_BYTES))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()
