"""What a worker tells of its progress."""

import pytest

import runner.trial.heartbeat
from runner.trial.heartbeat import NUM_STEP_TIMES, Coordinator, Heartbeat


def test_a_steps_time_is_the_mean_of_the_last_ones_without_the_first_and_without_other_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(runner.trial.heartbeat.time, "monotonic", lambda: now)
    line = Heartbeat("trial", Coordinator())
    assert line._progress() is None
    step = 0

    def steps(*seconds: float) -> float:
        nonlocal now, step
        for each in seconds:
            step, now = step + 1, now + each
            line.at_step(step)
        progress = line._progress()
        assert progress is not None
        assert progress.step == step
        return progress.step_s

    line.at_step(0)
    assert steps(9.0) == 0.0, "the first step loads and captures what later ones use"
    # A host that runs ahead of its GPU is held up where it reads something back.
    assert steps(*[0.0, 0.0, 0.0, 4.0] * 4) == pytest.approx(1.0)
    line.at_work()
    assert steps(60.0, 1.0, 1.0) == pytest.approx(1.0)
    assert steps(*[2.0] * NUM_STEP_TIMES) == pytest.approx(2.0)


def test_a_worker_is_held_since_its_trial_got_its_places_or_since_it_began_where_nobody_gives_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(runner.trial.heartbeat.time, "monotonic", lambda: now)
    coordinator = Coordinator()
    for begin in (lambda: None, lambda: coordinator.begin_hold("trial"), lambda: coordinator.begin_hold("trial")):
        begin()
        now += 7.0  # its process starts
        with Heartbeat("trial", coordinator) as worker:
            now += 2.0
            held_s = worker.held_s
        assert held_s == (2.0 if now == 109.0 else 9.0)
