"""What the trials ran with and on, equal values once, differing ones for each trial; and where a page comes from."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gan.evaluation.metrics import MODES
from runner.config.fingerprint import flatten
from runner.data.patch_store import META
from runner.number_format import counted, shortest
from runner.records.commands import Command, Revision, read_commands
from runner.report.trials import PageTrial
from runner.storage.run_folder import EVALUATION_CSV, PATCHES
from runner.storage.storage import Storage

_MACHINE = ("processor", "threads", "precision", "kernels")
_ABSENT = "not recorded"
_MAX_STARTS = 5  # that the page names
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


class Origin(NamedTuple):
    """Where the figures of an experiment come from.

    Attributes:
        experiment: its name on the page.
        starts: the newest start of each command and revision of its code, the newest first; empty where an earlier
            release ran it.
        num_starts: how often it was started.
        validation: what its trials were validated on, in words, once for each data; empty where that is not known.
    """

    experiment: str
    starts: Sequence[tuple[Command, str]]
    num_starts: int
    validation: Sequence[str]


def find_origin(experiment: Storage, name: str, in_full: Sequence[PageTrial]) -> Origin:
    """The origin of an experiment's figures.

    Args:
        name: the experiment's name on the page.
        in_full: the trials that are shown in full, of other experiments, too.
    """
    commands = read_commands(experiment)
    newest = {(command.text, command.revision): command for command in commands}
    starts = sorted(newest.values(), key=lambda command: -command.attempt)[:_MAX_STARTS]

    validation: dict[str, str] = {}
    for trial in in_full:
        fingerprint = trial.record.get("data_fingerprint")
        if trial.folder.root.startswith(f"{experiment.root}/") and fingerprint and not validation.get(fingerprint):
            counts = _count_stored(experiment, fingerprint) or _count_evaluated(trial.folder)
            if counts:
                pictures, patches = counted(counts[0], "picture"), counted(counts[1], "patch", "patches")
                patching = trial.record.get("config", {}).get("data", {}).get("patching", "")
                validation[fingerprint] = f"{pictures}, {patches}" + (f" ({patching})" if patching else "")
    described = [(command, _describe(command.revision)) for command in starts]
    return Origin(name, described, len(commands), list(validation.values()))


def _describe(revision: Revision) -> str:
    """A revision in words."""
    commit = f"commit {revision.commit}" if revision.commit else "no commit known"
    changes = ", with changes that were not committed" if revision.is_changed else ""
    return f"pix2pix-runner {revision.version}, {commit}{changes}" if revision.version else f"{commit}{changes}"


def _count_stored(experiment: Storage, fingerprint: str) -> tuple[int, int] | None:
    """Validation pictures and patches by the patch store; None where it is not there, or damaged."""
    try:
        meta = json.loads(experiment.above(1).at(f"{PATCHES}/{fingerprint}").read(META))
        return int(meta["splits"]["val"]["pictures"]), int(meta["splits"]["val"]["patches"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _count_evaluated(trial: Storage) -> tuple[int, int] | None:
    """The same by a trial's evaluation.csv, which has a row for each patch and mode; None where it has none."""
    try:
        rows = list(csv.DictReader(io.StringIO(trial.read_text(EVALUATION_CSV))))
        pictures = [row["picture"] for row in rows if row["mode"] == MODES[0]]
    except (OSError, ValueError, KeyError, csv.Error):
        return None
    return (len(set(pictures)), len(pictures)) if pictures else None


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
