"""Checks a run before anything is written, started or loaded that takes time. A check changes nothing."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from runner.config.loading import PlannedTrial, plan_trials
from runner.config.schema import SWEEP_FIELDS, Experiment
from runner.config.search_space import SEED, SearchSpace, read_search_space
from runner.data.sources import SPLITS, Source, find_source, store_fingerprint
from runner.errors import ConfigError, DataError, StorageError
from runner.number_format import byte_size
from runner.records.trial_file import read_trial_file
from runner.records.trial_folders import Trial, find_trial_folders, recorded_data_fingerprint, recorded_initial_weights
from runner.storage.folder import Storage, open_storage
from runner.storage.run_folder import CHECKPOINTS, INITIAL_WEIGHTS, PATCHES, trial_path
from runner.trial.resources import TrialResources, resolve_resources, this_machine


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

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


class LocatedData(NamedTuple):
    """A patch store's fingerprint, and its source unless that is gone."""

    fingerprint: str
    source: Source | None


class SweepPlan(NamedTuple):
    """What is to be run, every rule checked.

    Attributes:
        data: the data of each of the trials' patchings.
        pending: the trials that are to be run.
        resources: what each worker gets on this machine; None where a cluster decides, or nothing is to run.
        notes: what the person should know, a sentence each.
    """

    experiment: Experiment
    options: Options
    storage: Storage
    data: Mapping[str, LocatedData]
    trials: Sequence[Trial]
    pending: Sequence[Trial]
    resources: TrialResources | None
    notes: Sequence[str]

    @property
    def folder(self) -> Storage:
        """The experiment's folder."""
        return self.storage.at(self.experiment.name)


def check_experiment(experiment: Experiment, origin: str, options: Options) -> SweepPlan:
    """Applies every rule to the experiment, the data, the machine, the storage and what an earlier run left there.

    Args:
        origin: where the experiment comes from, for errors.

    Raises:
        UserError: what is wrong, and what to do.
    """
    _check_options(experiment, origin, options)
    planned = plan_trials(experiment, origin)
    notes = _sweep_notes(read_search_space(experiment.sweep), options.overrides, len(planned))

    # What the trials are made of: data, initial weights, and what an earlier run left of them.
    storage = open_storage(options.storage)
    folder = storage.at(experiment.name)
    # The first trial of a patching stands for it: a dict keeps the last value of a key, hence `reversed`.
    data = {trial.config.data.patching: trial.config for trial in reversed(planned)}
    located: dict[str, LocatedData] = {patching: _locate_data(folder, config) for patching, config in data.items()}
    initial_weights, weight_notes = _locate_initial_weights(folder, planned, origin)
    fingerprints = {patching: found.fingerprint for patching, found in located.items()}
    trials = find_trial_folders(folder, planned, fingerprints, initial_weights)
    pending = [trial for trial in trials if _is_pending(trial, options)]

    # What they need.
    resources = None
    # A cluster's machines are unknown until Ray has joined it, so `prepare` checks these.
    if pending and options.address is None:
        resources = resolve_resources(experiment.resources, [this_machine()], len(trials))
        _check_precision(folder, pending, resources.device)
    all_notes = [*_data_notes(located.values()), *notes, *weight_notes]
    plan = SweepPlan(experiment, options, storage, located, trials, pending, resources, all_notes)
    if pending:
        # The last rule, because it looks at every picture.
        _check_room(plan)
    return plan


def _check_options(experiment: Experiment, origin: str, options: Options) -> None:
    """Raises ConfigError where the command can't run such an experiment."""
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


def _data_notes(located: Iterable[LocatedData]) -> list[str]:
    """That maps are drawn, which look real enough at first sight."""
    # Only drawn pictures have a seed.
    if not any(data.source is not None and data.source.seed is not None for data in located):
        return []
    return ["drawn maps, not real ones: data.source is `synthetic`; your own pairs: --set data.source=DIR"]


def _sweep_notes(space: SearchSpace, overrides: Sequence[str], num_trials: int) -> list[str]:
    """What of the command line or of the sweep has no effect."""
    # A field is still used where the sweep draws from a range: draws come from training.seed.
    swept = {SWEEP_FIELDS[field] for field in (*space.lists, *space.ranges) if field != SEED or not space.ranges}
    fields = [override.partition("=")[0] for override in overrides]
    notes = [
        f"--set {field} has no effect: the sweep gives that field its values" for field in fields if field in swept
    ]

    if repeats := space.num_cells - num_trials:
        notes.append(f"{repeats} of the {space.num_cells} trials are drawn a second time, and run once")
    return notes


