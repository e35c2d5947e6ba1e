"""What a trial's folder says of it: trial.yaml, outcome.json, weights/manifest.json."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import yaml

from runner.config.schema import Experiment
from runner.storage.folder import Storage
from runner.storage.run_folder import (
    OUTCOME,
    TRIAL_FILE,
    WEIGHTS,
    WEIGHTS_RECORD,
)

PACKAGES = ("torch", "torchvision", "ray", "numpy", "pyarrow", "pillow")


@dataclass(frozen=True)
class Fingerprints:
    """What a trial and its checkpoints belong to: the part of the config that may not change, and the data.

    `initial_weights` is the SHA-256 of the file that the generator starts from, "" for none; `config` depends on it.
    """

    config: str
    data: str
    initial_weights: str = ""


# What may change when a trial resumes: everything else is part of its fingerprint.
MAY_CHANGE_IN_TRAINING = ("epochs",)
MAY_CHANGE_IN_DATA = ("source", "synthetic", "max_bad_fraction")


def fixed_fields(config: Experiment, initial_weights: str) -> dict[str, Any]:
    """The fields that make a trial what it is: data, model and training, without those that may change.

    Where the data and the initial weights come from is not among them: their content is, the data's by the store's
    fingerprint, the weights' by their SHA-256.
    """
    start = {"initial_weights": initial_weights} if initial_weights else {}
    return {
        "data": config.data.model_dump(exclude=set(MAY_CHANGE_IN_DATA)),
        "model": config.model.sizes | start,
        "training": config.training.model_dump(exclude=set(MAY_CHANGE_IN_TRAINING)),
    }


def fingerprints(config: Experiment, data_fingerprint: str, initial_weights: str = "") -> Fingerprints:
    """What a trial's checkpoints belong to."""
    text = json.dumps(fixed_fields(config, initial_weights), sort_keys=True)
    return Fingerprints(hashlib.sha256(text.encode()).hexdigest()[:16], data_fingerprint, initial_weights)


def record_digest(record: Mapping[str, Any]) -> str:
    """What a record is known by to be as it was written: the SHA-256 of it as JSON."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def read_trial_file(trial: Storage) -> dict[str, Any] | None:
    """trial.yaml's content, or None where there is none that is as it was written."""
    try:
        content = yaml.safe_load(trial.read(TRIAL_FILE))
        digest = content.pop("digest")
        return content if digest == record_digest(content) else None
    except (OSError, yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError):
        return None


def write_trial_file(
    trial: Storage,
    config: Experiment,
    ids: Fingerprints,
    params: Mapping[str, Any],
    runtime: Mapping[str, Any],
) -> None:
    """Says what the trial is and what its bits depend on.

    Args:
        runtime: threads, precision and kernels.
    """
    content = {
        "config": config.model_dump(),
        "params": dict(params),
        "fingerprint": ids.config,
        "data_fingerprint": ids.data,
        "initial_weights": ids.initial_weights or None,
        **runtime,
        "processor": processor_model(),
        "versions": package_versions(),
    }
    content["digest"] = record_digest(content)
    trial.write(TRIAL_FILE, yaml.safe_dump(content, sort_keys=False).encode())


def machine_differences(recorded: Mapping[str, Any], kernels: str) -> list[str]:
    """What is not as it was when the trial was last run: processor, kernels, versions; empty at its first start."""
    now = {"processor": processor_model(), "kernels": kernels, **package_versions()}
    was = {name: recorded.get(name) for name in ("processor", "kernels")} | recorded.get("versions", {})
    return [f"{name} was {was[name]}, now it is {now[name]}" for name in now if was.get(name) not in (None, now[name])]


def package_versions() -> dict[str, str]:
    """Python and the packages whose kernels or formats a trial's bits depend on."""
    return {"python": platform.python_version(), **{name: installed_version(name) for name in PACKAGES}}


def installed_version(package: str) -> str:
    """A package's version; in one process training does without some, as Ray."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def processor_model() -> str:
    """The processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            names = [line.partition(":")[2].strip() for line in stream if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def write_outcome(trial: Storage, status: str, reason: str = "") -> None:
    """Says how the trial's last run ended: finished, stopped, failed, diverged or out_of_memory."""
    trial.write(OUTCOME, json.dumps({"status": status, "reason": reason}).encode())


def read_outcome(trial: Storage) -> dict[str, str]:
    """How the last run ended; an empty status where none has, or where the file is torn."""
    try:
        outcome = json.loads(trial.read(OUTCOME))
        return {"status": str(outcome["status"]), "reason": str(outcome["reason"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"status": "", "reason": ""}


def finished_epochs(trial: Storage, ids: Fingerprints) -> int:
    """The epochs after which the trial was finished; 0 where it was not, or its weights are not whole."""
    try:
        record = json.loads(trial.read(WEIGHTS_RECORD))
        if (record["config_fingerprint"], record["data_fingerprint"]) != (ids.config, ids.data):
            return 0
        if hashlib.sha256(trial.read(WEIGHTS)).hexdigest() != record["sha256"]:
            return 0
        return int(record["epochs"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
