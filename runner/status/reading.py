"""An experiment as another process finds it in its folder. Nothing is written, and no lock is taken."""

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from gan.data.epochs import steps_per_epoch
from runner.data.patch_store import META
from runner.process.lease import LEASE_S, Holder, find_holder
from runner.records.goodput import Hold, newest_hold
from runner.records.metrics_log import LogSummary
from runner.records.results import ENDED, TrialResult, trial_row, trial_status
from runner.records.starts import count_faults, read_starts
from runner.records.trial_file import read_outcome, recorded_epochs
from runner.records.trial_folders import Trial
from runner.report.reading import no_experiment, read_trials
from runner.storage.run_folder import EXPERIMENT_FILE, LOCK, PATCHES, RAY_FOLDER, TRIAL_FILE, TRIALS, trial_path
from runner.storage.storage import Storage
from runner.trial.progress import TrialProgress, next_ones

Item = TypeVar("Item")
Result = TypeVar("Result")

# The outcomes of trials that nobody is training: they wait for their turn, or have ended.
_AT_REST = ("", "cut_off", "stopped", "paused", *ENDED)
_READS_AT_ONCE = 16  # of a bucket: each request waits for the network


class Status(NamedTuple):
    """A moment of an experiment.

    Attributes:
        holder: who holds it, or held it last and left its lock; None where nobody does.
        is_held: whether that command is at work.
        trials: empty before a run has written what its trials are.
    """

    holder: Holder | None
    is_held: bool
    trials: Sequence[TrialProgress]


class _WatchedTrial:
    """A trial as its files are, as far as they have been read.

    Attributes:
        outcome: the status that its last run has recorded; "" for none.
        is_settled: True once it is finished: its files are not read any more.
    """

    def __init__(self, trial: Trial, folder: Storage) -> None:
        self.trial, self._folder = trial, folder
        self.log = LogSummary(folder)
        self.starts: Sequence[Mapping[str, Any]] = ()
        self.hold: Hold | None = None
        self.outcome = ""
        self.is_read = self.is_settled = False

    def read(self) -> None:
        """Takes in what is new."""
        if self.is_read and self.outcome in _AT_REST and not self._has_run():
            return
        # First what the trial writes last.
        self.is_settled = recorded_epochs(self._folder, self.trial.fingerprints) >= self.trial.config.training.epochs
        self.outcome = read_outcome(self._folder)["status"]
        self.log.read()
        self.starts = read_starts(self._folder)
        self.hold = newest_hold(self._folder, self.starts)
        self.is_read = True

    def _has_run(self) -> bool:
        """True where the trial has begun again since it was seen at rest: it may rest again by now."""
        is_same = read_outcome(self._folder)["status"] == self.outcome
        return not is_same or len(read_starts(self._folder)) != len(self.starts)


