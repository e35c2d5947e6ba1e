"""The types of an experiment: every field, with its meaning, its default and its rule.

The text below a field is its meaning. `make docs` makes docs/configuration.md and docs/experiment.schema.json of it.
Before a field is added to Data, Model or Training, read runner.config.fingerprint: older runs depend on its default.
"""

import re
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticKnownError

from gan.evaluation.metrics import METRICS
from gan.networks.model import ModelSettings
from runner.config.label_selector import check_label_selector
from runner.storage.folder import expand_home
from runner.storage.run_folder import PATCHES

_NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
_NAME_RULE = "letters, digits, - _ . only, beginning with a letter or digit"


def _unit(name: str) -> Any:
    """What a number counts, for the reference and for errors."""
    return Field(json_schema_extra={"unit": name})


def _whole_number(value: Any) -> Any:
    """Refuses true, which Python takes for 1, and 64.0: Literal alone would not."""
    if isinstance(value, bool | float):
        raise PydanticKnownError("int_type")
    return value


_PatchSize = Literal[64, 128, 256, 512, 1024]
PATCH_SIZES: tuple[int, ...] = typing.get_args(_PatchSize)
_Positive = Annotated[int, Field(ge=1)]
_Seed = Annotated[int, Field(ge=0, lt=2**63)]
_Epochs = Annotated[_Positive, _unit("epochs")]


def _valid_name(name: str) -> str:
    """A name that can be a folder's name, and can't lead to another folder or to one that the storage itself uses."""
    if not re.fullmatch(_NAME_PATTERN, name):
        raise ValueError(f"may hold {_NAME_RULE}, at most 100 of them")
    # Whatever its case: a storage may be copied to a file system that does not tell them apart.
    if name.lower() == PATCHES:
        raise ValueError(f"can't be the name of the folder that a storage keeps its patches in: use another, {name}_1")
    return name


_Path = Annotated[str, Field(min_length=1), AfterValidator(expand_home)]


def _is_section(parent: type[BaseModel], name: str) -> bool:
    """True for a field that has fields itself, `sweep` among them."""
    return name in parent.model_fields and isinstance(parent.model_fields[name].default, BaseModel | dict)


class Section(BaseModel):
    """A frozen group of fields. Unknown fields are errors, and values of another type are not converted."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _empty_sections_have_defaults(cls, values: Any) -> Any:
        """`training:` with nothing after it is null in YAML."""
        if not isinstance(values, dict):
            return values
        empty: dict[str, Any] = {name: {} for name, value in values.items() if value is None and _is_section(cls, name)}
        return values | empty


class Synthetic(Section):
    """The number of drawn pictures, and their seed."""

    train: Annotated[_Positive, _unit("pictures")] = 200
    """Pictures to train on."""

    val: Annotated[_Positive, _unit("pictures")] = 50
    """Pictures to validate with."""

    seed: _Seed = 0
    """What the pictures are drawn from: the same seed gives the same bytes."""


class Data(Section):
    """Where pairs come from and how they become patches."""

    source: _Path = "synthetic"
    """A folder of pairs, with a part to train on and one to validate with; or `synthetic`, which draws pairs."""

    layout: Literal["auto", "pairs", "folders"] = "auto"
    """How the folder holds them. `pairs`: pictures with both halves side by side, left satellite, right map. `folders`:
    the two sides in folders of their own, matched by name. `auto` looks."""

    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Where the folder has no part to validate with: the share of the pictures that are taken for it, chosen by their
    names."""

    synthetic: Synthetic = Synthetic()
    """What is drawn where `source` is `synthetic`."""

    patching: Literal["tiles", "resize"] = "tiles"
    """`tiles` cuts each half into as many whole patches as fit; `resize` shrinks it to one patch."""

    patch_size: Annotated[_PatchSize, BeforeValidator(_whole_number), _unit("pixels")] = 256
    """Height and width of a patch. No half of a picture may be smaller."""

    direction: Literal["map_to_satellite", "satellite_to_map"] = "map_to_satellite"
    """What is translated into what."""

    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """The part of the files that may be unusable: they are left out and listed. More than that ends the run."""


