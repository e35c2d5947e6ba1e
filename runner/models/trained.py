"""A trained generator, read from a trial's folder and verified, without changing anything there."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from gan.networks.generator import Generator
from runner.config.schema import Experiment
from runner.errors import DataError
from runner.records.checkpoints import DamagedCheckpoint, checkpoint_steps, finished_epoch, read_checkpoint
from runner.records.fingerprint import Fingerprints
from runner.records.trial_file import read_trial_file, recorded_config
from runner.storage.folder import Storage
from runner.storage.run_folder import PATCHES, WEIGHTS, WEIGHTS_RECORD

LATEST = "latest"


class TrainedModel(NamedTuple):
    """A trial's generator as it was after some step.

    Attributes:
        trial: the trial's folder.
        params: the swept parameters of the trial.
        fingerprints: what the trial and its data are known by.
        generator: fp32, on the processor, in eval mode.
        threads: that it was trained with.
        epochs: whole epochs trained.
    """

    trial: Storage
    config: Experiment
    params: Mapping[str, Any]
    fingerprints: Fingerprints
    generator: Generator
    threads: int
    epochs: int
    step: int

    @property
    def stores(self) -> Storage:
        """Where the patch stores of the trial's storage lie."""
        storage = (self.trial.local_path.resolve() / "../../..").resolve()
        return Storage.open(storage).at(PATCHES)


class Weights(NamedTuple):
    """A generator's tensors, and how long they were trained."""

    tensors: Mapping[str, Tensor]
    epochs: int
    step: int


def open_trained_model(folder: str | Path, checkpoint: str = LATEST) -> TrainedModel:
    """The generator of a trial's folder.

    Args:
        checkpoint: `latest`, which is the finished trial's weights or else the newest verified checkpoint, or the
            number of an epoch that a checkpoint ends.

    Raises:
        DataError: the folder is no trial's, or has no such weights; the text says which there are.
    """
    trial = Storage.open(folder)
    content = read_trial_file(trial)
    if content is None:
        raise DataError(
            f"{folder}: there is no sound trial.yaml in it: give a trial's folder, STORAGE/EXPERIMENT/trials/TRIAL"
        )
    config = recorded_config(content, trial.shown)
    fingerprints = Fingerprints(content["fingerprint"], content["data_fingerprint"])
    weights = find_weights(trial, fingerprints, checkpoint)
    generator = Generator(config.model.channels, config.data.patch_size)
    generator.load_state_dict(dict(weights.tensors))
    threads = int(content["threads"])
    return TrainedModel(
        trial, config, content["params"], fingerprints, generator.eval(), threads, weights.epochs, weights.step
    )


def find_weights(trial: Storage, fingerprints: Fingerprints, checkpoint: str) -> Weights:
    """The weights that were asked for; raises DataError where they are not there, or damaged."""
    if checkpoint != LATEST and not checkpoint.isdigit():
        raise DataError(f"--checkpoint is {checkpoint!r}: give `{LATEST}` or the number of an epoch")
    damaged: list[str] = []
    for weights in sound_weights(trial, fingerprints, checkpoint, damaged):
        return weights
    problems = "".join(f"\n  {problem}" for problem in damaged)
    if checkpoint == LATEST:
        raise DataError(f"{trial.shown}: it has no weights and no checkpoint that can be used yet{problems}")
    epochs = sorted({finished_epoch(trial, step) for step in checkpoint_steps(trial)} - {0})
    raise DataError(
        f"--checkpoint is {checkpoint}: {trial.shown} has no sound checkpoint at the end of that epoch; there are "
        f"those of epochs {epochs or 'none'} (checkpoint.keep_epochs keeps more){problems}"
    )


def sound_weights(trial: Storage, fingerprints: Fingerprints, checkpoint: str, damaged: list[str]) -> Iterator[Weights]:
    """What stands in the trial and fits, the longest trained first; adds to `damaged` what is not as written."""
    finished = final_weights(trial, fingerprints)
    steps = checkpoint_steps(trial)
    # A trial that goes on with more epochs has newer checkpoints than its weights.
    newer = [step for step in steps if finished is not None and step > finished.step]
    for step in newer:
        yield from sound_checkpoint(trial, fingerprints, step, checkpoint, damaged)
    if finished is not None and checkpoint in (LATEST, str(finished.epochs)):
        yield finished
    for step in steps[len(newer) :]:
        yield from sound_checkpoint(trial, fingerprints, step, checkpoint, damaged)


def sound_checkpoint(
    trial: Storage, fingerprints: Fingerprints, step: int, checkpoint: str, damaged: list[str]
) -> Iterator[Weights]:
    """The generator of one checkpoint, where it fits and is sound."""
    epoch = finished_epoch(trial, step)
    if checkpoint not in (LATEST, str(epoch)):
        return
    try:
        groups = read_checkpoint(trial, step, fingerprints, ("generator", "progress")).groups
    except DamagedCheckpoint as error:
        damaged.append(f"step {step}: {error}")
        return
    _, current_epoch, _ = (int(value) for value in groups["progress"]["place"])
    yield Weights(groups["generator"], epoch or current_epoch - 1, step)


def final_weights(trial: Storage, fingerprints: Fingerprints) -> Weights | None:
    """The finished trial's weights, verified; None where there are none that are sound."""
    try:
        record = json.loads(trial.read(WEIGHTS_RECORD))
        content = trial.read(WEIGHTS)
        if (record["config_fingerprint"], record["data_fingerprint"]) != (fingerprints.config, fingerprints.data):
            return None
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            return None
        return Weights(safetensors.torch.load(content), int(record["epochs"]), int(record["step"]))
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None
