"""What the trials ran with and on: equal values once, differing ones trial by trial."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from runner.records.fingerprint import flatten
from runner.report.records import TrialRecord

MACHINE = ("processor", "threads", "precision", "kernels")
ABSENT = "not recorded"
LEFT_OUT = ("sweep", "name")


class Setting(NamedTuple):
    """A field and its values, each with the trials that have it: none are named where all trials agree, or where
    their own names say it."""

    name: str
    values: Sequence[tuple[str, Sequence[str]]]

    @property
    def differs(self) -> bool:
        """True where the trials have different values."""
        return len(self.values) > 1


def compare_settings(trials: Sequence[TrialRecord]) -> list[Setting]:
    """The resolved config's fields, those that differ first."""
    return compare(trials, [config_fields(trial) for trial in trials])


def compare_machines(trials: Sequence[TrialRecord]) -> list[Setting]:
    """Processor, threads, precision, kernels and versions, those that differ first."""
    return compare(trials, [machine_fields(trial) for trial in trials])


def config_fields(trial: TrialRecord) -> dict[str, Any]:
    """The trial's config with dotted names."""
    config = {key: value for key, value in trial.record.get("config", {}).items() if key not in LEFT_OUT}
    return flatten(config)


def machine_fields(trial: TrialRecord) -> dict[str, Any]:
    """What trial.yaml says beside the config; fields of earlier versions may be missing."""
    record = trial.record
    versions = {f"{name} version": value for name, value in record.get("versions", {}).items()}
    data = {"data fingerprint": record["data_fingerprint"]} if "data_fingerprint" in record else {}
    return {name: record[name] for name in MACHINE if name in record} | versions | data


def compare(trials: Sequence[TrialRecord], fields: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """One setting a field; trials without any record say nothing."""
    known = [(trial.shown, values) for trial, values in zip(trials, fields, strict=True) if values]
    settings = []
    for name in dict.fromkeys(name for _, values in known for name in values):
        by_value: dict[str, list[str]] = {}
        for shown, values in known:
            by_value.setdefault(text_of(values[name]) if name in values else ABSENT, []).append(shown)
        is_told = len(by_value) == 1 or all(name.rpartition(".")[2] in trial.params for trial in trials)
        settings.append(Setting(name, [(value, () if is_told else names) for value, names in by_value.items()]))
    return sorted(settings, key=lambda setting: not setting.differs)


def text_of(value: Any) -> str:
    """A value as an experiment file would have it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    return str(value)
