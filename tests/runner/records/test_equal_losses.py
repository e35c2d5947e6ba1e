from pathlib import Path

import runner.report.__main__
from runner.api import load_results
from runner.records.equal_losses import describe_equal_losses
from runner.storage.run_folder import METRICS_LOG, REPORT
from tests.support.experiment_folder import write_experiment_folder


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
