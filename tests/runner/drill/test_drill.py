"""The drill: its comparison of runs, its plan for the time, and that it ends only processes that it started."""

import argparse
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.drill import drill
from runner.drill.__main__ import main
from runner.drill.comparison import differences
from runner.drill.drill import SHORT_MINUTES
from runner.drill.faults.catalogue import FAULTS, Fault, why_not
from runner.drill.faults.damaging import DAMAGES
from runner.drill.planning import Cost, Pace, choose_next
from runner.drill.processes import kill_session, kill_worker_during_write, session_processes, signal_worker
from runner.drill.run import run
from runner.drill.target_run import TargetRun
from runner.records.checkpoints import checkpoint_name
from runner.storage.run_folder import CHECKPOINTS, MANIFEST, WEIGHTS
from runner.storage.storage import Storage

FOLDER = Storage.open("/")
STATE = f"{CHECKPOINTS}/{checkpoint_name(20)}/generator_optimizer.safetensors"
LOG = [{"step": 10, "seconds": 1.5, "l1_loss": 0.5}, {"step": 20, "seconds": 3.0, "l1_loss": 0.25}]


def write_trial(folder: Path, rows: list[dict[str, float]] = LOG) -> Storage:
    trial = Storage.open(folder)
    for name in (WEIGHTS, STATE):
        trial.make_folder(name.rpartition("/")[0])
        trial.write(name, name.encode() * 10)
    files = {STATE.rpartition("/")[2]: {"bytes": 1, "sha256": ""}}
    trial.write(f"{STATE.rpartition('/')[0]}/{MANIFEST}", json.dumps({"files": files}).encode())
    trial.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    return trial


def test_a_run_with_the_same_bytes_and_other_wall_times_survived(tmp_path: Path) -> None:
    reference = write_trial(tmp_path / "a")
    slower = write_trial(tmp_path / "b", [{**row, "seconds": row["seconds"] + 7} for row in LOG])
    assert differences(slower, reference) == []


@pytest.mark.parametrize("name", [WEIGHTS, STATE])
@pytest.mark.parametrize("damage", ["another bit", "gone"])
def test_a_run_whose_weights_or_state_differ_in_one_bit_or_are_gone_did_not_survive(
    tmp_path: Path, name: str, damage: str
) -> None:
    reference, trial = write_trial(tmp_path / "a"), write_trial(tmp_path / "b")
    content = bytearray(trial.read(name))
    content[5] ^= 1
    trial.remove(name)
    if damage == "another bit":
        trial.write(name, bytes(content))
    assert differences(trial, reference) == [f"{name} differs"]


def test_a_run_whose_log_lacks_a_row_or_has_another_number_did_not_survive(tmp_path: Path) -> None:
    reference = write_trial(tmp_path / "a")
    (text,) = differences(write_trial(tmp_path / "b", LOG[:1]), reference)
    assert text == "metrics.jsonl has 1 row instead of 2"
    (text,) = differences(write_trial(tmp_path / "c", [LOG[0], {**LOG[1], "l1_loss": 0.251}]), reference)
    assert "differs from row 2 on" in text


def test_a_run_that_stopped_at_an_earlier_checkpoint_did_not_survive(tmp_path: Path) -> None:
    reference, trial = write_trial(tmp_path / "a"), write_trial(tmp_path / "b")
    trial.set_aside(f"{CHECKPOINTS}/{checkpoint_name(20)}", f"{CHECKPOINTS}/{checkpoint_name(10)}")
    assert differences(trial, reference) == ["the last checkpoint is of step 10 instead of 20"]


def test_the_most_important_fault_that_fits_is_next_and_one_that_takes_most_of_the_time_waits() -> None:
    seconds = {"first": 60.0, "second": 20.0, "third": 5.0}
    assert choose_next(list(seconds), seconds.__getitem__, 120.0) == "first"
    assert choose_next(list(seconds), seconds.__getitem__, 119.0) == "second"
    assert choose_next(["first"], seconds.__getitem__, 61.0) == "first"
    assert choose_next(list(seconds), seconds.__getitem__, 4.9) is None


def test_estimates_follow_what_was_seen_of_the_same_kind() -> None:
    pace = Pace(training_s=10, quick_start_s=5, ray_start_s=30)
    quick, on_ray = Cost(quick_starts=2), Cost(ray_starts=2)
    assert (pace.estimate_s(quick), pace.estimate_s(on_ray)) == (20, 70)
    pace.learn(quick, 40)
    assert (pace.estimate_s(quick), pace.estimate_s(on_ray)) == (40, 70)


def test_on_a_cluster_what_would_harm_others_is_not_tried() -> None:
    not_tried = {fault.name for fault in FAULTS if why_not(fault, "head:6379", FOLDER)}
    assert {"everything_killed", "driver_killed", "disk_full", "node_preempted", "head_lost"} < not_tried
    assert {"worker_killed", "main_killed", "checkpoint_damaged"}.isdisjoint(not_tried)
    assert not any(why_not(fault, None, FOLDER) for fault in FAULTS)


