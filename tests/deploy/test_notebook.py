"""deploy/notebook.py carries results from session to session."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from runner import run_experiment
from runner.errors import Exit
from tests.deploy.desk import DEPLOY
from tests.support.commands import STARTED, TINY, finish, read_starts, read_until, write_experiment

SCRIPT = DEPLOY / "notebook.py"


@pytest.fixture
def notebook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebook", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results(folder: Path, content: str = "weights") -> Path:
    """Some results that can only be read, as the input of a notebook."""
    for name in ("sweep/trials/trial/weights.bin", "patches/f00d/shard"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(content)
        (folder / name).chmod(0o444)
    for path in folder.rglob("*"):
        if path.is_dir():
            path.chmod(0o555)
    return folder


def test_results_are_brought_without_what_is_made_again_and_can_be_written_to(
    notebook: ModuleType, tmp_path: Path
) -> None:
    target = tmp_path / "working" / "results"
    notebook.bring(results(tmp_path / "input"), target)
    weights = target / "sweep/trials/trial/weights.bin"
    assert weights.read_text() == "weights"
    assert weights.stat().st_mode & 0o200
    assert weights.parent.stat().st_mode & 0o200
    assert not (target / "patches").exists()


def test_newer_results_take_the_place_of_older_ones_whole(notebook: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "results"
    notebook.bring(results(tmp_path / "old"), target)
    (target / "sweep/gone").touch()
    notebook.bring(results(tmp_path / "new", "better"), target)
    assert (target / "sweep/trials/trial/weights.bin").read_text() == "better"
    assert not (target / "sweep/gone").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "results"]


@pytest.mark.parametrize("calls", [1, 2])
def test_a_machine_that_goes_while_results_are_brought_leaves_a_whole_copy(
    notebook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    target = tmp_path / "results"
    notebook.bring(results(tmp_path / "input"), target)
    rename, left = Path.rename, iter(range(calls - 1))

    def rename_or_end(path: Path, to: Path) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", rename_or_end)
    with pytest.raises(KeyboardInterrupt):
        notebook.bring(tmp_path / "input", target)

    whole = notebook._whole_copy(target)
    assert (whole / "sweep/trials/trial/weights.bin").read_text() == "weights"
    monkeypatch.setattr(Path, "rename", rename)
    notebook.bring(results(tmp_path / "new", "better"), target)
    assert (notebook._whole_copy(target) / "sweep/trials/trial/weights.bin").read_text() == "better"


def play(
    notebook: ModuleType, monkeypatch: pytest.MonkeyPatch, codes: list[int], *arguments: object
) -> list[list[str]]:
    """The commands that are run where each leg ends with the next of the codes; all legs leave a file."""
    commands: list[list[str]] = []

    def run(command: list[str]) -> tuple[int, bool]:
        storage = Path(command[command.index("--storage") + 1])
        storage.mkdir(exist_ok=True)
        (storage / f"leg_{len(commands)}").touch()
        commands.append(command[1:])
        return codes[len(commands) - 1], False

    monkeypatch.setattr(notebook, "_run", run)
    assert notebook.main([str(word) for word in arguments]) == codes[-1]
    assert len(commands) == len(codes)
    return commands


def test_a_session_takes_over_from_the_one_before_and_trains_one_leg(
    notebook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, storage = results(tmp_path / "input"), tmp_path / "results"
    options = ["--before", before, "--storage", storage, "--time-limit", "11.5h", "--set", "name=sweep"]
    (command,) = play(notebook, monkeypatch, [75], "experiment.yaml", *options)
    assert command[:5] == ["-m", "runner.tune", "experiment.yaml", "--set", "name=sweep"]
    assert command[5:] == ["--storage", str(storage), "--time-limit", "11.5h"]
    assert (storage / "sweep/trials/trial/weights.bin").exists()


def test_a_first_session_begins_with_nothing(
    notebook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--before", tmp_path / "input", "--storage", tmp_path / "results", "--time-limit", "30m"]
    play(notebook, monkeypatch, [0], "experiment.yaml", *options)


def test_legs_follow_each_other_until_all_is_done_and_each_is_brought_away(
    notebook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = tmp_path / "drive"
    options = ["--storage", tmp_path / "results", "--after", after, "--time-limit", "30m"]
    play(notebook, monkeypatch, [75, 75, 0], "experiment.yaml", *options)
    assert sorted(path.name for path in after.iterdir()) == ["leg_0", "leg_1", "leg_2"]


def test_results_of_this_machine_are_not_replaced_by_older_ones(
    notebook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / "results"
    storage.mkdir()
    options = ["--before", results(tmp_path / "input"), "--storage", storage, "--time-limit", "30m"]
    play(notebook, monkeypatch, [0], "experiment.yaml", *options)
    assert sorted(path.name for path in storage.iterdir()) == ["leg_0"]


# In place of the runner: it says that it trains, and takes a moment to save.
_TUNE = """
import signal, sys, time
from pathlib import Path

storage = Path(sys.argv[sys.argv.index("--storage") + 1])
storage.mkdir(exist_ok=True)
(storage / "saved").unlink(missing_ok=True)

def save(number, frame):
    time.sleep(0.6)  # longer than subprocess.run would wait after a Ctrl-C
    (storage / "saved").touch()
    sys.exit(75 if number == signal.SIGTERM else 130)

signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, save)
print("training", flush=True)
while True:
    signal.pause()
"""


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_session_that_is_told_to_stop_waits_until_all_is_saved_and_brought_away(
    tmp_path: Path, ending: signal.Signals
) -> None:
    (tmp_path / "runner").mkdir()
    (tmp_path / "runner" / "__init__.py").touch()  # without it the real one would be found
    (tmp_path / "runner" / "tune.py").write_text(_TUNE)
    after = tmp_path / "drive"
    options = ["--storage", tmp_path / "results", "--after", after, "--time-limit", "30m"]
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "experiment.yaml", *map(str, options)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    read_until(process, "training")
    if ending == signal.SIGINT:
        os.killpg(process.pid, ending)  # as an interrupted cell does
    else:
        process.send_signal(ending)

    assert "training" not in finish(process)  # no other leg begins
    assert process.returncode == (Exit.STOPPED if ending == signal.SIGTERM else Exit.INTERRUPTED)
    assert (after / "saved").exists()


@pytest.mark.slow
def test_the_runner_goes_on_from_what_was_brought(notebook: ModuleType, tmp_path: Path) -> None:
    file = write_experiment(tmp_path, **TINY)
    for session, epochs in (("first", 1), ("second", 2)):
        settings = [f"training.epochs={epochs}"]
        run_experiment(file, overrides=settings, storage=tmp_path / session, in_process=True, quiet=True)
        if session == "first":
            notebook.bring(tmp_path / "first", tmp_path / "second")

    starts = read_starts(tmp_path / "second" / "tiny" / "trials" / "trial")
    assert [(start["from_step"], start["fault"]) for start in starts] == [(0, False), (3, False)]
