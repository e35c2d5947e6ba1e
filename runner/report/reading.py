"""An experiment's folder as the page's trials."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner.config.experiment_yaml import WrittenExperiment, parse_yaml
from runner.config.fingerprint import Fingerprints
from runner.config.loading import load_experiment, plan_trials, validate
from runner.config.search_space import Range, read_search_space
from runner.errors import DataError
from runner.process.lease import Holder, find_holder
from runner.records.results import ENDED_BADLY, TrialResult, read_trial_row, trial_status
from runner.records.trial_file import finished_epochs, read_outcome, read_trial_file, recorded_epochs
from runner.records.trial_folders import (
    Trial,
    find_left_trials,
    find_trial_folders,
    recorded_data_fingerprint,
    recorded_initial_weights,
)
from runner.report.trials import PageTrial
from runner.storage.run_folder import EXPERIMENT_FILE, trial_path
from runner.storage.storage import Storage


def read_results(folder: str, cache: str | None = None) -> tuple[Storage, list[TrialResult]]:
    """An experiment's folder and the result of each of its trials, from the files in it.

    Args:
        folder: its path or URI.
        cache: see `Storage.open`.

    Raises:
        DataError: it is no experiment's folder.
        ConfigError: its experiment.yaml or a trial is not what a run leaves.
        StorageError: it can't be read.
    """
    experiment = Storage.open(folder, cache)
    if absence := experiment.absence():
        raise no_experiment(folder, absence)
    try:
        written = _read_file(experiment)
    except FileNotFoundError:
        raise no_experiment(folder) from None

    holder = find_holder(experiment)
    # Weights are large: out of a bucket they are not fetched to be verified.
    count_epochs = recorded_epochs if experiment.is_remote else finished_epochs
    trials = _find_trials(experiment, written, count_epochs)
    left = [read_left_result(experiment, trial) for trial in find_left_trials(experiment, trials, count_epochs)]
    return experiment, [*(read_result(experiment, trial, holder) for trial in trials), *left]


def no_experiment(folder: str, absence: str = "") -> DataError:
    """The error for a folder that is no experiment's.

    Args:
        absence: see `Storage.absence`.
    """
    problem = absence or f"there is no {EXPERIMENT_FILE} in it"
    return DataError(f"{folder}: {problem}: give an experiment's folder, STORAGE/EXPERIMENT")


def _read_file(experiment: Storage) -> WrittenExperiment:
    """An experiment's own file. Raises FileNotFoundError, or ConfigError where it is broken."""
    return parse_yaml(experiment.read(EXPERIMENT_FILE), f"{experiment.root}/{EXPERIMENT_FILE}")


def read_trials(
    experiment: Storage, count_epochs: Callable[[Storage, Fingerprints], int] = finished_epochs
) -> list[Trial]:
    """The experiment's trials in their folders.

    Args:
        count_epochs: see `find_trial_folders`.

    Raises:
        ConfigError: its experiment.yaml or a trial is not what a run leaves.
    """
    return _find_trials(experiment, _read_file(experiment), count_epochs)


def _find_trials(
    experiment: Storage, written: WrittenExperiment, count_epochs: Callable[[Storage, Fingerprints], int]
) -> list[Trial]:
    trials = plan_trials(load_experiment(written), written.origin)

    # What the trials recorded decides which folder is whose. The data may be gone by now.
    fingerprints: dict[str, str] = {}
    for trial in trials:
        # Asked once for each patching: all that could answer are read for it.
        patching = trial.config.data.patching
        if patching not in fingerprints:
            fingerprints[patching] = recorded_data_fingerprint(experiment, trial.config) or ""
    initial_weights = {trial.name: recorded_initial_weights(experiment, trial) for trial in trials}
    return find_trial_folders(experiment, trials, fingerprints, initial_weights, count_epochs=count_epochs)


def page_trial(experiment: Storage, result: TrialResult, experiment_name: str = "") -> PageTrial:
    """A trial's result as the page shows it of any trial.

    Args:
        experiment_name: the experiment's name on a page of several; empty on a page of one.
    """
    name = str(result.row["trial"])
    folder = experiment.at(trial_path(name))
    return PageTrial(
        experiment=experiment.name,
        name=name,
        shown=f"{experiment_name}/{name}" if experiment_name else name,
        params={**result.params, "experiment": experiment_name} if experiment_name else result.params,
        row=result.row,
        folder=folder,
        reason=read_outcome(folder)["reason"] if result.row["status"] in (*ENDED_BADLY, "halted") else "",
    )


def in_full(trial: PageTrial, log: Sequence[Mapping[str, Any]]) -> PageTrial:
    """The trial with what the page shows of those that it shows in full.

    Args:
        log: the rows of its metrics.jsonl.
    """
    return replace(trial, record=read_trial_file(trial.folder) or {}, log=log)


def read_drawn(experiment: Storage) -> dict[str, Range]:
    """The ranges that an experiment draws parameters from, by name; raises ConfigError where its file is broken."""
    written = _read_file(experiment)
    return dict(read_search_space(validate(written.values, written.origin).sweep).ranges)


def read_result(experiment: Storage, trial: Trial, holder: Holder | None) -> TrialResult:
    """The parameters and the row of results of a trial of the sweep.

    Args:
        holder: who holds the experiment; None for nobody.
    """
    return _read_result(experiment, trial, holder, in_sweep=True)


def read_left_result(experiment: Storage, trial: Trial) -> TrialResult:
    """As `read_result`, of a trial that is not in the sweep any more: it waits for nothing."""
    return _read_result(experiment, trial, None, in_sweep=False)


def _read_result(experiment: Storage, trial: Trial, holder: Holder | None, *, in_sweep: bool) -> TrialResult:
    folder = experiment.at(trial_path(trial.name))
    # A command that was killed leaves its lock, and the outcome `running`, behind.
    is_held = holder is not None and holder.is_alive
    is_stopping = holder is not None and bool(holder.stopping)
    outcome = read_outcome(folder)["status"]
    status = trial_status(outcome, is_finished=trial.is_finished, is_held=is_held, is_stopping=is_stopping)
    return TrialResult(trial.params, read_trial_row(folder, trial.name, trial.params, status, in_sweep=in_sweep))
