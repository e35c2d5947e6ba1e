"""Standard output and standard error that can't end a command: a training outlives the terminal that it prints to."""

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Inside the block, what can't be printed is left out, and the work goes on; standard error says so once.

    The reader of a pipe may have ended (`| head`), a terminal may be closed, the disk of a log may be full. What a
    command is for is in its files, so that its exit code does not depend on its output either.
    """
    _open_closed_streams()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _lasting(before[0], "standard output"), _lasting(before[1], "")
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


def _open_closed_streams() -> None:
    """Where a stream was closed by the caller, the next file that is opened would get its number, and its output."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _lasting(stream: TextIO, name: str) -> TextIO:
    """A stream of the process that writes to the same file; another stream, as of a notebook, stays as it is."""
    if not isinstance(stream, io.TextIOWrapper) or stream not in (sys.__stdout__, sys.__stderr__):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        _LastingFile(stream.fileno(), name),
        stream.encoding,
        # The names of files may have characters that the terminal's encoding lacks.
        "backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _LastingFile(io.FileIO):
    """A file that takes all that it is given; what can't be written is lost.

    Args:
        name: what to call it, the first time that it can't be written to; "" for no word about that.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._shown_name = name

    def write(self, data: "ReadableBuffer", /) -> int:
        """Writes all of it, or as much as can be written."""
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view):
                count = super().write(view[written:])
                if count is None:  # a pipe that does not block, as some parent processes make them, is full
                    select.select([], [self], [])
                written += count or 0
        except OSError as error:
            self._report(error)
        return len(view)

    def _report(self, error: OSError) -> None:
        """Says on standard error why there is no more output."""
        if self._shown_name:
            reason = "nobody reads it any more" if error.errno in (errno.EPIPE, errno.EIO) else error.strerror
            line = f"note: {self._shown_name} can't be written ({reason}): the command goes on without it\n"
            self._shown_name = ""
            with contextlib.suppress(OSError):
                os.write(2, line.encode())
