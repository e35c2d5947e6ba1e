"""Trials whose losses are equal to the bit are named: in Python, on the page and at the command's end."""

import json
from pathlib import Path

import pytest

import runner.report.__main__
from runner.api import load_results
from runner.comparison.equal_losses import describe_equal_losses
from runner.storage.run_folder import METRICS_LOG, REPORT
from tests.support.commands import read_metrics
from tests.support.experiment_folder import write_experiment_folder
from tests.support.kill_points import train_tiny


def groups_of(folder: Path) -> list[list[str]]:
    return load_results(folder).equal_losses


def copy_log(folder: Path, source: str, to: str) -> None:
    (folder / "trials" / to / METRICS_LOG).write_bytes((folder / "trials" / source / METRICS_LOG).read_bytes())


def test_trials_with_the_losses_of_another_are_named_and_no_others(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path, sweep={"lambda_l1": [1, 10, 100]}, epochs=2)
    assert groups_of(folder) == []
    copy_log(folder, "lambda_l1=1", "lambda_l1=100")
    assert groups_of(folder) == [["lambda_l1=1", "lambda_l1=100"]]
    (line,) = describe_equal_losses(groups_of(folder))
    assert runner.report.__main__.main([str(folder)]) == 0
    assert "suspicious: the losses of lambda_l1=1, lambda_l1=100" in (folder / REPORT).read_text()
    assert line.startswith("suspicious: the losses of lambda_l1=1, lambda_l1=100 are equal to the bit")


def test_trials_that_have_not_ended_are_not_compared(tmp_path: Path) -> None:
    stopped = {"lambda_l1=1": ("stopped", ""), "lambda_l1=10": ("stopped", "")}
    folder = write_experiment_folder(tmp_path, sweep={"lambda_l1": [1, 10]}, epochs=2, outcomes=stopped)
    copy_log(folder, "lambda_l1=1", "lambda_l1=10")
    assert groups_of(folder) == []


@pytest.mark.parametrize(
    "change", [{"epoch_mean/l1_loss": 0.5}, {"fake_d_loss": 0.5}, {"step": 1000}, {"l1_loss": None}]
)
def test_one_number_that_differs_is_an_effect(tmp_path: Path, change: dict[str, float | None]) -> None:
    folder = write_experiment_folder(tmp_path, sweep={"lambda_l1": [1, 10]}, epochs=2)
    copy_log(folder, "lambda_l1=1", "lambda_l1=10")
    rows = read_metrics(folder / "trials" / "lambda_l1=10")
    rows[-1] |= change
    log = folder / "trials" / "lambda_l1=10" / METRICS_LOG
    log.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert groups_of(folder) == []


def test_what_other_trials_measured_and_how_long_they_took_is_no_difference(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path, sweep={"lambda_l1": [1, 10]}, epochs=2)
    rows = read_metrics(folder / "trials" / "lambda_l1=1")
    rows[-1] |= {"seconds": 1e6, "val/ssim": 0.9}
    log = folder / "trials" / "lambda_l1=10" / METRICS_LOG
    log.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert groups_of(folder) == [["lambda_l1=1", "lambda_l1=10"]]


@pytest.mark.parametrize("status", ["halted", "early_stopped"])
def test_trials_that_ended_well_before_their_last_epoch_are_compared(tmp_path: Path, status: str) -> None:
    ended = {"lambda_l1=1": (status, ""), "lambda_l1=10": (status, "")}
    folder = write_experiment_folder(tmp_path, sweep={"lambda_l1": [1, 10]}, epochs=4, outcomes=ended)
    copy_log(folder, "lambda_l1=1", "lambda_l1=10")
    assert groups_of(folder) == [["lambda_l1=1", "lambda_l1=10"]]


def test_of_many_groups_and_many_names_the_first_are_told() -> None:
    groups = [[f"{group}{number}" for number in range(group + 2)] for group in range(7)]
    lines = describe_equal_losses(groups)
    assert len(lines) == 6
    assert "the losses of 20, 21, 22, 23 are equal" in lines[2]
    assert "the losses of 30, 31, 32, 33 and 1 more are equal" in lines[3]
    assert lines[5] == "and 2 more groups of trials with equal losses"


def test_a_swept_field_without_effect_is_told_at_the_commands_end(tmp_path: Path) -> None:
    """There are 12 patches: a batch of 24 is the same as one of 12."""
    changes = {"sweep": {"batch_size": [6, 12, 24]}, "training": {"epochs": 1, "precision": "fp32"}}
    ended = train_tiny(tmp_path, changes=changes, module="tests.support.inline_sweep")
    assert ended.code == 0, ended.output
    printed = " ".join(ended.output.split())
    assert printed.count("suspicious:") == 1
    assert "suspicious: the losses of batch_size=12, batch_size=24 are equal to the bit, so what is swept" in printed
