"""Why a trial goes on is said, recorded, and counted as a restart where it was a fault."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import runner.train
from runner.records.starts import WORKER_LOST, cause_of, count_faults, describe_start, read_starts, record_start
from runner.records.trial_file import read_outcome, write_outcome
from runner.storage.storage import Storage
from tests.support.commands import TINY, write_experiment

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("outcome", "text", "is_fault"),
    [
        (("stopped", "time limit"), "stopped by --time-limit", False),
        (("stopped", "Ctrl-C"), "stopped by Ctrl-C", False),
        (("stopped", "SIGTERM"), "stopped by SIGTERM", False),
        (("stopped", "no room on the disk"), "stopped (no room on the disk)", False),
        (("finished", ""), "it had finished, and training.epochs was raised", False),
        (("diverged", "nan"), "it had diverged, and --retry-diverged tries it again", False),
        (("failed", "ValueError: x"), "failed: ValueError: x", True),
        (("out_of_memory", "x"), "out_of_memory: x", True),
        (("cut_off", "the command was killed"), "the command was killed", True),
    ],
)
def test_what_a_person_did_is_no_fault_and_what_nobody_wanted_is_one(
    outcome: tuple[str, str], text: str, is_fault: bool
) -> None:
    assert cause_of(*outcome) == (text, is_fault)


def test_a_line_says_from_which_step_and_why(tmp_path: Path) -> None:
    trial = Storage.open(tmp_path)
    record_start(trial, 1, "a", 0, 0)
    record_start(trial, 2, "b", 660, 0, cause_of("stopped", "time limit"))
    record_start(trial, 2, "c", 0, 3, WORKER_LOST)
    lines = [describe_start("trial", start, 1296, 648) for start in read_starts(trial)]
    assert lines == [
        "",
        "trial goes on from step 660 of 1296 (epoch 2): stopped by --time-limit",
        "trial begins again with its first step: after a fault: its worker ended without a word; log.txt may say more",
    ]
    assert count_faults(read_starts(trial)) == 1


def test_starts_of_earlier_releases_count_where_ray_made_them_or_steps_were_lost() -> None:
    rows = [(1, 0), (2, 0), (2, 0), (3, 5), (4, 0)]
    assert count_faults([{"attempt": attempt, "lost_steps": lost} for attempt, lost in rows]) == 2


def train(tmp_path: Path, epochs: int) -> dict[str, Any]:
    """Trains on to that epoch; the row of results."""
    path = write_experiment(tmp_path, **{**TINY, "training": {**TINY["training"], "epochs": epochs}})
    assert runner.train.main([str(path), "--in-process", "--storage", str(tmp_path / "results")]) == 0
    (row,) = json.loads((tmp_path / "results" / "tiny" / "results.json").read_text())
    return dict(row)


def test_more_epochs_are_no_restart_and_a_killed_command_is_one(tmp_path: Path, capsys: Capture) -> None:
    assert train(tmp_path, 1)["restarts"] == 0
    capsys.readouterr()
    assert train(tmp_path, 2)["restarts"] == 0
    line = "trial goes on from step 3 of 6 (epoch 2): it had finished, and training.epochs was raised"
    assert line in capsys.readouterr().out.splitlines()

    # As a command leaves it that is killed in the middle of a third epoch.
    trial = Storage.open(tmp_path / "results" / "tiny" / "trials" / "trial")
    write_outcome(trial, "running")
    assert train(tmp_path, 3)["restarts"] == 1
    line = "trial goes on from step 6 of 9 (epoch 3): after a fault: the command was killed, or its machine was lost"
    assert line in capsys.readouterr().out.splitlines()


def test_a_command_that_was_killed_while_it_stopped_was_stopped(tmp_path: Path, capsys: Capture) -> None:
    train(tmp_path, 1)
    experiment = tmp_path / "results" / "tiny"
    write_outcome(Storage.open(experiment / "trials" / "trial"), "running")
    # Takes the lease, announces the stop, and is over without giving the lease back.
    code = (
        "import os, sys; from runner.process.lease import Lease; from runner.storage.storage import Storage; "
        "Lease.acquire(Storage.open(sys.argv[1])).announce_stop('Ctrl-C'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, experiment], check=True)
    capsys.readouterr()

    assert train(tmp_path, 2)["restarts"] == 0
    assert "trial goes on from step 3 of 6 (epoch 2): stopped by Ctrl-C" in capsys.readouterr().out.splitlines()


def test_a_trial_that_failed_waits_for_its_turn_when_it_is_tried_again(tmp_path: Path, capsys: Capture) -> None:
    train(tmp_path, 1)
    trial = Storage.open(tmp_path / "results" / "tiny" / "trials" / "trial")
    write_outcome(trial, "failed", "ValueError: broken")
    assert train(tmp_path, 2)["restarts"] == 1
    assert "after a fault: failed: ValueError: broken" in capsys.readouterr().out
    assert read_outcome(trial) == {"status": "finished", "reason": ""}
