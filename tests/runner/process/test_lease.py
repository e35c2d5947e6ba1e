import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import runner.process.lease
from runner.errors import StorageError
from runner.process.lease import Lease, Superseded, check_current, check_held, read_lease
from runner.process.stop_request import Stopped
from runner.storage.storage import Storage


@pytest.fixture
def experiment(tmp_path: Path) -> Storage:
    return Storage.open(tmp_path)


def put_lock(experiment: Storage, **changes: object) -> None:
    lease = read_lease(experiment)
    assert lease is not None
    experiment.write("lock", json.dumps({**lease, **changes}).encode())


def test_a_second_command_is_refused_with_the_firsts_process_and_machine(experiment: Storage) -> None:
    first = Lease.acquire(experiment)
    with pytest.raises(StorageError, match=f"process {os.getpid()} on "):
        Lease.acquire(experiment)
    first.release()
    second = Lease.acquire(experiment)
    assert (first.attempt, second.attempt) == (1, 2)
    second.release()
    assert experiment.names() == [".ray"]


def test_a_dead_process_is_no_obstacle(experiment: Storage) -> None:
    first = Lease.acquire(experiment)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    put_lock(experiment, pid=dead.pid)
    second = Lease.acquire(experiment)
    assert second.attempt == 2
    with pytest.raises(Superseded):
        check_current(experiment, first.token)
    check_current(experiment, second.token)
    second.release()


def test_a_worker_without_a_lock_does_not_go_on_but_waits_for_a_heartbeat_to_bring_it_back(
    experiment: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.process.lease, "HEARTBEAT_S", 0.05)
    held = Lease.acquire(experiment)
    check_held(experiment, held.token)
    experiment.remove("lock")
    check_held(experiment, held.token)  # the next heartbeat has written it again
    with pytest.raises(Superseded, match="attempt 1 has taken over"):
        check_held(experiment, "another")
    held.release()
    with pytest.raises(Superseded, match=r"has no lock on .*: the command has ended"):
        check_held(experiment, held.token)


def test_a_killed_process_that_nobody_has_waited_for_is_no_obstacle(experiment: Storage) -> None:
    Lease.acquire(experiment)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stat = Path(f"/proc/{process.pid}/stat")
    put_lock(experiment, pid=process.pid, process_start=stat.read_text().rpartition(")")[2].split()[19])
    with pytest.raises(StorageError):
        Lease.acquire(experiment)
    process.kill()
    while stat.read_text().rpartition(")")[2].split()[0] != "Z":
        pass
    Lease.acquire(experiment).release()
    process.communicate()


def lock_of_another_machine(experiment: Storage, age_s: float) -> dict[str, Any]:
    """Leaves the lock of a holder elsewhere, last heard of some seconds ago."""
    first = Lease.acquire(experiment)
    lease = {**(read_lease(experiment) or {}), "host": "elsewhere", "heartbeat": time.time() - age_s}
    first.release()
    experiment.write("lock", json.dumps(lease).encode())
    return lease


def test_a_holder_on_another_machine_whose_heart_beats_is_respected(experiment: Storage) -> None:
    lease = lock_of_another_machine(experiment, age_s=5)

    def heartbeat(text: str) -> None:
        assert "on elsewhere" in text
        experiment.write("lock", json.dumps({**lease, "heartbeat": time.time()}).encode())

    with pytest.raises(StorageError, match="on elsewhere"):
        Lease.acquire(experiment, notify=heartbeat)


@pytest.mark.parametrize(("age_s", "waited_s"), [(-1000, 30), (0, 30), (29.5, 0.5), (31, 0.15), (1000, 0.15)])
def test_a_silent_holder_on_another_machine_is_waited_for_until_its_lease_has_run_out(
    experiment: Storage, monkeypatch: pytest.MonkeyPatch, age_s: float, waited_s: float
) -> None:
    """However the other machine's clock stands: a beat or a whole lease is waited for by this one's."""
    lock_of_another_machine(experiment, age_s)
    now = [0.0]
    monkeypatch.setattr(runner.process.lease, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(runner.process.lease.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(runner.process.lease.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    lease = Lease.acquire(experiment)
    assert now[0] == pytest.approx(waited_s, abs=0.05)
    monkeypatch.undo()
    lease.release()


def test_another_container_on_the_same_host_counts_as_another_machine(experiment: Storage) -> None:
    lease = lock_of_another_machine(experiment, age_s=31)
    here = {**lease, "host": socket.gethostname()}
    experiment.write("lock", json.dumps(here).encode())
    with pytest.raises(StorageError):  # its process is this one, and lives
        Lease.acquire(experiment)
    experiment.write("lock", json.dumps({**here, "processes": "of another boot"}).encode())
    with pytest.raises(Stopped):  # it is waited for
        Lease.acquire(experiment, is_stopped=lambda: True)


def test_waiting_for_another_machine_can_be_given_up(experiment: Storage) -> None:
    lock_of_another_machine(experiment, age_s=5)
    with pytest.raises(Stopped):
        Lease.acquire(experiment, is_stopped=lambda: True)


def test_a_command_whose_place_is_taken_notices_and_writes_no_more(
    experiment: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.process.lease, "HEARTBEAT_S", 0.01)
    lost = threading.Event()
    first = Lease.acquire(experiment, on_loss=lost.set)
    second = Lease.acquire(experiment, take_over=True)
    assert lost.wait(10)
    with pytest.raises(Superseded):
        first.check_current()
    first.release()
    second.check_current()
    lease = read_lease(experiment)
    assert lease is not None
    assert lease["token"] == second.token
    second.release()


def test_a_torn_lock_is_no_obstacle(experiment: Storage) -> None:
    experiment.write("lock", b'{"tok')
    Lease.acquire(experiment).release()
