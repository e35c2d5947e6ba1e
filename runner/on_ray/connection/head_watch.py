"""Notices that a cluster's head is gone. Ray would wait for a minute, and then end this process without a word."""

import threading
import time
from collections.abc import Callable

from runner.on_ray.connection.address import is_reachable

INTERVAL_S = 3.0
# A head that a supervisor starts again, and that remembers its cluster, may be back by then.
PATIENCE_S = 30.0


class HeadWatch:
    """Asks the head in a thread, from the beginning until `close`.

    Args:
        address: as a command is given it.
        notify: gets a line once the head does not answer, and once it does again.
    """

    def __init__(self, address: str, notify: Callable[[str], None]) -> None:
        self._address, self._notify = address, notify
        self._silent_since: float | None = None
        self._over = threading.Event()
        threading.Thread(target=self._watch, name="head_watch", daemon=True).start()

    def loss(self) -> str:
        """A sentence once the head has been silent for too long; "" until then."""
        since = self._silent_since
        if since is None or time.monotonic() - since < PATIENCE_S:
            return ""
        return f"the head of the cluster at {self._address} is gone"

    def close(self) -> None:
        """Asks no more."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(INTERVAL_S):
            began = time.monotonic()
            if is_reachable(self._address):
                if self._silent_since is not None:
                    self._notify(f"the head of the cluster at {self._address} answers again")
                self._silent_since = None
            elif self._silent_since is None and not self._over.is_set():
                self._silent_since = began
                self._notify(
                    f"the head of the cluster at {self._address} does not answer; the command ends if it stays away"
                )
