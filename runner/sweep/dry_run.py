"""What a run would do: trials, steps, memory and disk, printed by --dry-run."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gan.data.patches import patch_schema
from gan.data.patching import patch_origins
from gan.data.pictures import PictureError, check_pair_size, picture_size
from gan.networks.sizes import state_size
from gan.training.epochs import steps_per_epoch
from runner.config.schema import Data, Experiment
from runner.data.sources import Source, read_picture
from runner.number_format import byte_size, counted
from runner.records.trial_folders import Trial
from runner.trial.resources import this_machine

SYNTHETIC_HALF = (600, 600)


class TrialDisk(NamedTuple):
    """Bytes that a trial needs on storage: once finished, and at most while it runs."""

    finished: int
    running: int


def trial_disk(config: Experiment) -> TrialDisk:
    """From the config alone. A checkpoint is whole before an older one goes."""
    size = state_size(patch_size=config.data.patch_size, **config.model.sizes)
    keep = config.checkpoint
    epochs = config.training.epochs // keep.every_n_epochs if keep.keep_epochs else 0
    return TrialDisk(
        size.checkpoint * (keep.keep_finished + epochs) + size.weights,
        size.checkpoint * (keep.keep + 1 + epochs),
    )


def disk_needed(configs: Sequence[Experiment], at_once: int, num_patches: Mapping[str, int]) -> int:
    """Bytes that trials, of which some run at once, and the patch stores still to be made will take.

    Args:
        num_patches: patches of both splits, under each patching whose store is to be made.
    """
    trials = [trial_disk(config) for config in configs]
    more_while_running = sorted((max(trial.running - trial.finished, 0) for trial in trials), reverse=True)
    stores = sum(count * row_bytes(configs[0].data) for count in num_patches.values())
    return sum(trial.finished for trial in trials) + sum(more_while_running[:at_once]) + stores


def describe_plan(experiment: Experiment, trials: Sequence[Trial], num_patches: dict[str, int]) -> list[str]:
    """Lines for the screen; memory is that of a trial on this machine.

    Args:
        num_patches: training patches under each of the trials' patchings.
    """
    import torch  # which only this plan of memory needs

    from gan.training.footprint import training_footprint
    from gan.training.precision import resolve_precision
    from gan.training.state import ModelSettings

    has_gpu = experiment.resources.gpus_per_worker != 0 and this_machine().gpus > 0
    device = torch.device("cuda" if has_gpu else "cpu")
    lines = [f"{experiment.name}: {counted(len(trials), 'trial')}"]
    finished = running = 0
    for trial in trials:
        config = trial.config
        training, patches = config.training, num_patches[config.data.patching]
        steps = training.epochs * steps_per_epoch(patches, training.batch_size, config.resources.workers)
        model = ModelSettings(**config.model.sizes, patch_size=config.data.patch_size)
        precision = resolve_precision(training.precision, device)
        memory = training_footprint(model, training.batch_size, precision).memory
        disk = trial_disk(config)
        finished += disk.finished
        running = max(running, disk.running)
        lines.append(
            f"  {trial.name}: {training.epochs} epochs of {patches} patches, {steps:,} steps; "
            f"memory about {byte_size(memory)} in {precision}, disk {byte_size(disk.finished)} when finished"
        )
    stores = sum(count * row_bytes(experiment.data) for count in num_patches.values())
    lines.append(
        f"disk in all: {byte_size(finished)} of trials, {byte_size(stores)} of patches, "
        f"up to {byte_size(running)} for a running trial's checkpoints"
    )
    return lines


def row_bytes(data: Data) -> int:
    """Bytes of one patch in the store."""
    return sum(
        field.type.storage_type.list_size
        for field in patch_schema(data.patch_size)
        if field.name in ("map", "satellite")
    )


def count_patches(source: Source, data: Data, split: str) -> int:
    """Patches that a split would give, from the pictures' headers."""
    count = 0
    for picture in source.pictures:
        if picture.split != split:
            continue
        if source.seed is not None:
            height, width = SYNTHETIC_HALF
        else:
            try:
                full_width, height = picture_size(read_picture(picture, None))
                check_pair_size(full_width, height, data.patch_size)
            except (OSError, PictureError):
                continue
            width = full_width // 2
        count += len(patch_origins(height, width, data.patching, data.patch_size))
    return count
