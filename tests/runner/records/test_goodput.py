"""Goodput: seconds of steps that count over seconds that a trial's workers were held, after kills, too."""

import itertools
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runner.process.lease import Lease
from runner.records.goodput import Hold, goodput, newest_hold, record_hold, total_goodput
from runner.records.results import read_trial_row
from runner.records.starts import WORKER_LOST, read_starts, record_start
from runner.report.reading import read_results
from runner.storage.storage import Storage
from runner.trial import hold
from tests.support.commands import TINY, assert_same_end, read_metrics
from tests.support.kill_points import SAVE_ALWAYS, KillPoint, tiny_trial, train_tiny
from tests.support.report_pages import page_of
from tests.support.trial_jobs import job_of


def write_log(trial: Storage, *seconds: float) -> None:
    rows = [
        {"step": step, "epoch": 1, "seconds": value, "images_per_second": 1.0} for step, value in enumerate(seconds, 1)
    ]
    trial.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())


def row_of(trial: Storage) -> dict[str, Any]:
    return read_trial_row(trial, "trial", {}, "running")


def test_a_trial_that_was_killed_once_has_the_goodput_of_its_known_times(tmp_path: Path) -> None:
    trial = Storage.open(tmp_path)
    assert (row_of(trial)["held_seconds"], row_of(trial)["goodput"]) == (None, None)

    # Places were given 4 s before the worker was ready; it said 40 s later that it was there.
    record_start(trial, 1, "a", 0, 0, hold=Hold(4.0, 0.0))
    assert (row_of(trial)["held_seconds"], row_of(trial)["goodput"]) == (4.0, 0.0)
    write_log(trial, 10.0, 20.0, 30.0)
    record_hold(trial, Hold(44.0, 30.0))
    assert row_of(trial)["goodput"] == goodput(30.0, 44.0) == 0.6818

    # It logged one more row, and was killed: that it lived for these 6 s is known from the log.
    write_log(trial, 10.0, 20.0, 30.0, 36.0)
    assert (row_of(trial)["held_seconds"], row_of(trial)["goodput"]) == (50.0, 0.72)

    # The next worker goes on from the checkpoint at 20 s; it was ready after 5 s.
    record_start(trial, 1, "b", 2, 2, WORKER_LOST, Hold(55.0, 20.0))
    write_log(trial, 10.0, 20.0)
    assert (row_of(trial)["held_seconds"], row_of(trial)["goodput"]) == (55.0, goodput(20.0, 55.0))
    write_log(trial, 10.0, 20.0, 32.0, 40.0)
    record_hold(trial, Hold(80.0, 40.0))
    assert (row_of(trial)["held_seconds"], row_of(trial)["goodput"]) == (80.0, 0.5)


def test_all_trials_together_have_the_sum_over_the_sum_and_what_is_not_known_is_left_out() -> None:
    rows = [
        {"seconds": 90.0, "held_seconds": 100.0},
        {"seconds": 0.0, "held_seconds": 100.0},
        {"seconds": 70.0, "held_seconds": None},
        {"seconds": 70.0},
    ]
    assert total_goodput(rows) == 0.45
    assert total_goodput(rows[2:]) is None


@pytest.mark.parametrize("end", [b"", b'{"held_s": 90', b"\x00\xff\n", b'{"held_s": "x", "trained_s": 1}\n[1]\n'])
def test_a_row_that_was_broken_off_or_is_none_is_not_counted(tmp_path: Path, end: bytes) -> None:
    trial = Storage.open(tmp_path)
    record_start(trial, 1, "a", 0, 0, hold=Hold(4.0, 0.0))
    for second in range(200):  # far more than are read
        record_hold(trial, Hold(4.0 + second, float(second)))
    trial.append("held.jsonl", end)
    assert newest_hold(trial, read_starts(trial)) == Hold(203.0, 199.0)


def test_of_a_start_that_did_not_record_it_on_nothing_is_known(tmp_path: Path) -> None:
    trial = Storage.open(tmp_path)
    record_start(trial, 1, "a", 0, 0, hold=Hold(4.0, 0.0))
    record_hold(trial, Hold(9.0, 1.0))
    record_start(trial, 2, "b", 5, 0)  # as a release that knew nothing of it
    assert newest_hold(trial, read_starts(trial)) is None


