"""One command at a time on an experiment, and no write by a worker of an attempt that is over.

The `lock` file is a lease: it names the attempt, its process and machine, and the time of the last
heartbeat. A lease that has not been renewed for 30 seconds, or whose process is dead on this machine, is
no obstacle; for one of another machine it is waited whether its heart still beats. Workers compare its
token with their own before they commit anything.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.errors import StorageError
from runner.process.processes import end_marked
from runner.process.stop_request import Stopped
from runner.storage.folder import Storage
from runner.storage.run_folder import LOCK, RAY_FOLDER

LEASE_S = 30.0
HEARTBEAT_S = 5.0
START_PREFIX = "start_"


class Superseded(Exception):
    """Another start of the command owns the experiment now: this one must not write any more."""


def read_lease(experiment: Storage, name: str = LOCK) -> dict[str, Any] | None:
    """What the lock file holds, or None where there is none or it can't be understood."""
    try:
        lease = json.loads(experiment.read(name))
        return lease if isinstance(lease, dict) and "token" in lease else None
    except (OSError, ValueError):
        return None


def check_current(experiment: Storage, token: str) -> None:
    """Raises Superseded where the lock names another attempt than the one of `token`."""
    lease = read_lease(experiment)
    if lease is not None and lease["token"] != token:
        raise Superseded(f"attempt {lease.get('attempt')} has taken over")


