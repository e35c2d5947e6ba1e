"""A file's digest and size, taken while it is written."""

from typing import Any, Protocol


class Digest(Protocol):
    """What hashlib and xxhash give."""

    def update(self, data: Any, /) -> None:
        """Takes bytes in."""

    def hexdigest(self) -> str:
        """Of all bytes so far."""


class HashingStream:
    """A file to write to that knows the digest and the size of what went through it."""

    closed = False

    def __init__(self, stream: Any, digest: Digest) -> None:
        self._stream = stream
        self.digest = digest
        self.size = 0

    def write(self, data: Any) -> int:
        """Passes the bytes on."""
        self.digest.update(data)
        self.size += memoryview(data).nbytes
        self._stream.write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Passes the request on."""
        self._stream.flush()

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size

    def close(self) -> None:
        """Whoever opened the stream closes it."""