class Model(Section):
    """The two networks, and the weights that the generator starts from."""

    channels: Annotated[int, Field(ge=1, le=1024), _unit("channels")] = 64
    """Channels of the first layer of both networks; deeper layers have up to eight times as many."""

    receptive_field: Annotated[Literal[1, 16, 70, 286], BeforeValidator(_whole_number), _unit("pixels")] = 70
    """Height and width of what the discriminator judges at once; 286 needs a `data.patch_size` of 128 or more."""

    norm: Literal["batch", "instance"] = "batch"
    """What follows the convolutions of both networks. `batch` normalises by the mean and variance of the whole batch;
    with a `batch_size` of 1 that is each picture alone in training, but running averages in eval mode. `instance`
    normalises each picture by its own, in both."""

    upsampling: Literal["transposed", "resize"] = "transposed"
    """How the generator comes up to the next size: a 4x4 transposed convolution, or each pixel repeated to twice the
    size (nearest) and a 3x3 convolution, which leaves no checkerboard and is slower."""

    initial_weights: _Path | None = None
    """A file that the generator starts from, of `python -m runner.export` or of pytorch-CycleGAN-and-pix2pix; random
    weights without one. Its content counts, not its path."""


class Training(Section):
    """The training of a trial."""

    epochs: _Epochs = 200
    """How long a trial is trained. More may be wanted later; fewer than are done are refused."""

    batch_size: Annotated[_Positive, _unit("pairs")] = 1
    """Pairs of a step, over all workers: a multiple of `resources.workers`."""

    lambda_l1: Annotated[float, Field(ge=0)] = 100.0
    """The weight of the L1 loss against the adversarial loss."""

    gan_loss: Literal["bce", "lsgan", "hinge"] = "bce"
    """The adversarial loss of both networks: cross-entropy, as in the paper, least squares, or the hinge. Their sizes
    differ, and with them what `lambda_l1` weighs."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    """Adam's learning rate, of both networks."""

    discriminator_learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """That of the discriminator, where it has its own; it decays in the same epochs."""

    decay_start_epoch: _Positive | None = None
    """The last epoch with the whole learning rate. From here it falls along a line; without the two fields it stays as
    it is."""

    decay_end_epoch: _Positive | None = None
    """The last epoch with a learning rate above 0."""

    seed: _Seed = 0
    """What the first weights, the order of patches, jitter and dropout are drawn from."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """What the steps compute in. `auto` is bf16 where the hardware has it, else fp32; a trial keeps what it began
    with."""

    deterministic: bool = True
    """On a GPU only: the same bits in each run. `false` may be a little faster."""

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

    every_n_epochs: _Epochs = 1
    """How often. The last epoch is always evaluated, on all validation patches."""

    num_patches: Annotated[_Positive, _unit("patches")] = 64
    """The size of the fixed sample of validation patches that is used before the end."""

    select: Literal[*(metric.key for metric in METRICS)] | None = "swd"  # type: ignore[valid-type]
    """The metric that the best weights are chosen by, on one half of the pictures of the sample; `null` keeps none. How
    good they are is measured on the other half of the validation pictures."""

    patience: Annotated[_Positive, _unit("evaluations")] | None = None
    """After so many evaluations without a better one a trial ends, `early_stopped`; `null` trains all epochs."""

    @model_validator(mode="after")
    def _patience_has_a_metric(self) -> "Evaluation":
        if self.patience is not None and self.select is None:
            raise ValueError(
                f"evaluation.patience is {self.patience}, but evaluation.select is null: give a metric to be patient "
                "with, or take patience out"
            )
        return self


class Checkpointing(Section):
    """When checkpoints are written, and how many are kept."""

    every_n_epochs: _Epochs = 10
    """How often at least. More are written whenever that costs little."""

    keep: Annotated[_Positive, _unit("checkpoints")] = 2
    """How many of the newest a running trial keeps."""

    keep_epochs: bool = False
    """Keeps those at the end of each `every_n_epochs`, too, however old they get."""

    keep_finished: Annotated[_Positive, _unit("checkpoints")] = 1
    """How many of the newest a finished trial keeps."""

    def keeps_epoch(self, epoch: int) -> bool:
        """True where the checkpoint at the end of an epoch is kept, however old it gets; 0 is not the end of one."""
        return self.keep_epochs and epoch > 0 and epoch % self.every_n_epochs == 0


class Resources(Section):
    """The cores and GPUs of a trial; `auto` depends only on the machine."""

    workers: Annotated[_Positive, _unit("workers")] = 1
    """Processes that train a trial together, each a share of every batch. They learn what one learns, but for
    rounding."""

    gpus_per_worker: Annotated[Literal["auto"] | Annotated[float, Field(ge=0)], _unit("GPUs")] = "auto"
    """`auto` is one where there are GPUs, else none. 0.5 lets two trials share a GPU; above 1 it is a whole number; 0
    trains on the processor."""

    cpus_per_worker: Annotated[Literal["auto"] | _Positive, _unit("cores")] = "auto"
    """`auto` shares the cores among the trials or, where there are GPUs, among these."""

    max_concurrent: Annotated[Literal["auto"] | _Positive, _unit("trials")] = "auto"
    """Trials at a time, at most. `auto` is as many as there are cores or GPUs for and, on processors, as memory is
    expected to hold."""

    accelerator_type: Annotated[str, Field(min_length=1)] | None = None
    """Only machines of a cluster with GPUs of this type, as Ray calls it: `A100`, for example."""

    label_selector: Annotated[dict[str, str], AfterValidator(check_label_selector)] = {}
    """Only machines of a cluster whose Ray was started with these labels: `{zone: a}`, `{zone: "in(a, b)"}`, or `{zone:
    "!a"}` for all others."""

    max_failures: Annotated[int, Field(ge=0), _unit("restarts")] = 3
    """How often a trial whose workers die is started again by itself."""

    hang_timeout: Annotated[Literal["auto"] | Annotated[float, Field(gt=0)], _unit("seconds")] = "auto"
    """How long a worker may do nothing before it is ended and started again. `auto` goes by the time that steps
    take."""

    @property
    def gpu_share(self) -> float:
        """The part of a GPU that a worker may use, from 0 to 1."""
        return 1.0 if self.gpus_per_worker == "auto" else min(self.gpus_per_worker, 1.0)


class Tracking(Section):
    """Weights & Biases, and TensorBoard."""

    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """`auto` is online where a key is configured, else offline."""

    artifacts: bool = False
    """Uploads the final weights to Weights & Biases, too."""

    tensorboard: bool = False
    """Writes each trial's log and pictures as an event file for TensorBoard, too."""


