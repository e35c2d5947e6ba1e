"""The run that a fault is injected into: its folder, its commands, and what each fault cost."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from runner.data.patch_store import META
from runner.drill.command_run import CommandRun
from runner.drill.comparison import differences
from runner.drill.planning import Pace
from runner.drill.processes import POLL_S
from runner.drill.workers import Workers
from runner.errors import Exit
from runner.on_ray.connection.address import LOCAL
from runner.records.metrics_log import read_rows
from runner.records.starts import read_starts
from runner.storage.folder import Folder
from runner.storage.run_folder import EXPERIMENT_FILE, METRICS_LOG, PATCHES, TRIALS
from runner.storage.storage import Storage

T = TypeVar("T")

NAME = "drill"

# Small, so that a training takes seconds, with a checkpoint after each epoch and a log row for each step.
EXPERIMENT: dict[str, Any] = {
    "name": NAME,
    "data": {"source": "synthetic", "synthetic": {"train": 2, "val": 1}, "patch_size": 64},
    "model": {"channels": 4, "receptive_field": 16},
    "training": {"batch_size": 8},
    "evaluation": {"num_patches": 4},
    "checkpoint": {"every_n_epochs": 1},
    "log_every_n_steps": 1,
    "resources": {"cpus_per_worker": 1, "gpus_per_worker": 0, "max_failures": 50},
    "tracking": {"wandb": "off"},
}


class NotSurvived(Exception):
    """A run did not survive a fault. The text says what went wrong."""


class NotTried(Exception):
    """The fault could not be injected on this machine. The text says why."""


class Recovery(NamedTuple):
    """What one fault cost.

    Attributes:
        lost_steps: steps that had to be done again.
        recovery_s: seconds from the fault to the first new step in the log.
    """

    lost_steps: int
    recovery_s: float


class Moment(NamedTuple):
    """A run just before a fault.

    Attributes:
        at: the time.monotonic() of the fault.
        step: the last step in the log.
        num_starts: the number of starts of a worker so far.
        log_id: identifies the log file, which each start of a worker replaces. None where there is no log.
    """

    at: float
    step: int
    num_starts: int
    log_id: str | None


@dataclass(frozen=True)
class DrillSetup:
    """What all runs of a drill share.

    Attributes:
        epochs: the length of each training.
        total_steps: the same in steps.
        reference: the storage of the undisturbed run.
        address: of a Ray cluster; None where each command starts a local Ray.
        workers: the way to signal the workers of a run.
        pace: how long things take on this machine.
    """

    epochs: int
    total_steps: int
    reference: Storage
    address: str | None
    workers: Workers
    pace: Pace


@dataclass
class TargetRun:
    """One run of the drill's experiment.

    Attributes:
        folder: the folder of this run, for its experiment file and what its commands print.
        place: `results` in it is the --storage of its commands: the same folder, or below a prefix of a bucket.
        setup: what it shares with the other runs.
        kills_wanted: how many times the fault should kill processes.
        random: draws the steps at which the fault is injected.
        deadline: the time.monotonic() at which the run must be over.
        options: further arguments of each start of the command.
        kills: how many times processes were killed so far.
        recoveries: what each injection cost so far.
        commands: all starts of the command so far.
        results_name: the --storage, relative to `place`.
    """

    folder: Folder
    place: Storage
    setup: DrillSetup
    kills_wanted: int
    random: random.Random
    deadline: float
    options: tuple[str, ...] = ()
    kills: int = 0
    recoveries: list[Recovery] = field(default_factory=list)
    commands: list[CommandRun] = field(default_factory=list)
    results_name: str = "results"

    @property
    def storage(self) -> Storage:
        """The --storage of its commands."""
        return self.place.at(self.results_name)

    @property
    def experiment(self) -> Storage:
        """The experiment's folder."""
        return self.storage.at(NAME)

    @property
    def trial(self) -> Storage:
        """The folder of the only trial."""
        return self.experiment.at(f"{TRIALS}/trial")

    @property
    def last_step(self) -> int:
        """The last step in the log. 0 where there is none."""
        rows = read_rows(self.trial)
        return int(rows[-1]["step"]) if rows else 0

    def random_steps(self, count: int) -> list[int]:
        """Sorted random steps at which to inject the fault."""
        # Not at the very beginning, where there is no checkpoint, and not so late that the training ends before.
        total = self.setup.total_steps
        return sorted(self.random.sample(range(total // 12, total * 3 // 4), count))

    def use_prepared_patches(self) -> None:
        """Copies the patches of the undisturbed run, to save the time of preparing them."""
        source, target = self.setup.reference.at(PATCHES), self.storage.at(PATCHES)
        for fingerprint in source.names():
            target.make_folder(fingerprint)
            # What makes a store count comes last.
            names = sorted(source.at(fingerprint).sizes(), key=lambda name: name == META)
            for name in names:
                target.at(fingerprint).write(name, source.at(fingerprint).read(name))

    def start(
        self, *more: str, quick: bool = False, max_file_bytes: int | None = None, cwd: Path | None = None
    ) -> CommandRun:
        """Starts the command, or the same command again.

        Args:
            more: further arguments of this start alone.
            quick: do without Ray, for a fault that does not concern it. Has no effect on a cluster.
            max_file_bytes: the command can't write longer files; None for no limit.
            cwd: where it runs; None for where the drill does.
        """
        self.folder.make_folder()
        _write_experiment(self.folder, self.setup.epochs)

        arguments = [str(self.folder.local_path / EXPERIMENT_FILE), "--storage", self.storage.root, "--no-dashboard"]
        # Said in any case, because the command would take RAY_ADDRESS otherwise.
        arguments += ["--address", self.setup.address or LOCAL]
        if quick and self.setup.address is None:
            # The command then trains in its own process, and saves the time of starting Ray.
            arguments += ["--in-process"]

        output = f"output_{len(self.commands) + 1}.txt"
        command = CommandRun([*arguments, *self.options, *more], self.folder, output, max_file_bytes, cwd)
        self.commands.append(command)
        return command

    def wait_for_step(self, command: CommandRun, step: int) -> None:
        """Returns as soon as this step is in the log. Raises NotSurvived like `wait_until`."""
        self.wait_until(command, lambda: self.last_step >= step or None, f"step {step} was logged")

    def moment(self) -> Moment:
        """The run as it is now."""
        return Moment(time.monotonic(), self.last_step, len(read_starts(self.trial)), self._log_id())

    @contextlib.contextmanager
    def killing(self) -> Iterator[Moment]:
        """Counts a kill that the block does. Yields the moment before it."""
        self.kills += 1
        yield self.moment()

    def recovered(self, command: CommandRun, before: Moment) -> int:
        """Waits for the first new step after a fault, and records what the fault cost.

        Returns:
            The step that the run resumed from.
        """

        # A start is recorded before its worker has cut the log back, so rows may still be those of the worker before.
        def new_start() -> dict[str, Any] | None:
            starts = read_starts(self.trial)
            if len(starts) <= before.num_starts or self._log_id() == before.log_id:
                return None
            return starts[-1] if self.last_step > starts[-1]["from_step"] else None

        start = self.wait_until(command, new_start, f"a new step came after the fault at step {before.step}")

        # A worker that outlives its main process goes on for a while. What it does then is lost, too.
        from_step = int(start["from_step"])
        lost_steps = max(before.step - from_step, int(start["lost_steps"]))
        self.recoveries.append(Recovery(lost_steps, time.monotonic() - before.at))
        return from_step

    def wait_until(self, command: CommandRun, found: Callable[[], T | None], what: str) -> T:
        """Calls `found` again and again until it returns something other than None.

        Args:
            what: what should happen, for the error.

        Raises:
            NotSurvived: the command ended first, or the run's deadline was reached.
        """
        while True:
            # In this order: what the command did just before its end counts.
            ended = command.exit_code
            result = found()
            if result is not None:
                return result
            if ended is not None:
                raise NotSurvived(f"the command ended with exit code {ended} before {what}")
            if time.monotonic() > self.deadline:
                raise NotSurvived(f"its time was over before {what} (last step: {self.last_step})")
            time.sleep(POLL_S)

    def expect(self, command: CommandRun, *codes: int) -> int:
        """Waits for the end of the command. Raises NotSurvived where the exit code is none of `codes`."""
        code = command.wait(self.deadline)
        if code is None:
            raise NotSurvived(f"the command had not ended when its time was over (last step: {self.last_step})")
        if code not in codes:
            raise NotSurvived(f"exit code {code} instead of {' or '.join(map(str, codes))}")
        return code

    def finish(self, command: CommandRun) -> None:
        """Waits for the end of the run. Raises NotSurvived where it differs from the undisturbed run in any bit."""
        self.expect(command, Exit.FINISHED)
        different = differences(self.trial, self.setup.reference.at(f"{NAME}/{TRIALS}/trial"))
        if different:
            raise NotSurvived("; ".join(different))

    def end_everything(self) -> None:
        """Kills all processes of its commands that still run."""
        for command in self.commands:
            command.kill_all()

    def _log_id(self) -> str | None:
        """Identifies the log file. A new worker replaces it; until then, its rows are of steps that may be lost."""
        try:
            return self.trial.read_from(METRICS_LOG, 0)[1]
        except FileNotFoundError:
            return None


def _write_experiment(folder: Folder, epochs: int) -> None:
    """Writes the experiment file, which is the same for all runs."""
    content = EXPERIMENT | {"training": EXPERIMENT["training"] | {"epochs": epochs}}
    folder.write(EXPERIMENT_FILE, yaml.safe_dump(content, sort_keys=False).encode())
