"""Checks a run before anything is written, started or loaded that takes time. A check changes nothing."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from runner.config.halving import HALVING, Halving
from runner.config.loading import PlannedTrial, plan_trials
from runner.config.schema import PATCH_SIZES, SWEEP_FIELDS, Checkpointing, Data, Experiment
from runner.config.search_space import SEED, SearchSpace, read_search_space
from runner.data.changes import changes_since
from runner.data.checking.plausibility import check_plausible
from runner.data.layouts import PAIRS
from runner.data.patch_store import check_bad_fraction, first_bad_files
from runner.data.sources import SPLITS, Source, describe_passed_over, find_source, store_fingerprint
from runner.errors import ConfigError, DataError, StorageError
from runner.halving.stages import check_recorded, next_stage, retried_outcomes
from runner.number_format import byte_size, counted
from runner.on_ray.connection.address import check_reachable
from runner.on_ray.connection.folders import notes_on_folders
from runner.records.metrics_log import read_rows
from runner.records.trial_file import read_outcome, read_trial_file, workers_change
from runner.records.trial_folders import (
    Trial,
    find_left_trials,
    find_trial_folders,
    least_epochs,
    recorded_data_fingerprint,
    recorded_initial_weights,
)
from runner.storage.run_folder import CHECKPOINTS, INITIAL_WEIGHTS, PATCHES, trial_path
from runner.storage.storage import Storage, open_storage
from runner.trial.memory import TrainingShape, training_shapes
from runner.trial.resources import TrialResources, resolve_resources, this_machine

_TRIALS_SHOWN = 8
_JOB_FOLDER = re.compile(r"/session_[^/]+/runtime_resources/")


@dataclass(frozen=True)
class Options:
    """The options of the command line.

    Attributes:
        cache: the folder for local copies of what is in a bucket; None for what the environment says.
        wait_s: for how long to wait for machines that may come; None for what the cluster's kind suggests.
        command: as it was typed, for the record; empty where Python calls.
    """

    overrides: Sequence[str] = ()
    storage: str = "results"
    cache: str | None = None
    address: str | None = None
    time_limit_s: float | None = None
    wait_s: float | None = None
    take_over: bool = False
    retry_diverged: bool = False
    dry_run: bool = False
    dashboard: bool = True
    in_process: bool = False
    single: bool = False
    command: str = ""


class LocatedData(NamedTuple):
    """A patch store's fingerprint, and its source unless that is gone.

    Attributes:
        changes: what differs from the source that trials were begun with.
        notes: what the person should know of the source, a sentence each.
    """

    fingerprint: str
    source: Source | None
    changes: Sequence[str] = ()
    notes: Sequence[str] = ()


class SweepPlan(NamedTuple):
    """What is to be run, every rule checked.

    Attributes:
        data: the data of each of the trials' patchings.
        pending: the trials that are to be run.
        left: trials of an earlier start that the sweep does not name any more.
        resources: what each worker gets on this machine; None where a cluster decides, or nothing is to run.
        notes: what the person should know, a sentence each.
        halving: which trials are trained to the end; None for all.
        to_make: the patches of each split that the source is expected to give, under each patching whose store pending
            trials need and that is not there yet.
    """

    experiment: Experiment
    options: Options
    storage: Storage
    data: Mapping[str, LocatedData]
    trials: Sequence[Trial]
    pending: Sequence[Trial]
    left: Sequence[Trial]
    resources: TrialResources | None
    notes: Sequence[str]
    halving: Halving | None = None
    to_make: Mapping[str, Mapping[str, int]] = MappingProxyType({})

    @property
    def folder(self) -> Storage:
        """The experiment's folder."""
        return self.storage.at(self.experiment.name)

    @property
    def shapes(self) -> frozenset[TrainingShape]:
        """What decides how much memory the trials take."""
        return training_shapes(trial.config for trial in self.trials)


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
    storage = open_storage(options.storage, cache=options.cache)
    _refuse_job_folder(storage)
    folder = storage.at(experiment.name)
    for inner in (folder, storage.at(PATCHES)):  # another user may have made them
        if not storage.is_remote:
            open_storage(inner.root)
    # The first trial of a patching stands for it: a dict keeps the last value of a key, hence `reversed`.
    data = {trial.config.data.patching: trial.config for trial in reversed(planned)}
    located: dict[str, LocatedData] = {
        patching: _locate_data(storage, folder, config) for patching, config in data.items()
    }
    data_notes = dict.fromkeys(note for found in located.values() for note in found.notes)
    initial_weights, weight_notes = _locate_initial_weights(folder, planned, origin)
    fingerprints = {patching: found.fingerprint for patching, found in located.items()}
    changes: dict[str, Sequence[str]] = {patching: found.changes for patching, found in located.items()}
    trials = find_trial_folders(folder, planned, fingerprints, initial_weights, changes)
    _check_epochs(folder, trials)
    left = find_left_trials(folder, trials)
    space = read_search_space(experiment.sweep)
    pending = _find_pending(folder, trials, space.halving, options)

    # What they need.
    resources = None
    # A cluster's machines are unknown until Ray has joined it, so `prepare` checks these.
    _check_worker_semantics(folder, pending)
    if pending and options.address is None:
        shapes = training_shapes(trial.config for trial in trials)
        resources = resolve_resources(experiment.resources, [this_machine()], len(trials), shapes)
        _check_precision(folder, pending, resources.device)
        if not options.in_process:
            notes += notes_on_folders()
    elif pending and options.address is not None:
        check_reachable(options.address)

    notes = [*data_notes, *notes, *weight_notes, *_notes_on_changes(folder, pending), *_note_on_left(left)]
    plan = SweepPlan(experiment, options, storage, located, trials, pending, left, resources, notes, space.halving)
    # The last rules, because they look at every picture.
    if pending:
        plan = plan._replace(to_make=_check_pictures(plan))
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


