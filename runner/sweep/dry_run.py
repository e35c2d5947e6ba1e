"""What a run would do: trials, steps, memory and disk, printed by --dry-run."""

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace

from gan.data.epochs import steps_per_epoch
from runner.console import Console
from runner.data.checking.plausibility import sample
from runner.data.patch_store import check_bad_fraction, find_store, read_quarantine
from runner.errors import DataError, Exit
from runner.number_format import byte_size, counted
from runner.records.seeds import by_cell
from runner.records.trial_folders import Trial
from runner.storage.folder import TEMPORARY
from runner.storage.run_folder import PATCHES
from runner.storage.storage import Storage
from runner.sweep.check import SweepPlan, check_enough_patches, note_on_large_batches
from runner.sweep.disk import expect_patches, patch_bytes, trial_disk
from runner.trial.resources import TrialResources, this_machine

_MARKER = f"{TEMPORARY}marker-"
_MAX_SHOWN = 50  # trials


def print_plan(plan: SweepPlan, console: Console) -> Exit:
    """Prints the plan, and does nothing else."""
    num_patches = _count_training_patches(plan)
    console.print(f"{plan.experiment.name}: {counted(len(plan.trials), 'trial')}")
    for trial in plan.trials[:_MAX_SHOWN]:
        console.print(f"  {_describe_trial(trial, num_patches[trial.config.data.patching])}")
    if (more := len(plan.trials) - _MAX_SHOWN) > 0:
        steps = sum(_num_steps(trial, num_patches[trial.config.data.patching]) for trial in plan.trials)
        console.print(f"  and {counted(more, 'more trial')}; {steps:,} steps in all")
    for note in note_on_large_batches(plan.trials, num_patches):
        console.print(f"note: {note}")
    for line in _describe_halving(plan, num_patches):
        console.print(line)
    console.print(_describe_disk(plan, num_patches))
    for line in _describe_sample(plan):
        console.print(line)

    if plan.resources is not None:
        console.print(plan.resources.describe())
    elif plan.pending and plan.options.address is not None:
        console.print(_check_cluster(plan, console))
    console.print("dry run: nothing was run")
    return Exit.FINISHED


def _check_cluster(plan: SweepPlan, console: Console) -> str:
    """Joins the cluster, checks it as a run does, and leaves nothing there; what a run would get.

    Raises:
        UserError: what a run would be refused for.
    """
    # Ray takes seconds to load: not for a plan of this machine alone.
    from runner.sweep.backends import OnRay
    from runner.sweep.waiting import resources_now

    with contextlib.closing(OnRay(plan.options.address, "", console, lambda: None, dashboard=False)) as backend:
        found = resources_now(plan, backend)
        with _marker(plan.storage) as (folder, token):
            backend.check_nodes(folder, token, f"{_MARKER}{token}")
    return (
        found.describe() if isinstance(found, TrialResources) else f"the run would wait for machines: {found.problem}"
    )


@contextlib.contextmanager
def _marker(storage: Storage) -> Iterator[tuple[Storage, str]]:
    """A file for the nodes to look at, as a run's lock is; in the storage, or where it would be made.

    Yields:
        The folder, and what the file says.
    """
    folder, token = storage.nearest(), secrets.token_hex(8)
    folder.create(f"{_MARKER}{token}", json.dumps({"token": token}).encode())
    try:
        yield folder, token
    finally:
        folder.remove(f"{_MARKER}{token}")


def _count_training_patches(plan: SweepPlan) -> dict[str, int]:
    """Training patches under each of the trials' patchings: of the store, or as the source would give them."""
    num_patches: dict[str, int] = {}
    for trial in plan.trials:
        data = trial.config.data
        if data.patching in num_patches:
            continue

        # The pictures have been looked at: that takes long.
        if data.patching in plan.to_make:
            num_patches[data.patching] = plan.to_make[data.patching]["train"]
            continue

        located = plan.data[data.patching]
        # A store has the exact number. The headers of pictures say nothing about damage further on in a file.
        store, _ = find_store(plan.storage.at(PATCHES), located.fingerprint)
        if store is not None:
            num_patches[data.patching] = store.num_patches("train")
            # As the run does: this experiment may allow fewer bad files than the one that built the store.
            if located.source is not None:
                check_bad_fraction(read_quarantine(store), len(located.source.pictures), data)
        elif located.source is not None:
            num_patches[data.patching] = expect_patches(located.source, data).num_patches["train"]
        else:
            raise DataError(f"data.source is {data.source!r}: it is gone, and so are the patches that were made of it")

    for trial in plan.trials:
        check_enough_patches(trial.config, num_patches[trial.config.data.patching])
    return num_patches


