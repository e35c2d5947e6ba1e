"""A run begun in a folder goes on in a bucket, and the other way, copied by a tool that knows nothing of it."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.bucket_runs import BucketRuns
from tests.support.commands import assert_same_end, assert_same_pictures, read_starts
from tests.support.kill_points import KillPoint, tiny_trial, train_tiny

pytestmark = pytest.mark.slow
WRITE_CHECKPOINT = "runner.trial.async_checkpointer.write_checkpoint"


def assert_went_on(trial: Path, undisturbed: Path, starts: int) -> None:
    """The same end, and each start but the first has found what was there."""
    assert_same_end(trial, tiny_trial(undisturbed))
    assert_same_pictures(trial, tiny_trial(undisturbed))
    begun_at = [start["from_step"] for start in read_starts(trial)]
    assert len(begun_at) == starts
    assert begun_at[0] == 0
    assert all(step > 0 for step in begun_at[1:])


def test_a_run_moves_from_a_folder_to_a_bucket_and_back_and_ends_with_the_same_bits(
    bucket_runs: BucketRuns, undisturbed: Path
) -> None:
    folder = bucket_runs.folder
    killed = train_tiny(folder, kill_points=[KillPoint(WRITE_CHECKPOINT, 3)])
    assert killed.code == -signal.SIGKILL, killed.output

    bucket_runs.put(folder / "results")
    killed = bucket_runs.train(kill_points=[KillPoint(WRITE_CHECKPOINT, 3)])
    assert killed.code == -signal.SIGKILL, killed.output

    bucket_runs.fetch()
    ended = train_tiny(folder)
    assert ended.code == 0, ended.output
    assert_went_on(tiny_trial(folder), undisturbed, starts=3)


def test_a_run_moves_from_a_bucket_to_another_and_ends_with_the_same_bits(
    bucket_runs: BucketRuns, undisturbed: Path
) -> None:
    stopped = bucket_runs.train(kill_points=[KillPoint("gan.training.loop._take_step", 11, "stop")])
    assert stopped.code == 75, stopped.output

    elsewhere = bucket_runs.of_another_bucket()
    elsewhere.put(bucket_runs.fetch())
    ended = elsewhere.train()
    assert ended.code == 0, ended.output
    assert_went_on(elsewhere.fetch_trial(), undisturbed, starts=2)


@pytest.mark.parametrize("to", ["a bucket", "a folder"])
def test_a_finished_run_that_was_moved_is_not_run_again(bucket_runs: BucketRuns, undisturbed: Path, to: str) -> None:
    before: dict[Any, Any]
    after: dict[Any, Any]
    if to == "a bucket":
        bucket_runs.put(undisturbed / "results")
        before = dict(bucket_runs.objects())
        ended = bucket_runs.train()
        after = dict(bucket_runs.objects())
    else:
        assert bucket_runs.train().code == 0
        folder = bucket_runs.fetch()
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        ended = train_tiny(bucket_runs.folder)
        after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert ended.code == 0, ended.output
    assert "finished before, not run again: 1 of 1 trials" in ended.output
    assert before
    for place, known in before.items():
        if "trials" in str(place):
            assert after[place] == known, place