class StatusReader:
    """Reads an experiment's status again and again, of logs only what is new.

    Raises:
        DataError: the folder is no experiment's.
    """

    def __init__(self, folder: str) -> None:
        self.experiment = Storage.open(folder)
        if absence := self.experiment.absence():
            raise no_experiment(folder, absence)
        if not {EXPERIMENT_FILE, LOCK, RAY_FOLDER} & set(self.experiment.names()):
            raise no_experiment(folder)
        self._known: Any = None
        self._names: frozenset[str] = frozenset()
        self._begun: frozenset[str] = frozenset()
        self._patches_of: dict[str, int] = {}
        self._watched: dict[str, _WatchedTrial] = {}
        self._num_looks = 0
        # The last heartbeat, and when this process first saw it, by its own monotonic clock.
        self._heartbeat, self._seen_at = 0.0, -LEASE_S

    def read(self) -> Status:
        """The experiment as it is now.

        Raises:
            ConfigError: experiment.yaml or a trial is not what a run leaves.
        """
        # Patches that were not there are looked for again.
        self._patches_of = {fingerprint: count for fingerprint, count in self._patches_of.items() if count}
        holder = find_holder(self.experiment)
        is_held = holder is not None and (holder.is_alive or self._has_pulse(holder))
        self._find_trials()
        is_stopping = holder is not None and bool(holder.stopping)
        self._read_changed(at_all=not is_held)
        trials = [self._progress(trial, is_held=is_held, is_stopping=is_stopping) for trial in self._watched.values()]
        return Status(holder, is_held, trials)

    def results(self, status: Status) -> list[TrialResult]:
        """Parameters and row of results of each trial."""
        return [
            TrialResult(
                shown.params,
                trial_row(shown.name, shown.params, shown.status, watched.log, watched.starts, watched.hold),
            )
            for watched, shown in zip(self._watched.values(), status.trials, strict=True)
        ]

    def _has_pulse(self, holder: Holder) -> bool:
        """True where a heartbeat came while this process looked: the clocks of two machines need not agree."""
        if holder.heartbeat != self._heartbeat:
            # The first one that is seen may be as old as it says.
            is_first = not self._heartbeat
            self._heartbeat = holder.heartbeat
            self._seen_at = -LEASE_S if is_first else time.monotonic()
        return time.monotonic() - self._seen_at < LEASE_S

    def _find_trials(self) -> None:
        """Plans the trials anew where a file has changed that this depends on: it takes a second for many trials."""
        experiment = self.experiment
        try:
            content = experiment.read(EXPERIMENT_FILE)
        except FileNotFoundError:  # the run is still being prepared
            return
        self._names = frozenset(experiment.names(TRIALS))

        # A trial.yaml stays: what has one is not asked again.
        unsure = sorted(self._names - self._begun)
        has_file = self._for_each(lambda name: experiment.exists(f"{trial_path(name)}/{TRIAL_FILE}"), unsure)
        self._begun = self._begun & self._names | {name for name, found in zip(unsure, has_file, strict=True) if found}

        known = (content, self._names, self._begun)
        if known != self._known:
            before, trials = self._watched, read_trials(experiment, recorded_epochs)
            self._watched = {trial.name: _WatchedTrial(trial, self._folder(trial.name)) for trial in trials}
            # Of a trial that goes on as it was nothing is read again.
            self._watched |= {
                name: old
                for name, old in before.items()
                if name in self._watched and old.trial.config == self._watched[name].trial.config
            }
            self._known = known

    def _folder(self, name: str) -> Storage:
        return self.experiment.at(trial_path(name))

    def _read_changed(self, *, at_all: bool) -> None:
        """Reads the trials whose files may have changed since the last time.

        Args:
            at_all: read the trials whose turn has not come, too.
        """
        # A trial without a folder has nothing to read.
        changing = [
            trial
            for trial in self._watched.values()
            if not trial.is_settled and (trial.is_read or trial.trial.name in self._names)
        ]
        unread = [trial for trial in changing if not trial.is_read]
        at_work = [trial for trial in changing if trial.is_read and trial.outcome not in _AT_REST]
        waiting = [trial for trial in changing if trial.is_read and trial.outcome in _AT_REST]
        to_read = waiting if at_all else next_ones(waiting, len(at_work), self._num_looks)
        self._for_each(_WatchedTrial.read, [*unread, *at_work, *to_read])
        self._num_looks += 1

    def _for_each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """What the work gives for each: of a bucket's many at a time."""
        if not self.experiment.is_remote or len(items) < 2:
            return list(map(work, items))
        with ThreadPoolExecutor(min(len(items), _READS_AT_ONCE)) as pool:
            return list(pool.map(work, items))

    def _progress(self, watched: "_WatchedTrial", *, is_held: bool, is_stopping: bool) -> TrialProgress:
        trial, log, training = watched.trial, watched.log, watched.trial.config.training
        status = trial_status(watched.outcome, is_finished=watched.is_settled, is_held=is_held, is_stopping=is_stopping)

        # A worker tells its speed only to its own command; the log has the mean since the row before.
        rate = log.row.get("images_per_second")
        return TrialProgress(
            name=trial.name,
            status=status,
            epochs=training.epochs,
            step=int(log.row.get("step", 0)),
            total_steps=training.epochs * (log.steps_per_epoch or self._steps_per_epoch(trial)),
            step_s=training.batch_size / rate if rate and status == "running" else 0.0,
            restarts=count_faults(watched.starts),
            row=log.row,
            metrics=log.metrics,
            params=trial.params,
            batch_size=training.batch_size,
        )

    def _steps_per_epoch(self, trial: Trial) -> int:
        """By the number of patches; 0 where the patches are not there, as in a copy of the experiment's folder."""
        fingerprint = trial.fingerprints.data
        if fingerprint not in self._patches_of:
            self._patches_of[fingerprint] = self._count_patches(fingerprint)
        num_patches = self._patches_of[fingerprint]
        return steps_per_epoch(num_patches, trial.config.training.batch_size) if num_patches else 0

    def _count_patches(self, fingerprint: str) -> int:
        store = self.experiment.above(1).at(f"{PATCHES}/{fingerprint}")
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads(store.read(META))["splits"]["train"]["patches"])
        return 0