def _refuse_job_folder(storage: Storage) -> None:
    """Raises StorageError for the working folder that `ray job submit` makes for a job, and deletes some time after."""
    if _JOB_FOLDER.search(f"{storage.root}/"):
        raise StorageError(
            f"--storage: {storage.root} lies in Ray's own folder for this job, which does not stay: give an absolute "
            "path on a disk that does, and that all nodes share, for example --storage /shared/results."
        )


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


def _locate_data(storage: Storage, folder: Storage, config: Experiment) -> LocatedData:
    """Finds the source and what its store is or will be called; without a source, the store that was used before.

    Raises:
        DataError: there is neither; or the source, which no store was made of yet, holds no pairs.
    """
    recorded = recorded_data_fingerprint(folder, config)
    try:
        source = find_source(config.data)
    except DataError:
        if recorded is None:
            raise
        return LocatedData(recorded, None)

    fingerprint, changes = store_fingerprint(source, config.data), None
    stores = storage.at(PATCHES)
    if recorded not in (None, fingerprint):
        changes = changes_since(source, config.data, stores.at(recorded), recorded)
        # Files that give no patches are no reason to refuse trials that were begun without them.
        if changes == []:
            fingerprint = recorded

    notes = [*source.notes]
    if source.seed is not None:  # they look real enough at first sight
        notes.append("drawn maps, not real ones: data.source is `synthetic`; your own pairs: --set data.source=DIR")
    if source.passed_over:
        notes.append(describe_passed_over(source))
    # What became a store was looked at before.
    if not stores.exists(fingerprint):
        is_told = config.data.layout == PAIRS
        notes += check_plausible(source, f"data.source is {config.data.source!r}", is_told=is_told)
    return LocatedData(fingerprint, source, changes or [], notes)


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


def _check_epochs(folder: Storage, trials: Sequence[Trial]) -> None:
    """Raises ConfigError where a trial is further than it is to get now: it would end without its last evaluation."""
    too_far = []
    for trial in trials:
        least = least_epochs(folder.at(trial_path(trial.name)))
        epochs = trial.config.training.epochs
        if epochs < least:
            state = f"has finished {counted(least, 'epoch')}" if trial.is_finished else f"is in epoch {least}"
            which = f"trial {trial.name}" if trial.params else "this trial"
            too_far.append((least, f"training.epochs is {epochs}, but {which} {state}"))

    if too_far:
        lines = [line for _, line in too_far[:_TRIALS_SHOWN]]
        if len(too_far) > len(lines):
            lines.append(f"and {counted(len(too_far) - len(lines), 'trial')} more")
        lines.append(
            f"What is trained can't be undone: use {max(too_far)[0]} epochs or more, or give the experiment a new name."
        )
        raise ConfigError("\n".join(lines))


