"""What a checkpoint costs, and how soon the next one comes."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import runner.trial.async_checkpointer
from gan.networks.model import ModelSettings
from gan.training.settings import TrainingSettings
from gan.training.state import TrainState
from runner.process.lease import Lease
from runner.storage.storage import Storage
from runner.trial.async_checkpointer import AsyncCheckpointer, StepTimes
from tests.support.trial_jobs import job_of


def test_steps_beside_a_write_are_told_from_the_others() -> None:
    times = StepTimes()
    assert times.lost_s() == 0.0
    now = 0.0
    for seconds, writing in ((9.0, 0), (1.0, 0), (1.0, 0), (1.0, 1), (2.5, 1), (2.0, 0), (1.0, 0)):
        now += seconds
        times.at_step(now, writing=bool(writing))
    # The write began before the third step of one second, and ended in the one of two.
    assert times.lost_s() == pytest.approx((1.0 + 2.5 + 2.0) - 3 * 1.0)
    assert times.lost_s() == 0.0


class Write:
    """A checkpoint's write that ends when it is told to."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def __call__(self, *_: object) -> dict[str, object]:
        assert self.may_end.wait(60)
        return {"files": {}}


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    write = Write()
    monkeypatch.setattr(runner.trial.async_checkpointer, "write_checkpoint", write)
    yield write
    write.may_end.set()


@pytest.mark.parametrize(
    ("beside_s", "more_s"),
    [(1.0, 0.0), (2.5, 1.0), (40.0, 2.0)],
    ids=["no slower", "slower than the thread's time", "held up by something else"],
)
def test_a_save_costs_what_steps_beside_it_take_longer(
    beside_s: float, more_s: float, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor_s = 2.0
    thread_times = iter([10.0, 10.0 + processor_s])
    monkeypatch.setattr(runner.trial.async_checkpointer.time, "thread_time", lambda: next(thread_times))
    now = 0.0
    settings = TrainingSettings(
        epochs=1, batch_size=1, lambda_l1=100.0, learning_rate=2e-4, seed=0, precision="fp32", log_every_n_steps=1
    )
    state = TrainState(ModelSettings(1, 16, 64), settings, torch.device("cpu"))
    storage = Storage.open(tmp_path)
    lease = Lease.acquire(storage)
    job = job_of(storage, lease)
    checkpointer = AsyncCheckpointer(job, {}, state, lambda: None, shares_cores=True, clock=lambda: now)

    def step(seconds: float) -> None:
        nonlocal now
        now += seconds
        state.step += 1
        checkpointer.is_due(preemption_notice=False)

    for _ in range(5):
        step(1.0)
    checkpointer.save(state, lambda: b"")
    stall_s = checkpointer._stall_s
    step(beside_s)
    assert checkpointer.is_writing()
    write.may_end.set()
    checkpointer.wait()
    lease.release()
    step(beside_s)
    # Steps alone take one second. The thread's own time is the least that counts, twice that the most.
    assert checkpointer.cost_s == pytest.approx(stall_s + processor_s + more_s)
    assert not checkpointer.is_due(preemption_notice=False)
    monkeypatch.setattr(runner.trial.async_checkpointer, "SAVE_SHARE", 1e12)
    monkeypatch.setattr(runner.trial.async_checkpointer, "MIN_INTERVAL_S", -1.0)
    assert checkpointer.is_due(preemption_notice=False)
    checkpointer.close()
