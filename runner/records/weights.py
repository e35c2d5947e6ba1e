"""Writes weights/: the last generator of a trial that has ended, and the best one.

Which one is the best follows from the log. While a trial runs, the generator of its best epoch so far is in
weights/best_epoch_0012.safetensors: it is written with the checkpoint that follows, whose manifest has its SHA-256, and
stays as long as a checkpoint names it. At the end it becomes weights/best.safetensors, with a record of its own.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from gan.evaluation.metrics import METRICS
from runner.config.fingerprint import Fingerprints
from runner.records.metrics_log import sample_column
from runner.storage.hashing import HashingStream
from runner.storage.run_folder import BEST_RECORD, BEST_WEIGHTS, WEIGHTS, WEIGHTS_RECORD
from runner.storage.storage import Storage, raise_unreachable
from runner.storage.tensor_writer import write_tensors

_INTERIM = re.compile(r"best_epoch_(\d+)\.safetensors")


def write_weights(
    trial: Storage, weights: Mapping[str, Tensor], epochs: int, step: int, fingerprints: Fingerprints
) -> None:
    """Writes the generator of a finished trial, then its manifest, without which the weights do not count."""
    trial.make_folder("weights")
    with trial.writing(WEIGHTS) as stream:
        hashing = HashingStream(stream, hashlib.sha256())
        write_tensors(hashing, weights)

    # The last write: without this file, or with another digest in it, the trial is not finished.
    record = {
        "epochs": epochs,
        "step": step,
        "sha256": hashing.digest.hexdigest(),
        "bytes": hashing.size,
        "config_fingerprint": fingerprints.config,
        "data_fingerprint": fingerprints.data,
    }
    trial.write(WEIGHTS_RECORD, json.dumps(record, indent=1).encode())


class Choice(NamedTuple):
    """The best of the evaluations so far.

    Attributes:
        epoch: 0 where there was none.
        value: of the metric.
        since: how many evaluations came after it.
    """

    epoch: int = 0
    value: float = 0.0
    since: int = 0

    def after(self, epoch: int, value: float | None, metric: str) -> "Choice":
        """With one more evaluation; of equal ones the first is the best, and one that is not finite is none."""
        (known,) = (known for known in METRICS if known.key == metric)
        is_better = value is not None and (not self.epoch or known.goodness(value) > known.goodness(self.value))
        return Choice(epoch, value, 0) if is_better and value is not None else self._replace(since=self.since + 1)


def choose(rows: Iterable[Mapping[str, Any]], metric: str) -> Choice:
    """The best evaluation in the rows of a log."""
    choice, column = Choice(), sample_column(metric)
    for row in rows:
        if column in row:
            choice = choice.after(int(row["epoch"]), row[column], metric)
    return choice


def interim_name(epoch: int) -> str:
    """The file of the best weights of a trial that runs."""
    return f"weights/best_epoch_{epoch:04d}.safetensors"


def write_interim(trial: Storage, epoch: int, weights: Mapping[str, Tensor]) -> str:
    """Writes the generator of an epoch; its SHA-256."""
    trial.make_folder("weights")
    with trial.writing(interim_name(epoch)) as stream:
        hashing = HashingStream(stream, hashlib.sha256())
        write_tensors(hashing, weights)
    return hashing.digest.hexdigest()


def remove_interim(trial: Storage, keep: Collection[int]) -> None:
    """Removes the files of all epochs but these."""
    for name in trial.names("weights"):
        if (match := _INTERIM.fullmatch(name)) and int(match[1]) not in keep:
            trial.remove(f"weights/{name}")


def read_interim(trial: Storage, epoch: int, sha256: str) -> bytes | None:
    """The verified file of an epoch's generator; None where it is missing or damaged."""
    for name in (interim_name(epoch), BEST_WEIGHTS):
        try:
            content = trial.read(name)
        except OSError as error:
            raise_unreachable(error)
            continue
        if hashlib.sha256(content).hexdigest() == sha256:
            return content
    return None


class BestWeights(NamedTuple):
    """The best weights of a trial that has ended.

    Attributes:
        epoch: at whose end they were.
        content: the bytes of the safetensors file.
    """

    epoch: int
    step: int
    content: bytes


def write_best(trial: Storage, content: bytes, record: Mapping[str, Any], fingerprints: Fingerprints) -> None:
    """Writes weights/best.safetensors, then its record, without which it does not count.

    Args:
        record: epoch, step, metric and value.
    """
    trial.make_folder("weights")
    trial.write(BEST_WEIGHTS, content)
    whole = {
        **record,
        "sha256": hashlib.sha256(content).hexdigest(),
        "config_fingerprint": fingerprints.config,
        "data_fingerprint": fingerprints.data,
    }
    trial.write(BEST_RECORD, json.dumps(whole, indent=1).encode())


def read_best(trial: Storage, fingerprints: Fingerprints) -> BestWeights | None:
    """The verified best weights of a trial that has ended; None where it has none, or they are damaged."""
    try:
        record = json.loads(trial.read(BEST_RECORD))
        if (record["config_fingerprint"], record["data_fingerprint"]) != (fingerprints.config, fingerprints.data):
            return None
        content = trial.read(BEST_WEIGHTS)
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            return None
        return BestWeights(int(record["epoch"]), int(record["step"]), content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_unreachable(error)
        return None
