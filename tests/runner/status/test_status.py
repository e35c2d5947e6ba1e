"""`python -m runner.status`: what another process sees of an experiment, and that it leaves no trace of itself."""

import importlib
import json
import os
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from runner.process.lease import Lease
from runner.records.trial_file import write_outcome
from runner.status.__main__ import main
from runner.status.reading import StatusReader
from runner.storage.storage import Storage
from tests.support.commands import read_until, start
from tests.support.experiment_folder import write_experiment_folder

Capture = pytest.CaptureFixture[str]
SWEEP = {"lambda_l1": [10, 100, 1000]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One trial has finished, one has run for a while, one has not begun."""
    outcomes = {"lambda_l1=100": ("stopped", "Ctrl-C"), "lambda_l1=1000": ("waiting", "")}
    return write_experiment_folder(tmp_path, sweep=SWEEP, outcomes=outcomes)


@pytest.fixture
def lease(folder: Path) -> Iterator[Lease]:
    """The experiment is run by this process, and lambda_l1=100 is being trained."""
    held = Lease.acquire(Storage.open(folder))
    write_outcome(Storage.open(folder / "trials" / "lambda_l1=100"), "running")
    yield held
    held.release()


def statuses(out: str) -> dict[str, str]:
    rows = [line.split() for line in out.splitlines() if line.startswith("lambda_l1=")]
    return {row[0]: row[1] for row in rows}


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def edit_lock(folder: Path, **changes: object) -> None:
    lock = folder / "lock"
    lock.write_text(json.dumps(json.loads(lock.read_text()) | changes))


def test_an_experiment_that_nobody_runs_shows_its_results(folder: Path, capsys: Capture) -> None:
    assert main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == ["no command is running this experiment", "3 trials: 2 stopped, 1 finished"]
    assert statuses(out) == {"lambda_l1=10": "finished", "lambda_l1=100": "stopped", "lambda_l1=1000": "stopped"}


def test_the_next_step_is_named_as_a_command_that_goes_on(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    storage = tmp_path / "my results"
    shutil.copytree(undisturbed / "results", storage)
    folder = storage / "tiny"
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"to look at it: {folder}/report.html"

    # More epochs are wanted, as when a run was stopped.
    config = folder / "experiment.yaml"
    config.write_text(config.read_text().replace("epochs: 6", "epochs: 8"))
    write_outcome(Storage.open(folder / "trials" / "trial"), "stopped", "Ctrl-C")
    assert main([str(folder)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("to go on: python -m runner.tune ")
    module, *arguments = shlex.split(last.partition("python -m ")[2])
    assert importlib.import_module(module).main([*arguments, "--dry-run"]) == 0
    assert "trial: 8 epochs of 12 patches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("outcomes", "step"),
    [
        ({"lambda_l1=10": ("diverged", "")}, "to try again what has diverged: python -m runner.tune {folder}"),
        ({"lambda_l1=10": ("diverged", ""), "lambda_l1=100": ("failed", "")}, "to go on: python -m runner.tune"),
        ({"lambda_l1=10": ("halted", ""), "lambda_l1=100": ("early_stopped", "")}, "to compare its trials: python -m"),
    ],
)
def test_the_next_step_depends_on_how_trials_ended(
    tmp_path: Path, capsys: Capture, outcomes: dict[str, tuple[str, str]], step: str
) -> None:
    folder = write_experiment_folder(tmp_path, sweep=SWEEP, outcomes=outcomes)
    assert main([str(folder)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(step.format(folder=folder))
    assert last.endswith(" --retry-diverged") == ("diverged:" in step)


def test_a_run_shows_who_runs_it_and_how_far_it_is(folder: Path, lease: Lease, capsys: Capture) -> None:
    assert main([str(folder)]) == 0
    first, second, _, row, *_, last = capsys.readouterr().out.splitlines()
    assert last == f"to follow it: python -m runner.status {folder} --watch"
    assert first.startswith(f"run by process {os.getpid()} on ") and "last heartbeat 0." in first
    # 40 patches an epoch are 40 steps: half of them are done, and the log has 10 a second.
    assert second == "3 trials: 1 running, 1 finished, 1 waiting"
    assert row.split()[:5] == ["lambda_l1=100", "running", "3/6", "120/240", "10.00"]


def test_the_time_left_is_known_where_the_patches_are_there(folder: Path, lease: Lease, capsys: Capture) -> None:
    store = folder.parent / "patches" / "data-tiles"
    store.mkdir(parents=True)
    (store / "meta.json").write_text(json.dumps({"splits": {"train": {"patches": 40}}}))
    assert main([str(folder)]) == 0
    # 120 steps of one trial and 240 of the next, ten a second.
    assert "3 trials: 1 running, 1 finished, 1 waiting; ETA of all 0:36" in capsys.readouterr().out


def test_a_sweep_that_grows_is_seen_while_it_is_watched(folder: Path, lease: Lease) -> None:
    reader = StatusReader(str(folder))
    assert len(reader.read().trials) == 3
    content = yaml.safe_load((folder / "experiment.yaml").read_text())
    content["sweep"]["lambda_l1"].append(5.0)
    Storage.open(folder).write("experiment.yaml", yaml.safe_dump(content).encode())
    assert [trial.name for trial in reader.read().trials][-1] == "lambda_l1=5"


def test_it_reads_only(folder: Path, lease: Lease, capsys: Capture) -> None:
    before = files(folder.parent)
    with Storage.open(folder).exclusive(), Storage.open(folder / "trials" / "lambda_l1=100").exclusive():
        assert main([str(folder)]) == 0
    after = files(folder.parent)
    lock = str(folder / "lock")
    assert {**after, lock: None} == {**before, lock: None}, "but for the holder's own heartbeat"


def test_a_stopping_run_says_so_and_nothing_waits_any_more(folder: Path, lease: Lease, capsys: Capture) -> None:
    lease.announce_stop("SIGTERM")
    assert main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert "stopping (SIGTERM)" in out
    assert statuses(out)["lambda_l1=1000"] == "stopped"


@pytest.mark.parametrize(("age_s", "status"), [(5, "running"), (4000, "stopped")])
def test_a_holder_on_another_machine_is_judged_by_its_heartbeat(
    folder: Path, lease: Lease, capsys: Capture, age_s: float, status: str
) -> None:
    edit_lock(folder, host="elsewhere", heartbeat=time.time() - age_s)
    assert main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert statuses(out)["lambda_l1=100"] == status
    said = "last heartbeat 5.0 s ago" if status == "running" else "gave its last sign of life 1 h 06 min ago"
    assert f"process {os.getpid()} on elsewhere" in out and said.partition(".")[0] in out


def test_a_copy_of_a_run_that_goes_on_is_no_run(folder: Path, lease: Lease, tmp_path: Path, capsys: Capture) -> None:
    edit_lock(folder, host="elsewhere", heartbeat=time.time() - 4000)
    copied = shutil.copytree(folder, tmp_path / "elsewhere" / "sweep")
    assert main([str(copied)]) == 0
    assert statuses(capsys.readouterr().out)["lambda_l1=100"] == "stopped"


@pytest.mark.parametrize("damage", ["lock", "experiment.yaml", "trial.yaml", "metrics.jsonl", "outcome.json"])
def test_half_written_files_are_no_obstacle(folder: Path, damage: str, capsys: Capture) -> None:
    (folder / ".ray").mkdir(exist_ok=True)
    if damage == "experiment.yaml":  # of a run that is still being prepared
        (folder / damage).unlink()
    elif damage == "lock":
        (folder / damage).write_text('{"attempt": 1, "tok')
    else:
        path = folder / "trials" / "lambda_l1=100" / damage
        path.write_bytes(path.read_bytes()[:-20] if path.exists() else b"{")
    assert main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert "its trials are not planned yet" in out if damage == "experiment.yaml" else "3 trials:" in out


@pytest.mark.parametrize("name", ["nowhere", "trials"])
def test_what_is_no_experiment_is_refused(folder: Path, name: str, capsys: Capture) -> None:
    assert main([str(folder / name)]) == 2
    assert "give an experiment's folder, STORAGE/EXPERIMENT" in capsys.readouterr().err


def test_watching_ends_with_the_run_and_shows_its_results(folder: Path, lease: Lease, capsys: Capture) -> None:
    ending = threading.Timer(0.5, lease.release)
    ending.start()
    assert main([str(folder), "--watch"]) == 0
    ending.join()
    out = capsys.readouterr().out
    assert out.startswith(f"run by process {os.getpid()} on ")
    assert "no command is running this experiment\n3 trials: 2 stopped, 1 finished\n" in out


def test_watching_ends_by_ctrl_c_with_130(folder: Path, lease: Lease) -> None:
    process = start("runner.status", folder, "--watch")
    read_until(process, "run by process")
    read_until(process, "3 trials: ")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stdout is not None and "Traceback" not in process.stdout.read()
