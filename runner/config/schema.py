"""The types of an experiment: every field, with its default and its rule.

Before a field is added to Data, Model or Training, read runner.config.fingerprint: older runs depend on its default.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from gan.networks.model import ModelSettings

_NAME_RULE = "letters, digits, - _ . only, beginning with a letter or digit"
_Positive = Annotated[int, Field(ge=1)]
_Seed = Annotated[int, Field(ge=0, lt=2**63)]
_Direction = Literal["map_to_satellite", "satellite_to_map"]
_Patching = Literal["tiles", "resize"]
_PATCH_SIZES = (64, 128, 256, 512, 1024)


def _valid_name(name: str) -> str:
    """A name that can be a folder's name and can't lead to another folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise ValueError(f"may hold {_NAME_RULE}, at most 100 of them")
    return name


def _valid_patch_size(size: int) -> int:
    """A size that the U-Net can halve down to one pixel."""
    if size not in _PATCH_SIZES:
        raise ValueError(f"must be one of {', '.join(map(str, _PATCH_SIZES))}")
    return size


class Section(BaseModel):
    """A frozen group of fields. Unknown fields are errors, and values of another type are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Synthetic(Section):
    """The number of drawn pictures, and their seed."""

    train: _Positive = 200
    val: _Positive = 50
    seed: _Seed = 0


class Data(Section):
    """Where pairs come from and how they become patches."""

    source: Annotated[str, Field(min_length=1)] = "synthetic"
    layout: Literal["auto", "pairs", "folders"] = "auto"
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    synthetic: Synthetic = Synthetic()
    patching: _Patching = "tiles"
    patch_size: Annotated[int, AfterValidator(_valid_patch_size)] = 256
    direction: _Direction = "map_to_satellite"
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05


class Model(Section):
    """The two networks, and the file of weights that the generator starts from (random ones where None)."""

    channels: Annotated[int, Field(ge=1, le=1024)] = 64
    receptive_field: Literal[1, 16, 70, 286] = 70
    initial_weights: Annotated[str, Field(min_length=1)] | None = None


class Training(Section):
    """The training of a trial. Only `epochs` may change when it resumes."""

    epochs: _Positive = 200
    batch_size: _Positive = 1
    lambda_l1: Annotated[float, Field(ge=0)] = 100.0
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    decay_start_epoch: _Positive | None = None
    decay_end_epoch: _Positive | None = None
    seed: _Seed = 0
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
    """When a trial is evaluated during training, and on how many validation patches."""

    every_n_epochs: _Positive = 1
    num_patches: _Positive = 64


class Checkpointing(Section):
    """When checkpoints are written, and how many are kept."""

    every_n_epochs: _Positive = 10
    keep: _Positive = 2
    keep_epochs: bool = False
    keep_finished: _Positive = 1

    def keeps_epoch(self, epoch: int) -> bool:
        """True where the checkpoint at the end of an epoch is kept, however old it gets; 0 is not the end of one."""
        return self.keep_epochs and epoch > 0 and epoch % self.every_n_epochs == 0


class Resources(Section):
    """The cores and GPUs of a trial; `auto` depends only on the machine."""

    workers: _Positive = 1
    gpus_per_worker: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    cpus_per_worker: Literal["auto"] | _Positive = "auto"
    max_failures: Annotated[int, Field(ge=0)] = 3
    hang_timeout: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"

    @property
    def gpu_share(self) -> float:
        """The part of a GPU that a worker may use, from 0 to 1."""
        return 1.0 if self.gpus_per_worker == "auto" else min(self.gpus_per_worker, 1.0)


class Tracking(Section):
    """Weights & Biases: `auto` is online where a key is configured, else offline; `artifacts` uploads weights, too."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    artifacts: bool = False


class Experiment(Section):
    """One experiment file. `sweep` is read by runner.config.search_space."""

    name: Annotated[str, AfterValidator(_valid_name)]
    data: Data = Data()
    model: Model = Model()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    sweep: dict[str, Any] = {}
    checkpoint: Checkpointing = Checkpointing()
    log_every_n_steps: _Positive = 50
    resources: Resources = Resources()
    tracking: Tracking = Tracking()

    @property
    def networks(self) -> ModelSettings:
        """The two networks that a trial of this experiment trains."""
        return ModelSettings(**self.model.model_dump(exclude={"initial_weights"}), patch_size=self.data.patch_size)

    @model_validator(mode="after")
    def _parts_fit(self) -> "Experiment":
        if self.sweep:
            return self  # each trial is checked later, with its own values

        size, field = self.data.patch_size, self.model.receptive_field
        if field == 286 and size < 128:
            raise ValueError(
                f"model.receptive_field is 286, but data.patch_size is {size}: the discriminator has no output for "
                "such small patches; use a patch_size of 128 or more, or a smaller receptive field"
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
NOT_SWEPT = "initial_weights"  # trials are named after their parameters, and a path is no name for a folder
SWEEP_FIELDS: dict[str, str] = {
    field: f"{section}.{field}"
    for section, kind in SWEEP_SECTIONS.items()
    for field in kind.model_fields
    if field != NOT_SWEPT
} | {"patching": "data.patching"}