def test_on_a_bucket_all_is_tried_but_what_only_a_disk_can_have() -> None:
    not_tried = {fault.name for fault in FAULTS if why_not(fault, None, Storage.open("s3://bucket"))}
    assert not_tried == {"disk_full", "storage_not_shared"}


def test_every_way_to_damage_a_checkpoint_changes_it(tmp_path: Path) -> None:
    for damage in DAMAGES:
        checkpoint = Storage.open(tmp_path / damage.__name__)
        checkpoint.make_folder()
        before = {
            "generator-1.safetensors": bytes(100),
            MANIFEST: json.dumps({"files": {"generator.safetensors": {"path": "generator-1.safetensors"}}}).encode(),
        }
        for name, content in before.items():
            checkpoint.write(name, content)
        damage(checkpoint)
        assert {name: checkpoint.read(name) for name in checkpoint.names()} != before


@pytest.fixture
def family() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, with a child."""
    process = subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600"], start_new_session=True)
    try:
        wait_for(lambda: len(session_processes(process.pid)) == 3)
        yield process
    finally:
        kill_session(process.pid)
        process.wait()


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_only_processes_of_the_drills_own_session_are_ended(family: subprocess.Popen[bytes]) -> None:
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        os.kill(family.pid, signal.SIGKILL)  # the children are orphans now
        family.wait()
        assert len(session_processes(family.pid)) == 2
        kill_session(family.pid)
        assert session_processes(family.pid) == {}
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_process_that_is_no_worker_is_not_signalled(family: subprocess.Popen[bytes], tmp_path: Path) -> None:
    assert not signal_worker(family.pid, signal.SIGKILL)
    assert not kill_worker_during_write(family.pid, FOLDER.at(str(tmp_path)), MANIFEST, 0.1)
    assert family.poll() is None


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "many"])
def test_minutes_that_are_none_are_refused(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--minutes", minutes])
    assert ended.value.code == 2
    assert "is no number of minutes: give one above 0" in capsys.readouterr().err


def test_a_storage_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.touch()
    assert main(["--storage", str(path)]) == 2
    assert "is a file" in capsys.readouterr().err


def tamper(target: TargetRun) -> None:
    """A fault that no run can survive: a bit of the finished weights is another."""
    command = target.start(quick=True)
    target.expect(command, 0)
    content = bytearray(target.trial.read(WEIGHTS))
    content[-1] ^= 1
    target.trial.write(WEIGHTS, bytes(content))
    target.finish(command)


def drill_arguments(table: Path, storage: Path | None) -> argparse.Namespace:
    """As the command parses them; a drill that is short, but has time for a few faults on any machine."""
    return argparse.Namespace(
        minutes=SHORT_MINUTES - 0.1, address=None, storage=storage and str(storage), json=str(table), seed=5
    )


@pytest.mark.slow
def test_a_run_that_did_not_survive_makes_the_exit_code_1_and_what_has_no_time_is_not_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill, "_EPOCHS_IN_SHORT", 1)  # nothing happens during the training
    faults = (
        Fault("endless", "takes for ever", tamper, lambda kills: Cost(ray_starts=10**6)),
        Fault("tampered", "weights tampered with", tamper, lambda kills: Cost(quick_starts=1)),
        *(fault for fault in FAULTS if fault.name == "killed_while_preparing"),
    )
    table = tmp_path / "table.json"
    assert run(drill_arguments(table, tmp_path / "storage"), faults) == 1
    output = capsys.readouterr().out
    assert f"weights tampered with: {WEIGHTS} differs" in output
    assert str(tmp_path / "storage" / "drill_1" / "tampered") in output
    assert "1 of 2 faults survived, 1 kill" in output
    content = json.loads(table.read_text())
    assert (content["survived"], content["kills"]) == (False, 1)
    assert [row["survived"] for row in content["faults"]] == ["not tried", "no", "yes"]


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("own_home")
def test_a_run_whose_node_is_taken_away_survives_and_nothing_is_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one fault that only the drill brings about: other tests kill, stop and damage runs in all other ways."""
    faults = [fault for fault in FAULTS if fault.name == "node_preempted"]
    table = tmp_path / "table.json"
    code = run(drill_arguments(table, None), faults)
    output = capsys.readouterr().out
    assert code == 0, output
    content = json.loads(table.read_text())
    assert content["survived"]
    (row,) = content["faults"]
    assert row["survived"] == "yes", output
    assert len(row["recovery_s"]) == len(row["lost_steps"]) == 1
    assert row["recovery_s"][0] > 0
    folder = output.partition(" minutes in ")[2].partition(",")[0]
    assert folder
    assert not Path(folder).exists(), "nothing is left behind"
    assert "1 of 1 faults survived" in output
