"""Which folder belongs to which trial: by the fingerprint of what may not change, not by name."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from runner.config.loading import PlannedTrial
from runner.config.messages import show
from runner.config.schema import Experiment
from runner.errors import ConfigError
from runner.records.trial_file import (
    Fingerprints,
    fingerprints,
    finished_epochs,
    fixed_fields,
    read_outcome,
    read_trial_file,
)
from runner.storage.folder import Storage
from runner.storage.run_folder import TRIALS, trial_path

WEIGHTS_FIELD = "model.initial_weights"


class Trial(NamedTuple):
    """A trial and its folder's name, which may be an older one than the trial's own.

    Attributes:
        finished, diverged: how an earlier run of it ended.
    """

    trial: PlannedTrial
    folder: str
    ids: Fingerprints
    finished: bool
    diverged: bool


def find_trial_folders(
    experiment: Storage,
    trials: Sequence[PlannedTrial],
    data_fingerprints: Mapping[str, str],
    initial_weights: Mapping[str, str] = MappingProxyType({}),
) -> list[Trial]:
    """Finds each trial's folder, or names a new one.

    Args:
        data_fingerprints: the patch store's, under each of the trials' patchings.
        initial_weights: the SHA-256 of what a trial starts from, under its name; those without are left out.

    Raises:
        ConfigError: a folder of the trial's name holds another trial; the text shows what differs.
    """
    known = {name: read_trial_file(experiment.at(trial_path(name))) for name in experiment.names(TRIALS)}
    by_fingerprint: dict[tuple[Any, Any], set[str]] = {}
    for name, content in known.items():
        if content:
            key = (content.get("fingerprint"), content.get("data_fingerprint"))
            by_fingerprint.setdefault(key, set()).add(name)
    own_names = {trial.name for trial in trials}
    placed = []
    for trial in trials:
        data = data_fingerprints[trial.config.data.patching]
        ids = fingerprints(trial.config, data, initial_weights.get(trial.name, ""))
        same = by_fingerprint.get((ids.config, ids.data), set())
        # Cells that differ in what may change, as epochs, have one fingerprint: each keeps its own folder.
        folder = trial.name
        if trial.name not in same:
            if others := sorted(same - own_names):
                folder = others[0]
                same.remove(folder)
            elif (content := known.get(trial.name)) is not None:
                raise ConfigError(explain_change(experiment, trial, ids, content))
        storage = experiment.at(trial_path(folder))
        finished = finished_epochs(storage, ids) >= trial.config.training.epochs
        diverged = not finished and read_outcome(storage)["status"] == "diverged"
        placed.append(Trial(trial, folder, ids, finished, diverged))
    return placed


def explain_change(experiment: Storage, trial: PlannedTrial, ids: Fingerprints, content: Mapping[str, Any]) -> str:
    """The two values of each field that differs, side by side, and what to do."""
    lines = [f"{experiment.root}: the trial {trial.name} was begun with other values, which may not change on resume:"]
    was, now = flatten(content.get("config", {})), flatten(fixed_fields(trial.config, ids.initial_weights))
    was[WEIGHTS_FIELD] = shown_weights(was.get(WEIGHTS_FIELD), content.get("initial_weights"))
    now[WEIGHTS_FIELD] = shown_weights(trial.config.model.initial_weights, ids.initial_weights)
    for field, value in now.items():
        if field in was and was[field] != value:
            lines.append(f"  {field} was {show(was[field])}, now it is {show(value)}")
    if content.get("data_fingerprint") != ids.data:
        lines.append(f"  the data's content was {content.get('data_fingerprint')}, now it is {ids.data}")
    lines.append("Put the old values back, or give the experiment a new name.")
    return "\n".join(lines[:20])


def shown_weights(path: str | None, digest: str | None) -> str | None:
    """Which initial weights: by their content, for the path says little."""
    return f"SHA-256 {digest[:8]}... ({path})" if digest else None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"training.batch_size": 4, ...} of nested mappings."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def recorded_data_fingerprint(experiment: Storage, config: Experiment) -> str | None:
    """The patch store that this experiment's trials were made from, for when its source is gone."""
    for name in experiment.names(TRIALS):
        content = read_trial_file(experiment.at(trial_path(name))) or {}
        data = content.get("config", {}).get("data", {})
        if (data.get("patching"), data.get("patch_size")) == (config.data.patching, config.data.patch_size):
            return str(content.get("data_fingerprint"))
    return None


def recorded_initial_weights(experiment: Storage, trial: PlannedTrial) -> str:
    """The SHA-256 of what a trial was begun with, or else others of this experiment from the same path; "" for none.

    For when the file is gone: a trial knows its own, wherever that stood.
    """
    path = trial.config.model.initial_weights
    for name in [trial.name, *experiment.names(TRIALS)] if path else ():
        content = read_trial_file(experiment.at(trial_path(name))) or {}
        digest, was = content.get("initial_weights"), content.get("config", {}).get("model", {}).get("initial_weights")
        if digest and (name == trial.name or was == path):
            return str(digest)
    return ""
