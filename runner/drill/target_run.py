"""A run that is broken: its folder, its commands, and what each fault cost it."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import yaml

from runner.drill.command_run import CommandRun
from runner.drill.comparison import differences
from runner.drill.planning import Pace
from runner.drill.processes import POLL_S
from runner.drill.reach import Reach
from runner.errors import Exit
from runner.records.metrics_log import read_rows
from runner.records.starts import read_starts
from runner.storage.folder import Storage
from runner.storage.run_folder import METRICS_LOG, TRIALS

T = TypeVar("T")

NAME = "drill"
EXPERIMENT_FILE = "experiment.yaml"
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
    """A run did not come through a fault; the text says in what way."""


class NotTried(Exception):
    """The fault could not be brought about here; the text says why."""


class Recovery(NamedTuple):
    """What one fault cost: steps done again, and seconds from it to the first new step that was logged."""

    lost_steps: int
    recovery_s: float


class Moment(NamedTuple):
    """A run as it is just before a fault: the last logged step, and what tells a new start from the present one."""

    at: float
    step: int
    num_starts: int
    log_id: int | None


@dataclass(frozen=True)
class Setting:
    """What all runs of a drill share.

    Attributes:
        epochs: that every run trains for; `total_steps` is the same in steps.
        reference: the storage of the undisturbed run.
        address: of a Ray cluster, None where each command starts its own.
        reach: how workers are signalled, wherever they are.
        pace: how long things take here.
    """

    epochs: int
    total_steps: int
    reference: Storage
    address: str | None
    reach: Reach
    pace: Pace


@dataclass
class TargetRun:
    """One run of the drill's experiment.

    Attributes:
        folder: its own; `results` in it is the --storage of its commands.
        setting: what it shares with the other runs.
        kills_wanted: how many times a fault that can be repeated strikes.
        random: draws the moments.
        deadline: by time.monotonic(), when it must be over.
        options: further arguments of every start of the command.
    """

    folder: Storage
    setting: Setting
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
        """What its commands are given as --storage."""
        return self.folder.at(self.results_name)

    @property
    def experiment(self) -> Storage:
        """The experiment's folder."""
        return self.storage.at(NAME)

    @property
    def trial(self) -> Storage:
        """The one trial's folder."""
        return self.experiment.at(f"{TRIALS}/trial")

    @property
    def last_step(self) -> int:
        """The last step that was logged; 0 where none was."""
        rows = read_rows(self.trial)
        return int(rows[-1]["step"]) if rows else 0

    def moments(self, count: int) -> list[int]:
        """Random steps to strike at, in order."""
        total = self.setting.total_steps
        return sorted(self.random.sample(range(total // 12, total * 3 // 4), count))

    def use_prepared_patches(self) -> None:
        """Copies the undisturbed run's patches, so that only what is about them prepares them again."""
        copy_folder(self.setting.reference, self.storage, "patches")

    def start(self, *more: str, quick: bool = False, max_file_bytes: int | None = None) -> CommandRun:
        """Starts the same command again.

        Args:
            quick: without Ray, for a fault that has nothing to do with it; on a cluster it makes no difference.
            max_file_bytes: no file may grow past this.
        """
        self.folder.make_folder()
        write_experiment(self.folder, self.setting.epochs)
        arguments = [str(self.folder.local_path / EXPERIMENT_FILE), "--storage", self.storage.root, "--no-dashboard"]
        if self.setting.address is not None:
            arguments += ["--address", self.setting.address]
        elif quick:
            arguments += ["--in-process"]
        output = f"output_{len(self.commands) + 1}.txt"
        command = CommandRun([*arguments, *self.options, *more], self.folder, output, max_file_bytes)
        self.commands.append(command)
        return command

    def wait_for_step(self, command: CommandRun, step: int) -> None:
        """Returns as soon as that step is logged."""
        self.wait_until(command, lambda: self.last_step >= step or None, f"step {step} was logged")

    def moment(self) -> Moment:
        """The run as it is now."""
        return Moment(time.monotonic(), self.last_step, len(read_starts(self.trial)), self._log_id())

    @contextlib.contextmanager
    def killing(self) -> Iterator[Moment]:
        """Counts a kill, done inside, and gives the moment before it."""
        self.kills += 1
        yield self.moment()

    def recovered(self, command: CommandRun, before: Moment) -> int:
        """Waits for the first new step after a fault, and notes what the fault cost; the step resumed from."""

        def new_start() -> dict[str, Any] | None:
            starts = read_starts(self.trial)
            if len(starts) <= before.num_starts or self._log_id() == before.log_id:
                return None
            return starts[-1] if self.last_step > starts[-1]["from_step"] else None

        start = self.wait_until(command, new_start, f"a new step came after the fault at step {before.step}")
        from_step = int(start["from_step"])
        # A worker that outlives its main process goes on for a while: what it did then is lost, too.
        lost_steps = max(before.step - from_step, int(start["lost_steps"]))
        self.recoveries.append(Recovery(lost_steps, time.monotonic() - before.at))
        return from_step

    def wait_until(self, command: CommandRun, found: Callable[[], T | None], what: str) -> T:
        """Polls until `found` gives something other than None.

        Raises:
            NotSurvived: the command ended before, or the run's time was over.
        """
        while True:
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
        """Waits for the command's end; raises NotSurvived where the exit code is not one of those."""
        code = command.wait(self.deadline)
        if code is None:
            raise NotSurvived(f"the command had not ended when its time was over (last step: {self.last_step})")
        if code not in codes:
            raise NotSurvived(f"exit code {code} instead of {' or '.join(map(str, codes))}")
        return code

    def finish(self, command: CommandRun) -> None:
        """Waits for the finished run; raises NotSurvived where it is not the undisturbed one to the last bit."""
        self.expect(command, Exit.FINISHED)
        different = differences(self.trial, self.setting.reference.at(f"{NAME}/{TRIALS}/trial"))
        if different:
            raise NotSurvived("; ".join(different))

    def end_everything(self) -> None:
        """Ends whatever its commands left behind."""
        for command in self.commands:
            command.kill_all()

    def _log_id(self) -> int | None:
        """A worker that begins replaces the log: until then its rows are of work that may be lost."""
        try:
            return (self.trial.local_path / METRICS_LOG).stat().st_ino
        except FileNotFoundError:
            return None


def write_experiment(folder: Storage, epochs: int) -> None:
    """The experiment file of every run."""
    content = EXPERIMENT | {"training": EXPERIMENT["training"] | {"epochs": epochs}}
    folder.write(EXPERIMENT_FILE, yaml.safe_dump(content, sort_keys=False).encode())


def copy_folder(source: Storage, target: Storage, name: str) -> None:
    """Copies a folder with all in it."""
    target.make_folder(name)
    for base in source.names(name):
        try:
            target.write(f"{name}/{base}", source.read(f"{name}/{base}"))
        except OSError:
            copy_folder(source, target, f"{name}/{base}")
