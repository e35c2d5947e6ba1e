"""A trial that goes on with another number of workers: the same training but for rounding, and it says so."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import runner.reproduce
from gan.training.losses import LOSS_NAMES
from tests.support.commands import WALL_TIMES, read_metrics, read_starts
from tests.support.kill_points import Run, tiny_trial, train_tiny
from tests.support.worker_group import WorkersWithoutRay

# Six epochs of three steps in fp32: rounding grows to less than this.
TOLERANCE = 2e-3
EPOCHS, HALF = 6, 3


def train(folder: Path, workers: int, epochs: int, *options: str) -> Run:
    """Trains so many epochs with so many workers."""
    return train_tiny(
        folder, "--set", f"resources.workers={workers}", "--set", f"training.epochs={epochs}", *options,
        module="runner.train", settings={"runner.sweep.session.OnRay": WorkersWithoutRay},
    )  # fmt: skip


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in WALL_TIMES}


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_what_so_many_workers_left_is_continued_by_others(
    tmp_path: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str], before: int, after: int
) -> None:
    shutil.copytree(undisturbed / "results" / "patches", tmp_path / "results" / "patches")
    assert train(tmp_path, before, HALF).code == 0
    trial = tiny_trial(tmp_path)
    first = read_metrics(trial)
    change = f"resources.workers was {before}, now it is {after}: what is trained from here on differs by"
    for options in (["--dry-run"], []):
        ended = train(tmp_path, after, EPOCHS, *options)
        assert ended.code == 0, ended.output
        assert f"note: {change}" in " ".join(ended.output.split())

    # Nothing is done again, and what one worker computed has its bits.
    rows, wanted = read_metrics(trial), read_metrics(tiny_trial(undisturbed))
    assert [row["step"] for row in rows] == [row["step"] for row in wanted] == list(range(1, 19))
    assert rows[: len(first) - 1] == first[:-1]
    if before == 1:
        assert list(map(without_times, rows[: len(first) - 1])) == list(map(without_times, wanted[: len(first) - 1]))
    for row, other in zip(rows, wanted, strict=True):
        for name in LOSS_NAMES:
            assert row[name] == pytest.approx(other[name], rel=TOLERANCE, abs=TOLERANCE), (row["step"], name)
    # Several workers really do compute in another order.
    assert any(row[name] != other[name] for row, other in zip(rows, wanted, strict=True) for name in LOSS_NAMES)

    record = yaml.safe_load((trial / "trial.yaml").read_text())
    was = yaml.safe_load((tiny_trial(undisturbed) / "trial.yaml").read_text())
    assert record["config"]["resources"]["workers"] == after
    assert (record["fingerprint"], record["worker_semantics"]) == (was["fingerprint"], was["worker_semantics"])
    assert [start["workers"] for start in read_starts(trial)] == [before, after]
    assert [start["from_step"] for start in read_starts(trial)] == [0, 9]
    assert change in (trial / "log.txt").read_text()

    with open(tmp_path / "results" / "tiny" / "results.csv") as stream:
        (row,) = csv.DictReader(stream)
    shown = {name: row[name] for name in ("status", "epochs", "steps", "restarts", "steps_lost")}
    assert shown == {"status": "finished", "epochs": "6", "steps": "18", "restarts": "0", "steps_lost": "0"}

    # Whichever of the two was the last one, no bits of one worker can be compared.
    assert runner.reproduce.main([str(trial)]) == 2
    assert f"trained with resources.workers {max(before, after)}, but this command" in capsys.readouterr().err


@pytest.mark.slow
def test_with_the_same_number_nothing_is_said(tmp_path: Path, undisturbed: Path) -> None:
    shutil.copytree(undisturbed / "results", tmp_path / "results")
    ended = train(tmp_path, 1, EPOCHS + 1)
    assert ended.code == 0, ended.output
    assert "resources.workers was" not in ended.output + (tiny_trial(tmp_path) / "log.txt").read_text()
