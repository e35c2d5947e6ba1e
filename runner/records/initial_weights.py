"""The file of weights that a trial's generator starts from.

Before the first step it is copied into the experiment's folder, named by its SHA-256, where workers on all machines
find it. From then on the file itself is not needed; after a trial's first checkpoint the copy is not needed either.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from gan.networks.pretrained import fitted
from runner.config.schema import Experiment
from runner.errors import ConfigError, DataError
from runner.records.checkpoints import checkpoint_steps
from runner.records.trial_folders import Trial
from runner.storage.run_folder import INITIAL_WEIGHTS, trial_path
from runner.storage.storage import Storage, raise_unreachable
from runner.storage.tensor_reader import read_tensors

_REMEDY = "Copy the file that has this name as its SHA-256 there."


def check_fit(content: bytes, configs: Sequence[Experiment], origin: str) -> None:
    """Raises ConfigError where the generators of these trials can't start from a file's content."""
    try:
        tensors = read_tensors(content)
        for networks in dict.fromkeys(config.networks for config in configs):
            fitted(tensors, networks)
    except ValueError as error:
        raise ConfigError(f"{origin}: model.initial_weights is {configs[0].model.initial_weights!r}: {error}") from None


def keep_copies(experiment: Storage, pending: Sequence[Trial]) -> None:
    """Copies the files that trials still have to start from into the experiment's folder.

    Raises:
        DataError: a file is gone or has changed, and there is no copy of it.
    """
    # A trial with a checkpoint goes on from that. Trials often share a file, hence the mapping.
    needed = {}
    for trial in pending:
        if trial.fingerprints.initial_weights and not checkpoint_steps(experiment.at(trial_path(trial.name))):
            needed[trial.fingerprints.initial_weights] = str(trial.config.model.initial_weights)

    copies = experiment.at(INITIAL_WEIGHTS)
    for digest, path in needed.items():
        if _is_sound(copies, digest):
            continue
        try:
            content = Path(path).read_bytes()
        except OSError:
            # An unreadable file fails the check below like a changed one: no digest matches.
            content = b""

        if hashlib.sha256(content).hexdigest() != digest:
            raise DataError(
                f"model.initial_weights is {path!r}: the file with the SHA-256 {digest[:8]}... is gone, and so is its "
                f"copy, {copies.shown}/{digest}. Trials without a checkpoint start from it: bring one of them back."
            )
        copies.make_folder()
        copies.write(digest, content)


def _is_sound(copies: Storage, digest: str) -> bool:
    """True where there is an undamaged copy."""
    try:
        return hashlib.sha256(copies.read(digest)).hexdigest() == digest
    except OSError as error:
        raise_unreachable(error)
        return False


def read_copy(experiment: Storage, digest: str, config: Experiment) -> dict[str, Tensor]:
    """The state of the generator that a trial starts from, verified.

    Raises:
        DataError: the copy is gone or damaged.
    """
    copies = experiment.at(INITIAL_WEIGHTS)
    try:
        content = copies.read(digest)
    except OSError as error:
        raise_unreachable(error)
        problem = f"can't be read ({error.strerror})"
        raise DataError(f"{copies.shown}/{digest}: the initial weights {problem}. {_REMEDY}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError(f"{copies.shown}/{digest}: the initial weights are damaged. {_REMEDY}")
    return fitted(read_tensors(content), config.networks)
