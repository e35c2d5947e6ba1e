"""What is printed can't end a command; a terminal that is closed asks it to save and stop."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from runner.process.stop_request import StopRequest, stop_signals
from runner.records.trial_file import read_outcome
from runner.storage.storage import Storage
from tests.support.commands import ROOT, read_metrics, write_experiment

# Prints more than fits into any buffer, by `print` and by the rich of our screen, and says how it ended by a file.
PRINTS = """
import sys
from pathlib import Path
from runner.process.output import lasting_output
with lasting_output():
    from runner.console import Console
    for _ in range(3000):
        print("a line of a command" * 10)
        Console().print("a line of a run" * 10)
Path(sys.argv[1]).write_text("went on to the end")
"""


def printing(end: Path, redirection: str) -> tuple[int, str]:
    """Exit code and standard error of a process that prints, with its output sent somewhere by a shell."""
    command = f'set -o pipefail; "{sys.executable}" -c "$1" "$2" {redirection}'
    ended = subprocess.run(
        ["bash", "-c", command, "bash", PRINTS, str(end)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize(
    ("redirection", "note"),
    [
        ("| head -1", "note: standard output can't be written (nobody reads it any more): the command goes on"),
        ("> /dev/full", "note: standard output can't be written (No space left on device): the command goes on"),
        ("> /dev/full 2>&1", ""),
        (">&- 2>&-", ""),
    ],
)
def test_output_that_cannot_be_written_ends_nothing(tmp_path: Path, redirection: str, note: str) -> None:
    code, error = printing(tmp_path / "end", redirection)
    assert code == 0, error
    assert (tmp_path / "end").read_text() == "went on to the end"
    assert error.startswith(note)
    assert error.count("\n") == bool(note), "it is said once, and nothing else"


def test_all_that_can_be_written_is_written_in_order(tmp_path: Path) -> None:
    code, error = printing(tmp_path / "end", f"> {tmp_path}/output.txt")
    assert (code, error) == (0, "")
    lines = (tmp_path / "output.txt").read_text().splitlines()
    assert lines == ["a line of a command" * 10, "a line of a run" * 10] * 3000


def test_a_closed_stream_does_not_give_its_number_to_a_file(tmp_path: Path) -> None:
    code = (
        "from runner.process.output import lasting_output\n"
        f"with lasting_output():\n    file = open({str(tmp_path / 'file')!r}, 'w')\n    raise SystemExit(file.fileno())"
    )
    command = f'"{sys.executable}" -c "$1" <&- >&- 2>&-'
    assert subprocess.run(["bash", "-c", command, "bash", code], cwd=ROOT, check=False).returncode > 2


def test_a_closed_terminal_asks_to_stop_unless_that_is_ignored() -> None:
    stop = StopRequest()
    with stop_signals(stop):
        os.kill(os.getpid(), signal.SIGHUP)
    assert (stop.reason, stop.exit_code) == ("SIGHUP", 75)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    stop = StopRequest()
    with stop_signals(stop):
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signal.signal(signal.SIGHUP, before)
    assert not stop.reason


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_saves_and_ends_with_75(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, training={"epochs": 500}, tracking={"wandb": "off"})
    trial = tmp_path / "results/small/trials/trial"
    ours, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "runner.train", path, "--in-process", "--storage", tmp_path / "results"],
        cwd=ROOT, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, text=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # the terminal is this process's own
    )  # fmt: skip
    os.close(terminal)
    try:
        while not read_metrics(trial):
            assert os.read(ours, 65536), "the screen is drawn twice a second"
        os.close(ours)
        assert process.wait(timeout=120) == 75
    finally:
        process.kill()
        process.wait()
    (row,) = json.loads((tmp_path / "results/small/results.json").read_text())
    assert row["status"] == "stopped"
    assert read_outcome(Storage.open(trial))["reason"] == "SIGHUP"
    assert list(trial.glob("checkpoints/step_*/manifest.json"))