class Experiment(Section):
    """One experiment file. `sweep` is read by runner.config.search_space."""

    name: Annotated[
        str, AfterValidator(_valid_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME_PATTERN}$"})
    ]
    """The experiment's name, and that of its folder in the storage: letters, digits, - _ . only."""

    data: Data = Data()
    model: Model = Model()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()

    sweep: dict[str, Any] = {}
    """What the trials differ in: lists, whose product is the grid, and ranges, which are drawn from."""

    checkpoint: Checkpointing = Checkpointing()

    log_every_n_steps: Annotated[_Positive, _unit("steps")] = 50
    """How often losses are logged; the last step of an epoch always is."""

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
                f"training.batch_size is {batch_size}, but resources.workers is {workers}, and workers must share a "
                f"batch equally: use a multiple of {workers}, or fewer workers"
            )
        return self


def base_types(annotation: Any) -> set[Any]:
    """What a value of a field may be: classes, and `Literal` for one of some values."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return base_types(annotation.__origin__)
    if origin in (typing.Union, types.UnionType):
        return set().union(*map(base_types, typing.get_args(annotation)))
    return {origin or annotation}


def _fields_of(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Each field of a section and of the sections in it, under its dotted name."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


SWEEP_SECTIONS: dict[str, type[Section]] = {"training": Training, "model": Model}
NOT_SWEPT = "initial_weights"  # trials are named after their parameters, and a path is no name for a folder
SWEEP_FIELDS: dict[str, str] = {
    field: f"{section}.{field}"
    for section, kind in SWEEP_SECTIONS.items()
    for field in kind.model_fields
    if field != NOT_SWEPT
} | {"patching": "data.patching"}

ALL_FIELDS = dict(_fields_of(Experiment))
# Whatever is written for these is a text: `name: 2024_01_15` is no number.
TEXT_FIELDS = frozenset(name for name, field in ALL_FIELDS.items() if str in base_types(field.annotation))
# What numbers count, as `seconds`.
UNITS: dict[str, str] = {
    name: str(field.json_schema_extra["unit"])
    for name, field in ALL_FIELDS.items()
    if isinstance(field.json_schema_extra, dict)
}
