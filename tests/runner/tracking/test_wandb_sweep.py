import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from runner.storage.storage import Storage
from runner.tracking.sync_hint import sync_hint
from runner.tracking.wandb_runs import WandbDestination
from runner.tracking.wandb_sweep import WandbSweep
from runner.tracking.wandb_trial import run_id
from tests.support.commands import read_metrics
from tests.support.kill_points import KillPoint, train_tiny
from tests.support.wandb_log import LocalServer
from tests.support.wandb_trials import KEY, files_of, log_steps, offline_run, sync, track, wandb_processes

pytestmark = pytest.mark.usefixtures("wandb_unconfigured", "patient")
CONFIG = {"name": "sweep", "sweep": {"lambda_l1": [1, 10]}}


@pytest.fixture
def experiment(tmp_path: Path) -> Storage:
    storage = Storage.open(tmp_path / "results/sweep")
    storage.make_folder()
    return storage


def results(*statuses: str) -> list[dict[str, Any]]:
    names = (1, 2.5, 100)
    return [
        {"lambda_l1": value, "trial": f"lambda_l1={value}", "status": status, "ssim": None if status == "" else 0.5}
        for value, status in zip(names, statuses, strict=False)
    ]


def track_sweep(experiment: Storage, rows: list[dict[str, Any]], mode: str = "offline") -> None:
    tracking = WandbSweep(experiment, CONFIG, WandbDestination(mode, pytest.fail))
    tracking.update(rows)
    tracking.finish(rows)


def last_table(experiment: Storage) -> list[dict[str, Any]]:
    """The table that the experiment's one offline run shows, as rows by column."""
    shown = offline_run(experiment).history[-1]["trials"]
    (path,) = experiment.local_path.glob(f"wandb/offline-run-*/files/{shown['path']}")
    table = json.loads(path.read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def test_an_experiments_run_has_a_table_with_a_row_a_trial_and_counts_how_they_stand(experiment: Storage) -> None:
    rows = results("finished", "diverged", "finished")
    track_sweep(experiment, rows)
    assert last_table(experiment) == rows
    run = offline_run(experiment)
    assert (run.id, run.group, run.job_type) == (run_id("sweep", "sweep"), "sweep", "sweep")
    assert (run.project, run.config["sweep"], run.exit_code) == ("pix2pix", CONFIG["sweep"], 1)
    counts = {name: value for name, value in run.summary.items() if name.startswith("trials_") and value}
    assert counts == {"trials_in_all": 3, "trials_finished": 2, "trials_diverged": 1}
    assert not wandb_processes()


def test_offline_it_is_written_anew_by_a_start_that_changes_it_and_by_no_other(experiment: Storage) -> None:
    track_sweep(experiment, results("finished", "stopped"))
    before = files_of(experiment)
    track_sweep(experiment, results("finished", "stopped"))
    assert files_of(experiment) == before
    track_sweep(experiment, results("finished", "finished", "finished"))
    assert [row["status"] for row in last_table(experiment)] == ["finished", "finished", "finished"]
    assert len(offline_run(experiment).history) == 1


def test_online_it_is_one_run_to_which_each_start_adds_its_table(
    experiment: Storage, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    track_sweep(experiment, results("finished", "stopped"), mode="online")
    track_sweep(experiment, results("finished", "finished"), mode="online")
    (run,) = server.runs.values()
    assert run.id == run_id("sweep", "sweep")
    assert run.steps == [0, 1]
    assert (run.summary["trials_finished"], run.summary["trials_stopped"]) == (2, 0)
    tables = [artifact for artifact in run.artifacts if artifact["artifactTypeName"] == "run_table"]
    assert len(tables) == 2 and tables[0]["digest"] != tables[1]["digest"]


def test_a_folder_that_was_moved_is_synced_with_its_table_after_the_next_start(
    experiment: Storage, tmp_path: Path, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    track_sweep(experiment, results("finished"))
    assert not list((tmp_path / "home").rglob("staging/*"))
    moved = Storage.open(experiment.local_path.rename(tmp_path / "sweep"))
    monkeypatch.setenv("HOME", str(tmp_path / "home of another machine"))
    track_sweep(moved, results("finished"))
    before = files_of(moved)
    track_sweep(moved, results("finished"))
    assert files_of(moved) == before
    sync(moved)
    (table,) = server.runs[run_id("sweep", "sweep")].artifacts
    assert json.loads(table["files"]["trials.table.json"])["data"] == [[1, "lambda_l1=1", "finished", 0.5]]


def test_what_is_to_be_synced_is_said_in_a_line_that_can_be_pasted(experiment: Storage) -> None:
    assert sync_hint(experiment) == ""
    track_sweep(experiment, results("finished"))
    place = str(experiment.local_path)
    assert sync_hint(experiment) == f"wandb sync {place}/wandb/offline-run-*"
    trial = experiment.at("trials/lambda_l1=1")
    trial.make_folder()
    log_steps(trial, range(3))
    track(trial, "finished")
    assert sync_hint(experiment) == f"wandb sync {place}/trials/*/wandb/offline-run-* {place}/wandb/offline-run-*"
    for log in experiment.local_path.rglob("*.wandb"):
        log.with_name(f"{log.name}.synced").touch()  # as wandb sync does
    assert sync_hint(experiment) == ""
    spaced = Storage.open(experiment.local_path.rename(experiment.local_path.with_name("my sweep")))
    for mark in spaced.local_path.rglob("*.synced"):
        mark.unlink()
    assert sync_hint(spaced).startswith(f"wandb sync '{spaced.local_path}'/trials/*/wandb/")


@pytest.mark.slow
def test_a_sweep_killed_twice_has_one_offline_run_a_trial_with_each_step_once_and_one_for_all(
    tmp_path: Path, undisturbed: Path
) -> None:
    shutil.copytree(undisturbed / "results" / "patches", tmp_path / "results" / "patches")
    changes = {"sweep": {"lambda_l1": [1, 10]}, "tracking": {"wandb": "offline", "artifacts": True}}
    how: dict[str, Any] = {
        "changes": changes,
        "module": "tests.support.inline_sweep",
        "settings": {"runner.tracking.tracker.INTERVAL_S": 0.01, "runner.sweep.monitor.INTERVAL_S": 0.01},
    }
    written = "runner.trial.async_checkpointer.write_checkpoint"
    assert train_tiny(tmp_path, kill_points=[KillPoint(written, 3)], **how).code == -9
    assert train_tiny(tmp_path, kill_points=[KillPoint(written, 6)], **how).code == -9
    ended = train_tiny(tmp_path, **how)
    assert ended.code == 0, ended.output
    experiment = Storage.open(tmp_path / "results" / "tiny")
    for name in ("lambda_l1=1", "lambda_l1=10"):
        trial = experiment.at(f"trials/{name}")
        run = offline_run(trial)
        assert run.steps == [row["step"] for row in read_metrics(trial.local_path)]
        assert len([row for row in run.history if "images" in row]) == 6
        assert (run.summary["status"], run.summary["epochs"]) == ("finished", 6)
        (artifact,) = run.artifacts
        weights = trial.read("weights/generator.safetensors")
        assert Path(artifact["files"]["generator.safetensors"]).read_bytes() == weights
    assert [(row["trial"], row["status"]) for row in last_table(experiment)] == [
        ("lambda_l1=1", "finished"),
        ("lambda_l1=10", "finished"),
    ]
