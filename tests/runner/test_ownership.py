"""Of all the workers that a trial ever had, only the newest one of the newest start can change it."""

import threading
from pathlib import Path

import pytest

from runner.on_ray.hang_watchdog import FIRST_STEP_TIMEOUT_S, MIN_TIMEOUT_S, timeout_s
from runner.process.lease import Lease, Superseded
from runner.records.starts import ended_for_lack_of_memory, newest_start, read_starts, record_start
from runner.storage.folder import Folder
from runner.storage.storage import Storage
from tests.support.other_process import as_another_process
from tests.support.trial_jobs import job_of


def test_a_worker_that_another_has_followed_can_write_no_more(storage: Storage) -> None:
    experiment = storage
    lease = Lease.acquire(experiment)
    first, second = job_of(experiment, lease, "first"), job_of(experiment, lease, "second")
    record_start(first.trial, 1, "first", 0, 0)
    with first.committing():
        assert not isinstance(first.trial, Folder) or not first.trial.is_unlocked()
    record_start(second.trial, 1, "second", 0, 0)
    with second.committing():
        pass
    with pytest.raises(Superseded, match="a later worker"), first.committing():
        pytest.fail("it must not come in")
    lease.release()


def test_a_worker_of_an_earlier_start_of_the_command_can_write_no_more(storage: Storage) -> None:
    experiment = storage
    earlier = Lease.acquire(experiment)
    job = job_of(experiment, earlier, "first")
    record_start(job.trial, 1, "first", 0, 0)
    later = Lease.acquire(experiment, take_over=True)
    with pytest.raises(Superseded, match="attempt 2 has taken over"), job.committing():
        pytest.fail("it must not come in")
    earlier.release()
    later.release()


def test_in_a_bucket_a_worker_that_is_followed_in_the_middle_of_its_block_writes_nothing_over_the_new_one(
    bucket_storage: Storage,
) -> None:
    """There is no lock that would keep the new one waiting."""
    lease = Lease.acquire(bucket_storage)
    first, second = (job_of(bucket_storage, lease, token) for token in ("first", "second"))
    record_start(first.trial, 1, "first", 0, 0)
    with first.committing():
        first.trial.write("known", b"the first's")
    with first.committing():
        with as_another_process():
            record_start(second.trial, 1, "second", 0, 0)
            for name in ("known", "unknown", "log"):
                second.trial.write(name, b"the second's")
        writes = [
            lambda: first.trial.write("known", b"late"),
            lambda: first.trial.write("unknown", b"late"),
            lambda: first.trial.append("log", b"late"),
        ]
        for write in writes:
            with pytest.raises(Superseded, match="a later worker"):
                write()
    assert [first.trial.read(name) for name in ("known", "unknown", "log")] == [b"the second's"] * 3
    lease.release()


def test_one_process_at_a_time_is_in_a_locked_folder(tmp_path: Path) -> None:
    folder = Folder.at_path(tmp_path)
    inside, leave, order = threading.Event(), threading.Event(), []

    def hold() -> None:
        with folder.exclusive():
            inside.set()
            leave.wait(10)
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10)
    assert not folder.is_unlocked()
    leave.set()
    with folder.exclusive():
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    assert folder.is_unlocked()


def test_a_torn_row_of_the_starts_hides_no_other(storage: Storage) -> None:
    trial = storage
    record_start(trial, 1, "first", 0, 0)
    record_start(trial, 1, "second", 5, 2)
    whole = trial.read("starts.jsonl")
    trial.write("starts.jsonl", whole[:-10])
    record_start(trial, 2, "third", 7, 0)
    assert [start["token"] for start in read_starts(trial)] == ["first", "third"]
    assert newest_start(trial)["token"] == "third"


def starts(*counts: int, hosts: str = "aaaaaa", attempt: int = 1) -> list[dict[str, object]]:
    return [{"host": host, "attempt": attempt, "oom_kills": count} for host, count in zip(hosts, counts, strict=False)]


@pytest.mark.parametrize(
    ("rows", "deaths"),
    [
        (starts(0), 0),
        (starts(3, 3), 0),
        (starts(0, 1), 1),
        (starts(0, 1, 3), 2),
        (starts(0, 1, 1, 2), 1),
        (starts(0, 1, hosts="ab"), 0),
        (starts(0) + starts(1, attempt=2), 0),
    ],
)
def test_a_death_for_lack_of_memory_is_known_by_the_systems_count(rows: list[dict[str, object]], deaths: int) -> None:
    assert ended_for_lack_of_memory(rows) == deaths


def test_a_worker_hangs_when_it_is_silent_for_far_longer_than_a_step_takes() -> None:
    assert timeout_s("auto", 0.1) == MIN_TIMEOUT_S
    assert timeout_s("auto", 60.0) == 3000
    assert timeout_s("auto", 0.0) == FIRST_STEP_TIMEOUT_S
    assert timeout_s(8.0, 0.1) == 8
    assert timeout_s(8.0, 0.0) == FIRST_STEP_TIMEOUT_S
    assert timeout_s(2000.0, 0.0) == 2000
