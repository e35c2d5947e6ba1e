"""What the page knows of a trial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.config.messages import shortest
from runner.records.results import ENDED_BADLY
from runner.storage.folder import Storage


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the page shows it.

    Attributes:
        experiment: the experiment's name.
        name: the trial's folder.
        shown: what the page calls it: the name, with the experiment before it where there are several.
        params: what the page compares by: the swept parameters, and `experiment` where there are several.
        row: its row of results; a metric may be absent or None.
        folder: the trial's folder.
        record: what trial.yaml holds; empty where there is none yet.
        reason: why its last run ended, empty where nothing was said.
        log: rows of metrics.jsonl, or those columns of them that curves are drawn of.
        num_seeds: how many trials, alike but for their seed, it stands for.
        num_counted: those of them whose figures it has.
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
    num_seeds: int = 1
    num_counted: int = 1

    @property
    def status(self) -> str:
        """finished, running, stopped, failed, diverged, out_of_memory, or waiting where it has not begun."""
        status = str(self.row.get("status", ""))
        return "waiting" if status == "stopped" and not self.log and not self.reason else status

    @property
    def ended_badly(self) -> bool:
        """True where its figures are of a training that went wrong."""
        return self.status in ENDED_BADLY


def swept(trials: Sequence[TrialRecord]) -> list[str]:
    """Parameters that have more than one value among the trials; those with most values first, `experiment` last."""
    counts = {name: len(values_of(trials, name)) for name in dict.fromkeys(key for t in trials for key in t.params)}
    names = [name for name, count in counts.items() if count > 1]
    return sorted(names, key=lambda name: (name == "experiment", -counts[name]))


def values_of(trials: Sequence[TrialRecord], name: str) -> list[Any]:
    """A parameter's values, numbers in order, others as they come; None stands for a trial without it."""
    values = list({shortest(trial.params.get(name)): trial.params.get(name) for trial in trials}.values())
    if all(isinstance(value, int | float) for value in values):
        return sorted(values)
    return values
