"""Which folder belongs to which trial: the one with the trial's fingerprints, whatever its name is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from runner.config.fingerprint import Fingerprints, fingerprint_trial, fixed_fields
from runner.config.loading import PlannedTrial
from runner.config.messages import show
from runner.config.schema import Experiment
from runner.errors import ConfigError
from runner.records.trial_file import finished_epochs, read_outcome, read_trial_file
from runner.storage.folder import Storage
from runner.storage.run_folder import TRIALS, trial_path

_MAX_CHANGES_SHOWN = 18


@dataclass(frozen=True)
class Trial:
    """A trial with its folder in the experiment.

    Attributes:
        name: the folder's name. It is an older one than the sweep's where the sweep has got more fields since.
        params: the swept fields, under their short names.
        is_finished, has_diverged: how an earlier run of it ended.
    """

    name: str
    params: Mapping[str, Any]
    config: Experiment
    fingerprints: Fingerprints
    is_finished: bool
    has_diverged: bool


def find_trial_folders(
    experiment: Storage,
    planned_trials: Sequence[PlannedTrial],
    data_fingerprints: Mapping[str, str],
    initial_weights: Mapping[str, str] = MappingProxyType({}),
    count_epochs: Callable[[Storage, Fingerprints], int] = finished_epochs,
) -> list[Trial]:
    """Finds each trial's folder, or names a new one.

    Args:
        data_fingerprints: the patch store's, under each patching of the trials.
        initial_weights: the SHA-256 of the file that a trial starts from, under the trial's name; trials that start
            from random weights are left out.
        count_epochs: of a finished trial; by default its weights are verified.

    Raises:
        ConfigError: a folder of the trial's name holds another trial; the text shows what differs.
    """
    # The content is None where a folder's trial.yaml is missing or damaged.
    recorded = {name: read_trial_file(experiment.at(trial_path(name))) for name in experiment.names(TRIALS)}
    by_fingerprint: dict[tuple[Any, Any], set[str]] = {}
    for name, content in recorded.items():
        if content:
            key = (content.get("fingerprint"), content.get("data_fingerprint"))
            by_fingerprint.setdefault(key, set()).add(name)

    # A folder whose name is that of another planned trial is left to that trial.
    own_names = {planned.name for planned in planned_trials}
    trials = []
    for planned in planned_trials:
        data_fingerprint = data_fingerprints[planned.config.data.patching]
        fingerprints = fingerprint_trial(planned.config, data_fingerprint, initial_weights.get(planned.name, ""))

        same = by_fingerprint.get((fingerprints.config, fingerprints.data), set())
        name = planned.name
        if name not in same:
            # Trials that differ only in what may change, as epochs, share a fingerprint: each keeps its own folder.
            if others := sorted(same - own_names):
                name = others[0]
                same.remove(name)  # no other trial may get it
            elif (content := recorded.get(name)) is not None:
                raise ConfigError(_explain_change(experiment, planned, fingerprints, content))

        folder = experiment.at(trial_path(name))
        # A finished trial goes on where more epochs are wanted now.
        is_finished = count_epochs(folder, fingerprints) >= planned.config.training.epochs
        has_diverged = not is_finished and read_outcome(folder)["status"] == "diverged"
        trials.append(Trial(name, planned.params, planned.config, fingerprints, is_finished, has_diverged))
    return trials


def _explain_change(
    experiment: Storage, planned: PlannedTrial, fingerprints: Fingerprints, content: Mapping[str, Any]
) -> str:
    """Both values of each setting that differs from the recorded one, and what to do."""
    was, now = fixed_fields(content["config"]), fixed_fields(planned.config.model_dump())
    # Of initial weights the content counts: their path says little.
    was["model.initial_weights"] = _shown_weights(
        content["config"]["model"]["initial_weights"], content.get("initial_weights")
    )
    now["model.initial_weights"] = _shown_weights(planned.config.model.initial_weights, fingerprints.initial_weights)

    changes = [
        f"{field} was {show(was.get(field))}, now it is {show(value)}"
        for field, value in now.items()
        if was.get(field) != value
    ]
    changes += [
        f"{field} was {show(was[field])}, and this release does not have that field"
        for field in was
        if field not in now
    ]
    if content.get("data_fingerprint") != fingerprints.data:
        changes.append(f"the data's content was {content.get('data_fingerprint')}, now it is {fingerprints.data}")
    if not changes:
        changes = [f"the fingerprint of its settings was {content.get('fingerprint')}, now it is {fingerprints.config}"]

    shown = changes[:_MAX_CHANGES_SHOWN]
    if len(changes) > len(shown):
        shown.append(f"and {len(changes) - len(shown)} more")
    return "\n".join(
        [
            f"{experiment.root}: trial {planned.name!r} was started with other values, which may not change on resume:",
            *(f"  {change}" for change in shown),
            "Put the old values back, or give the experiment a new name.",
        ]
    )


def _shown_weights(path: str | None, digest: str | None) -> str | None:
    return f"SHA-256 {digest[:8]}... ({path})" if digest else None


def recorded_data_fingerprint(experiment: Storage, config: Experiment) -> str | None:
    """The patch store that trials of this experiment were trained on, for when its source is gone; None if unknown."""
    for name in experiment.names(TRIALS):
        content = read_trial_file(experiment.at(trial_path(name)))
        if content is None:
            continue
        data = content["config"]["data"]
        if (data["patching"], data["patch_size"]) == (config.data.patching, config.data.patch_size):
            return str(content.get("data_fingerprint"))
    return None


def recorded_initial_weights(experiment: Storage, planned: PlannedTrial) -> str:
    """The SHA-256 of the file that a trial started from, for when that file is gone; "" if unknown.

    Where the trial has no record yet, it is that of other trials of the experiment which started from the same path.
    """
    path = planned.config.model.initial_weights
    for name in [planned.name, *experiment.names(TRIALS)] if path else ():
        content = read_trial_file(experiment.at(trial_path(name)))
        if content is None:
            continue
        digest, recorded_path = content.get("initial_weights"), content["config"]["model"]["initial_weights"]
        # The trial's own record counts wherever the file was at that time.
        if digest and (name == planned.name or recorded_path == path):
            return str(digest)
    return ""
