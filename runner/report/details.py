"""What the trials ran with and on: equal values once, differing ones for each trial."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from runner.config.fingerprint import flatten
from runner.number_format import shortest
from runner.report.trials import PageTrial

_MACHINE = ("processor", "threads", "precision", "kernels")
_ABSENT = "not recorded"
_LEFT_OUT = ("sweep", "name")  # of the config: the same for all trials, and on the page already


class Setting(NamedTuple):
    """A field and its values, each with the names of the trials that have it.

    The names are left out where all trials agree, and where they contain the value already.
    """

    name: str
    values: Sequence[tuple[str, Sequence[str]]]

    @property
    def differs(self) -> bool:
        """True where the trials have different values."""
        return len(self.values) > 1


def compare_settings(trials: Sequence[PageTrial]) -> list[Setting]:
    """The resolved config's fields, those that differ first."""
    return _compare(trials, [_config_fields(trial) for trial in trials])


def compare_machines(trials: Sequence[PageTrial]) -> list[Setting]:
    """Processor, threads, precision, kernels and versions, those that differ first."""
    return _compare(trials, [_machine_fields(trial) for trial in trials])


def _config_fields(trial: PageTrial) -> dict[str, Any]:
    """The trial's config with dotted names."""
    config = {key: value for key, value in trial.record.get("config", {}).items() if key not in _LEFT_OUT}
    return flatten(config)


def _machine_fields(trial: PageTrial) -> dict[str, Any]:
    """The fields of trial.yaml that are not of the config; earlier versions wrote fewer."""
    record = trial.record
    versions = {f"{name} version": value for name, value in record.get("versions", {}).items()}
    data = {"data fingerprint": record["data_fingerprint"]} if "data_fingerprint" in record else {}
    return {name: record[name] for name in _MACHINE if name in record} | versions | data


def _compare(trials: Sequence[PageTrial], fields: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """One setting for each field; trials without any record are left out."""
    known = [(trial.shown, values) for trial, values in zip(trials, fields, strict=True) if values]
    settings = []
    for name in dict.fromkeys(name for _, values in known for name in values):
        trials_by_value: dict[str, list[str]] = {}
        for shown, values in known:
            text = _value_text(values[name]) if name in values else _ABSENT
            trials_by_value.setdefault(text, []).append(shown)

        # A swept field stands in the trials' names.
        needs_no_names = len(trials_by_value) == 1 or all(name.rpartition(".")[2] in trial.params for trial in trials)
        shown_values = [(text, () if needs_no_names else names) for text, names in trials_by_value.items()]
        settings.append(Setting(name, shown_values))
    # False sorts before True, and fields with equal keys keep their order.
    return sorted(settings, key=lambda setting: not setting.differs)


def _value_text(value: Any) -> str:
    return "none" if value is None else shortest(value)
