import tempfile
from pathlib import Path

import pytest

from runner.on_ray.cluster import MAX_TEMPORARY_PATH, SHORT_TEMPORARY_PATH, temporary_folder
from runner.on_ray.driver import is_memory_monitor, record_external_end
from runner.on_ray.private import causes
from runner.process.lease import Lease
from runner.records.trial_file import read_outcome, write_outcome
from runner.storage.folder import Storage
from tests.support.trial_jobs import job_of


@pytest.mark.parametrize("length", [MAX_TEMPORARY_PATH, MAX_TEMPORARY_PATH + 1])
def test_rays_sockets_fit_however_long_the_path_of_temporary_files(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    place = "/tmp/" + "x" * (length - 5)
    monkeypatch.setattr(tempfile, "tempdir", place)
    folder = temporary_folder() or f"{place}/ray"
    assert folder.startswith(SHORT_TEMPORARY_PATH) == (length > MAX_TEMPORARY_PATH)
    socket = Path(folder) / "session_2026-11-23_09-00-00_123456_1234567" / "sockets" / "plasma_store"
    assert len(str(socket)) <= 107


class GroupError(Exception):
    """As Ray Train's: the workers' own errors by rank."""

    def __init__(self, failure: Exception) -> None:
        super().__init__("the workers failed")
        self.worker_failures = {0: failure}


class HealthCheckError(Exception):
    """As Ray Train's for a worker that is gone."""

    def __init__(self, failure: Exception) -> None:
        super().__init__("a worker is gone")
        self.health_check_failure = failure


def test_the_first_cause_of_nested_errors_is_found() -> None:
    broken = ValueError("broken")
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = broken
    *_, first = causes(GroupError(wrapped))
    assert list(causes(GroupError(wrapped)))[1:] == [wrapped, broken]
    assert first is broken


def test_a_worker_that_ray_ended_for_lack_of_memory_is_known_from_one_that_was_killed() -> None:
    monitor = RuntimeError("6 worker(s) were killed due to the node running low on memory. Memory on the node was ...")
    killed = RuntimeError("(1) The process is killed by SIGKILL by OOM killer due to high memory usage.")
    for error, expected in ((monitor, True), (killed, False)):
        nested = GroupError(HealthCheckError(error))
        assert any(is_memory_monitor(cause) for cause in causes(nested)) == expected


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("6 worker(s) were killed due to the node running low on memory."), "out_of_memory"),
        (GroupError(ValueError("broken")), "failed"),
    ],
)
def test_a_trial_that_ray_has_ended_says_why(tmp_path: Path, error: Exception, status: str) -> None:
    experiment = Storage.open(tmp_path)
    lease = Lease.acquire(experiment)
    job = job_of(experiment, lease)
    write_outcome(job.trial, "running")
    record_external_end(job, error, coordinator=None)
    assert read_outcome(job.trial)["status"] == status
    assert str(error) in job.trial.read_text("log.txt")
    lease.release()
