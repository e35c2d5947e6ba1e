"""What makes a trial the one that it is: a fingerprint of the settings that may not change when it resumes.

Each trial and each of its checkpoints records the fingerprint, and goes on only under the same one. A new release must
not orphan them, so **a field that a recorded trial does not have counts as its default**:

- Fields that came after the first release are part of a fingerprint only where they differ from their default.
- The default of such a field must be what the releases before it did, and may never change afterwards.
- `_FIRST_FIELDS` lists the fields that are always part of it. It never changes: to add a field, add nothing here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.config.schema import Experiment

# The fields of the first release. Its fingerprints hold them all, whatever their values are.
_FIRST_FIELDS: Mapping[str, frozenset[str]] = {
    "data": frozenset({"patching", "patch_size", "direction"}),
    "model": frozenset({"channels", "receptive_field"}),
    "training": frozenset(
        {
            "batch_size",
            "lambda_l1",
            "learning_rate",
            "decay_start_epoch",
            "decay_end_epoch",
            "seed",
            "precision",
            "deterministic",
        }
    ),
}

# What may change when a trial resumes. The data and the initial weights count by their content: where they come from
# may change, as long as the patch store's fingerprint and the file's SHA-256 are the same.
_MAY_CHANGE: Mapping[str, frozenset[str]] = {
    "data": frozenset({"source", "layout", "val_fraction", "synthetic", "max_bad_fraction"}),
    "model": frozenset({"initial_weights"}),
    "training": frozenset({"epochs"}),
}


@dataclass(frozen=True)
class Fingerprints:
    """What a trial and its checkpoints belong to.

    Attributes:
        config: of the settings that may not change, the initial weights among them: 16 hexadecimal digits.
        data: the patch store's.
        initial_weights: SHA-256 of the file that the generator starts from, "" for none.
    """

    config: str
    data: str
    initial_weights: str = ""


def fingerprint_trial(config: Experiment, data_fingerprint: str, initial_weights: str = "") -> Fingerprints:
    """The fingerprints of a trial.

    Args:
        data_fingerprint: the patch store's.
        initial_weights: SHA-256 of the file that the generator starts from, "" for none.
    """
    covered: dict[str, dict[str, Any]] = {}
    for section, first_fields in _FIRST_FIELDS.items():
        values = getattr(config, section)
        fields = values.model_dump(exclude_defaults=True) | values.model_dump(include=first_fields)
        covered[section] = {name: value for name, value in fields.items() if name not in _MAY_CHANGE[section]}
    # Nothing is added where there are none, so that trials from before this field keep their fingerprint.
    if initial_weights:
        covered["model"]["initial_weights"] = initial_weights
    text = json.dumps(covered, sort_keys=True)
    return Fingerprints(hashlib.sha256(text.encode()).hexdigest()[:16], data_fingerprint, initial_weights)


def fixed_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a dumped config that may not change when its trial resumes: {"training.seed": 0, ...}."""
    return flatten(
        {
            section: {name: value for name, value in config[section].items() if name not in may_change}
            for section, may_change in _MAY_CHANGE.items()
        }
    )


def may_change(field: str) -> bool:
    """True for a field, by its dotted name, that may have another value when a trial goes on."""
    section, _, name = field.partition(".")
    return section not in _MAY_CHANGE or name.partition(".")[0] in _MAY_CHANGE[section]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"training.batch_size": 4, ...} of nested mappings."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def fill_in_defaults(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded config, with the default of each field that the release of then did not have."""
    return _merge(Experiment(name="defaults").model_dump(), recorded)


def _merge(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(defaults)
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            value = _merge(default, value)
        merged[name] = value
    return merged
