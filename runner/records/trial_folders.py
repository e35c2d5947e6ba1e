"""Which folder belongs to which trial: the one with the trial's fingerprints, whatever its name is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from runner.config.fingerprint import Fingerprints, fingerprint_trial, fixed_fields, flatten
from runner.config.loading import PlannedTrial, read_field
from runner.config.messages import show
from runner.config.schema import SWEEP_FIELDS, Experiment
from runner.errors import ConfigError, DataError
from runner.records.metrics_log import read_last_row
from runner.records.trial_file import finished_epochs, read_outcome, read_trial_file, recorded_config
from runner.storage.run_folder import TRIALS, trial_path
from runner.storage.storage import Storage

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
    data_changes: Mapping[str, Sequence[str]] = MappingProxyType({}),
    count_epochs: Callable[[Storage, Fingerprints], int] = finished_epochs,
) -> list[Trial]:
    """Finds each trial's folder, or names a new one.

    Args:
        data_fingerprints: the patch store's, under each patching of the trials.
        initial_weights: the SHA-256 of the file that a trial starts from, under the trial's name; trials that start
            from random weights are left out.
        data_changes: what is known to differ from the pictures that trials were begun with, under each patching.
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
            # One that is further than this trial is to get is not its.
            epochs = planned.config.training.epochs
            others = [
                other for other in sorted(same - own_names) if least_epochs(experiment.at(trial_path(other))) <= epochs
            ]
            if others:
                name = others[0]
                same.remove(name)  # no other trial may get it
            elif (content := recorded.get(name)) is not None:
                changes = data_changes.get(planned.config.data.patching, ())
                raise ConfigError(_explain_change(experiment, planned, fingerprints, content, changes))

        folder = experiment.at(trial_path(name))
        # A finished trial goes on where more epochs are wanted now.
        is_finished = name in recorded and count_epochs(folder, fingerprints) >= planned.config.training.epochs
        has_diverged = name in recorded and not is_finished and read_outcome(folder)["status"] == "diverged"
        trials.append(Trial(name, planned.params, planned.config, fingerprints, is_finished, has_diverged))
    return trials


def find_left_trials(
    experiment: Storage,
    trials: Sequence[Trial],
    count_epochs: Callable[[Storage, Fingerprints], int] = finished_epochs,
) -> list[Trial]:
    """The trials of earlier starts whose folders are none of these trials', as when the sweep was given otherwise.

    Their parameters are the recorded ones and, so that tables show what differs, those that distinguish them from
    `trials`. Folders without a sound trial.yaml are left out.

    Args:
        count_epochs: see `find_trial_folders`.
    """
    shown = {field for trial in trials for field in trial.params}
    own_names = {trial.name for trial in trials}
    base = trials[0].config
    left = []
    for name in experiment.names(TRIALS):
        content = None if name in own_names else read_trial_file(experiment.at(trial_path(name)))
        if content is None:
            continue
        try:
            config = recorded_config(content, f"{experiment.shown}/{trial_path(name)}")
        except DataError:  # of a newer release
            continue

        params = dict(content["params"])
        for field, path in SWEEP_FIELDS.items():
            value = read_field(config, path)
            if field in shown or (value != read_field(base, path) and field != "epochs"):
                params.setdefault(field, value)
        fingerprints = Fingerprints(
            content["fingerprint"], content["data_fingerprint"], content.get("initial_weights") or ""
        )
        folder = experiment.at(trial_path(name))
        is_finished = count_epochs(folder, fingerprints) > 0
        has_diverged = not is_finished and read_outcome(folder)["status"] == "diverged"
        left.append(Trial(name, params, config, fingerprints, is_finished, has_diverged))
    return left


def least_epochs(trial: Storage) -> int:
    """The smallest number of epochs that a trial can still end with; 1 where it has not begun."""
    row = read_last_row(trial)
    if row is None:
        return 1
    # The last row of an epoch has its means, that of the last epoch the final evaluation, too.
    epoch = int(row["epoch"])
    is_over = any(key.startswith("epoch_mean/") for key in row)
    if not is_over or any(key.startswith("final/") for key in row):
        return epoch

    from runner.records.checkpoints import checkpoint_steps  # torch comes with it

    # A checkpoint at or after the end of the epoch stands in the next one.
    return epoch + 1 if max(checkpoint_steps(trial), default=0) >= row["step"] else epoch


def _explain_change(
    experiment: Storage,
    planned: PlannedTrial,
    fingerprints: Fingerprints,
    content: Mapping[str, Any],
    data_changes: Sequence[str],
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
        was_data, now_data = (
            flatten({"data": data}) for data in (content["config"]["data"], planned.config.data.model_dump())
        )
        changes += [
            f"{field} was {show(was_data[field])}, now it is {show(value)}"
            for field, value in now_data.items()
            if field in was_data and was_data[field] != value and field not in now
        ]
        changes.append(f"the data's content was {content.get('data_fingerprint')}, now it is {fingerprints.data}")
        changes += [f"  {change}" for change in data_changes]
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
