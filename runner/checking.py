"""What is wrong with a run is found here, before anything is written or any heavy library is loaded."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from runner.config import SWEEP_FIELDS, Experiment
from runner.errors import ConfigError, DataError, StorageError
from runner.experiment import load_experiment, plan_trials
from runner.placing import PlacedTrial, place_trials, recorded_data_fingerprint
from runner.screen import Screen
from runner.sources import Source, find_source, store_fingerprint
from runner.storage import Storage


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


def check(path: str, options: Options, screen: Screen) -> "CheckedRun":
    """Applies every rule to the file, the data, the storage and what an earlier run left there.

    Raises:
        UserError: what is wrong, and what to do.
    """
    experiment = load_experiment(path, options.overrides)
    trials = plan_trials(experiment, path)
    if options.single and experiment.sweep:
        raise ConfigError(
            f"{path}: it sweeps {', '.join(experiment.sweep)}, and this command runs one trial: "
            "use `python -m runner.tune`, or take `sweep:` out with --set sweep="
        )
    if options.in_process and experiment.resources.workers > 1:
        raise ConfigError(
            f"{path}: resources.workers is {experiment.resources.workers}, but --in-process trains with one worker: "
            "leave --in-process out, or --set resources.workers=1"
        )
    for field in overridden_in_vain(experiment, options.overrides):
        screen.say(f"note: --set {field} has no effect, for the sweep gives that field its values")
    storage = open_storage(options.storage)
    folder = storage.at(experiment.name)
    sources: dict[str, LocatedData] = {}
    for trial in trials:
        if trial.config.data.patching not in sources:
            sources[trial.config.data.patching] = locate_data(folder, trial.config)
    fingerprints: dict[str, str] = {patching: located.fingerprint for patching, located in sources.items()}
    return CheckedRun(experiment, place_trials(folder, trials, fingerprints), sources, storage)


def overridden_in_vain(experiment: Experiment, overrides: Sequence[str]) -> list[str]:
    """Fields that were set on the command line though the experiment sweeps them."""
    swept = {SWEEP_FIELDS[key.rsplit(".", 1)[-1]] for key in experiment.sweep}
    return [field for field in (override.partition("=")[0] for override in overrides) if field in swept]


class CheckedRun(NamedTuple):
    """What is to be run, every rule checked; nothing has been written."""

    experiment: Experiment
    placed: Sequence[PlacedTrial]
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


def open_storage(where: str) -> Storage:
    """The storage folder; raises StorageError where it can't be one. Nothing is created."""
    if "://" in where:
        raise StorageError(
            f"--storage is {where!r}: object stores are not supported yet; give a local or shared folder."
        )
    storage = Storage.open(where)
    place = storage.local_path
    try:
        while not place.exists():
            place = place.parent
    except OSError as error:
        raise StorageError(f"--storage is {where!r}: {place} can't be entered ({error.strerror}).") from None
    if not place.is_dir():
        raise StorageError(
            f"--storage is {where!r}: {place} is a file, so that no folder can be made there; give another."
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError(f"--storage is {where!r}: {place} can't be written to; give a folder that can.")
    return storage
