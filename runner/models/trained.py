"""A trained generator, read from a trial's folder and verified. Nothing in the folder is changed."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from gan.networks.generator import Generator
from runner.config.fingerprint import Fingerprints
from runner.config.schema import Experiment
from runner.errors import DataError
from runner.records.checkpoints import (
    DamagedCheckpoint,
    best_in_checkpoints,
    checkpoint_steps,
    finished_epoch,
    read_checkpoint,
)
from runner.records.trial_file import read_finished_weights, read_trial_file, recorded_config
from runner.records.weights import read_best, read_interim
from runner.storage.run_folder import PATCHES
from runner.storage.storage import Storage

_LATEST, _BEST = "latest", "best"


class TrainedModel(NamedTuple):
    """A trial's generator as it was after some step.

    Attributes:
        trial: the trial's folder.
        params: the swept fields of the trial.
        generator: in fp32, on the CPU, in eval mode.
        threads: the number of threads that it was trained with.
        precision: that its steps computed in: fp32, bf16 or fp16.
        epochs: the whole epochs that it was trained for.
    """

    trial: Storage
    config: Experiment
    params: Mapping[str, Any]
    fingerprints: Fingerprints
    generator: Generator
    threads: int
    precision: str
    epochs: int
    step: int

    @property
    def stores(self) -> Storage:
        """The folder of the patch stores, which the trial's storage shares."""
        # STORAGE/EXPERIMENT/trials/TRIAL
        return self.trial.above(3).at(PATCHES)


class Weights(NamedTuple):
    """The tensors of a generator, and how long it was trained."""

    tensors: Mapping[str, Tensor]
    epochs: int
    step: int


def open_trained_model(folder: str | Path, checkpoint: str = _LATEST) -> TrainedModel:
    """Reads the generator of a trial.

    Args:
        folder: the trial's, by its path or URI.
        checkpoint: `latest` for the generator that was trained longest; `best` for that of the best epoch; or the
            number of an epoch, at whose end there must be a checkpoint or the finished weights.

    Raises:
        DataError: the folder is not a trial's, or has no such weights; the text names those that it has.
        StorageError: it can't be read.
    """
    return read_trained_model(Storage.open(folder), str(folder), checkpoint)


def read_trained_model(trial: Storage, shown: str, checkpoint: str = _LATEST) -> TrainedModel:
    """As `open_trained_model`, of a trial that is open already.

    Args:
        shown: how errors name it.
    """
    if absence := trial.absence():
        raise DataError(f"{shown}: {absence}: give a trial's folder, STORAGE/EXPERIMENT/trials/TRIAL")
    content = read_trial_file(trial)
    if content is None:
        raise DataError(
            f"{shown}: it has no readable trial.yaml: give a trial's folder, STORAGE/EXPERIMENT/trials/TRIAL"
        )

    config = recorded_config(content, trial.shown)
    fingerprints = Fingerprints(content["fingerprint"], content["data_fingerprint"])
    weights = _find_weights(trial, fingerprints, checkpoint)

    generator = config.networks.new_generator()
    generator.load_state_dict(dict(weights.tensors))
    threads, precision = int(content["threads"]), str(content["precision"])
    return TrainedModel(
        trial, config, content["params"], fingerprints, generator.eval(), threads, precision, weights.epochs,
        weights.step,
    )  # fmt: skip


def _find_weights(trial: Storage, fingerprints: Fingerprints, checkpoint: str) -> Weights:
    """The weights that were asked for; raises DataError where they are missing or damaged."""
    if checkpoint == _BEST:
        return _best_weights(trial, fingerprints)
    if checkpoint != _LATEST and not checkpoint.isdigit():
        raise DataError(f"--checkpoint is {checkpoint!r}: give `{_LATEST}`, `{_BEST}` or the number of an epoch")
    damaged: list[str] = []
    # The first sound weights are taken. The iterator does not read the older ones.
    for weights in _sound_weights(trial, fingerprints, checkpoint, damaged):
        return weights

    problems = "".join(f"\n  {problem}" for problem in damaged)
    if checkpoint == _LATEST:
        raise DataError(f"{trial.shown}: it has no weights and no checkpoint that can be used{problems}")
    # 0 stands for a checkpoint in the middle of an epoch.
    epochs = sorted({finished_epoch(trial, step) for step in checkpoint_steps(trial)} - {0})
    raise DataError(
        f"--checkpoint is {checkpoint}: {trial.shown} has no usable checkpoint of the end of that epoch; epochs with "
        f"one: {', '.join(map(str, epochs)) or 'none'} (checkpoint.keep_epochs keeps more){problems}"
    )


def _best_weights(trial: Storage, fingerprints: Fingerprints) -> Weights:
    """The weights of the best epoch so far; raises DataError where there are none."""
    if (best := read_best(trial, fingerprints)) is not None:
        return Weights(safetensors.torch.load(best.content), best.epoch, best.step)
    # Of a trial that has not ended, the newest checkpoint names them.
    for named in best_in_checkpoints(trial, fingerprints):
        if (content := read_interim(trial, int(named["epoch"]), str(named["sha256"]))) is not None:
            return Weights(safetensors.torch.load(content), int(named["epoch"]), int(named["step"]))
    raise DataError(
        f"--checkpoint is {_BEST}: {trial.shown} has no best weights: evaluation.select was null, there was one "
        f"validation picture, or nothing has been evaluated and saved yet; use `{_LATEST}`"
    )


def _sound_weights(
    trial: Storage, fingerprints: Fingerprints, checkpoint: str, damaged: list[str]
) -> Iterator[Weights]:
    """The weights of a trial that fit `checkpoint`, the longest trained first. Problems are added to `damaged`."""
    finished = final_weights(trial, fingerprints)
    steps = checkpoint_steps(trial)
    # A trial that goes on with more epochs has newer checkpoints than its weights.
    newer = [step for step in steps if finished is not None and step > finished.step]
    for step in newer:
        yield from _sound_checkpoint(trial, fingerprints, step, checkpoint, damaged)
    if finished is not None and checkpoint in (_LATEST, str(finished.epochs)):
        yield finished
    for step in steps[len(newer) :]:
        yield from _sound_checkpoint(trial, fingerprints, step, checkpoint, damaged)


def _sound_checkpoint(
    trial: Storage, fingerprints: Fingerprints, step: int, checkpoint: str, damaged: list[str]
) -> Iterator[Weights]:
    """The generator of a checkpoint, where it fits and is not damaged."""
    epoch = finished_epoch(trial, step)
    if checkpoint not in (_LATEST, str(epoch)):
        return
    try:
        # The discriminator and the states of the optimizers are not needed.
        groups = read_checkpoint(trial, step, fingerprints, ("generator", "progress")).groups
    except DamagedCheckpoint as error:
        damaged.append(f"step {step}: {error}")
        return
    _, current_epoch, _ = (int(value) for value in groups["progress"]["place"])
    # In the middle of an epoch, only the epochs before it are complete.
    yield Weights(groups["generator"], epoch or current_epoch - 1, step)


def final_weights(trial: Storage, fingerprints: Fingerprints) -> Weights | None:
    """The verified weights of a finished trial; None where they are missing or damaged."""
    finished = read_finished_weights(trial, fingerprints)
    if finished is None:
        return None
    try:
        return Weights(safetensors.torch.load(finished.content), finished.epochs, finished.step)
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None
