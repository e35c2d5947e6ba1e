"""An experiment as frozen types: every field, its default and its rule stand here, once."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

NAME_RULE = "letters, digits, - _ . only, beginning with a letter or digit"
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
DIRECTIONS = Literal["map_to_satellite", "satellite_to_map"]
PATCHINGS = Literal["tiles", "resize"]
PATCH_SIZES = (64, 128, 256, 512, 1024)


def valid_name(name: str) -> str:
    """Names become folder names, so that nothing in them may lead elsewhere."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise ValueError(f"may hold {NAME_RULE}, at most 100 of them")
    return name


def valid_patch_size(size: int) -> int:
    """The U-Net halves the picture down to one pixel."""
    if size not in PATCH_SIZES:
        raise ValueError(f"must be one of {', '.join(map(str, PATCH_SIZES))}")
    return size


class Section(BaseModel):
    """Unknown fields are errors; values are not guessed from other types; nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Synthetic(Section):
    """How many pictures are drawn, and from which seed."""

    train: Positive = 200
    val: Positive = 50
    seed: Seed = 0


class Data(Section):
    """Where pairs come from and how they become patches."""

    source: Annotated[str, Field(min_length=1)] = "synthetic"
    synthetic: Synthetic = Synthetic()
    patching: PATCHINGS = "tiles"
    patch_size: Annotated[int, AfterValidator(valid_patch_size)] = 256
    direction: DIRECTIONS = "map_to_satellite"
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05


class Model(Section):
    """The two networks, and the file of weights that the generator starts from (random ones where None)."""

    channels: Annotated[int, Field(ge=1, le=1024)] = 64
    receptive_field: Literal[1, 16, 70, 286] = 70
    initial_weights: Annotated[str, Field(min_length=1)] | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """What says how large the networks are."""
        return self.model_dump(exclude={"initial_weights"})


class Training(Section):
    """What is learned, and how. Only `epochs` may change when a trial resumes."""

    epochs: Positive = 200
    batch_size: Positive = 1
    lambda_l1: Annotated[float, Field(ge=0)] = 100.0
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    decay_start_epoch: Positive | None = None
    decay_end_epoch: Positive | None = None
    seed: Seed = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    deterministic: bool = True

    @model_validator(mode="after")
    def _decay_is_whole(self) -> "Training":
        start, end = self.decay_start_epoch, self.decay_end_epoch
        if (start is None) != (end is None):
            raise ValueError(
                f"training.decay_start_epoch is {start} and training.decay_end_epoch is {end}: give both, or neither"
            )
        if start is not None and end is not None and start >= end:
            raise ValueError(
                f"training.decay_start_epoch is {start}: it must lie before training.decay_end_epoch, {end}"
            )
        return self


class Evaluation(Section):
    """How often and on how many validation patches."""

    every_n_epochs: Positive = 1
    num_patches: Positive = 64


class Checkpointing(Section):
    """When checkpoints are written and how many stay."""

    every_n_epochs: Positive = 10
    keep: Positive = 2
    keep_epochs: bool = False
    keep_finished: Positive = 1

    def keeps_epoch(self, epoch: int) -> bool:
        """True where the checkpoint that ends an epoch (0: ends none) stays, however old it gets."""
        return self.keep_epochs and epoch > 0 and epoch % self.every_n_epochs == 0


class Resources(Section):
    """What a trial is given; `auto` is a fixed function of the machine."""

    workers: Positive = 1
    gpus_per_worker: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    cpus_per_worker: Literal["auto"] | Positive = "auto"
    max_failures: Annotated[int, Field(ge=0)] = 3
    hang_timeout: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"

    @property
    def gpu_share(self) -> float:
        """Of a GPU, what a worker may take for itself: all of it unless others were promised a part."""
        return 1.0 if self.gpus_per_worker == "auto" else min(self.gpus_per_worker, 1.0)


class Tracking(Section):
    """Weights & Biases; `auto` is online where a key is configured, offline otherwise. `artifacts`: weights too."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    artifacts: bool = False


class Experiment(Section):
    """One experiment file. What `sweep` says is read by runner.config.search_space."""

    name: Annotated[str, AfterValidator(valid_name)]
    data: Data = Data()
    model: Model = Model()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    sweep: dict[str, Any] = {}
    checkpoint: Checkpointing = Checkpointing()
    log_every_n_steps: Positive = 50
    resources: Resources = Resources()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _parts_fit(self) -> "Experiment":
        if self.sweep:
            return self  # each cell is checked with its own values
        size, field = self.data.patch_size, self.model.receptive_field
        if field == 286 and size < 128:
            raise ValueError(
                f"model.receptive_field is 286, but data.patch_size is {size}: a field of 286 leaves no logit "
                "there; use a patch_size of 128 or more, or a smaller field"
            )
        batch_size, workers = self.training.batch_size, self.resources.workers
        gpus = self.resources.gpus_per_worker
        if gpus != "auto" and gpus > 1 and gpus != int(gpus):
            raise ValueError(f"resources.gpus_per_worker is {gpus}: above 1 it must be a whole number")
        if gpus != "auto" and 0 < gpus < 1 and workers > 1:
            raise ValueError(
                f"resources.gpus_per_worker is {gpus} with {workers} workers: workers of one trial can't share a GPU; "
                "use 1 or more, or one worker"
            )
        if batch_size % workers:
            raise ValueError(
                f"training.batch_size is {batch_size}, but {workers} workers must share a batch equally: "
                f"use a multiple of {workers}"
            )
        return self


SWEEP_SECTIONS: dict[str, type[Section]] = {"training": Training, "model": Model}
NOT_SWEPT = "initial_weights"  # a trial is named by its parameters, and no trial by a path
SWEEP_FIELDS: dict[str, str] = {
    field: f"{section}.{field}"
    for section, kind in SWEEP_SECTIONS.items()
    for field in kind.model_fields
    if field != NOT_SWEPT
} | {"patching": "data.patching"}
