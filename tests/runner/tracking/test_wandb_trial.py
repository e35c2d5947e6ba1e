import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runner.records.metrics_log import encode_row
from runner.storage.run_folder import METRICS_LOG, WEIGHTS, WEIGHTS_RECORD
from runner.storage.storage import Storage
from runner.tracking.wandb_runs import resolve_mode
from runner.tracking.wandb_trial import ROWS_PER_UPDATE, run_id
from tests.support.commands import ROOT, reopen_log
from tests.support.wandb_log import LocalServer, read_run
from tests.support.wandb_trials import (
    CONFIG,
    KEY,
    a_row,
    files_of,
    log_steps,
    offline_run,
    sync,
    track,
    tracking_of,
    wandb_processes,
)

pytestmark = pytest.mark.usefixtures("wandb_unconfigured", "patient")


def track_elsewhere(trial: Storage, then: str) -> "subprocess.CompletedProcess[str]":
    """Tracks what there is in a process of its own, which goes on to do what `then` says."""
    start = (
        "import sys; from runner.storage.storage import Storage; from runner.tracking.wandb_trial import WandbTrial\n"
        "from runner.tracking.wandb_runs import WandbDestination\n"
        "tracking = WandbTrial(Storage.open(sys.argv[1]), 'sweep', {}, WandbDestination('offline', sys.exit))\n"
        "tracking.update()\n"
    )
    command = [sys.executable, "-W", "error", "-c", start + then, str(trial.local_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_each_row_is_recorded_once_at_its_step_and_under_its_names(trial: Storage) -> None:
    rows = [a_row(0), a_row(50) | {"epoch_mean/l1_loss": 0.25, "val/ssim": 0.158, "val_eval/psnr": 14.15}]
    log = reopen_log(trial, -1)
    tracking = tracking_of(trial)
    for row in rows:
        log.add(row)
        tracking.update()
        tracking.update()
    log.add(a_row(100, epoch=2))
    tracking.finish({"status": "finished"})

    run = offline_run(trial)
    assert run.steps == [0, 50, 100]
    for logged, row in zip(run.history, rows, strict=False):
        assert {name: value for name, value in logged.items() if not name.startswith("_")} == {
            name: value for name, value in row.items() if name != "step"
        }


def test_the_run_says_whose_it_is_and_how_it_ended(trial: Storage) -> None:
    log_steps(trial, range(0, 20, 10))
    reopen_log(trial, 10).add(a_row(20) | {"val/ssim": 0.158})
    reopen_log(trial, 20).add(a_row(30))
    track(trial, "diverged")

    run = offline_run(trial)
    assert (run.id, run.name, run.group) == (run_id("sweep", trial.name), trial.name, "sweep")
    assert (run.project, run.job_type, run.exit_code) == ("pix2pix", "train", 1)
    assert {name: value for name, value in run.config.items() if name != "_wandb"} == CONFIG
    assert run.summary["status"] == "diverged"
    assert (run.summary["l1_loss"], run.summary["val/ssim"]) == (30.2, 0.158)


def test_the_project_is_the_users_where_one_is_set(trial: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "maps")
    log_steps(trial, range(1))
    track(trial, "finished")
    assert offline_run(trial).project == "maps"
    assert offline_run(trial).exit_code == 0


def test_what_another_project_has_is_recorded_in_the_users_too(trial: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    log_steps(trial, range(1))
    track(trial, "finished")
    monkeypatch.setenv("WANDB_PROJECT", "maps")
    track(trial, "finished")
    assert offline_run(trial).project == "maps"


def test_a_run_of_the_program_that_calls_us_goes_on(trial: Storage, tmp_path: Path) -> None:
    import wandb

    own = wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True, console="off"))
    try:
        log_steps(trial, range(3))
        track(trial, "finished")
        own.log({"loss": 1.0})
    finally:
        own.finish()
        wandb.teardown()
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert [row["loss"] for row in read_run(path).history] == [1.0]
    assert offline_run(trial).steps == [0, 1, 2]


def test_what_was_not_finite_is_recorded_as_nan(trial: Storage) -> None:
    reopen_log(trial, -1).add(a_row(0) | {"l1_loss": math.inf})
    track(trial, "diverged")
    run = offline_run(trial)
    assert math.isnan(run.history[0]["l1_loss"]) and math.isnan(run.summary["l1_loss"])


def test_an_epochs_picture_is_recorded_at_the_step_that_ends_the_epoch(trial: Storage) -> None:
    trial.make_folder("images")
    Image.new("RGB", (48, 16), "teal").save(trial.local_path / "images/epoch_0002.png")
    ends = {"epoch_mean/l1_loss": 0.5}
    log = reopen_log(trial, -1)
    for row in (a_row(10, 1) | ends, a_row(15, 2), a_row(20, 2) | ends, a_row(30, 3) | ends):
        log.add(row)
    track(trial, "finished")

    (row,) = [row for row in offline_run(trial).history if "images" in row]
    assert row["_step"] == 20
    (copy,) = trial.local_path.glob(f"wandb/offline-run-*/files/{row['images']['path']}")
    assert copy.read_bytes() == trial.read("images/epoch_0002.png")


def test_killed_and_cut_back_a_trial_has_one_offline_run_with_each_step_once(trial: Storage) -> None:
    log_steps(trial, range(0, 100, 10))
    killed = track_elsewhere(trial, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert killed.returncode == -signal.SIGKILL
    assert len(list(trial.local_path.glob("wandb/offline-run-*"))) == 1

    tracking = tracking_of(trial)
    tracking.update()
    log_steps(trial, range(60, 130, 10), after=50)
    tracking.update()
    tracking.finish({"status": "stopped"})

    assert offline_run(trial).steps == list(range(0, 130, 10))


def test_a_trial_that_is_recorded_whole_is_not_written_again(trial: Storage) -> None:
    log_steps(trial, range(0, 50, 10))
    track(trial, "finished")
    before = files_of(trial)
    track(trial, "finished")
    assert files_of(trial) == before


def test_a_trial_that_went_on_is_written_again_whole(trial: Storage) -> None:
    log_steps(trial, range(0, 50, 10))
    track(trial, "stopped")
    log_steps(trial, range(50, 80, 10), after=40)
    track(trial, "stopped")
    assert offline_run(trial).steps == list(range(0, 80, 10))


def test_a_state_that_is_torn_or_of_another_status_is_not_believed(trial: Storage) -> None:
    log_steps(trial, range(3))
    track(trial, "stopped")
    track(trial, "failed")
    assert offline_run(trial).summary["status"] == "failed"
    trial.write("wandb/state.json", trial.read("wandb/state.json")[:-5])
    log_steps(trial, range(1, 3), after=0)
    track(trial, "failed")
    assert offline_run(trial).steps == [0, 1, 2]


def test_a_long_log_is_handed_over_in_pieces_and_whole(trial: Storage) -> None:
    steps = range(ROWS_PER_UPDATE + 7)
    trial.write(METRICS_LOG, b"".join(encode_row({"step": step, "epoch": 1}) for step in steps))
    track(trial, "finished")
    assert offline_run(trial).steps == list(steps)


def test_without_rows_nothing_is_opened_and_what_is_recorded_is_not_recorded_again(trial: Storage) -> None:
    tracking = tracking_of(trial)
    tracking.update()
    tracking.finish({"status": "failed"})
    tracking.finish({"status": "failed"})
    assert trial.names() == []
    log_steps(trial, range(3))
    track(trial, "finished")
    before = files_of(trial)
    tracking.update()
    tracking.finish({"status": "finished"})
    assert files_of(trial) == before


def test_off_means_off(trial: Storage) -> None:
    log_steps(trial, range(3))
    track(trial, "finished", mode="off")
    assert trial.names() == [METRICS_LOG]


def test_runs_stay_open_beside_each_other_and_the_service_ends_with_the_last(tmp_path: Path) -> None:
    trials = [Storage.open(tmp_path / name) for name in ("a", "b", "c")]
    trackings = [tracking_of(trial) for trial in trials]
    for number, trial in enumerate(trials):
        trial.make_folder()
        log_steps(trial, range(number, 30, 3))
        trackings[number].update()
    for tracking in trackings:
        assert wandb_processes()
        tracking.finish({"status": "finished"})
    assert not wandb_processes()
    assert [offline_run(trial).steps for trial in trials] == [list(range(n, 30, 3)) for n in range(3)]


def test_the_process_the_screen_and_the_working_folder_are_left_alone(
    trial: Storage, server: LocalServer, capfd: pytest.CaptureFixture[str]
) -> None:
    def process() -> tuple[Any, ...]:
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        return handlers, sys.exit, sys.excepthook, dict(os.environ)

    before = process()
    log_steps(trial, range(3))
    tracking = tracking_of(trial)
    tracking.update()
    assert process()[:-1] == before[:-1]
    tracking.finish({"status": "finished"})
    assert process() == before
    assert capfd.readouterr() == ("", "")
    assert list(Path.cwd().iterdir()) == []
    assert server.received == []


def test_what_the_program_prints_is_its_own(trial: Storage) -> None:
    log_steps(trial, range(3))
    done = track_elsewhere(trial, "print('Epoch 1 of 3'); tracking.finish({'status': 'finished'})")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Epoch 1 of 3\n", "")
    assert offline_run(trial).exit_code == 0
    assert not any(b"Epoch 1 of 3" in content for _, content in files_of(trial).values())


def test_nothing_about_the_machine_or_the_program_is_kept(trial: Storage) -> None:
    log_steps(trial, range(3))
    track(trial, "finished")
    assert offline_run(trial).host == ""
    kept = {path.name for path in trial.local_path.rglob("*") if path.is_file() or path.is_symlink()}
    assert kept == {METRICS_LOG, "state.json", f"run-{offline_run(trial).id}.wandb"}


def test_nothing_about_the_machine_or_the_program_is_sent(
    trial: Storage, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    log_steps(trial, range(3))
    track(trial, "finished", mode="online")
    assert set(server.uploads) == {"config.yaml", "wandb-summary.json"}
    private = [sys.argv[0], sys.executable, str(Path.cwd()), str(trial.local_path)]
    assert not [word for word in private for _, body in server.received if word.encode() in body]
    assert server.runs[run_id("sweep", trial.name)].program is None
    assert not any("otel" in path for path, _ in server.received)


def test_online_only_what_the_server_lacks_is_sent(
    trial: Storage, server: LocalServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    trial.make_folder("images")
    Image.new("RGB", (48, 16), "teal").save(trial.local_path / "images/epoch_0001.png")
    reopen_log(trial, -1).add(a_row(0) | {"epoch_mean/l1_loss": 0.5})
    log_steps(trial, range(1, 5), after=0)
    track(trial, "stopped", mode="online")
    run = server.runs[run_id("sweep", trial.name)]
    assert (run.steps, run.group, run.summary["status"]) == ([0, 1, 2, 3, 4], "sweep", "stopped")

    log_steps(trial, range(3, 7), after=2)
    track(trial, "finished", mode="online")
    track(trial, "failed", mode="online")
    assert run.steps == [0, 1, 2, 3, 4, 5, 6]
    assert (run.config["training"], run.summary["status"]) == (CONFIG["training"], "failed")
    assert run.summary["l1_loss"] == 6.2
    assert len([name for name in server.uploads if name.endswith(".png")]) == 1

    requests = len(server.received)
    track(trial, "failed", mode="online")
    assert len(server.received) == requests
    assert not any(KEY.encode() in content for _, content in files_of(trial).values())
    assert capfd.readouterr() == ("", "")


def test_a_trial_kept_offline_is_sent_whole_once_there_is_a_key(
    trial: Storage, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_steps(trial, range(3))
    track(trial, "finished")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    track(trial, "finished", mode="online")
    assert server.runs[run_id("sweep", trial.name)].steps == [0, 1, 2]


def write_weights(trial: Storage) -> bytes:
    """A finished trial's weights, and the record that goes along."""
    trial.make_folder("weights")
    content = os.urandom(100)
    trial.write(WEIGHTS, content)
    trial.write(WEIGHTS_RECORD, json.dumps({"epochs": 3, "sha256": hashlib.sha256(content).hexdigest()}).encode())
    return content


def test_offline_and_synced_before_and_after_a_restart_a_trial_is_one_run_and_its_weights_stay(
    trial: Storage, server: LocalServer
) -> None:
    log_steps(trial, range(0, 50, 10))
    track(trial, "stopped", artifacts=True)
    sync(trial)
    run = server.runs[run_id("sweep", trial.name)]
    assert (run.steps, run.artifacts) == ([0, 10, 20, 30, 40], [])
    log_steps(trial, range(30, 80, 10), after=20)
    content = write_weights(trial)
    track(trial, "finished", artifacts=True)
    (local,) = offline_run(trial).artifacts
    assert (local["type"], local["metadata"]["epochs"]) == ("model", 3)
    assert Path(local["files"]["generator.safetensors"]).read_bytes() == content
    assert Path(local["files"]["generator.safetensors"]) != trial.local_path / WEIGHTS, "the trial may yet go on"
    sync(trial)
    assert run.steps == list(range(0, 80, 10))
    (artifact,) = run.artifacts
    assert artifact["artifactCollectionName"] == f"generator-{run.id}"
    assert artifact["files"] == {"generator.safetensors": content}
    assert trial.read(WEIGHTS) == content


def test_a_folder_that_was_moved_is_synced_with_its_weights_after_the_next_start(
    trial: Storage, tmp_path: Path, server: LocalServer
) -> None:
    log_steps(trial, range(3))
    content = write_weights(trial)
    track(trial, "finished", artifacts=True)
    moved = Storage.open(trial.local_path.rename(tmp_path / trial.name))
    track(moved, "finished", artifacts=True)
    before = files_of(moved)
    track(moved, "finished", artifacts=True)
    assert files_of(moved) == before
    sync(moved)
    (artifact,) = server.runs[run_id("sweep", trial.name)].artifacts
    assert artifact["files"] == {"generator.safetensors": content}


def test_online_a_finished_trials_weights_go_along_where_they_are_asked_for(
    trial: Storage, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    log_steps(trial, range(3))
    content = write_weights(trial)
    track(trial, "finished", mode="online")
    run = server.runs[run_id("sweep", trial.name)]
    assert run.artifacts == []
    track(trial, "finished", mode="online", artifacts=True)
    assert [(artifact["artifactTypeName"], artifact["files"]) for artifact in run.artifacts] == [
        ("model", {"generator.safetensors": content})
    ]
    assert (trial.read(WEIGHTS), trial.exists("wandb/artifacts")) == (content, False)
    track(trial, "finished", mode="online", artifacts=True)
    assert len(run.artifacts) == 1


def test_a_trial_that_goes_on_after_it_was_closed_is_opened_again(trial: Storage) -> None:
    tracking = tracking_of(trial)
    log_steps(trial, range(3))
    tracking.update()
    tracking.finish({"status": "failed", "restarts": 1})
    log_steps(trial, range(2, 5), after=1)
    tracking.update()
    tracking.finish({"status": "finished", "restarts": 2, "ssim": 0.5})
    run = offline_run(trial)
    assert run.steps == [0, 1, 2, 3, 4]
    assert (run.summary["status"], run.summary["restarts"], "ssim" in run.summary) == ("finished", 2, False)


@pytest.mark.parametrize("wanted", ["online", "offline", "off"])
def test_a_mode_that_is_asked_for_stays(wanted: str) -> None:
    assert resolve_mode(wanted) == wanted


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": KEY}, "online"),
        ({"WANDB_API_KEY": "malformed"}, "online"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "off"),
    ],
)
def test_auto_is_online_where_a_key_is_configured(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], environment: dict[str, str], mode: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert resolve_mode("auto") == mode
    assert capfd.readouterr() == ("", "")
    assert not wandb_processes()


def test_a_service_that_ends_the_program_as_it_is_asked_for_a_key_is_survived(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import wandb

    monkeypatch.setattr(wandb, "teardown", sys.exit)
    assert resolve_mode("auto") == "offline"


def test_auto_finds_a_key_in_netrc(tmp_path: Path, server: LocalServer) -> None:
    assert resolve_mode("auto") == "offline"
    host = server.url.removeprefix("http://")
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home/.netrc").write_text(f"machine {host}\n  login user\n  password {KEY}\n")
    (tmp_path / "home/.netrc").chmod(0o600)
    assert resolve_mode("auto") == "online"
    assert server.received == []


def test_an_offline_run_holds_no_key(trial: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert resolve_mode("auto") == "online"
    log_steps(trial, range(3))
    track(trial, "finished")
    assert not any(KEY.encode() in content for _, content in files_of(trial).values())


def test_run_ids_are_stable_valid_and_never_collide() -> None:
    assert run_id("sweep", "batch_size=1,lambda_l1=0.5") == "sweep-batch-size-1-lambda-l1-0-5-0887cbd9894c"
    names = ["a=1,b=2", "a=1.b=2", "a=1-b=2", "a-1-b-2", "x" * 200, "x" * 201, "é", "è"]
    ids = {run_id(experiment, trial) for experiment in ("e", "e-a") for trial in [*names, "a-x", "x"]}
    assert len(ids) == 2 * (len(names) + 2)
    assert all(set(one) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") and len(one) <= 64 for one in ids)


def test_importing_the_module_does_not_import_wandb() -> None:
    code = "import json, sys, runner.tracking.wandb_trial; print(json.dumps('wandb' in sys.modules))"
    root = ROOT
    assert json.loads(subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True).stdout) is False
