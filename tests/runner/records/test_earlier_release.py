"""Runs go on under another release: one that was written by an earlier one, and one that a later one has gone on with.

The run in tests/data/run_of_7796db7 has a finished trial, `lambda_l1=10`, and one that was stopped at step 26 of 44.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import runner.evaluate
from runner import load_results
from runner.config.fingerprint import fingerprint_trial
from runner.errors import DataError
from runner.models.trained import open_trained_model
from runner.records.trial_file import record_digest
from tests.support import inline_sweep, next_release
from tests.support.commands import ROOT, read_metrics, read_starts, run
from tests.support.report_pages import page_of

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A copy of the earlier release's run, in a storage folder of its own."""
    folder = tmp_path / "results" / "written_before"
    shutil.copytree(ROOT / "tests" / "data" / "run_of_7796db7", folder)
    return folder


def resume(earlier: Path) -> int:
    """The same sweep with this release."""
    experiment = earlier.parents[1] / "experiment.yaml"
    shutil.copy(earlier / "experiment.yaml", experiment)
    return inline_sweep.main([str(experiment), "--storage", str(earlier.parent)])


def resume_with_next_release(earlier: Path, **changes: Mapping[str, Any]) -> tuple[int, str]:
    """The same sweep with a later release, some fields of its sections set; its exit code and output."""
    content = yaml.safe_load((earlier / "experiment.yaml").read_text())
    for section, values in changes.items():
        content[section] |= values
    experiment = earlier.parents[1] / "experiment.yaml"
    experiment.write_text(yaml.safe_dump(content))
    return run("tests.support.next_release", experiment, "--storage", earlier.parent)


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_resumed(half_done: Path, rows_before: bytes) -> None:
    """The stopped trial has kept its rows to the byte, and gone on from its last step to the end."""
    assert (half_done / "metrics.jsonl").read_bytes().startswith(rows_before)
    assert read_metrics(half_done)[-1]["step"] == 44
    assert [start["from_step"] for start in read_starts(half_done)] == [0, 26]


def test_a_run_of_an_earlier_release_is_read_and_finished(earlier: Path, capsys: Capture) -> None:
    before = load_results(earlier)
    assert {trial.name: trial.status for trial in before} == {"lambda_l1=10": "finished", "lambda_l1=100": "stopped"}
    finished, half_done = earlier / "trials" / "lambda_l1=10", earlier / "trials" / "lambda_l1=100"
    files, rows = files_below(finished), (half_done / "metrics.jsonl").read_bytes()
    recorded_row = json.loads((earlier / "results.json").read_text())[0]

    assert resume(earlier) == 0
    assert "finished before, not run again: 1 of 2 trials" in capsys.readouterr().out
    assert files_below(finished) == files
    assert_resumed(half_done, rows)

    after = load_results(earlier)
    assert after.is_finished
    assert recorded_row.items() <= after["lambda_l1=10"].row.items()
    # What that release did not record is not known of any trial that it began.
    assert [trial.row["goodput"] for trial in after] == [None, None]
    assert [trial.row["cpu_seconds"] for trial in after] == [None, None]
    assert "over all trials" not in page_of(earlier)
    assert runner.evaluate.main([str(finished)]) == 0
    assert "SSIM" in capsys.readouterr().out


def test_a_run_goes_on_under_a_release_with_more_fields_and_back(earlier: Path, capsys: Capture) -> None:
    finished, half_done = earlier / "trials" / "lambda_l1=10", earlier / "trials" / "lambda_l1=100"
    files, rows = files_below(finished), (half_done / "metrics.jsonl").read_bytes()
    code, output = resume_with_next_release(earlier)
    assert code == 0, output
    assert "finished before, not run again: 1 of 2 trials" in output
    assert files_below(finished) == files
    assert_resumed(half_done, rows)

    recorded = yaml.safe_load((half_done / "trial.yaml").read_text())
    assert recorded["config"]["training"]["warmup_steps"] == 0
    assert open_trained_model(half_done).step == 44
    shutil.copy(ROOT / "tests" / "data" / "run_of_7796db7" / "experiment.yaml", earlier / "experiment.yaml")
    assert resume(earlier) == 0
    assert "finished before, not run again: 2 of 2 trials" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("section", "change"),
    [("data", {"colours": "grey"}), ("model", {"norm": "instance"}), ("training", {"warmup_steps": 100})],
)
def test_a_new_field_changes_the_fingerprint_only_with_another_value_than_its_default(
    earlier: Path, section: str, change: dict[str, Any]
) -> None:
    recorded = yaml.safe_load((earlier / "trials" / "lambda_l1=10" / "trial.yaml").read_text())
    config = next_release.Experiment.model_validate(recorded["config"])
    assert fingerprint_trial(config, "").config == recorded["fingerprint"]
    changed = recorded["config"] | {section: recorded["config"][section] | change}
    config = next_release.Experiment.model_validate(changed)
    assert fingerprint_trial(config, "").config != recorded["fingerprint"]


