"""The platform hears of a trial's end some seconds ahead, once, so that the next trial's worker can begin."""

import functools
import json
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from runner.on_ray import worker
from runner.process.lease import Lease
from runner.storage.storage import Storage
from runner.trial import loop
from runner.trial.heartbeat import Coordinator
from runner.trial.loop import NoPlatform, TrialRun
from tests.support.actors import Handle
from tests.support.commands import read_metrics
from tests.support.kill_points import tiny_trial, train_tiny
from tests.support.trial_jobs import job_of


class Notes(NoPlatform):
    """A platform that writes a line for each notice: the steps logged by then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def announce_end(self) -> None:
        with open(self.folder / "notices", "a") as stream:
            stream.write(f"{json.dumps([row['step'] for row in read_metrics(tiny_trial(self.folder))])}\n")


def notices(folder: Path, *options: str) -> list[list[int]]:
    """The notices of a training."""
    settings = {"runner.trial.loop.NoPlatform": functools.partial(Notes, folder)}
    ended = train_tiny(folder, *options, settings=settings)
    assert ended.code == 0, ended.output
    return [json.loads(line) for line in (folder / "notices").read_text().splitlines()]


@pytest.mark.slow
def test_the_end_is_announced_once_before_the_last_evaluation(tmp_path: Path) -> None:
    (logged,) = notices(tmp_path)
    assert 18 not in logged, "the last step's row is written after its evaluation"


@pytest.mark.slow
def test_so_is_one_that_patience_brings(tmp_path: Path) -> None:
    # More steps are left than would take some seconds.
    options = ("--set", "training.epochs=40000", "--set", "training.learning_rate=1e-12")
    (logged,) = notices(tmp_path, *options, "--set", "evaluation.patience=2")
    assert 3 * 3 <= len(logged) < 100


def run_at(step: int, step_s: float, epochs: int = 6, num_patches: int = 12) -> TrialRun:
    """A run that has come to a step of three an epoch."""
    run = TrialRun.__new__(TrialRun)
    run.train_patches = [None] * num_patches  # type: ignore[assignment]
    run.settings = types.SimpleNamespace(epochs=epochs, batch_size=4)  # type: ignore[assignment]
    run.state = types.SimpleNamespace(epoch=1 + step // 3, epoch_step=step % 3)  # type: ignore[assignment]
    run.heartbeat = types.SimpleNamespace(step_s=step_s)  # type: ignore[assignment]
    return run


def test_it_is_near_when_the_steps_left_take_some_seconds() -> None:
    ahead = loop.END_NOTICE_S
    near = [step for step in range(18) if run_at(step, ahead / 4)._is_end_near()]
    assert near == [14, 15, 16, 17]


def test_while_no_step_was_timed_only_the_last_one_is_near() -> None:
    assert [step for step in range(18) if run_at(step, 0.0)._is_end_near()] == [17]


@pytest.mark.parametrize(("pending", "until", "begun"), [(["b"], None, 1), ([], None, 0), ([], 3, 1)])
def test_a_process_is_begun_where_a_trial_waits_or_a_rung_is_to_be_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pending: list[str], until: int | None, begun: int
) -> None:
    storage = Storage.open(tmp_path)
    lease = Lease.acquire(storage)
    job = job_of(storage, lease)
    lease.release()
    object.__setattr__(job, "until", until)

    coordinator = Coordinator()
    coordinator.set_pending(["a", *pending])
    coordinator.begin_hold("a")
    calls: list[Any] = []
    monkeypatch.setattr(worker.ray, "get", lambda value: value)
    monkeypatch.setattr(worker, "prestart_next", lambda: calls.append(1))
    worker.RayTrainPlatform(job, Handle(coordinator)).announce_end()
    for thread in threading.enumerate():
        if thread.name == "prestart":
            thread.join()
    assert len(calls) == begun
