"""How much room a run needs on its storage, by arithmetic."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gan.data.patches import patch_schema
from gan.data.patching import patch_origins
from gan.data.pictures import PictureError, check_half_size, half_size
from gan.networks.sizes import state_size
from runner.config.schema import Data, Experiment
from runner.data.sources import SPLITS, Source, read_picture

# Width and height in pixels of one half of a synthetic pair.
_SYNTHETIC_HALF = (600, 600)


class TrialDisk(NamedTuple):
    """Bytes that a trial needs on storage: once finished, and at most while it runs."""

    finished: int
    running: int


def disk_needed(configs: Sequence[Experiment], at_once: int, num_patches: Mapping[str, int]) -> int:
    """Bytes that trials, of which some run at once, and the patch stores still to be made will take.

    Args:
        num_patches: patches of both splits, under each patching whose store is to be made.
    """
    trials = [trial_disk(config) for config in configs]
    # At worst the trials that need the most room beyond their finished size run at the same time.
    more_while_running = sorted((max(trial.running - trial.finished, 0) for trial in trials), reverse=True)
    # Of `data` only `patching` can be swept, so all stores have the same patch size.
    stores = sum(count * patch_bytes(configs[0].data) for count in num_patches.values())
    return sum(trial.finished for trial in trials) + sum(more_while_running[:at_once]) + stores


def trial_disk(config: Experiment) -> TrialDisk:
    """From the config alone. A checkpoint is whole before an older one goes."""
    size = state_size(config.networks)
    keep = config.checkpoint
    kept_epochs = config.training.epochs // keep.every_n_epochs if keep.keep_epochs else 0
    # Each checkpoint may name best weights of its own.
    best = size.weights if config.evaluation.select is not None else 0
    return TrialDisk(
        finished=size.checkpoint * (keep.keep_finished + kept_epochs) + size.weights + best,
        running=(size.checkpoint + best) * (keep.keep + 1 + kept_epochs),
    )


def patch_bytes(data: Data) -> int:
    """Bytes of one patch in the store, source and target."""
    pixels = [field for field in patch_schema(data.patch_size) if field.name in ("map", "satellite")]
    # Arrow keeps a patch as a list of fixed size with one byte for each value.
    return sum(field.type.storage_type.list_size for field in pixels)


class ExpectedPatches(NamedTuple):
    """What a source would give, by the headers of its pictures.

    Attributes:
        num_patches: of each split.
        left_out: the pictures that give none, as a store's quarantine names them.
        too_small: the sizes of halves that are smaller than a patch.
    """

    num_patches: Mapping[str, int]
    left_out: list[dict[str, str]]
    too_small: Sequence[tuple[int, int]]


def expect_patches(source: Source, data: Data) -> ExpectedPatches:
    """Looks at the header of each picture. It says nothing about damage further on in the file."""
    num_patches = dict.fromkeys(SPLITS, 0)
    left_out: list[dict[str, str]] = []
    too_small: list[tuple[int, int]] = []
    for picture in source.verifiable():
        try:
            # Synthetic pictures are not drawn yet, so there is no header to read.
            size = _SYNTHETIC_HALF if source.seed is not None else half_size(read_picture(picture, None))
            if min(size) < data.patch_size:
                too_small.append(size)
            check_half_size(*size, data.patch_size)
        except (OSError, PictureError) as error:
            left_out.append({"file": f"{picture.split}/{picture.name}", "reason": str(error)})
            continue

        width, height = size
        num_patches[picture.split] += len(patch_origins(height, width, data.patching, data.patch_size))
    return ExpectedPatches(num_patches, left_out, too_small)
