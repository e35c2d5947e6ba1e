"""One command at a time runs an experiment, and workers of an earlier start write nothing more.

The `lock` file is a lease. It names the start of the command, its process and machine, and the time of the last
heartbeat, and is replaced by compare and swap. A lease is over when its process is dead. On another machine, where that
can't be looked up, it is over when no heartbeat came for 30 seconds. Workers compare the lease's token with their own
before they commit anything.
"""

import contextlib
import itertools
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runner.errors import StorageError
from runner.process.processes import end_marked, process_start
from runner.process.stop_request import Stopped
from runner.storage.run_folder import LOCK, RAY_FOLDER
from runner.storage.storage import Changed, Storage, is_unreachable

LEASE_S = 30.0
HEARTBEAT_S = 5.0

_START_PREFIX = "start_"
_STARTED = "started"
_TRIES = 10


class Superseded(Exception):
    """A later start of the command owns the experiment, so this one must not write any more."""


def read_lease(experiment: Storage, name: str = LOCK) -> dict[str, Any] | None:
    """The content of the lock file. None where there is no file, or it is damaged."""
    try:
        return _parsed(experiment.read(name))
    except OSError as error:
        if is_unreachable(error):  # there may be one
            raise
        return None


def _parsed(content: bytes) -> dict[str, Any] | None:
    try:
        lease = json.loads(content)
    except ValueError:
        return None
    return lease if isinstance(lease, dict) and "token" in lease else None


def check_current(experiment: Storage, token: str) -> None:
    """Raises Superseded where the lock names another start than the one with this token."""
    lease = read_lease(experiment)
    if lease is not None:
        _refuse_other(lease, token)


def check_held(experiment: Storage, token: str) -> None:
    """As `check_current`, for those who work for a start that goes on: there must be a lock.

    Whoever removes it by mistake loses nothing: the next heartbeat writes it again, which is waited for.

    Raises:
        Superseded: another start has taken over, or the lock stays away: the start has ended, or this machine sees
            another folder than the command does.
    """
    give_up_at = time.monotonic() + 2 * HEARTBEAT_S
    while (lease := read_lease(experiment)) is None:
        if time.monotonic() > give_up_at:
            raise Superseded(
                f"{experiment.root} has no lock on {socket.gethostname()}: the command has ended, or this machine sees "
                "another folder there"
            )
        time.sleep(HEARTBEAT_S / 10)
    _refuse_other(lease, token)


def _refuse_other(lease: Mapping[str, Any], token: str) -> None:
    if lease["token"] != token:
        raise Superseded(f"attempt {lease.get('attempt')} has taken over")


def is_alive(lease: dict[str, Any], silent: dict[str, Any] | None) -> bool:
    """True while the lease's holder must be assumed to be running.

    Args:
        silent: a lease of another machine that did not change while we waited for a heartbeat.
    """
    if not _is_here(lease):
        return lease != silent
    start = process_start(int(lease.get("pid", 0)))
    return start is not None and start == lease.get("process_start")


class Holder(NamedTuple):
    """Who holds an experiment, as far as its lock tells.

    Attributes:
        since: when that start took the lease, in seconds since 1970 by its clock; 0 where an earlier release wrote it.
        heartbeat: when its last sign of life came, by its clock.
        heartbeat_age_s: how long ago that was, by the clocks of two machines where it is on another one.
        stopping: why it is about to stop; "" while it is not.
        is_alive: whether it seems to run. On another machine that is taken from the heartbeat's age.
    """

    host: str
    pid: int
    since: float
    heartbeat: float
    heartbeat_age_s: float
    stopping: str
    is_alive: bool


def find_holder(experiment: Storage) -> Holder | None:
    """Reads who holds an experiment, without waiting and without a lock; None where nobody does."""
    lease = read_lease(experiment)
    if lease is None:
        return None
    heartbeat = float(lease.get("heartbeat", 0))
    age_s = time.time() - heartbeat
    return Holder(
        host=str(lease.get("host")),
        pid=int(lease.get("pid", 0)),
        since=float(lease.get("since", 0)),
        heartbeat=heartbeat,
        heartbeat_age_s=age_s,
        stopping=str(lease.get("stopping", "")),
        is_alive=is_alive(lease, None) if _is_here(lease) else age_s < LEASE_S,
    )


