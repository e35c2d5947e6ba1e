import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner.errors import StorageError
from runner.lease import Lease, Superseded, check_current, read_lease
from runner.storage import Storage


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


@pytest.mark.parametrize(("age_s", "alive"), [(10, True), (31, False)])
def test_on_another_machine_only_the_heartbeat_counts(experiment: Storage, age_s: float, alive: bool) -> None:
    Lease.acquire(experiment)
    put_lock(experiment, host="elsewhere", heartbeat=time.time() - age_s)
    if alive:
        with pytest.raises(StorageError, match="on elsewhere"):
            Lease.acquire(experiment)
    else:
        Lease.acquire(experiment).release()


def test_a_torn_lock_is_no_obstacle(experiment: Storage) -> None:
    experiment.write("lock", b'{"tok')
    Lease.acquire(experiment).release()