def _notes_on_changes(folder: Storage, pending: Sequence[Trial]) -> list[str]:
    """What the person may not expect of a field that may change when a trial goes on."""
    notes = {}
    for trial in pending:
        training, keep = trial.config.training, trial.config.checkpoint
        if training.decay_end_epoch is not None and training.epochs > training.decay_end_epoch:
            notes["decay"] = (
                f"training.epochs is {training.epochs}, but the learning rate is 0 after epoch "
                f"{training.decay_end_epoch} (training.decay_end_epoch): the epochs behind it change nothing"
            )

        recorded = read_trial_file(folder.at(trial_path(trial.name)))
        if change := workers_change(recorded or {}, trial.config.resources.workers):
            notes["workers"] = change
        was = Checkpointing(**recorded["config"]["checkpoint"]) if recorded else keep
        if was.keep_epochs and not (keep.keep_epochs and was.every_n_epochs % keep.every_n_epochs == 0):
            notes["keep"] = (
                f"checkpoint.keep_epochs was true with every_n_epochs {was.every_n_epochs}, now it is "
                f"{str(keep.keep_epochs).lower()} with {keep.every_n_epochs}: checkpoints that it kept are removed"
            )
    return list(notes.values())


def _note_on_left(left: Sequence[Trial]) -> list[str]:
    """A note on the trials that stay as they are."""
    if not left:
        return []
    names = ", ".join(trial.name for trial in left[:_TRIALS_SHOWN])
    more = f" and {len(left) - _TRIALS_SHOWN} more" if len(left) > _TRIALS_SHOWN else ""
    return [
        f"not in the sweep any more, left as before, and shown in the results: {counted(len(left), 'trial')} of an "
        f"earlier start ({names}{more})"
    ]


def _find_pending(folder: Storage, trials: Sequence[Trial], halving: Halving | None, options: Options) -> list[Trial]:
    """The trials that are to be run: one that has diverged would diverge again, one that was halted stays as it is."""
    pending = [
        trial for trial in trials if not trial.is_finished and (options.retry_diverged or not trial.has_diverged)
    ]
    pending = [trial for trial in pending if not _has_no_patience_left(folder, trial)]
    if halving is None:
        return pending
    check_recorded(folder, trials, halving)
    stage = next_stage(folder, trials, halving, retried_outcomes(options.retry_diverged))
    return [trial for trial in pending if trial.name in stage.pending]


def _has_no_patience_left(folder: Storage, trial: Trial) -> bool:
    """True where a trial has ended by its patience, and the present one would not have it go on either."""
    trial_folder, evaluation = folder.at(trial_path(trial.name)), trial.config.evaluation
    if evaluation.patience is None or evaluation.select is None:
        return False
    if read_outcome(trial_folder)["status"] != "early_stopped":
        return False
    from runner.records.weights import choose  # torch comes with it

    return choose(read_rows(trial_folder), evaluation.select).since >= evaluation.patience


def _check_precision(folder: Storage, pending: Sequence[Trial], device: str) -> None:
    """Raises ResourceError where a trial was begun in a precision that this machine only emulates."""
    for trial in pending:
        recorded = read_trial_file(folder.at(trial_path(trial.name)))
        if not recorded:
            continue
        import torch  # only where a trial goes on

        from runner.trial.runtime import refuse_emulation

        refuse_emulation(trial.name, recorded, trial.config.training.precision, torch.device(device))


def _check_worker_semantics(folder: Storage, pending: Sequence[Trial]) -> None:
    """Raises ResourceError where several workers of an earlier release trained a trial in another way."""
    for trial in pending:
        trial_folder = folder.at(trial_path(trial.name))
        recorded = read_trial_file(trial_folder)
        if not recorded or recorded["config"]["resources"]["workers"] == 1:
            continue
        # Both load torch: only where a trial of several workers goes on.
        from runner.records.checkpoints import checkpoint_steps
        from runner.trial.runtime import refuse_earlier_workers

        refuse_earlier_workers(trial.name, recorded, has_steps=bool(checkpoint_steps(trial_folder)))


