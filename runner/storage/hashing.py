"""The digest and the size of a file, taken while it is written."""

from typing import Any, Protocol


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
