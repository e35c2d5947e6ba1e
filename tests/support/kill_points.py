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
    """SIGKILL at the nth call of a function, or another signal.

    Attributes:
        function: dotted, as `runner.storage.folder.Folder.rename`.
        when: `before` it, `after` it, `half-way` through the bytes that it writes; `stop` is SIGTERM before it, and
            `pause` SIGSTOP.
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


BEGUN: list[BaseProcess] = []


def end_what_was_begun() -> None:
    """Ends the runs that a failed test has left, suspended ones too: the tests' own end would wait for them."""
    while BEGUN:
        process = BEGUN.pop()
        if process.is_alive():
            process.kill()
        process.join()


class Begun:
    """A run in a process of its own that may go on."""

    def __init__(self, process: BaseProcess, output: Path) -> None:
        self._process, self._output = process, output
        BEGUN.append(process)

    def wait_until_paused(self) -> bool:
        """Returns once the process is stopped by SIGSTOP, True, or has ended, False."""
        give_up_at = time.monotonic() + TIMEOUT_S
        while self._process.is_alive():
            state = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "T":
                return True
            assert time.monotonic() < give_up_at, f"it was not stopped:\n{self._output.read_text()}"
            time.sleep(0.01)  # a poll
        return False

    def go_on(self) -> None:
        """Ends what SIGSTOP has begun."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def finish(self) -> Run:
        """Waits for the end.

        Raises:
            AssertionError: it does not come.
        """
        self._process.join(TIMEOUT_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            raise AssertionError(f"the run did not end within {TIMEOUT_S} s:\n{self._output.read_text()}")
        return Run(self._process.exitcode, self._output.read_text())


def run_forked(argv: Sequence[object], output: Path, **how: Any) -> Run:
    """Runs a command in a process of its own; see begin_forked."""
    return begin_forked(argv, output, **how).finish()


def begin_forked(
    argv: Sequence[object],
    output: Path,
    *,
    kill_points: Sequence[KillPoint] = (),
    settings: dict[str, Any] | None = None,
    max_file_bytes: int | None = None,
    module: str = "runner.train",
    environment: Mapping[str, str] | None = None,
) -> Begun:
    """Begins a command in a process of its own.

    Args:
        settings: module-level values to replace, by dotted name.
        max_file_bytes: no file may get larger, as if the disk were full.
        environment: what the process has in its environment beside what this one has.
    """
    arguments = ([str(part) for part in argv], output, kill_points, settings or {}, max_file_bytes, module)
    return Begun(start_fork(_child, *arguments, environment or {}), output)


def train_tiny(folder: Path, *options: str, **how: Any) -> Run:
    """One start of the command on the TINY experiment, to its end; see begin_tiny."""
    return begin_tiny(folder, *options, **how).finish()


def begin_tiny(
    folder: Path, *options: str, storage: Path | str | None = None, changes: Mapping[str, Any] | None = None, **how: Any
) -> Begun:
    """One start of the command on the TINY experiment.

    Args:
        folder: holds the experiment's file, what was printed, and, unless `storage` is another, `results`.
        changes: to the experiment.
        how: as begin_forked takes it.
    """
    arguments = [write_experiment(folder, **{**TINY, **(changes or {})}), "--storage", storage or folder / "results"]
    in_process = [] if "module" in how else ["--in-process"]
    return begin_forked([*arguments, *in_process, *options], folder / "output.txt", **how)


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
        if call == kill_point.call and kill_point.when == "pause":
            os.kill(os.getpid(), signal.SIGSTOP)
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
