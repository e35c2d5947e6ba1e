"""The small files of a trial's folder: trial.yaml, outcome.json, weights/manifest.json."""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from runner.config.fingerprint import Fingerprints, fill_in_defaults, fingerprint_trial, fixed_fields
from runner.config.loading import validate
from runner.config.schema import Experiment
from runner.errors import ConfigError, DataError
from runner.storage.run_folder import OUTCOME, TRIAL_FILE, WEIGHTS, WEIGHTS_RECORD
from runner.storage.storage import Storage, raise_unreachable

# The packages whose kernels or file formats a trial's bits depend on.
PACKAGES = ("torch", "torchvision", "ray", "numpy", "pyarrow", "pillow")
# libyaml reads a file ten times faster than Python does, which counts with a thousand trials.
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def record_digest(record: Mapping[str, Any]) -> str:
    """The SHA-256 of a record as JSON, which shows later whether the record is as it was written."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def read_trial_file(trial: Storage) -> dict[str, Any] | None:
    """The content of trial.yaml, or None where it is missing or damaged.

    Its config has every field of this release: one that was not recorded has its default.
    """
    try:
        content = yaml.load(trial.read(TRIAL_FILE), _YAML)
        digest = content.pop("digest")
        if digest != record_digest(content):
            return None
        content["config"] = fill_in_defaults(content["config"])
        return dict(content)
    except (OSError, yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise_unreachable(error)
        return None


def recorded_config(content: Mapping[str, Any], origin: str) -> Experiment:
    """The config in the content of a trial.yaml, which a newer release may have written.

    Fields that this release does not have are left out. The fingerprint shows whether they are at their defaults.

    Args:
        origin: the trial's folder, for the error.

    Raises:
        DataError: the trial depends on a field or a value that this release does not have.
    """
    try:
        config = validate(_known_fields(content["config"], Experiment), f"{origin}/{TRIAL_FILE}")
    except ConfigError as error:
        raise DataError(f"{error}\nAnother release wrote it: use that one.") from None

    initial_weights = content.get("initial_weights") or ""
    unknown = fixed_fields(content["config"]).keys() - fixed_fields(config.model_dump()).keys()
    now = fingerprint_trial(config, content["data_fingerprint"], initial_weights)
    if unknown and now.config != content["fingerprint"]:
        raise DataError(
            f"{origin}/{TRIAL_FILE}: a newer release wrote it, and the trial depends on a field that this release does "
            f"not have ({', '.join(sorted(unknown))}): use that release."
        )
    return config


def _known_fields(recorded: Mapping[str, Any], section: type[BaseModel]) -> dict[str, Any]:
    """The recorded fields that a section of this release has, its inner sections' too."""
    known = {}
    for name, value in recorded.items():
        if name not in section.model_fields:
            continue
        # A field whose type is a model is a section, with fields of its own.
        kind = section.model_fields[name].annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(value, Mapping):
            value = _known_fields(value, kind)
        known[name] = value
    return known


def write_trial_file(
    trial: Storage,
    config: Experiment,
    fingerprints: Fingerprints,
    params: Mapping[str, Any],
    runtime: Mapping[str, Any],
) -> None:
    """Records what the trial is, and what its bits depend on.

    Args:
        params: the swept fields.
        runtime: threads, precision and kernels.
    """
    content = {
        "config": config.model_dump(),
        "params": dict(params),
        "fingerprint": fingerprints.config,
        "data_fingerprint": fingerprints.data,
        "initial_weights": fingerprints.initial_weights or None,
        **runtime,
        "processor": _processor_model(),
        "versions": package_versions(),
    }
    content["digest"] = record_digest(content)
    trial.write(TRIAL_FILE, yaml.safe_dump(content, sort_keys=False).encode())


def machine_differences(recorded: Mapping[str, Any], kernels: str) -> list[str]:
    """Sentences on the processor, kernels and versions that have changed since the trial last ran."""
    now = {"processor": _processor_model(), "kernels": kernels, **package_versions()}
    # What an earlier release did not record can't be compared.
    was = {name: recorded.get(name) for name in ("processor", "kernels")} | recorded.get("versions", {})
    return [f"{name} was {was[name]}, now it is {now[name]}" for name in now if was.get(name) not in (None, now[name])]


