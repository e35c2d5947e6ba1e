"""A trial as the page shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.number_format import DASH, shortest
from runner.records.results import DONE, ENDED_BADLY
from runner.storage.storage import Storage


@dataclass(frozen=True)
class PageTrial:
    """One trial as the page shows it, or one setting over all its seeds.

    Attributes:
        experiment: the experiment's name.
        name: the trial's folder.
        shown: its name on the page: with the experiment before it where the page has several.
        params: what the page compares by: the swept parameters, and `experiment` where the page has several.
        row: its row of results; a metric may be absent or None.
        folder: the trial's folder.
        record: the content of trial.yaml; empty where there is none yet, or the trial is not shown in full.
        reason: why its last run ended badly; empty where none was recorded.
        log: rows of metrics.jsonl, or those columns of them that curves are drawn from; empty as `record` is.
        data: the fingerprint of its data; empty where it is not known.
        num_seeds: how many trials it stands for, which differ in their seed alone.
        num_counted: how many of them its figures are of.
    """

    experiment: str
    name: str
    shown: str
    params: Mapping[str, Any]
    row: Mapping[str, Any]
    folder: Storage
    record: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    log: Sequence[Mapping[str, Any]] = ()
    data: str = ""
    num_seeds: int = 1
    num_counted: int = 1

    @property
    def status(self) -> str:
        """As in results.csv."""
        return str(self.row.get("status", ""))

    @property
    def ended_badly(self) -> bool:
        """True where its figures are of a training that went wrong."""
        return self.status in ENDED_BADLY

    @property
    def in_sweep(self) -> bool:
        """False for a trial of an earlier start that the experiment's file does not name any more."""
        return bool(self.row.get("in_sweep", True))

    @property
    def is_done(self) -> bool:
        """True where it was trained to its end, and measured on all patches."""
        return self.status in DONE

    @property
    def is_ranked(self) -> bool:
        """False for one that ended badly, was halted after fewer epochs, or is not in the sweep any more."""
        return not self.ended_badly and self.status != "halted" and self.in_sweep

    @property
    def may_win(self) -> bool:
        """True where its figures are not final, as the next start goes on with it or tries it again."""
        return self.in_sweep and self.status in ("running", "waiting", "stopped", "failed")


def swept(trials: Sequence[PageTrial]) -> list[str]:
    """Parameters that have more than one value among the trials; those with most values first, `experiment` last."""
    counts = {name: len(values_of(trials, name)) for name in dict.fromkeys(key for t in trials for key in t.params)}
    names = [name for name, count in counts.items() if count > 1]
    return sorted(names, key=lambda name: (name == "experiment", -counts[name]))


def values_of(trials: Sequence[PageTrial], name: str) -> list[Any]:
    """The different values of a parameter: numbers sorted, others in the trials' order.

    None stands for a trial that does not have the parameter.
    """
    # 4 and 4.0 are one value: they are written alike.
    values = list({shortest(trial.params.get(name)): trial.params.get(name) for trial in trials}.values())
    if all(isinstance(value, int | float) for value in values):
        return sorted(values)
    return values


def shown(value: Any) -> str:
    """A parameter's value as text; a dash for a trial that has none."""
    return DASH if value is None else shortest(value)