class Lease:
    """The right to run an experiment, kept alive by a thread until `release`.

    Attributes:
        attempt: the start's number, one more than that of any earlier start.
        token: names this start among all.
    """

    def __init__(self, experiment: Storage, attempt: int, on_loss: Callable[[], None]) -> None:
        self.attempt = attempt
        self.token = secrets.token_hex(8)
        self._experiment = experiment
        self._on_loss = on_loss
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="lease", daemon=True)

    @classmethod
    def acquire(
        cls,
        experiment: Storage,
        on_loss: Callable[[], None] = lambda: None,
        *,
        take_over: bool = False,
        notify: Callable[[str], None] = lambda text: None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> "Lease":
        """Takes the lease.

        Args:
            on_loss: called in the heartbeat's thread when another start has taken over.
            take_over: takes it from a command that holds it; that one notices and ends.
            notify: told what is waited for.
            is_stopped: asked while waiting; True to give up.

        Raises:
            Stopped: it gave up.
            StorageError: another command holds it; the text names its process and machine.
        """
        experiment.make_folder(RAY_FOLDER)
        silent = None if take_over else find_silent(experiment, notify, is_stopped)
        with experiment.locked():
            lease = cls._take(experiment, on_loss, silent, take_over=take_over)
        experiment.make_folder(lease.ray_folder)
        lease._thread.start()
        return lease

    @classmethod
    def _take(
        cls, experiment: Storage, on_loss: Callable[[], None], silent: dict[str, Any] | None, *, take_over: bool
    ) -> "Lease":
        starts = [name.removeprefix(START_PREFIX) for name in experiment.names(RAY_FOLDER)]
        previous = read_lease(experiment) or {}
        if previous and is_here(previous) and not is_alive(previous, None):
            end_marked(str(previous["token"]))
        numbers = [int(start) for start in starts if start.isdigit()] + [int(previous.get("attempt", 0))]
        lease = cls(experiment, max(numbers) + 1, on_loss)
        if take_over:
            experiment.remove(LOCK)
        else:
            remove_if_over(experiment, silent)
        if not experiment.create(LOCK, lease._content()):
            raise StorageError(describe_holder(experiment))
        return lease

    @property
    def ray_folder(self) -> str:
        """The fresh folder for Ray's own files of this start."""
        return f"{RAY_FOLDER}/{START_PREFIX}{self.attempt:04d}"

    def check_current(self) -> None:
        """Raises Superseded where another start has taken over."""
        check_current(self._experiment, self.token)

    def release(self) -> None:
        """Gives the lease back."""
        self._released.set()
        self._thread.join()
        lease = read_lease(self._experiment)
        if lease is not None and lease["token"] == self.token:
            self._experiment.remove(LOCK)

    def _content(self) -> bytes:
        lease = {
            "attempt": self.attempt,
            "token": self.token,
            "pid": os.getpid(),
            "process_start": process_start(os.getpid()),
            "host": socket.gethostname(),
            "processes": process_space(),
            "heartbeat": time.time(),
        }
        return json.dumps(lease).encode()

    def _keep_alive(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            try:
                with self._experiment.locked():
                    check_current(self._experiment, self.token)
                    self._experiment.write(LOCK, self._content())
            except Superseded:
                self._on_loss()
                return
            except OSError:
                continue  # a full disk or a slow mount: the next beat may go through


def remove_if_over(experiment: Storage, silent: dict[str, Any] | None) -> None:
    """Removes a lock whose holder is dead; of two that try at once, one succeeds."""
    lease = read_lease(experiment)
    if not experiment.exists(LOCK) or (lease is not None and is_alive(lease, silent)):
        return
    aside = f".tmp-over-{secrets.token_hex(4)}"
    try:
        experiment.rename(LOCK, aside)
    except FileNotFoundError:
        return
    moved = read_lease(experiment, aside)
    if moved is not None and is_alive(moved, silent):
        experiment.create(LOCK, experiment.read(aside))  # a newer lock came between: put it back
    experiment.remove(aside)


def find_silent(
    experiment: Storage, notify: Callable[[str], None], is_stopped: Callable[[], bool]
) -> dict[str, Any] | None:
    """The lease of a holder on another machine, if its heart did not beat for as long as a lease lasts.

    How long ago the last beat was is taken from the clocks of two machines, which may differ: a beat and a
    half is waited for at least, by this machine's clock alone.
    """
    first = read_lease(experiment)
    if first is None or is_here(first):
        return None
    age_s = time.time() - float(first.get("heartbeat", 0))
    wait_s = max(LEASE_S - max(age_s, 0.0), 1.5 * HEARTBEAT_S)
    notify(
        f"process {first.get('pid')} on {first.get('host')} has held this experiment: waiting {wait_s:.0f} s "
        "to see whether it is alive"
    )
    give_up_at = time.monotonic() + wait_s
    while read_lease(experiment) == first:
        if is_stopped():
            raise Stopped
        if time.monotonic() > give_up_at:
            return first
        time.sleep(HEARTBEAT_S / 10)
    return None


def process_space() -> str:
    """What a process number is unique in: this boot of this machine, and this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - the link leads nowhere
    except OSError:
        return ""


def is_here(lease: dict[str, Any]) -> bool:
    """True where the lease's process can be looked up."""
    return lease.get("host") == socket.gethostname() and lease.get("processes") == process_space()


def is_alive(lease: dict[str, Any], silent: dict[str, Any] | None) -> bool:
    """True while the lease's holder must be taken to be at work.

    Args:
        silent: a lease that was watched, and stayed as it was for too long.
    """
    if not is_here(lease):
        return lease != silent
    start = process_start(int(lease.get("pid", 0)))
    return start is not None and start == lease.get("process_start")


def process_start(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's ticks; None where it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self").exists() else process_exists(pid)
    return None if fields[0] in "ZX" else fields[19]


def process_exists(pid: int) -> str | None:
    """What stands for a start time on systems that have no /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"


def describe_holder(experiment: Storage) -> str:
    """Why the experiment can't be started now."""
    lease = read_lease(experiment) or {}
    age = time.time() - float(lease.get("heartbeat", 0))
    return (
        f"{experiment.root}: another command is running this experiment (process {lease.get('pid')} on "
        f"{lease.get('host')}, last heard of {age:.0f} s ago). Wait for it, stop it, take its place with --take-over, "
        "or use another name or --storage."
    )
