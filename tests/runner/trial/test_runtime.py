"""How many threads a trial computes with: no more than its first node has cores, recorded, and kept from then on."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gan.training.process_group import ProcessGroup
from runner.process.lease import Lease
from runner.storage.folder import Storage
from runner.storage.run_folder import LOG
from runner.trial import runtime
from runner.trial.job import TrialJob
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
