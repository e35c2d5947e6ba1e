"""SIGKILL at any moment, any number of times: the end is that of a run that nothing happened to."""

import random
import shutil
import signal
from pathlib import Path

import pytest

from runner.records.starts import read_starts
from runner.storage.storage import Storage
from tests.support.commands import assert_same_end, files_of_store, read_metrics
from tests.support.kill_points import SAVE_ALWAYS, KillPoint, random_kill_point, tiny_trial, train_tiny

pytestmark = pytest.mark.slow

MAX_KILLS = 8
STORAGE = "runner.storage.folder.Folder"
# Where a run may die, and at which call at the latest; what writes bytes may die half-way, too.
PLACES = {
    "gan.training.loop._take_step": 9,
    "gan.training.snapshot.Snapshot.take": 6,
    "runner.trial.recorder.summarise": 12,
    "runner.trial.recorder.write_interim": 3,
    "runner.records.checkpoints.write_tensors": 12,
    "runner.trial.async_checkpointer.write_checkpoint": 6,
    "runner.trial.loop.write_weights": 1,
    "runner.trial.recorder.comparison_png": 3,
    f"{STORAGE}.write": 20,
    f"{STORAGE}.append": 20,
    f"{STORAGE}.rename": 6,
    f"{STORAGE}.remove": 12,
}
HALF_WAY = (f"{STORAGE}.write", f"{STORAGE}.append")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each seed of `--kill-seeds` draws another series of kills."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(metafunc.config.getoption("kill_seeds")))


def test_killed_at_random_places_and_started_again_it_ends_with_the_same_bits(
    tmp_path: Path, undisturbed: Path, seed: int
) -> None:
    draw = random.Random(seed)
    shutil.copytree(undisturbed / "results" / "patches", tmp_path / "results" / "patches")
    history = []
    for _ in range(MAX_KILLS):
        kill_point = random_kill_point(draw, PLACES, HALF_WAY)
        cadence = draw.choice([None, SAVE_ALWAYS])
        every = draw.choice([1, 2, 5])
        ended = train_tiny(
            tmp_path, changes={"checkpoint": {"every_n_epochs": every}}, kill_points=[kill_point], settings=cadence
        )
        history.append((kill_point, ended.code))
        if ended.code != -signal.SIGKILL:
            break
    else:
        ended = train_tiny(tmp_path)
    assert ended.code == 0, (history, ended.output)
    assert_same_end(tiny_trial(tmp_path), tiny_trial(undisturbed))
    for start in read_starts(Storage.open(tiny_trial(tmp_path))):
        assert 0 <= start["from_step"] <= 18


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "function",
    [
        f"{STORAGE}.make_folder",
        "runner.data.shards._cut_picture",
        "runner.data.shards.patch_batch",
        f"{STORAGE}.rename",
    ],
)
def test_killed_while_patches_are_prepared_it_prepares_them_again(
    tmp_path: Path, undisturbed: Path, function: str, when: str
) -> None:
    ended = train_tiny(tmp_path, kill_points=[KillPoint(function, 3 if function != f"{STORAGE}.rename" else 1, when)])
    assert ended.code == -signal.SIGKILL, ended.output
    ended = train_tiny(tmp_path)
    assert ended.code == 0, ended.output
    assert_same_end(tiny_trial(tmp_path), tiny_trial(undisturbed))
    stores = [files_of_store(place / "results") for place in (tmp_path, undisturbed)]
    assert stores[0] == stores[1]


# Four metrics of the sample in each of two modes.
@pytest.mark.parametrize(("epoch", "num_before"), [(1, 0), (6, 5 * 8)])
def test_stopped_in_the_middle_of_an_evaluation_it_evaluates_again(
    tmp_path: Path, undisturbed: Path, epoch: int, num_before: int
) -> None:
    shutil.copytree(undisturbed / "results" / "patches", tmp_path / "results" / "patches")
    ended = train_tiny(tmp_path, kill_points=[KillPoint("runner.trial.recorder.summarise", num_before + 3, "stop")])
    assert ended.code == 75, ended.output
    assert read_metrics(tiny_trial(tmp_path))[-1]["step"] == 3 * epoch - 1
    assert max((tiny_trial(tmp_path) / "checkpoints").iterdir()).name == f"step_{3 * epoch:08d}"
    ended = train_tiny(tmp_path)
    assert ended.code == 0, ended.output
    assert_same_end(tiny_trial(tmp_path), tiny_trial(undisturbed))
