import platform
from pathlib import Path

import pytest

from runner.on_ray.connection.cluster import _explain
from runner.on_ray.driver import is_memory_monitor, record_external_end
from runner.on_ray.private import causes
from runner.process.lease import Lease
from runner.records.trial_file import read_outcome, write_outcome
from runner.storage.storage import Storage
from tests.support.trial_jobs import job_of


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


def test_a_cluster_of_another_ray_or_python_is_named_in_one_line() -> None:
    import ray
    from ray._private.utils import check_version_info

    there = {"ray_version": "2.50.1", "python_version": "3.12.4"}
    with pytest.raises(RuntimeError) as error:
        check_version_info(there, "127.0.0.1:6379")
    line = _explain("head:6379", str(error.value))
    assert line == (
        "--address: the cluster at head:6379 has Ray 2.50.1 and Python 3.12.4, this command has Ray "
        f"{ray.__version__} and Python {platform.python_version()}, and both must be the same: run it with what the "
        "cluster has."
    )


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
