"""Writes weights/, the generator of a finished trial."""

import hashlib
import json
from collections.abc import Mapping

from torch import Tensor

from runner.config.fingerprint import Fingerprints
from runner.storage.folder import Storage
from runner.storage.hashing import HashingStream
from runner.storage.run_folder import WEIGHTS, WEIGHTS_RECORD
from runner.storage.tensor_writer import write_tensors


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
        "config_fingerprint": fingerprints.config,
        "data_fingerprint": fingerprints.data,
    }
    trial.write(WEIGHTS_RECORD, json.dumps(record, indent=1).encode())