def test_a_new_field_with_another_value_than_its_default_is_refused(earlier: Path) -> None:
    files = files_below(earlier)
    code, output = resume_with_next_release(
        earlier, data={"colours": "grey"}, model={"norm": "instance"}, training={"warmup_steps": 100}
    )
    assert code == 2, output
    assert output == (
        f"error: {earlier}: trial 'lambda_l1=10' was started with other values, which may not change on resume:\n"
        "  data.colours was 'rgb', now it is 'grey'\n"
        "  model.norm was 'batch', now it is 'instance'\n"
        "  training.warmup_steps was 0, now it is 100\n"
        "Put the old values back, or give the experiment a new name.\n"
    )
    assert files_below(earlier) == files


def test_a_trial_that_depends_on_a_field_of_a_newer_release_is_refused(earlier: Path, capsys: Capture) -> None:
    finished = earlier / "trials" / "lambda_l1=10"
    content = yaml.safe_load((finished / "trial.yaml").read_text())
    content["config"]["training"]["warmup_steps"] = 100
    content["fingerprint"] = "of a newer release"
    rewrite(finished, content)

    with pytest.raises(DataError, match=r"does not have \(training\.warmup_steps\): use that release"):
        open_trained_model(finished)
    assert resume(earlier) == 2
    assert "training.warmup_steps was 100, and this release does not have that field" in capsys.readouterr().err


def test_a_trial_with_a_value_of_a_newer_release_is_refused(earlier: Path) -> None:
    finished = earlier / "trials" / "lambda_l1=10"
    content = yaml.safe_load((finished / "trial.yaml").read_text())
    content["config"]["model"]["receptive_field"] = 142
    rewrite(finished, content)
    with pytest.raises(DataError, match=r"trial\.yaml: model\.receptive_field is 142: it must be one of"):
        open_trained_model(finished)


def test_a_refusal_is_never_without_a_reason(earlier: Path, capsys: Capture) -> None:
    finished = earlier / "trials" / "lambda_l1=10"
    content = yaml.safe_load((finished / "trial.yaml").read_text())
    content["fingerprint"] = "0123456789abcdef"
    rewrite(finished, content)
    assert resume(earlier) == 2
    assert "the fingerprint of its settings was 0123456789abcdef, now it is dccd2401a9d3cfdb" in capsys.readouterr().err


def rewrite(trial: Path, content: dict[str, Any]) -> None:
    """Writes trial.yaml as another release would have."""
    content.pop("digest")
    content["digest"] = record_digest(content)
    (trial / "trial.yaml").write_text(yaml.safe_dump(content))


def test_a_trial_that_several_workers_of_an_earlier_release_began_is_refused_and_left_as_it_is(
    earlier: Path, capsys: Capture
) -> None:
    trial_file = earlier / "trials" / "lambda_l1=100" / "trial.yaml"
    content = yaml.safe_load(trial_file.read_text())
    del content["digest"]
    content["config"]["resources"]["workers"] = 2
    content["digest"] = record_digest(content)
    trial_file.write_text(yaml.safe_dump(content, sort_keys=False))
    files = files_below(earlier / "trials")

    assert resume(earlier) == 2
    assert "lambda_l1=100: resources.workers was 2 when another release trained it" in capsys.readouterr().err
    assert files_below(earlier / "trials") == files