def _locate_data(folder: Storage, config: Experiment) -> LocatedData:
    """Finds the source and what its store will be called; without a source, the store that was used before."""
    try:
        source = find_source(config.data)
    except DataError:
        recorded = recorded_data_fingerprint(folder, config)
        if recorded is None:
            raise
        return LocatedData(recorded, None)
    return LocatedData(store_fingerprint(source, config.data), source)


def _locate_initial_weights(
    folder: Storage, trials: Sequence[PlannedTrial], origin: str
) -> tuple[dict[str, str], list[str]]:
    """The SHA-256 of the file that the trials start from, under the names of those that do; and notes.

    Where the file is gone, it is what the trials were begun with.

    Raises:
        ConfigError: it is gone, and a trial has not been begun; or it can't be what each trial starts from.
    """
    # All trials have the same path: this field can't be swept.
    path = trials[0].config.model.initial_weights
    if path is None:
        return {}, []

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        recorded = {trial.name: recorded_initial_weights(folder, trial) for trial in trials}
        if all(recorded.values()):
            return recorded, [f"{path}, model.initial_weights, is gone: trials go on with what they were begun with"]
        raise ConfigError(
            f"{origin}: model.initial_weights is {path!r}: it can't be read ({error.strerror}), and not all trials "
            "have been begun with it. Give a file that `python -m runner.export` wrote, or the latest_net_G.pth of "
            "pytorch-CycleGAN-and-pix2pix."
        ) from None

    from runner.records.initial_weights import check_fit  # torch comes with it, and all else has been found sound

    check_fit(content, [trial.config for trial in trials], origin)
    return dict.fromkeys((trial.name for trial in trials), hashlib.sha256(content).hexdigest()), []


def _is_pending(trial: Trial, options: Options) -> bool:
    """True for a trial that is to be run: one that has diverged would diverge again."""
    return not trial.is_finished and (options.retry_diverged or not trial.has_diverged)


def _check_precision(folder: Storage, pending: Sequence[Trial], device: str) -> None:
    """Raises ResourceError where a trial was begun in a precision that this machine only emulates."""
    for trial in pending:
        recorded = read_trial_file(folder.at(trial_path(trial.name)))
        if not recorded:
            continue
        import torch  # only where a trial goes on

        from runner.trial.runtime import refuse_emulation

        refuse_emulation(trial.name, recorded, trial.config.training.precision, torch.device(device))


def _check_room(plan: SweepPlan) -> None:
    """Raises StorageError where the disk has less room than the run will need."""
    from runner.sweep.disk import count_patches, disk_needed  # loaded after the quick rules

    # Stores are made once for all trials of a patching, unless they are there.
    to_make: dict[str, int] = {}
    for trial in plan.pending:
        data = trial.config.data
        located = plan.data[data.patching]
        if located.source is not None and not plan.storage.at(PATCHES).exists(located.fingerprint):
            to_make[data.patching] = sum(count_patches(located.source, data, split) for split in SPLITS)

    # What stands there already of pending trials will be replaced.
    there = sum(plan.folder.at(f"{trial_path(trial.name)}/{CHECKPOINTS}").total_bytes() for trial in plan.pending)
    # How many trials a cluster runs at once is not known yet: it is one at least.
    at_once = plan.resources.max_concurrent if plan.resources else 1
    configs = [trial.config for trial in plan.pending]
    needed = disk_needed(configs, at_once, to_make) + _initial_weights_to_copy(plan) - there

    free = plan.storage.free_bytes()
    if free < needed:
        raise StorageError(
            f"--storage: {plan.storage.shown} needs room for {byte_size(needed)}, but only {byte_size(free)} are free "
            "there. Make room, use another --storage, or lower checkpoint.keep or checkpoint.keep_finished (--dry-run "
            "shows what takes how much)."
        )


def _initial_weights_to_copy(plan: SweepPlan) -> int:
    """Bytes of the files that trials start from, where the experiment has no copy of them yet."""
    # By digest, because trials that start from the same content share one copy.
    files = {trial.fingerprints.initial_weights: trial.config.model.initial_weights for trial in plan.pending}
    copies = plan.folder.at(INITIAL_WEIGHTS)
    paths = [Path(path) for digest, path in files.items() if path and not copies.exists(digest)]
    return sum(path.stat().st_size for path in paths if path.is_file())
