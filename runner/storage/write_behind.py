"""Bytes that are written a while after they came, together with what came since: where each write costs."""

import threading
from collections.abc import Callable


class WriteBehind:
    """Collects bytes, and writes them in a thread every few seconds.

    Args:
        write: gets all that was collected since the last call. After it has raised, nothing more is written.
        interval_s: seconds between two writes.
    """

    def __init__(self, write: Callable[[bytes], None], interval_s: float) -> None:
        self._write, self._interval_s = write, interval_s
        self._pending: list[bytes] = []
        self._failure: BaseException | None = None
        self._collecting, self._writing = threading.Lock(), threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="write-behind", daemon=True)
        self._thread.start()

    def add(self, data: bytes) -> None:
        """Takes bytes; raises what an earlier write has raised."""
        self._raise_failure()
        with self._collecting:
            self._pending.append(data)

    def flush(self) -> None:
        """Writes what has been collected, now; raises what a write has raised."""
        self._write_pending()
        self._raise_failure()

    def close(self) -> None:
        """As `flush`, once and for all."""
        self._over.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._over.wait(self._interval_s):
            self._write_pending()

    def _write_pending(self) -> None:
        # One write at a time, so that the order stays.
        with self._writing:
            with self._collecting:
                data, self._pending = b"".join(self._pending), []
            if not data or self._failure is not None:
                return
            try:
                self._write(data)
            except BaseException as error:
                self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