def _check_pictures(plan: SweepPlan) -> dict[str, Mapping[str, int]]:
    """The number of patches of each split that are to be made, under each patching whose store is not there yet.

    Raises:
        DataError: headers show that preparation would refuse the pictures, or that they are too few for the workers.
    """
    from runner.sweep.disk import expect_patches  # loaded after the quick rules

    # Stores are made once for all trials of a patching.
    to_make: dict[str, Mapping[str, int]] = {}
    for trial in plan.pending:
        data = trial.config.data
        located = plan.data[data.patching]
        if located.source is None or plan.storage.at(PATCHES).exists(located.fingerprint):
            continue
        if data.patching in to_make:
            continue

        expected = expect_patches(located.source, data)
        num_pictures = len(located.source.pictures)
        if len(expected.too_small) > data.max_bad_fraction * num_pictures:
            raise DataError(_explain_too_small(data, expected.too_small, num_pictures))
        check_bad_fraction(expected.left_out, num_pictures, data)
        for split in SPLITS:
            if not expected.num_patches[split]:
                of_split = [entry for entry in expected.left_out if entry["file"].startswith(f"{split}/")]
                raise DataError(
                    f"data.source is {data.source!r}: every picture of {split}/ is bad.\n{first_bad_files(of_split)}"
                )
        check_enough_patches(trial.config, expected.num_patches["train"])
        of_val = [entry for entry in expected.left_out if entry["file"].startswith("val/")]
        num_val = sum(picture.split == "val" for picture in located.source.pictures) - len(of_val)
        check_enough_pictures(plan.experiment, num_val)
        to_make[data.patching] = expected.num_patches
    return to_make


def _explain_too_small(data: Data, sizes: Sequence[tuple[int, int]], num_pictures: int) -> str:
    """What is wrong with pictures that are smaller than a patch, and which patches would fit."""
    smallest = min(map(min, sizes))
    fitting = [size for size in PATCH_SIZES if size <= smallest]
    remedy = (
        f"use a patch_size of {fitting[-1]}{' or less' if len(fitting) > 1 else ''}, or larger pictures"
        if fitting
        else f"use larger pictures; the smallest patch_size is {PATCH_SIZES[0]}"
    )
    width, height = min(sizes, key=min)
    return (
        f"data.patch_size is {data.patch_size}, but {len(sizes)} of {num_pictures} pictures have smaller halves, the "
        f"smallest of {width}x{height} pixels: {remedy}"
    )


def check_enough_patches(config: Experiment, num_patches: int) -> None:
    """Raises DataError where a trial's workers can't share its training patches."""
    workers = config.resources.workers
    if num_patches < workers:
        raise DataError(
            f"resources.workers is {workers}, but there {'is' if num_patches == 1 else 'are'} only "
            f"{counted(num_patches, 'patch', 'patches')} to train on, and each worker needs one: use fewer workers, "
            "more pictures or a smaller data.patch_size"
        )


def note_on_large_batches(trials: Sequence[Trial], num_patches: Mapping[str, int]) -> list[str]:
    """A sentence where a batch would be larger than the data.

    Args:
        num_patches: to train on, under each patching.
    """
    sizes: dict[int, set[int]] = {}
    for trial in trials:
        count = num_patches[trial.config.data.patching]
        if trial.config.training.batch_size > count:
            sizes.setdefault(count, set()).add(trial.config.training.batch_size)
    return [
        f"training.batch_size is {' and '.join(map(str, sorted(found)))}, but there "
        f"{'is' if count == 1 else 'are'} only {counted(count, 'patch', 'patches')} to train on: each step takes all "
        f"of them, as with a batch_size of {count}"
        for count, found in sizes.items()
    ]


def check_enough_pictures(experiment: Experiment, num_val: int) -> None:
    """Raises ConfigError where one validation picture would have to be both what is chosen by and what is reported.

    What chooses by default is left out then, and what the person has asked for is refused.
    """
    if num_val > 1:
        return
    evaluation = experiment.evaluation
    written = [f"evaluation.{name}" for name in ("select", "patience") if name in evaluation.model_fields_set]
    asked_for = [name for name in written if getattr(evaluation, name.rpartition(".")[2]) is not None]
    if HALVING in experiment.sweep:
        asked_for.append(f"sweep.{HALVING}")
    if asked_for:
        raise ConfigError(
            f"{', '.join(asked_for)}: one half of the validation pictures chooses and the other half reports, but "
            f"{experiment.data.source!r} has {counted(num_val, 'usable validation picture')}: add some, or take "
            f"{' and '.join(asked_for)} out"
        )


def _check_room(plan: SweepPlan) -> None:
    """Raises StorageError where the disk has less room than the run will need."""
    from runner.sweep.disk import disk_needed

    # What stands there already of pending trials will be replaced.
    there = sum(plan.folder.at(f"{trial_path(trial.name)}/{CHECKPOINTS}").total_bytes() for trial in plan.pending)
    # How many trials a cluster runs at once is not known yet: it is one at least.
    at_once = plan.resources.max_concurrent if plan.resources else 1
    configs = [trial.config for trial in plan.pending]
    to_make = {patching: sum(splits.values()) for patching, splits in plan.to_make.items()}
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
