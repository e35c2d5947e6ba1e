"""SIGKILL at any moment of a run on a bucket: the end is that of a run on a folder that nothing happened to."""

import random
import signal
from pathlib import Path

import pytest

from tests.support.bucket_runs import BucketRuns
from tests.support.commands import (
    assert_same_end,
    assert_same_pictures,
    files_of_store,
    read_metrics,
    read_starts,
)
from tests.support.kill_points import SAVE_ALWAYS, KillPoint, random_kill_point, tiny_trial

pytestmark = pytest.mark.slow

MAX_KILLS = 8
BUCKET = "runner.storage.bucket.Bucket"
# Where a run may die, and at which call at the latest. No write of a bucket is seen by half.
PLACES = {
    "gan.training.loop._take_step": 9,
    "gan.training.snapshot.Snapshot.take": 6,
    "runner.trial.recorder.summarise": 12,
    "runner.trial.recorder.write_interim": 3,
    "runner.records.checkpoints.write_tensors": 12,
    "runner.trial.async_checkpointer.write_checkpoint": 6,
    "runner.trial.loop.write_weights": 1,
    "runner.trial.recorder.comparison_png": 3,
    "runner.storage.write_behind.WriteBehind._write_pending": 6,
    "runner.storage.cache._fetch": 2,
    "runner.process.lease.Lease._put": 1,
    "runner.process.lease.Lease.release": 1,
    f"{BUCKET}._put": 60,
    f"{BUCKET}._get": 80,
    f"{BUCKET}.write": 20,
    f"{BUCKET}.append": 12,
    f"{BUCKET}.create": 8,
    f"{BUCKET}.replace": 3,
    f"{BUCKET}.remove": 12,
    f"{BUCKET}._objects": 20,
}
ROWS_AT_ONCE = {f"{BUCKET}.row_interval_s": 0.02}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A quarter of `--kill-seeds`, of which each draws another series of kills."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(max(metafunc.config.getoption("kill_seeds") // 4, 1)))


def assert_ended_as(undisturbed: Path, runs: BucketRuns) -> None:
    trial = runs.fetch_trial()
    assert_same_end(trial, tiny_trial(undisturbed))
    assert_same_pictures(trial, tiny_trial(undisturbed))
    stores = [files_of_store(place / "results") for place in (runs.folder, undisturbed)]
    assert stores[0] == stores[1]


def test_killed_at_random_places_and_started_again_it_ends_with_the_bits_of_a_folder(
    bucket_runs: BucketRuns, undisturbed: Path, seed: int
) -> None:
    draw = random.Random(f"bucket {seed}")
    bucket_runs.put(undisturbed / "results" / "patches", "patches")
    history = []
    for _ in range(MAX_KILLS):
        kill_point = random_kill_point(draw, PLACES)
        settings = draw.choice([{}, SAVE_ALWAYS]) | draw.choice([{}, ROWS_AT_ONCE])
        every = draw.choice([1, 2, 5])
        ended = bucket_runs.train(
            changes={"checkpoint": {"every_n_epochs": every}}, kill_points=[kill_point], settings=settings
        )
        history.append((kill_point, ended.code))
        if ended.code != -signal.SIGKILL:
            break
    else:
        ended = bucket_runs.train()
    assert ended.code == 0, (history, ended.output)
    assert_ended_as(undisturbed, bucket_runs)
    for start in read_starts(tiny_trial(bucket_runs.folder)):
        assert 0 <= start["from_step"] <= 18


@pytest.mark.parametrize(
    ("function", "call", "when"),
    [
        ("runner.data.shards._cut_picture", 3, "before"),
        ("runner.data.shards.patch_batch", 13, "after"),
        (f"{BUCKET}.writing", 1, "before"),
        ("runner.data.checksums.SyncBehind.add", 1, "after"),
        ("runner.data.preparation.write_contents", 1, "before"),
        (f"{BUCKET}.create", 2, "before"),  # the first one is the probe's
    ],
)
def test_killed_while_patches_are_prepared_it_prepares_them_again(
    bucket_runs: BucketRuns, undisturbed: Path, function: str, call: int, when: str
) -> None:
    ended = bucket_runs.train(kill_points=[KillPoint(function, call, when)])
    assert ended.code == -signal.SIGKILL, ended.output
    ended = bucket_runs.train()
    assert ended.code == 0, ended.output
    assert_ended_as(undisturbed, bucket_runs)


# Four metrics of the sample in each of two modes.
@pytest.mark.parametrize(("epoch", "num_before"), [(1, 0), (6, 5 * 8)])
def test_stopped_in_the_middle_of_an_evaluation_it_evaluates_again(
    bucket_runs: BucketRuns, undisturbed: Path, epoch: int, num_before: int
) -> None:
    bucket_runs.put(undisturbed / "results" / "patches", "patches")
    ended = bucket_runs.train(kill_points=[KillPoint("runner.trial.recorder.summarise", num_before + 3, "stop")])
    assert ended.code == 75, ended.output
    trial = bucket_runs.fetch_trial()
    assert read_metrics(trial)[-1]["step"] == 3 * epoch - 1
    assert max((trial / "checkpoints").iterdir()).name == f"step_{3 * epoch:08d}"
    ended = bucket_runs.train()
    assert ended.code == 0, ended.output
    assert_ended_as(undisturbed, bucket_runs)
