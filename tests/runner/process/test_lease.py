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
from runner.storage.requests import RETRY_VARIABLE
from runner.storage.storage import Storage, Unreachable
from tests.support.object_proxy import FaultProxy, on


@pytest.fixture
def experiment(storage: Storage) -> Storage:
    """A folder, and a prefix of a bucket."""
    return storage


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
    for lease in (first, second):
        lease.release()


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
    first = Lease.acquire(experiment)
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
    first.release()


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, waited_s: float
) -> None:
    """However the other machine's clock stands: a beat or a whole lease is waited for by this one's."""
    experiment = Storage.open(tmp_path)
    lock_of_another_machine(experiment, age_s)
    now = [0.0]
    monkeypatch.setattr(runner.process.lease, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(runner.process.lease.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(runner.process.lease.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    lease = Lease.acquire(experiment)
    assert now[0] == pytest.approx(waited_s, abs=0.05)
    monkeypatch.undo()
    lease.release()


@pytest.mark.parametrize("age_s", [-1000, 1000])
def test_of_a_holder_in_a_bucket_the_changes_of_its_lock_alone_count(
    bucket_storage: Storage, monkeypatch: pytest.MonkeyPatch, age_s: float
) -> None:
    """An answer may be late: a whole lease is waited for, whatever the heartbeat's time."""
    lease = lock_of_another_machine(bucket_storage, age_s)
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if is_beating and now[0] > 10:
            bucket_storage.write("lock", json.dumps({**lease, "count": now[0]}).encode())

    monkeypatch.setattr(runner.process.lease.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(runner.process.lease.time, "sleep", sleep)
    is_beating = True
    with pytest.raises(StorageError, match="on elsewhere"):
        Lease.acquire(bucket_storage)
    assert now[0] < 11
    is_beating, now[0] = False, 0.0
    taken = Lease.acquire(bucket_storage)
    assert now[0] == pytest.approx(runner.process.lease.LEASE_S, abs=0.6)
    monkeypatch.undo()
    taken.release()


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


def acquire_at_once(experiment: Storage, number: int, **options: Any) -> tuple[list[Lease], list[StorageError]]:
    """What becomes of so many commands that begin at once."""
    ready = threading.Barrier(number)
    leases: list[Lease] = []
    refused: list[StorageError] = []

    def acquire() -> None:
        ready.wait(10)
        try:
            leases.append(Lease.acquire(experiment, **options))
        except StorageError as error:
            refused.append(error)

    threads = [threading.Thread(target=acquire) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return leases, refused


@pytest.mark.parametrize("is_torn", [False, True])
def test_of_commands_that_begin_at_once_one_runs(experiment: Storage, is_torn: bool) -> None:
    if is_torn:
        experiment.write("lock", b'{"tok')
    (lease,), refused = acquire_at_once(experiment, 5)
    assert len(refused) == 4
    assert all(f"process {os.getpid()} on " in str(error) for error in refused)
    lease.check_current()
    lease.release()
    assert experiment.names() == [".ray"]


def test_of_commands_that_take_over_at_once_one_runs_and_the_others_notice(
    experiment: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.process.lease, "HEARTBEAT_S", 0.3)
    losses = threading.Semaphore(0)
    first = Lease.acquire(experiment, losses.release)
    leases, refused = acquire_at_once(experiment, 3, on_loss=losses.release, take_over=True)
    assert refused == []
    for _ in range(3):
        assert losses.acquire(timeout=30)
    holder = read_lease(experiment)
    assert holder is not None
    (owner,) = [lease for lease in leases if lease.token == holder["token"]]
    owner.check_current()
    assert owner.attempt == max(lease.attempt for lease in leases)
    for lease in (first, *leases):
        lease.release()
    assert experiment.names() == [".ray"]


def test_numbers_of_starts_go_up_though_each_lease_was_given_back(experiment: Storage) -> None:
    for attempt in (1, 2, 3):
        lease = Lease.acquire(experiment)
        assert lease.attempt == attempt
        lease.release()


def test_why_a_start_was_about_to_stop_is_known_to_the_next(experiment: Storage) -> None:
    first = Lease.acquire(experiment)
    first.announce_stop("SIGTERM")
    put_lock(experiment, process_start=0)  # as after a kill
    second = Lease.acquire(experiment)
    assert second.left_stopping == "SIGTERM"
    with pytest.raises(Superseded):
        first.announce_stop("again")
    for lease in (first, second):
        lease.release()


def beats(experiment: Storage, lease: Lease, number: int) -> None:
    """Waits for so many heartbeats."""
    give_up_at = time.monotonic() + 30
    seen: set[int] = set()
    while len(seen) <= number:
        assert time.monotonic() < give_up_at, f"{len(seen)} heartbeats came"
        found = read_lease(experiment)
        assert found is not None
        assert found["token"] == lease.token
        seen.add(found["count"])


def test_a_heart_beats(experiment: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.process.lease, "HEARTBEAT_S", 0.01)
    lease = Lease.acquire(experiment)
    beats(experiment, lease, 5)
    lease.release()


@pytest.mark.parametrize("times", [1, 4])
def test_a_lease_whose_answer_was_lost_has_been_taken(
    troubled: Storage, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "60")
    fault_proxy.lose_answer(on("put", "*/lock"), times)
    lease = Lease.acquire(troubled)
    lease.check_current()
    with pytest.raises(StorageError, match="another command is running this experiment"):
        Lease.acquire(troubled)
    lease.release()
    assert troubled.names() == [".ray"]


@pytest.mark.parametrize("times", [1, 4])
def test_a_heartbeat_whose_answer_was_lost_loses_no_lease(
    troubled: Storage, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "60")
    monkeypatch.setattr(runner.process.lease, "HEARTBEAT_S", 0.01)
    lost = threading.Event()
    lease = Lease.acquire(troubled, lost.set)
    rule = fault_proxy.lose_answer(on("put", "*/lock"), times)
    rule.wait(times)
    beats(troubled, lease, 3)
    assert not lost.is_set()
    lease.release()
    assert troubled.names() == [".ray"]


def test_a_store_that_is_away_for_a_while_loses_no_lease(
    troubled: Storage, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "0")
    monkeypatch.setattr(runner.process.lease, "HEARTBEAT_S", 0.01)
    lost = threading.Event()
    lease = Lease.acquire(troubled, lost.set)
    with fault_proxy.status("ServiceUnavailable") as away:
        away.wait(10)
        with pytest.raises(Unreachable):  # there may be a lock
            read_lease(troubled)
    beats(troubled, lease, 2)
    assert not lost.is_set()
    lease.release()


def test_a_heartbeat_that_comes_late_takes_nothing_back(
    troubled: Storage, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.process.lease, "HEARTBEAT_S", 0.01)
    lost = threading.Event()
    first = Lease.acquire(troubled, lost.set)
    with fault_proxy.hold(on("put", "*/lock"), times=1) as on_its_way:
        on_its_way.wait()
        monkeypatch.setattr(runner.process.lease, "HEARTBEAT_S", 60.0)
        second = Lease.acquire(troubled, take_over=True)
    assert lost.wait(30)
    second.check_current()
    second.release()
    first.release()
    assert troubled.names() == [".ray"]
