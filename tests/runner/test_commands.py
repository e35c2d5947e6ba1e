"""The commands as a person or a program meets them: exit codes, short errors, nothing half-done."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import runner.data.__main__
import runner.records.trial_file
import runner.reproduce
import runner.status.__main__
import runner.sweep.check
import runner.train
import runner.translate
import runner.tune
from gan.data.pictures import decode_picture
from runner.config.loading import load_experiment, plan_trials
from runner.config.schema import Resources
from runner.errors import ResourceError
from runner.process.stop_request import StopRequest
from runner.records.trial_file import write_trial_file
from runner.records.trial_folders import find_trial_folders, recorded_data_fingerprint
from runner.storage.storage import Storage
from runner.sweep.outcome import exit_code
from runner.trial.resources import Node, resolve_resources
from runner.trial.runtime import RuntimeSettings
from tests.support.commands import read_metrics, run, weights_digest, without_wall_times, write_experiment

Capture = pytest.CaptureFixture[str]
ONE_STEP: dict[str, Any] = {"data": {"patching": "resize"}, "training": {"epochs": 1}}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def train(tmp_path: Path, *arguments: object, **changes: Any) -> int:
    path = write_experiment(tmp_path, **changes)
    storage = tmp_path / "results"
    return runner.train.main([str(path), "--in-process", "--storage", str(storage), *map(str, arguments)])


def refused(code: int, capture: Capture, tmp_path: Path) -> str:
    """What a refusal prints; it must be short and leave nothing behind."""
    output = capture.readouterr()
    assert code == 2
    assert output.err.startswith("error: ")
    assert "Traceback" not in output.err
    assert len(output.err.splitlines()) <= 25
    assert not (tmp_path / "results").exists()
    return output.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"epochz": 3}}, "did you mean `epochs`?"),
        ({"sweep": {"batch_size": [1]}}, "it sweeps batch_size, and this command runs one trial"),
        ({"data": {"source": "no/such/place"}}, "data.source is 'no/such/place': that directory does not exist"),
        ({"name": "../up"}, "name is '../up'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: Capture, changes: dict[str, Any], message: str
) -> None:
    assert message in refused(train(tmp_path, **changes), capsys, tmp_path)


@pytest.mark.parametrize(("missing", "message"), [("val", "no val/ directory"), ("pairs", "train/ holds no pictures")])
def test_an_incomplete_directory_is_refused(tmp_path: Path, capsys: Capture, missing: str, message: str) -> None:
    (tmp_path / "pairs" / "train").mkdir(parents=True)
    if missing == "pairs":
        (tmp_path / "pairs" / "val").mkdir()
    assert message in refused(train(tmp_path, data={"source": str(tmp_path / "pairs")}), capsys, tmp_path)


@pytest.mark.parametrize("storage", ["a file/results", "s3://bucket/results"])
def test_a_storage_that_cannot_be_one_is_refused(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a file").write_text("")
    code = runner.train.main([str(write_experiment(tmp_path)), "--in-process", "--storage", storage])
    assert "--storage is" in refused(code, capsys, tmp_path)


def test_a_storage_in_the_folder_of_a_ray_job_is_refused(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tmp_path / "ray/session_2026-11-28_21-00-00/runtime_resources/working_dir_files/_ray_pkg_1"
    job.mkdir(parents=True)
    monkeypatch.chdir(job)
    code = runner.train.main([str(write_experiment(tmp_path)), "--in-process"])
    assert "lies in Ray's own folder for this job, which does not stay" in refused(code, capsys, tmp_path)
    assert list(job.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--set", "training.epochs=1", "model.channels=8"], "(each KEY=VALUE needs a --set of its own)"),
        (["--resume"], "(to go on with a run, give the same command again)"),
    ],
)
def test_an_argument_that_is_not_known_is_answered_with_what_to_write(
    tmp_path: Path, capsys: Capture, arguments: list[str], hint: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        runner.train.main([str(write_experiment(tmp_path)), *arguments])
    assert ended.value.code == 2
    assert hint in capsys.readouterr().err


def test_an_unwritable_storage_is_refused(tmp_path: Path, capsys: Capture) -> None:
    code = runner.train.main([str(write_experiment(tmp_path)), "--in-process", "--storage", "/proc/results"])
    assert "can't be written" in refused(code, capsys, tmp_path)


def test_a_request_that_can_never_be_met_is_refused_with_what_is_there() -> None:
    with pytest.raises(ResourceError, match=r"1 worker with 64 cores .* room for 0 on .* 2 cores and no GPU"):
        resolve_resources(Resources(cpus_per_worker=64), [Node(2, 0)], 1)
    with pytest.raises(ResourceError, match=r"1 GPU"):
        resolve_resources(Resources(gpus_per_worker=1.0), [Node(8, 0)], 1)
    with pytest.raises(ResourceError, match="3 worker"):
        resolve_resources(Resources(workers=3, cpus_per_worker=1), [Node(2, 0)], 1)


@pytest.mark.parametrize(
    ("resources", "nodes", "num_trials", "expected"),
    [
        ({}, [Node(2, 0)], 8, (1, 1, 0.0, 2)),
        ({}, [Node(2, 0)], 1, (1, 2, 0.0, 1)),
        ({}, [Node(16, 0)], 6, (1, 2, 0.0, 6)),
        ({"cpus_per_worker": 1}, [Node(2, 0)], 8, (1, 1, 0.0, 2)),
        ({"cpus_per_worker": 2}, [Node(2, 0)], 8, (1, 2, 0.0, 1)),
        ({"workers": 2}, [Node(2, 0)], 8, (2, 1, 0.0, 1)),
        ({}, [Node(16, 1)], 8, (1, 8, 1.0, 1)),
        ({"gpus_per_worker": 0.25}, [Node(16, 1)], 8, (1, 4, 0.25, 4)),
        ({"gpus_per_worker": 0.0}, [Node(16, 1)], 1, (1, 16, 0.0, 1)),
        ({}, [Node(8, 2), Node(8, 2)], 8, (1, 4, 1.0, 4)),
        ({"workers": 2}, [Node(4, 0), Node(4, 0)], 1, (2, 4, 0.0, 1)),
        ({"workers": 2}, [Node(4, 0), Node(4, 0)], 2, (2, 2, 0.0, 2)),
    ],
)
def test_auto_is_a_fixed_function_of_machine_and_config(
    resources: dict[str, Any], nodes: list[Node], num_trials: int, expected: tuple[int, int, float, int]
) -> None:
    assert resolve_resources(Resources(**resources), nodes, num_trials)[:4] == expected


@pytest.mark.parametrize(
    "module",
    [runner.tune, runner.train, runner.translate, runner.reproduce, runner.data.__main__, runner.status.__main__],
)
def test_help_shows_an_example(module: Any, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        module.main(["--help"])
    assert caught.value.code == 0
    assert f"example:\n  python -m {module.__name__.removesuffix('.__main__')}" in capsys.readouterr().out


def test_bad_arguments_exit_with_2(capsys: Capture) -> None:
    for arguments in (["x.yaml", "--time-limit", "soon"], ["x.yaml", "--no-such-option"], []):
        with pytest.raises(SystemExit) as caught:
            runner.tune.main(arguments)
        assert caught.value.code == 2
    assert "write 90, 45s, 30m" in capsys.readouterr().err


def test_traceback_shows_where_an_error_came_from(tmp_path: Path, capsys: Capture) -> None:
    assert runner.train.main([str(tmp_path / "gone.yaml"), "--traceback"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"error: {tmp_path}/gone.yaml: it can't be read")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1].startswith("runner.errors.ConfigError: ")


def test_an_unexpected_error_says_how_to_see_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(runner.sweep.check, "find_trial_folders", None)
    assert train(tmp_path) == 1
    message = (
        "error: unexpected TypeError: 'NoneType' object is not callable\nUse --traceback to see where it came from.\n"
    )
    assert capsys.readouterr().err == message


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys: Capture) -> None:
    path = write_experiment(tmp_path, sweep={"batch_size": [8, 16]}, training={"precision": "fp16"})
    assert runner.tune.main([str(path), "--dry-run", "--storage", str(tmp_path / "results")]) == 0
    said = capsys.readouterr().out
    assert "small: 2 trials" in said
    assert "batch_size=8: 3 epochs of 162 patches, 63 steps" in said
    assert "batch_size=16: 3 epochs of 162 patches, 33 steps" in said
    assert len(re.findall(r"memory about \d\.\d MB in fp16, disk \d\.\d MB when", said)) == 2
    assert not (tmp_path / "results").exists()


def test_a_trial_in_this_process_leaves_what_the_contract_says(tmp_path: Path, capsys: Capture) -> None:
    assert train(tmp_path) == 0
    experiment = tmp_path / "results" / "small"
    trial = experiment / "trials" / "trial"
    assert {path.name for path in experiment.iterdir()} == {
        ".ray",
        "commands.jsonl",
        "experiment.yaml",
        "report.html",
        "results.csv",
        "results.json",
        "trials",
    }
    rows = read_metrics(trial)
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 21, 25, 30, 35, 40, 42, 45, 50, 55, 60, 63]
    assert {"total_gen_loss", "fake_d_real_class_loss", "l1_loss", "real_d_loss"} < rows[0].keys()
    assert {"epoch_mean/l1_loss", "val/ssim", "val_eval/hp_l1_std", "final/psnr"} < rows[-1].keys()
    for epoch in (1, 2, 3):
        assert decode_picture((trial / "images" / f"epoch_{epoch:04d}.png").read_bytes()).shape[2] == 3
    assert {path.name for path in (trial / "checkpoints").iterdir()} == {"step_00000063"}
    recorded = yaml.safe_load((trial / "trial.yaml").read_text())
    assert recorded["threads"] == 1
    assert recorded["precision"] in ("fp32", "bf16")
    assert recorded["config"]["training"]["epochs"] == 3
    (row,) = json.loads((experiment / "results.json").read_text())
    assert (row["trial"], row["status"], row["epochs"], row["steps"]) == ("trial", "finished", 3, 63)
    assert row["ssim"] == rows[-1]["final/ssim"]
    columns = (experiment / "results.csv").read_text().splitlines()[0].split(",")
    assert columns[:8] == ["trial", "status", "epochs", "steps", "ssim", "ssim_low", "ssim_high", "psnr"]
    text = "".join(path.read_text() for path in experiment.rglob("*") if path.suffix in (".yaml", ".json", ".csv"))
    assert str(tmp_path) not in text, "nothing that is kept holds an absolute path"

    digest = weights_digest(trial)
    written = {path: path.stat().st_mtime_ns for path in trial.rglob("*")}
    capsys.readouterr()
    assert train(tmp_path) == 0
    assert "finished before, not run again: 1 of 1 trials" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in trial.rglob("*")} == written
    assert weights_digest(trial) == digest


def test_more_epochs_continue_a_finished_trial_to_the_same_weights(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    assert train(tmp_path / "whole", training={"epochs": 2}) == 0
    assert train(tmp_path, training={"epochs": 1}) == 0
    assert train(tmp_path, training={"epochs": 2}) == 0
    trials = [folder / "results" / "small" / "trials" / "trial" for folder in (tmp_path / "whole", tmp_path)]
    assert weights_digest(trials[0]) == weights_digest(trials[1])
    steps = [[row["step"] for row in read_metrics(trial)] for trial in trials]
    assert steps[0] == steps[1]


def test_a_time_limit_saves_and_exits_with_75_and_the_same_command_goes_on(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    assert train(tmp_path / "whole") == 0
    assert train(tmp_path, "--time-limit", "1s") == 75
    (row,) = json.loads((tmp_path / "results" / "small" / "results.json").read_text())
    assert row["status"] == "stopped"
    assert train(tmp_path) == 0
    whole, stopped = (folder / "results" / "small" / "trials" / "trial" for folder in (tmp_path / "whole", tmp_path))
    assert weights_digest(whole) == weights_digest(stopped)
    assert without_wall_times(read_metrics(whole)) == without_wall_times(read_metrics(stopped))


def test_a_change_that_is_not_allowed_is_refused_with_both_values(tmp_path: Path, capsys: Capture) -> None:
    assert train(tmp_path, **ONE_STEP) == 0
    capsys.readouterr()
    assert train(tmp_path, "--set", "training.lambda_l1=50", **ONE_STEP) == 2
    error = capsys.readouterr().err
    assert "training.lambda_l1 was 100.0, now it is 50.0" in error
    assert "give the experiment a new name" in error


def test_a_folder_is_known_by_what_is_in_it_when_the_sweep_gets_another_dimension(tmp_path: Path) -> None:
    storage, changes = tmp_path / "results", ONE_STEP
    path = write_experiment(tmp_path, **changes)
    assert runner.train.main([str(path), "--in-process", "--storage", str(storage)]) == 0
    path = write_experiment(tmp_path, sweep={"batch_size": [8, 16]}, **changes)
    folder = Storage.open(storage / "small")
    experiment = load_experiment(path)
    fingerprint = recorded_data_fingerprint(folder, experiment)
    trials = find_trial_folders(folder, plan_trials(experiment, ""), {"resize": str(fingerprint)})
    assert [(trial.name, trial.is_finished) for trial in trials] == [("trial", True), ("batch_size=16", False)]


def test_cells_that_differ_in_epochs_alone_keep_a_folder_each(tmp_path: Path) -> None:
    folder = Storage.open(tmp_path)
    expected = {None: ["trial"], (2, 4): ["trial", "epochs=4"], (1, 2, 4): ["trial", "epochs=2", "epochs=4"]}
    for epochs, folders in expected.items():
        sweep = {"epochs": list(epochs)} if epochs else {}
        planned_trials = plan_trials(load_experiment(write_experiment(tmp_path, sweep=sweep)), "")
        for _ in range(2):
            trials = find_trial_folders(folder, planned_trials, {"tiles": "data"})
            assert [trial.name for trial in trials] == folders
            for trial in trials:
                folder.make_folder(f"trials/{trial.name}")
                runtime = RuntimeSettings(1, "fp32", "")
                trial_folder = folder.at(f"trials/{trial.name}")
                write_trial_file(trial_folder, trial.config, trial.fingerprints, {}, runtime._asdict())


def test_finished_results_need_no_patches(tmp_path: Path) -> None:
    assert train(tmp_path, **ONE_STEP) == 0
    shutil.rmtree(tmp_path / "results" / "patches")
    assert train(tmp_path, **ONE_STEP) == 0
    assert not (tmp_path / "results" / "patches").exists()


@pytest.mark.parametrize(
    ("statuses", "reason", "code"),
    [
        (["finished", "finished"], "", 0),
        (["finished", "finished"], "SIGTERM", 0),
        (["finished", "stopped"], "SIGTERM", 75),
        (["finished", "stopped"], "Ctrl-C", 130),
        (["finished", "diverged"], "", 1),
        (["finished", "diverged"], "time limit", 1),
        (["failed", "stopped"], "time limit", 75),
    ],
)
def test_the_exit_code_says_whether_the_same_command_has_more_to_do(
    statuses: list[str], reason: str, code: int
) -> None:
    assert exit_code(statuses, StopRequest(reason)) == code


def test_the_source_may_be_gone_while_the_store_is_there(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    assert runner.data.__main__.main(["synthesize", str(pairs), "--train", "1", "--val", "1"]) == 0
    data = {"source": str(pairs), "patching": "resize"}
    assert train(tmp_path, data=data, training={"epochs": 1}) == 0
    pairs.rename(tmp_path / "gone")
    assert train(tmp_path, data=data, training={"epochs": 2}) == 0


def test_synthesize_draws_the_same_bytes_for_the_same_seed_and_spares_other_files(
    tmp_path: Path, capsys: Capture
) -> None:
    for name in ("a", "b"):
        assert (
            runner.data.__main__.main(["synthesize", str(tmp_path / name), "--train", "2", "--val", "1", "--seed", "4"])
            == 0
        )
    names = sorted(path.relative_to(tmp_path / "a").as_posix() for path in (tmp_path / "a").rglob("*.jpg"))
    assert names == ["train/00001.jpg", "train/00002.jpg", "val/00001.jpg"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    (tmp_path / "b" / "mine.txt").write_text("keep")
    assert runner.data.__main__.main(["synthesize", str(tmp_path / "b")]) == 2
    assert "holds other files (mine.txt" in capsys.readouterr().err


def test_in_process_needs_no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.records.trial_file, "PACKAGES", ("torch", "a-package-that-is-not-there"))
    assert runner.records.trial_file.package_versions()["a-package-that-is-not-there"] == "not installed"
    path = write_experiment(tmp_path, **ONE_STEP)
    (tmp_path / "ray.py").write_text("raise ImportError('Ray must not be imported')")
    code, output = run(
        "runner.train", path, "--in-process", "--storage", tmp_path / "results", env={"PYTHONPATH": str(tmp_path)}
    )
    assert code == 0, output
