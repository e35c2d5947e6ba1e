"""Runs of `runner.train --in-process` in forked processes, which die where a test wants them to.

A server process imports everything once; each run is a fork of it and takes a second instead of six.
"""

import contextlib
import functools
import gc
import importlib
import itertools
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from runner.trial.heartbeat import Heartbeat
from tests.support.commands import ROOT, TINY, write_experiment

FORK_SERVER = get_context("forkserver")
FORK_SERVER.set_forkserver_preload(["tests.support.preload"])
TIMEOUT_S = 120
SAVE_ALWAYS = {"runner.trial.async_checkpointer.MIN_INTERVAL_S": 0.0, "runner.trial.async_checkpointer.SAVE_SHARE": 1e9}


@dataclass(frozen=True)
class KillPoint:
    """SIGKILL at the nth call of a function, or SIGTERM.

    Attributes:
        function: dotted, as `runner.storage.folder.Folder.rename`.
        when: `before` it, `after` it, `half-way` through the bytes that it writes; `stop` is SIGTERM before it.
    """

    function: str
    call: int
    when: str = "before"


def random_kill_point(draw: random.Random, places: Mapping[str, int], half_way: Sequence[str] = ()) -> KillPoint:
    """One of these places.

    Args:
        places: functions, each with the call at which a run dies at the latest.
        half_way: those that write bytes, and may die in the middle of that.
    """
    function = draw.choice(list(places))
    when = draw.choice(["before", "after", "half-way"] if function in half_way else ["before", "after"])
    return KillPoint(function, draw.randint(1, places[function]), when)


@dataclass(frozen=True)
class Run:
    """How a run ended: exit code, or minus the signal that ended it; what it printed."""

    code: int
    output: str


def start_fork(target: Callable[..., object], *arguments: object) -> BaseProcess:
    """Calls a function of a module of the tests in a fork of the server."""
    process = FORK_SERVER.Process(target=target, args=arguments)
    # The first one starts the server, which looks for `tests` in the working folder.
    with contextlib.chdir(ROOT):
        process.start()
    return process


def run_forked(
    argv: Sequence[object],
    output: Path,
    *,
    kill_points: Sequence[KillPoint] = (),
    settings: dict[str, Any] | None = None,
    max_file_bytes: int | None = None,
    module: str = "runner.train",
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Runs a command in a process of its own.

    Args:
        settings: module-level values to replace, by dotted name.
        max_file_bytes: no file may get larger, as if the disk were full.
        environment: what the process has in its environment beside what this one has.
    """
    arguments = ([str(part) for part in argv], output, kill_points, settings or {}, max_file_bytes, module)
    process = start_fork(_child, *arguments, environment or {})
    process.join(TIMEOUT_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"the run did not end within {TIMEOUT_S} s:\n{output.read_text()}")
    return Run(process.exitcode, output.read_text())


def train_tiny(
    folder: Path, *options: str, storage: Path | str | None = None, changes: Mapping[str, Any] | None = None, **how: Any
) -> Run:
    """One start of the command on the TINY experiment.

    Args:
        folder: holds the experiment's file, what was printed, and, unless `storage` is another, `results`.
        changes: to the experiment.
        how: as run_forked takes it.
    """
    arguments = [write_experiment(folder, **{**TINY, **(changes or {})}), "--storage", storage or folder / "results"]
    in_process = [] if "module" in how else ["--in-process"]
    return run_forked([*arguments, *in_process, *options], folder / "output.txt", **how)


def tiny_trial(folder: Path) -> Path:
    """The trial's folder, where `folder` has the results in it."""
    return folder / "results" / "tiny" / "trials" / "trial"


def _child(
    argv: list[str],
    output: Path,
    kill_points: Sequence[KillPoint],
    settings: dict[str, Any],
    max_file_bytes: int | None,
    module: str,
    environment: Mapping[str, str],
) -> None:
    os.environ.update(environment)
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    for name, value in settings.items():
        owner, attribute = _resolve(name)
        setattr(owner, attribute, value)
    for kill_point in kill_points:
        _arm(kill_point)
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    code = importlib.import_module(module).main(argv)
    sys.stdout.flush()
    os._exit(code)


def _resolve(name: str) -> tuple[Any, str]:
    """The module or class that holds a dotted name, and the name's last part."""
    path, attribute = name.rsplit(".", 1)
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.import_module(path), attribute
    module, kind = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), kind), attribute


def _wait_until_the_loop_knows() -> None:
    """Returns once the worker's line to Coordinator has heard that it is to stop."""
    (line,) = (found for found in gc.get_objects() if isinstance(found, Heartbeat))
    give_up_at = time.monotonic() + TIMEOUT_S
    while not line.stop_reason and time.monotonic() < give_up_at:
        time.sleep(0.01)  # a poll


def _arm(kill_point: KillPoint) -> None:
    owner, attribute = _resolve(kill_point.function)
    original = getattr(owner, attribute)
    calls = itertools.count(1)  # several threads may call at once

    @functools.wraps(original)
    def deadly(*args: Any, **kwargs: Any) -> Any:
        call = next(calls)
        if call == kill_point.call and kill_point.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if call == kill_point.call and kill_point.when == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
            _wait_until_the_loop_knows()
        if call == kill_point.call and kill_point.when == "half-way":
            *others, data = args
            original(*others, data[: len(data) // 2], **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if call == kill_point.call and kill_point.when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, attribute, deadly)
