"""What is wrong with a run is found here, before anything is written or any heavy library is loaded."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from runner.config.loading import ExperimentSource, PlannedTrial, load_experiment, origin_of, plan_trials
from runner.config.schema import SWEEP_FIELDS, Experiment
from runner.config.search_space import SEED, SearchSpace, read_search_space
from runner.console import Console
from runner.data.sources import Source, find_source, store_fingerprint
from runner.errors import ConfigError, DataError, StorageError
from runner.records.trial_folders import Trial, find_trial_folders, recorded_data_fingerprint, recorded_initial_weights
from runner.storage.folder import Storage


@dataclass(frozen=True)
class Options:
    """What the command line says beside the experiment."""

    overrides: Sequence[str] = ()
    storage: str = "results"
    address: str | None = None
    time_limit_s: float | None = None
    take_over: bool = False
    retry_diverged: bool = False
    dry_run: bool = False
    dashboard: bool = True
    in_process: bool = False
    single: bool = False


def check(source: ExperimentSource, options: Options, console: Console) -> "CheckedRun":
    """Applies every rule to the file, the data, the storage and what an earlier run left there.

    Raises:
        UserError: what is wrong, and what to do.
    """
    experiment = load_experiment(source, options.overrides)
    origin = origin_of(source)
    trials = plan_trials(experiment, origin)
    if options.single and experiment.sweep:
        raise ConfigError(
            f"{origin}: it sweeps {', '.join(experiment.sweep)}, and this command runs one trial: "
            "use `python -m runner.tune`, or take `sweep:` out with --set sweep="
        )
    if options.in_process and experiment.resources.workers > 1:
        raise ConfigError(
            f"{origin}: resources.workers is {experiment.resources.workers}, but --in-process trains with one worker: "
            "leave --in-process out, or --set resources.workers=1"
        )
    space = read_search_space(experiment.sweep)
    for field in overridden_in_vain(space, options.overrides):
        console.print(f"note: --set {field} has no effect, for the sweep gives that field its values")
    if repeats := space.num_cells - len(trials):
        console.print(f"note: {repeats} of the {space.num_cells} trials are drawn a second time, and run once")
    storage = open_storage(options.storage)
    folder = storage.at(experiment.name)
    sources: dict[str, LocatedData] = {}
    for trial in trials:
        if trial.config.data.patching not in sources:
            sources[trial.config.data.patching] = locate_data(folder, trial.config)
    fingerprints: dict[str, str] = {patching: located.fingerprint for patching, located in sources.items()}
    initial_weights = locate_initial_weights(folder, trials, origin, console)
    found = find_trial_folders(folder, trials, fingerprints, initial_weights)
    return CheckedRun(experiment, found, sources, storage)


def overridden_in_vain(space: SearchSpace, overrides: Sequence[str]) -> list[str]:
    """Fields that were set on the command line though the experiment sweeps them, and draws nothing from them."""
    swept = {SWEEP_FIELDS[field] for field in (*space.lists, *space.ranges) if field != SEED or not space.ranges}
    return [field for field in (override.partition("=")[0] for override in overrides) if field in swept]


class CheckedRun(NamedTuple):
    """What is to be run, every rule checked; nothing has been written."""

    experiment: Experiment
    trials: Sequence[Trial]
    sources: Mapping[str, "LocatedData"]
    storage: Storage

    @property
    def folder(self) -> Storage:
        """The experiment's folder."""
        return self.storage.at(self.experiment.name)


class LocatedData(NamedTuple):
    """A patch store's fingerprint, and its source unless that is gone."""

    fingerprint: str
    source: Source | None


def locate_data(folder: Storage, config: Experiment) -> LocatedData:
    """Finds the source and what its store will be called; without a source, the store that was used before."""
    try:
        source = find_source(config.data)
    except DataError:
        recorded = recorded_data_fingerprint(folder, config)
        if recorded is None:
            raise
        return LocatedData(recorded, None)
    return LocatedData(store_fingerprint(source, config.data), source)


def locate_initial_weights(
    folder: Storage, trials: Sequence[PlannedTrial], origin: str, console: Console
) -> dict[str, str]:
    """The SHA-256 of the file that the trials start from, under the names of those that do.

    Where the file is gone, it is what the trials were begun with.

    Raises:
        ConfigError: it is gone, and a trial has not been begun; or it can't be what each trial starts from.
    """
    path = trials[0].config.model.initial_weights
    if path is None:
        return {}
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        recorded = {trial.name: recorded_initial_weights(folder, trial) for trial in trials}
        if all(recorded.values()):
            console.print(f"note: {path}, model.initial_weights, is gone: trials go on with what they were begun with")
            return recorded
        raise ConfigError(
            f"{origin}: model.initial_weights is {path!r}: it can't be read ({error.strerror}), and not all trials "
            "have been begun with it. Give a file that `python -m runner.export` wrote, or the latest_net_G.pth of "
            "pytorch-CycleGAN-and-pix2pix."
        ) from None
    from runner.records.initial_weights import (
        check_fit,  # torch comes with it, and everything else has been found sound
    )

    check_fit(content, [trial.config for trial in trials], origin)
    return dict.fromkeys((trial.name for trial in trials), hashlib.sha256(content).hexdigest())


def open_storage(where: str, option: str = "--storage") -> Storage:
    """The folder that an option names; raises StorageError where it can't be one. Nothing is created."""
    if "://" in where:
        raise StorageError(
            f"{option} is {where!r}: object stores are not supported yet; give a local or shared folder."
        )
    storage = Storage.open(where)
    place = storage.local_path
    try:
        while not place.exists():
            place = place.parent
    except OSError as error:
        raise StorageError(f"{option} is {where!r}: {place} can't be entered ({error.strerror}).") from None
    if not place.is_dir():
        raise StorageError(
            f"{option} is {where!r}: {place} is a file, so that no folder can be made there; give another."
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"{option} is {where!r}: {place} can't be written to; give a folder that can.")
    return storage