class Lease:
    """The right to run an experiment. A thread keeps it alive until `release`.

    Attributes:
        attempt: the number of this start, one more than that of any earlier start.
        token: a random text that identifies this start.
        left_stopping: why the start before was about to stop when it ended without giving its lease back; "" where it
            gave it back, or nobody had asked it to stop.
    """

    def __init__(self, experiment: Storage, attempt: int, on_loss: Callable[[], None]) -> None:
        self.attempt = attempt
        self.token = secrets.token_hex(8)
        self._experiment = experiment
        self._on_loss = on_loss
        self._since = time.time()
        self._tag: str | None = None
        self._count = itertools.count()
        self._writing = threading.Lock()
        self._stopping = ""
        self.left_stopping = ""
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
            take_over: take the lease from a command that holds it. That command notices, and ends.
            notify: gets a message before a wait.
            is_stopped: asked during a wait; True gives up.

        Raises:
            Stopped: `is_stopped` gave up.
            StorageError: another command holds the lease. The text names its process and machine.
        """
        experiment.make_folder(RAY_FOLDER)
        silent = None if take_over else _find_silent(experiment, notify, is_stopped)
        lease = cls._take(experiment, on_loss, silent, take_over=take_over)

        # The number stays when the lock is gone: with the folder, or in a bucket with a file in it.
        experiment.make_folder(lease.ray_folder)
        while experiment.is_remote and not experiment.create(f"{lease.ray_folder}/{_STARTED}", lease.token.encode()):
            lease.attempt += 1  # another start has come and gone since the numbers were read
        lease._thread.start()
        return lease

    @classmethod
    def _take(
        cls, experiment: Storage, on_loss: Callable[[], None], silent: dict[str, Any] | None, *, take_over: bool
    ) -> "Lease":
        """Puts a lease of this start in the place of none, or of the one that was looked at: else it has changed."""
        for _ in range(_TRIES if take_over else 1):
            found, tag = _read_tagged(experiment)
            previous = found or {}
            # A command that was killed on this machine may have left workers behind.
            if previous and _is_here(previous) and not is_alive(previous, None):
                end_marked(str(previous["token"]))
            elif previous and is_alive(previous, silent) and not take_over:
                break

            # A lease that was given back has left no lock, but its folder of Ray's files still has its number.
            numbers = [*_starts(experiment), int(previous.get("attempt", 0))]
            lease = cls(experiment, max(numbers, default=0) + 1, on_loss)
            lease.left_stopping = str(previous.get("stopping", ""))

            # A holder that lives changes the tag with each heartbeat: whoever takes over tries again.
            with contextlib.suppress(Changed):
                lease._put(tag)
                return lease
        raise StorageError(_describe_holder(experiment))

    @property
    def ray_folder(self) -> str:
        """The new folder for Ray's files of this start."""
        return f"{RAY_FOLDER}/{_START_PREFIX}{self.attempt:04d}"

    def check_current(self) -> None:
        """Raises Superseded where another start has taken over, or has come and gone."""
        self._refuse_other(read_lease(self._experiment))

    def _refuse_other(self, lease: Mapping[str, Any] | None) -> None:
        """Raises Superseded where a lease is another start's, or there is none and a later start had one."""
        if lease is not None:
            _refuse_other(lease, self.token)
        elif (latest := max(_starts(self._experiment), default=0)) > self.attempt:
            raise Superseded(f"attempt {latest} had taken over, and has ended")

    def announce_stop(self, reason: str) -> None:
        """Notes in the lock that this start is about to stop, in case it is killed before it is done.

        Raises:
            Superseded: another start has taken over.
        """
        self._stopping = reason
        self._write()

    def release(self) -> None:
        """Gives the lease back. Does nothing where another start has it."""
        # The thread first, so that it does not write a new lock after the removal.
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
            "processes": _pid_namespace(),
            "since": self._since,
            "stopping": self._stopping,
            "heartbeat": time.time(),
            "count": next(self._count),  # no two contents are equal: the tags of some storages are digests
        }
        return json.dumps(lease).encode()

    def _put(self, tag: str | None) -> None:
        """Writes the lock in the place of the one with this tag, or of none; raises Changed where there is another."""
        content = self._content()
        if tag is not None:
            self._tag = self._experiment.replace(LOCK, content, tag)
        elif not self._experiment.create(LOCK, content):
            raise Changed(f"there is a {LOCK} by now")
        else:
            self._tag = None  # it is read before the next heartbeat

    def _write(self) -> None:
        with self._writing:
            for _ in range(_TRIES):
                if self._tag is None:
                    # A lock that somebody has removed by mistake is written again.
                    lease, tag = _read_tagged(self._experiment)
                    self._refuse_other(lease)
                    self._tag = tag
                try:
                    self._put(self._tag)
                    return
                except Changed:
                    self._tag = None

    def _keep_alive(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            try:
                self._write()
            except Superseded:
                self._on_loss()
                return
            except OSError:
                continue  # a full disk or a slow network drive: the next heartbeat may succeed


def _starts(experiment: Storage) -> list[int]:
    """The numbers of the starts that have left a folder."""
    starts = [name.removeprefix(_START_PREFIX) for name in experiment.names(RAY_FOLDER)]
    return [int(start) for start in starts if start.isdigit()]


def _read_tagged(experiment: Storage) -> tuple[dict[str, Any] | None, str | None]:
    """The lease in the lock, None where it is damaged, and the lock's tag, None where there is no lock."""
    try:
        content, tag = experiment.read_tagged(LOCK)
    except FileNotFoundError:
        return None, None
    return _parsed(content), tag


def _find_silent(
    experiment: Storage, notify: Callable[[str], None], is_stopped: Callable[[], bool]
) -> dict[str, Any] | None:
    """The lease of a holder on another machine, if no heartbeat came for as long as a lease lasts. Else None.

    The age of the last heartbeat is taken from the clocks of two machines, which may differ. So we wait for one and a
    half heartbeats at least, by the clock of this machine alone.
    """
    first = read_lease(experiment)
    if first is None or _is_here(first):
        return None

    # Where a store may take long to answer, a heartbeat or two may be late.
    age_s = 0.0 if experiment.is_remote else time.time() - float(first.get("heartbeat", 0))
    wait_s = max(LEASE_S - max(age_s, 0.0), 1.5 * HEARTBEAT_S)
    notify(
        f"process {first.get('pid')} on {first.get('host')} has held this experiment: waiting {wait_s:.0f} s "
        "to see whether it is alive"
    )

    # Any change means that the holder is alive, or that another command has taken the lease.
    give_up_at = time.monotonic() + wait_s
    while read_lease(experiment) == first:
        if is_stopped():
            raise Stopped
        if time.monotonic() > give_up_at:
            return first
        time.sleep(HEARTBEAT_S / 10)
    return None


def _is_here(lease: dict[str, Any]) -> bool:
    """True where the lease's process can be looked up: same machine, same boot, same container."""
    return lease.get("host") == socket.gethostname() and lease.get("processes") == _pid_namespace()


def _pid_namespace() -> str:
    """Names the set in which a process number is unique: this boot of the machine, and this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - the link's target is no path
    except OSError:
        return ""


def _describe_holder(experiment: Storage) -> str:
    """The message for a user whose experiment is already running."""
    lease = read_lease(experiment) or {}
    age_s = time.time() - float(lease.get("heartbeat", 0))
    return (
        f"{experiment.root}: another command is running this experiment (process {lease.get('pid')} on "
        f"{lease.get('host')}, last heartbeat {age_s:.0f} s ago). Wait for it, stop it, take over with --take-over, "
        "or use another name or --storage."
    )
