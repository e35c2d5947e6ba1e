"""An experiment as another process finds it in its folder. Nothing is written, and no lock is taken."""

import contextlib
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from gan.data.epochs import steps_per_epoch
from runner.data.patch_store import META
from runner.process.lease import LEASE_S, Holder, find_holder
from runner.records.results import TrialResult, trial_row, trial_status
from runner.records.starts import count_faults, read_starts
from runner.records.trial_file import recorded_epochs
from runner.records.trial_folders import Trial
from runner.report.reading import no_experiment, read_trials
from runner.storage.folder import Storage
from runner.storage.run_folder import EXPERIMENT_FILE, LOCK, PATCHES, RAY_FOLDER, TRIAL_FILE, TRIALS, trial_path
from runner.trial.progress import LogTail, TrialProgress


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


class StatusReader:
    """Reads an experiment's status again and again, of logs only what is new.

    Raises:
        DataError: the folder is no experiment's.
    """

    def __init__(self, folder: str) -> None:
        self.experiment = Storage.open(folder)
        if not any(map(self.experiment.exists, (EXPERIMENT_FILE, LOCK, RAY_FOLDER))):
            raise no_experiment(folder)
        self._trials: Sequence[Trial] = ()
        self._known: Any = None
        self._tails: dict[str, LogTail] = {}
        # The last heartbeat, and when this process first saw it, by its own monotonic clock.
        self._heartbeat, self._seen_at = 0.0, -LEASE_S

    def read(self) -> Status:
        """The experiment as it is now.

        Raises:
            ConfigError: experiment.yaml or a trial is not what a run leaves.
        """
        holder = find_holder(self.experiment)
        is_held = holder is not None and (holder.is_alive or self._has_pulse(holder))
        self._find_trials()
        is_stopping = holder is not None and bool(holder.stopping)
        trials = [self._progress(trial, is_held=is_held, is_stopping=is_stopping) for trial in self._trials]
        return Status(holder, is_held, trials)

    def results(self, status: Status) -> list[TrialResult]:
        """Parameters and row of results of each trial."""
        return [
            TrialResult(trial.params, trial_row(self._folder(trial.name), trial.name, trial.params, shown.status))
            for trial, shown in zip(self._trials, status.trials, strict=True)
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
        names = experiment.names(TRIALS)
        known = (content, [(name, experiment.exists(f"{trial_path(name)}/{TRIAL_FILE}")) for name in names])
        if known != self._known:
            self._trials = read_trials(experiment, recorded_epochs)
            self._known = known

    def _folder(self, name: str) -> Storage:
        return self.experiment.at(trial_path(name))

    def _progress(self, trial: Trial, *, is_held: bool, is_stopping: bool) -> TrialProgress:
        folder, training = self._folder(trial.name), trial.config.training
        tail = self._tails.setdefault(trial.name, LogTail(folder))
        tail.read()
        is_finished = recorded_epochs(folder, trial.fingerprints) >= training.epochs
        status = trial_status(folder, is_finished=is_finished, is_held=is_held, is_stopping=is_stopping)

        # A worker tells its speed only to its own command; the log has the mean since the row before.
        rate = tail.row.get("images_per_second")
        return TrialProgress(
            name=trial.name,
            status=status,
            epochs=training.epochs,
            step=int(tail.row.get("step", 0)),
            total_steps=training.epochs * (tail.steps_per_epoch or self._steps_per_epoch(trial)),
            step_s=training.batch_size / rate if rate and status == "running" else 0.0,
            restarts=count_faults(read_starts(folder)),
            row=tail.row,
            metrics=tail.metrics,
            params=trial.params,
            batch_size=training.batch_size,
        )

    def _steps_per_epoch(self, trial: Trial) -> int:
        """By the number of patches; 0 where the patches are not there, as in a copy of the experiment's folder."""
        store = self.experiment.above(1).at(f"{PATCHES}/{trial.fingerprints.data}")
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            num_patches = int(json.loads(store.read(META))["splits"]["train"]["patches"])
            return steps_per_epoch(num_patches, trial.config.training.batch_size, trial.config.resources.workers)
        return 0
