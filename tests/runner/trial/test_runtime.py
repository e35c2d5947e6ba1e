"""What a trial records at its first start, and how it goes on with it: threads, and how several workers compute."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gan.training.process_group import ProcessGroup
from runner.errors import ResourceError
from runner.process.lease import Lease
from runner.records.trial_file import read_trial_file
from runner.storage.run_folder import LOG
from runner.storage.storage import Storage
from runner.trial import runtime
from runner.trial.job import TrialJob
from runner.trial.runtime import refuse_earlier_workers
from tests.support.trial_jobs import job_of


@contextlib.contextmanager
def job_with_threads(folder: Path, threads: int) -> Iterator[TrialJob]:
    """A trial that was given so many."""
    storage = Storage.open(folder)
    lease = Lease.acquire(storage)
    yield dataclasses.replace(job_of(storage, lease), threads=threads)
    lease.release()


def test_a_trial_starts_no_more_threads_than_its_node_has_cores_and_keeps_those_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads_on(cores: int, job: TrialJob) -> int:
        monkeypatch.setattr(runtime, "num_cores", lambda: cores)
        return runtime.resolve_runtime(job, ProcessGroup(), torch.device("cpu")).threads

    with job_with_threads(tmp_path, 8) as job:
        assert threads_on(4, job) == 4
        assert not job.trial.exists(LOG)
        # It has a machine with more, and then one with less.
        assert threads_on(16, job) == 4
        assert not job.trial.exists(LOG)
        assert threads_on(2, job) == 4
        assert "keeps the 4 threads that it was begun with" in job.trial.read(LOG).decode()


def test_a_trial_of_several_workers_of_an_earlier_release_is_refused_in_words(tmp_path: Path) -> None:
    recorded = {"config": {"resources": {"workers": 2}}, "threads": 1}
    with pytest.raises(ResourceError, match=r"^a: resources\.workers was 2 .* start a new experiment name\.$"):
        refuse_earlier_workers("a", recorded, has_steps=True)
    # Nothing to go on from, one worker, or a record of how several compute.
    refuse_earlier_workers("a", recorded, has_steps=False)
    refuse_earlier_workers("a", recorded | {"config": {"resources": {"workers": 1}}}, has_steps=True)
    with job_with_threads(tmp_path, 1) as job:
        runtime.resolve_runtime(job, ProcessGroup(), torch.device("cpu"))
        ours = read_trial_file(job.trial) or {}
    refuse_earlier_workers("a", ours | {"config": {"resources": {"workers": 2}}}, has_steps=True)