def test_a_worker_says_at_growing_intervals_and_at_the_end_that_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "_POLL_S", 0.0)
    experiment = Storage.open(tmp_path)
    lease = Lease.acquire(experiment)
    job = job_of(experiment, lease)
    times, is_read = iter([0.0, 1.0, 4.9, 5.0, 9.0, 10.0, 1000.0, 1009.0, 1010.0]), threading.Event()

    def now() -> Hold:
        second = next(times, None)
        if second is None:
            is_read.set()
            return Hold(1011.0, 3.0)
        return Hold(second, 0.0)

    with hold.recorded_hold(job, now):
        assert is_read.wait(60)
    rows = [json.loads(line) for line in job.trial.read("held.jsonl").splitlines()]
    assert [row["held_s"] for row in rows] == [0.0, 5.0, 10.0, 1000.0, 1010.0, 1011.0]
    assert rows[-1]["trained_s"] == 3.0
    lease.release()


def test_a_worker_that_another_one_has_taken_over_from_says_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold, "_POLL_S", 0.0)
    experiment = Storage.open(tmp_path)
    lease = Lease.acquire(experiment)
    job = job_of(experiment, lease, "first")
    record_start(job.trial, 1, "first", 0, 0)
    seconds = itertools.count(0.0, 100.0)
    with hold.recorded_hold(job, lambda: Hold(next(seconds), 0.0)):
        deadline = time.monotonic() + 60
        while not job.trial.exists("held.jsonl"):
            assert time.monotonic() < deadline
        with job.committing():
            record_start(job.trial, 1, "second", 0, 0)
            size = job.trial.size("held.jsonl")
    assert job.trial.size("held.jsonl") == size
    lease.release()


def read_row(folder: Path) -> dict[str, Any]:
    """The row of results, as it is read from the folder alone."""
    _, (result,) = read_results(str(folder / "results" / "tiny"))
    return dict(result.row)


@pytest.mark.slow
def test_a_run_that_was_killed_has_less_goodput_than_one_that_was_not(tmp_path: Path, undisturbed: Path) -> None:
    began, trained_s = time.monotonic(), []
    for _ in range(3):
        # There is no checkpoint: all that was done is done again.
        ended = train_tiny(
            tmp_path,
            changes={"checkpoint": {"every_n_epochs": 6}},
            settings={"runner.trial.async_checkpointer.MIN_INTERVAL_S": 1e9},  # however slow this machine is
            kill_points=[KillPoint("gan.training.loop._take_step", 17)],
        )
        assert ended.code == -signal.SIGKILL, ended.output
        killed = read_row(tmp_path)
        assert 0 < killed["goodput"] <= 1
        trained_s.append(killed["seconds"])

    ended = train_tiny(tmp_path)
    took_s = time.monotonic() - began
    assert ended.code == 0, ended.output
    assert_same_end(tiny_trial(tmp_path), tiny_trial(undisturbed))

    row, expected = read_row(tmp_path), read_row(undisturbed)
    assert 0 < row["goodput"] < expected["goodput"] <= 1
    assert row["goodput"] == round(row["seconds"] / row["held_seconds"], 4)
    (written,) = json.loads((tmp_path / "results" / "tiny" / "results.json").read_text())
    assert (written["held_seconds"], written["goodput"]) == (row["held_seconds"], row["goodput"])

    page, shown = page_of(tmp_path / "results" / "tiny"), f"{100 * row['goodput']:.0f} %"
    assert f'data-sort="{row["goodput"]}">{shown}</td>' in page
    assert f"steps done again: {shown} over all trials" in page

    # All four workers were held while they trained, and no longer than the commands took.
    assert sum(trained_s) + row["seconds"] <= row["held_seconds"] <= took_s
    holds = [start["held_s"] for start in read_starts(Storage.open(tiny_trial(tmp_path)))]
    assert holds == sorted(holds)
    assert len(holds) == 4


@pytest.mark.slow
def test_time_between_the_last_row_and_a_checkpoint_is_not_lost(tmp_path: Path) -> None:
    # Thirty steps an epoch, of which only the last one is logged, and long before it a checkpoint.
    changes = {
        "data": {**TINY["data"], "synthetic": {"train": 120, "val": 2, "seed": 3}},
        "training": {**TINY["training"], "epochs": 1},
        "log_every_n_steps": 100,
    }
    ended = train_tiny(
        tmp_path,
        changes=changes,
        settings=SAVE_ALWAYS,
        kill_points=[KillPoint("runner.trial.async_checkpointer.write_checkpoint", 1, "after")],
    )
    assert ended.code == -signal.SIGKILL, ended.output
    trial = tiny_trial(tmp_path)
    assert read_metrics(trial) == []
    newest = max((trial / "checkpoints").glob("step_*/manifest.json"))
    saved_s = json.loads(newest.read_text())["seconds"]
    assert saved_s > 0

    ended = train_tiny(tmp_path, changes=changes)
    assert ended.code == 0, ended.output
    assert read_metrics(trial)[0]["seconds"] > saved_s
    row = read_row(tmp_path)
    assert row["goodput"] <= 1
    assert row["held_seconds"] > row["seconds"]
