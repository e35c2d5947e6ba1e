"""What a trial has recorded of its training, to compare a new training with: rows, states and weights."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from runner.config.fingerprint import Fingerprints
from runner.records.checkpoints import DamagedCheckpoint, checkpoint_name, checkpoint_steps, read_checkpoint
from runner.records.metrics_log import encode_row, read_rows
from runner.storage.hashing import HashingStream
from runner.storage.run_folder import BEST_RECORD, BEST_WEIGHTS, CHECKPOINTS, WEIGHTS, WEIGHTS_RECORD
from runner.storage.storage import Storage, raise_unreachable
from runner.storage.tensor_writer import write_tensors

# Wall times: the only columns of a log that another training of the same trial does not have.
_WALL_TIMES = ("seconds", "images_per_second")
# The columns of evaluations begin with these and a slash.
_EVALUATIONS = frozenset({"val", "val_eval", "val_selection", "selection", "final", "final_eval", "best"})
# The weights that a trial ends with, and their records.
_WEIGHTS = {WEIGHTS: WEIGHTS_RECORD, BEST_WEIGHTS: BEST_RECORD}


class Difference(NamedTuple):
    """The first thing in which a new training is not the recorded one.

    Attributes:
        step: steps done.
        field: a column of metrics.jsonl, or a file and the tensor in it.
        text: what was recorded, and what it is now.
    """

    step: int
    field: str
    text: str


class RecordedRun:
    """Reads a trial's folder, and changes nothing in it.

    Attributes:
        rows: of metrics.jsonl, by their step.
        checkpoint_steps: the steps of its checkpoints, damaged ones included.
        weights: the steps of the weights that it ended with, the last and the best, by the names of their files.
    """

    def __init__(self, trial: Storage, fingerprints: Fingerprints) -> None:
        """Reads the log. Weights and checkpoints, which are large, are read when it is their turn."""
        self._trial, self._fingerprints = trial, fingerprints
        self.rows = {row["step"]: row for row in read_rows(trial)}
        self.checkpoint_steps = frozenset(checkpoint_steps(trial))
        records = {name: _read_weights_record(trial, record) for name, record in _WEIGHTS.items()}
        self._weights_digests = {name: record["sha256"] for name, record in records.items() if record}
        self.weights: Mapping[str, int] = {name: record["step"] for name, record in records.items() if record}

    @property
    def last_step(self) -> int:
        """As far as anything of it is recorded; 0 where nothing is."""
        return max([0, *self.rows, *self.checkpoint_steps, *self.weights.values()])

    def compare_row(self, row: Mapping[str, Any], *, with_evaluations: bool = True) -> Difference | None:
        """The first column of a row in which the recorded row of that step differs; None also where there is none.

        Args:
            with_evaluations: False leaves out what an evaluation has measured.
        """
        recorded = self.rows.get(row["step"])
        if recorded is None:
            return None
        # As the log would have it: JSON has no NaN.
        now = json.loads(encode_row(row))
        for name in dict.fromkeys([*now, *recorded]):
            # What is evaluated may be another choice at each start of the command.
            is_known = name in recorded and name in now
            is_left_out = _kind(name) in _EVALUATIONS and not (is_known and with_evaluations)
            if name in _WALL_TIMES or is_left_out:
                continue
            if not is_known:
                side = "was not recorded" if name not in recorded else "was recorded, but the new training has none"
                return Difference(row["step"], name, side)
            if recorded[name] != now[name]:
                return Difference(row["step"], name, f"recorded {recorded[name]!r}, now {now[name]!r}")
        return None

    def compare_state(self, step: int, groups: Mapping[str, Mapping[str, Tensor]]) -> tuple[Difference | None, bool]:
        """Compares with the checkpoint of that step.

        Returns:
            What differs; and whether the checkpoint is of this moment. One that was taken at the end of an epoch is
            of the moment before or after the next epoch's beginning.
        """
        where = f"{CHECKPOINTS}/{checkpoint_name(step)}"
        try:
            recorded = read_checkpoint(self._trial, step, self._fingerprints).groups
        except DamagedCheckpoint as error:
            return Difference(step, where, f"it can't be compared: {error}"), True

        # The position of another moment, and the sums of another epoch, are no difference.
        if not torch.equal(recorded["progress"]["place"], groups["progress"]["place"]):
            return None, False
        for group, tensors in groups.items():
            if found := _first_difference(recorded.get(group, {}), tensors):
                tensor, text = found
                return Difference(step, f"{where}/{group}.safetensors: {tensor}", text), True
        return None, True

    def compare_weights(self, name: str, generator: Mapping[str, Tensor]) -> Difference | None:
        """Compares a generator with one of the files of `weights`, at whose step it is."""
        step = self.weights[name]
        try:
            content = self._trial.read(name)
            recorded = safetensors.torch.load(content)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise_unreachable(error)
            return Difference(step, name, f"it can't be read ({type(error).__name__})")

        if found := _first_difference(recorded, generator):
            return Difference(step, f"{name}: {found[0]}", found[1])
        if hashlib.sha256(content).hexdigest() != self._weights_digests[name]:
            return Difference(step, f"{_WEIGHTS[name]}: sha256", "it is not that of the weights")
        return None


def evaluations_in(row: Mapping[str, Any]) -> set[str]:
    """Which evaluations a row has: `val`, `final` and so on."""
    return {_kind(name) for name in row} & _EVALUATIONS


def _kind(column: str) -> str:
    """`val` of `val/ssim`."""
    return column.partition("/")[0]


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the file that would hold the tensors."""
    hashing = HashingStream(io.BytesIO(), hashlib.sha256())
    write_tensors(hashing, tensors)
    return str(hashing.digest.hexdigest())


def _read_weights_record(trial: Storage, name: str) -> dict[str, Any]:
    """The record of a file of weights; empty where there is none that can be used."""
    try:
        record = json.loads(trial.read(name))
        return {"step": int(record["step"]), "sha256": str(record["sha256"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_unreachable(error)
        return {}


def _first_difference(recorded: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """The first tensor that differs, and in what."""
    for name, tensor in now.items():
        if name not in recorded:
            return name, "it was not recorded"
        was, is_now = recorded[name].contiguous(), tensor.detach().cpu().contiguous()
        if was.dtype != is_now.dtype or was.shape != is_now.shape:
            return name, f"recorded {_shape(was)}, now {_shape(is_now)}"

        # As bytes: NaN is equal to itself, and -0 is not 0.
        differs = was.reshape(-1, 1).view(torch.uint8) != is_now.reshape(-1, 1).view(torch.uint8)
        if differs.any():
            places = differs.any(dim=1)
            first = int(places.nonzero()[0])
            pair: Sequence[Any] = (was.reshape(-1)[first].item(), is_now.reshape(-1)[first].item())
            count = f"{int(places.sum())} of {places.numel()} numbers differ"
            return name, f"recorded {pair[0]!r}, now {pair[1]!r} ({count})"
    for name in recorded:
        if name not in now:
            return name, "it was recorded, but the new training has none"
    return None


def _shape(tensor: Tensor) -> str:
    """`float32 of 3 x 4`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} of {' x '.join(map(str, tensor.shape)) or '1'}"