def workers_change(recorded: Mapping[str, Any], workers: int) -> str:
    """A sentence where a trial goes on with another number of workers; "" where it does not, or is new.

    Args:
        recorded: the content of its trial.yaml.
    """
    was = recorded.get("config", {}).get("resources", {}).get("workers", workers)
    if was == workers:
        return ""
    return f"resources.workers was {was}, now it is {workers}: what is trained from here on differs by rounding alone"


def package_versions() -> dict[str, str]:
    """The versions of Python and of PACKAGES."""
    return {"python": platform.python_version(), **{name: _installed_version(name) for name in PACKAGES}}


def _installed_version(package: str) -> str:
    """A package's version. Training in one process needs no Ray: not all packages must be there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor_model() -> str:
    """The name of the processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            names = [line.partition(":")[2].strip() for line in stream if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def write_outcome(trial: Storage, status: str, reason: str = "") -> None:
    """Records how a run of the trial ended: finished, stopped, failed, diverged, out_of_memory or cut_off.

    `cut_off` is one that ended by a fault, and is tried again. Meanwhile the status is `running`.
    """
    trial.write(OUTCOME, json.dumps({"status": status, "reason": reason}).encode())


def settle_outcome(trial: Storage, stop_reason: str) -> None:
    """Replaces the outcome `running` of a run that is over, and that could not record its own.

    Args:
        stop_reason: why that run was to stop; "" where nobody had asked it to.
    """
    if read_outcome(trial)["status"] != "running":
        return
    if stop_reason:
        write_outcome(trial, "stopped", stop_reason)
    else:
        write_outcome(trial, "cut_off", "the command was killed, or its machine was lost")


def read_outcome(trial: Storage) -> dict[str, str]:
    """The status and the reason of the trial's last run; both empty where it has none, or the file is damaged."""
    try:
        outcome = json.loads(trial.read(OUTCOME))
        return {"status": str(outcome["status"]), "reason": str(outcome["reason"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_unreachable(error)
        return {"status": "", "reason": ""}


class FinishedWeights(NamedTuple):
    """The weights of a finished trial.

    Attributes:
        epochs, step: how long it was trained.
        content: the bytes of the safetensors file.
    """

    epochs: int
    step: int
    content: bytes


def read_finished_weights(trial: Storage, fingerprints: Fingerprints) -> FinishedWeights | None:
    """The weights of a finished trial, their SHA-256 verified; None where there are none, or they are damaged."""
    try:
        record = json.loads(trial.read(WEIGHTS_RECORD))
        # Weights of other settings or other data, or half a file, do not make this trial finished.
        if (record["config_fingerprint"], record["data_fingerprint"]) != (fingerprints.config, fingerprints.data):
            return None
        content = trial.read(WEIGHTS)
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            return None
        return FinishedWeights(int(record["epochs"]), int(record["step"]), content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_unreachable(error)
        return None


def recorded_epochs(trial: Storage, fingerprints: Fingerprints) -> int:
    """As `finished_epochs`, from the record of the weights alone: for looking at a trial often, or from afar."""
    try:
        record = json.loads(trial.read(WEIGHTS_RECORD))
        is_its_own = (record["config_fingerprint"], record["data_fingerprint"]) == (
            fingerprints.config,
            fingerprints.data,
        )
        return int(record["epochs"]) if is_its_own else 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_unreachable(error)
        return 0


def finished_epochs(trial: Storage, fingerprints: Fingerprints) -> int:
    """The epochs that the finished trial was trained for; 0 where it is not finished, or its weights are damaged.

    In a folder their SHA-256 is verified. An object store has verified what it took, and to fetch all weights again at
    each start would cost more than all else: there the file is looked for, and its size compared.
    """
    if trial.is_remote:
        return recorded_epochs(trial, fingerprints) if _has_recorded_size(trial) else 0
    finished = read_finished_weights(trial, fingerprints)
    return finished.epochs if finished is not None else 0


def _has_recorded_size(trial: Storage) -> bool:
    """True where the file of the weights is as large as its record says; earlier releases did not record that."""
    try:
        size = trial.size(WEIGHTS)
        return size == int(json.loads(trial.read(WEIGHTS_RECORD)).get("bytes", size))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise_unreachable(error)
        return False
