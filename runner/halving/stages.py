"""Successive halving: which trials are to be trained how far, as a function of what stands on disk alone.

All trials that are still in are trained to a rung; then the rung is decided, and the kept ones are trained to the next.
Nothing depends on the order in which trials arrive, so that any history of kills ends with the same survivors.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from gan.evaluation.metrics import METRICS
from runner.config.halving import Halving
from runner.errors import ConfigError, StorageError
from runner.halving.rungs import Rung, TrialValue, decide_rung, read_rungs
from runner.number_format import counted, significant
from runner.records.metrics_log import read_rows, selection_column
from runner.records.seeds import by_cell
from runner.records.trial_file import read_outcome, recorded_epochs
from runner.records.trial_folders import Trial
from runner.storage.run_folder import RUNGS, trial_path
from runner.storage.storage import Storage

# Trials that would end like this again, before they have a metric: their cells rank last.
_WITHOUT_METRIC = ("diverged", "out_of_memory")
_MAX_NAMED = 6


class Standing(NamedTuple):
    """How far a trial is on disk.

    Attributes:
        epochs: at whose end its weights were written.
        values: the metric that cells are ranked by, under each rung that it has passed.
        passed: the last epoch that its log has the end of.
        status: the outcome of its last run; "" for none.
    """

    epochs: int
    values: Mapping[int, float | None]
    passed: int
    status: str


class Stage(NamedTuple):
    """What is to be done next.

    Attributes:
        epochs: the rung, or the end, that trials are trained to.
        to_train: the names of the trials that are not there yet.
        pending: the names of all trials that may still be trained, those that wait at the rung among them.
        rungs: the decisions before it.
    """

    epochs: int
    to_train: Sequence[str]
    pending: frozenset[str]
    rungs: Sequence[Rung]

    @property
    def halted(self) -> dict[str, Rung]:
        """The rung at which each trial was halted, by name."""
        return {name: rung for rung in self.rungs for cell in rung.halted for name in cell.trials}


def next_stage(experiment: Storage, trials: Sequence[Trial], halving: Halving, retried: Iterable[str] = ()) -> Stage:
    """Decides all rungs that can be decided, over all cells from the first rung on; what is to be trained then.

    Args:
        retried: outcomes of trials without a metric that are tried again: "diverged" with --retry-diverged.

    Raises:
        ConfigError: a trial has passed a rung before the sweep was halved, and was not measured there.
    """
    epochs = trials[0].config.training.epochs  # the same for all, because halving excludes a sweep of it
    standings = {trial.name: read_standing(experiment, trial, halving) for trial in trials}
    _refuse_unmeasured(standings, halving.rungs(epochs))

    left_out = set(_WITHOUT_METRIC) - set(retried)
    cells = by_cell((trial.name for trial in trials), (trial.params for trial in trials))
    rungs: list[Rung] = []
    for rung_epochs in halving.rungs(epochs):
        names = [name for cell in cells.values() for name in cell]
        to_train = [name for name in names if not _is_through(standings[name], rung_epochs, left_out)]
        if to_train:
            pending = frozenset(name for name in names if standings[name].status not in left_out)
            return Stage(rung_epochs, to_train, pending, rungs)

        values = {cell: {name: _value(standings[name], rung_epochs) for name in cells[cell]} for cell in cells}
        rung = decide_rung(rung_epochs, values, halving)
        rungs.append(rung)
        kept = {cell.name for cell in rung.kept}
        cells = {cell: names for cell, names in cells.items() if cell in kept}

    # At the end nothing is ranked: who lacked memory is tried again, as in any other sweep.
    names = [name for cell in cells.values() for name in cell]
    diverged = {"diverged"} - set(retried)
    to_train = [name for name in names if standings[name].epochs < epochs and standings[name].status not in diverged]
    return Stage(epochs, to_train, frozenset(to_train), rungs)


def read_standing(experiment: Storage, trial: Trial, halving: Halving) -> Standing:
    """How far a trial is."""
    folder, fingerprints = experiment.at(trial_path(trial.name)), trial.fingerprints
    epochs = recorded_epochs(folder, fingerprints)
    values: dict[int, float | None] = {}
    passed = 0
    column = selection_column(halving.metric)
    for row in read_rows(folder):
        if any(key.startswith("epoch_mean/") for key in row):
            passed = int(row["epoch"])
        if column in row:
            values[int(row["epoch"])] = row[column]
    return Standing(epochs, values, passed, read_outcome(folder)["status"])


def _is_through(standing: Standing, rung: int, left_out: set[str]) -> bool:
    """True where a trial needs no training for a rung: it has its metric and its weights, or can have none."""
    # The weights are written last: a run that was killed before has to go on.
    has_value = rung in standing.values and standing.epochs >= rung
    return has_value or standing.status in left_out


def _value(standing: Standing, rung: int) -> TrialValue:
    if rung in standing.values and standing.epochs >= rung:
        return TrialValue(standing.values[rung])
    return TrialValue(None, standing.status)


def _refuse_unmeasured(standings: Mapping[str, Standing], rungs: Sequence[int]) -> None:
    """Raises ConfigError for trials that have passed a rung without being measured there."""
    for name, standing in standings.items():
        for rung in rungs:
            if standing.passed >= rung and rung not in standing.values:
                raise ConfigError(
                    f"sweep.halving has a rung at epoch {rung}, but {name} was trained to epoch {standing.passed} and "
                    "not measured there, before the sweep was halved or with other rungs: give the experiment a new "
                    "name, or take halving out"
                )


def check_recorded(experiment: Storage, trials: Sequence[Trial], halving: Halving) -> None:
    """Compares rungs.json with the experiment and with the trials' logs.

    Raises:
        ConfigError: the sweep was halved by another metric or from another epoch on.
        StorageError: the record is damaged, or at odds with the log of a trial that it names.
    """
    recorded = read_rungs(experiment)
    if recorded is None:
        return
    before, rungs = recorded
    for field in ("metric", "first_epochs"):
        was, now = getattr(before, field), getattr(halving, field)
        if was != now:
            raise ConfigError(
                f"sweep.halving.{field} is {now}, but {experiment.shown} was halved with {was}: put the old value "
                "back, or give the experiment a new name"
            )

    by_name = {trial.name: trial for trial in trials}
    for rung in rungs:
        for name, (value, _) in ((name, trial) for cell in rung.cells for name, trial in cell.trials.items()):
            # A trial that is gone, or was tried again, has nothing to be compared with.
            if name not in by_name or value is None:
                continue
            values = read_standing(experiment, by_name[name], halving).values
            if rung.epochs in values and values[rung.epochs] != value:
                raise StorageError(
                    f"{experiment.shown}/{RUNGS}: it has {halving.metric} {value!r} of {name} at epoch {rung.epochs}, "
                    f"but the trial's log has {values[rung.epochs]!r}: one of the two is not as it was written. Bring "
                    f"the right one back, or move {RUNGS} away to decide by the logs."
                )


def retried_outcomes(retry_diverged: bool) -> Sequence[str]:
    """The outcomes without a metric that --retry-diverged tries again."""
    return ("diverged",) if retry_diverged else ()


def describe_rung(rung: Rung, halving: Halving) -> str:
    """A line on a decision: who goes on, and how many do not."""
    title = {metric.key: metric.title for metric in METRICS}[halving.metric]
    named = [f"{cell.name} ({'-' if cell.mean is None else significant(cell.mean)})" for cell in rung.kept[:_MAX_NAMED]]
    more = f" and {len(rung.kept) - _MAX_NAMED} more" if len(rung.kept) > _MAX_NAMED else ""
    return (
        f"rung at epoch {rung.epochs}, by {title}: {len(rung.kept)} of {counted(len(rung.cells), 'cell')} "
        f"{'goes' if len(rung.kept) == 1 else 'go'} on: {', '.join(named)}{more}"
    )


def reason_halted(name: str, rung: Rung, halving: Halving) -> str:
    """Why a trial was halted, for people."""
    rank = next(rank for rank, cell in enumerate(rung.cells, start=1) if name in cell.trials)
    best = f"the best {rung.num_kept} go on" if rung.num_kept > 1 else "the best goes on"
    return f"rank {rank} of {len(rung.cells)} by {halving.metric} at epoch {rung.epochs}; {best}"