def _describe_trial(trial: Trial, num_patches: int) -> str:
    """A trial's length, and the memory and disk that it takes on this machine."""
    import torch  # only this plan of memory needs it

    from gan.networks.footprint import training_footprint
    from gan.networks.precision import resolve_precision

    config, training = trial.config, trial.config.training
    uses_gpu = config.resources.gpus_per_worker != 0 and this_machine().gpus > 0
    precision = resolve_precision(training.precision, torch.device("cuda" if uses_gpu else "cpu"))

    steps = _num_steps(trial, num_patches)
    memory = training_footprint(config.networks, training.batch_size, precision).memory
    return (
        f"{trial.name}: {counted(training.epochs, 'epoch')} of {num_patches:,} patches, {steps:,} steps; "
        f"memory about {byte_size(memory)} in {precision}, disk {byte_size(trial_disk(config).finished)} when finished"
    )


def _num_steps(trial: Trial, num_patches: int) -> int:
    """The steps of a trial's whole training."""
    training = trial.config.training
    return training.epochs * steps_per_epoch(num_patches, training.batch_size)


def _describe_halving(plan: SweepPlan, num_patches: Mapping[str, int]) -> list[str]:
    """The rungs of a halved sweep, and what they cost against the whole grid."""
    if plan.halving is None:
        return []
    halving, epochs = plan.halving, plan.experiment.training.epochs
    num_cells = len(by_cell(plan.trials, (trial.params for trial in plan.trials)))

    lines, left = [], num_cells
    for rung in halving.rungs(epochs):
        kept = halving.num_kept(left)
        best = f"the best {kept} by {halving.metric} go on" if kept > 1 else f"the best by {halving.metric} goes on"
        decision = f"of {left} cells {best}" if left > 1 else "the last cell goes on"
        lines.append(f"  epoch {rung}: {decision}")
        left = kept
    share = halving.cell_epochs(num_cells, epochs) / (num_cells * epochs)
    # Cells of small batches have more steps, and nobody knows yet which cells go on.
    steps = {_num_steps(trial, num_patches[trial.config.data.patching]) for trial in plan.trials}
    about = "" if len(steps) == 1 else ", if cells with many and with few steps an epoch go on alike"
    return [f"halving: {share * 100:.0f} % of the steps of the whole grid{about}", *lines]


def _describe_sample(plan: SweepPlan) -> list[str]:
    """What needs attention in a sample of the pictures, where they are read from a directory."""
    source = next(iter(plan.data.values())).source  # the same for each patching
    if source is None or source.seed is not None:
        return []
    from runner.data.checking.findings import examine

    report = examine(replace(source, pictures=sample(source.pictures)))
    # What is true of all pictures was said before.
    lines = [f"  {finding.kind}: {finding.text}" for finding in report.findings if finding.files]
    if not lines:
        return []
    directory = plan.experiment.data.source
    return [
        f"of {len(report.facts)} pictures that were looked at, some need attention (all: python -m runner.data check "
        f"{directory}):",
        *lines,
    ]


def _describe_disk(plan: SweepPlan, num_patches: dict[str, int]) -> str:
    """The disk that all of it takes."""
    disks = [trial_disk(trial.config) for trial in plan.trials]
    stores = sum(count * patch_bytes(plan.experiment.data) for count in num_patches.values())
    return (
        f"disk in all: {byte_size(sum(disk.finished for disk in disks))} of trials, {byte_size(stores)} of patches, "
        f"up to {byte_size(max(disk.running for disk in disks))} for a running trial's checkpoints"
    )
