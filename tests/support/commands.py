"""A small experiment, and the commands run on it, as the tests use them."""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from runner.records.metrics_log import MetricsLog
from runner.storage.storage import Storage

ROOT = Path(__file__).parents[2]
WALL_TIMES = ("seconds", "images_per_second")

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"source": "synthetic", "patch_size": 64, "synthetic": {"train": 2, "val": 1, "seed": 3}},
    "model": {"channels": 4, "receptive_field": 16},
    "training": {"epochs": 3, "batch_size": 8},
    "evaluation": {"num_patches": 4},
    "checkpoint": {"every_n_epochs": 1},
    "log_every_n_steps": 5,
    "resources": {"cpus_per_worker": 1},
}


def reopen_log(trial: Storage, step: int) -> MetricsLog:
    """The log as a worker opens it that was restored at a step, from a checkpoint with all rows."""
    return MetricsLog(trial, trial.read("metrics.jsonl") if trial.exists("metrics.jsonl") else b"", step)


def write_experiment(folder: Path, **changes: Any) -> Path:
    """An experiment file: SMALL with sections updated."""
    content = {key: {**value} if isinstance(value, dict) else value for key, value in SMALL.items()}
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


Command = subprocess.Popen[str]


def start(module: str, *arguments: object, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Command:
    """Starts `python -m module arguments` in a process group of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "WANDB_MODE": "offline", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    return process


STARTED: list[Command] = []
_GRPC_REMARK = re.compile(r"^[IWE]\d{4} [\d:.]+ +\d+ \w+\.cc:\d+\]", re.MULTILINE)


def end_what_was_started() -> None:
    """Ends the commands that a failed test has left running, and closes what was not read of the others."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            kill_family(process)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def kill_family(process: Command) -> None:
    """SIGKILL to a command and to all that it has started."""
    for pid in (process.pid, *descendants(process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def finish(process: Command, timeout_s: float = 300) -> str:
    """Waits for the end; all that was printed. The exit code is then in `returncode`."""
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert not _GRPC_REMARK.search(output), f"gRPC speaks to the person:\n{output}"
    return output


def read_until(process: Command, pattern: str) -> tuple[re.Match[str], str]:
    """Waits until what a command prints matches; the match, and all that it has printed up to there."""
    assert process.stdout is not None
    printed = ""
    while not (found := re.search(pattern, printed)):
        byte = os.read(process.stdout.fileno(), 1)  # what is buffered would be lost to the reader of the rest
        assert byte, printed
        printed += byte.decode(errors="replace")
    return found, printed


def run(module: str, *arguments: object, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit code and output of a command."""
    process = start(module, *arguments, env=env)
    output = finish(process)
    return process.returncode, output


def read_metrics(trial: Path) -> list[dict[str, Any]]:
    """The whole rows of a trial's log."""
    path = trial / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def without_wall_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as they must be the same in every run."""
    return [{key: value for key, value in row.items() if key not in WALL_TIMES} for row in rows]


def weights_digest(trial: Path) -> str:
    """SHA-256 of the finished trial's weights."""
    return hashlib.sha256((trial / "weights" / "generator.safetensors").read_bytes()).hexdigest()


def files_of_store(storage: Path) -> dict[str, bytes]:
    """The content of each file of the one patch store below a storage folder."""
    (store,) = (storage / "patches").glob("[!.]*")
    return {path.name: path.read_bytes() for path in store.iterdir()}


def wait_for_step(process: Command, trial: Path, step: int) -> int:
    """Returns the last logged step as soon as it is `step` or more; fails where the command ends before."""
    while process.poll() is None:
        rows = read_metrics(trial)
        if rows and rows[-1]["step"] >= step:
            return int(rows[-1]["step"])
        time.sleep(0.05)  # a poll, not a wait for something to have happened
    raise AssertionError(f"the command ended before step {step}:\n{process.communicate()[0]}")


def read_starts(trial: Path) -> list[dict[str, Any]]:
    """A row for each time that a worker began on the trial."""
    path = trial / "starts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_starts(process: Command, trial: Path, count: int) -> None:
    """Returns once the trial's workers have begun so often; fails where the command ends before."""
    while process.poll() is None:
        if len(read_starts(trial)) >= count:
            return
        time.sleep(0.05)  # a poll
    raise AssertionError(f"the command ended before start {count}:\n{process.communicate()[0]}")


def descendants(pid: int) -> dict[int, str]:
    """Processes below a process, with their titles."""
    parents, titles = {}, {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text()
            titles[int(status.parent.name)] = (status.parent / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue
        parents[int(status.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: titles.get(child, "") for child in found - {pid}}


TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"patch_size": 64, "patching": "resize", "synthetic": {"train": 12, "val": 2, "seed": 3}},
    "model": {"channels": 2, "receptive_field": 16},
    "training": {"epochs": 6, "batch_size": 4, "precision": "fp32"},
    "checkpoint": {"every_n_epochs": 1},
    "log_every_n_steps": 1,
    "resources": {"cpus_per_worker": 1},
    "tracking": {"wandb": "off"},
}


def assert_same_end(trial: Path, undisturbed: Path) -> None:
    """Weights, the state in the last checkpoint, and the log without wall times are the same to the last bit."""
    assert weights_digest(trial) == weights_digest(undisturbed)
    newest = [max((place / "checkpoints").glob("step_*")) for place in (trial, undisturbed)]
    assert newest[0].name == newest[1].name
    states = [checkpoint_state(checkpoint) for checkpoint in newest]
    assert states[0].keys() == states[1].keys()
    for name, content in states[1].items():
        assert states[0][name] == content, name
    rows = [without_wall_times(read_metrics(place)) for place in (trial, undisturbed)]
    assert rows[0] == rows[1]


def checkpoint_state(checkpoint: Path) -> dict[str, bytes]:
    """The files of a checkpoint's groups; in a bucket they have names of their writer's own."""
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    return {
        name: (checkpoint / entry.get("path", name)).read_bytes()
        for name, entry in files.items()
        if name.endswith(".safetensors")
    }


def assert_same_pictures(trial: Path, undisturbed: Path) -> None:
    """The picture of each epoch, the values of each patch and the best weights are the same to the last bit."""
    contents = [
        {
            path.relative_to(place).as_posix(): path.read_bytes()
            for pattern in ("images/*", "evaluation.csv", "weights/*")
            for path in place.glob(pattern)
        }
        for place in (trial, undisturbed)
    ]
    assert contents[0].keys() == contents[1].keys()
    for name, content in contents[1].items():
        assert contents[0][name] == content, name
