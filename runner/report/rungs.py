"""The rungs of a halved sweep as a table; of a whole grid, whether halving would have kept its winner."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gan.evaluation.metrics import METRICS, Metric
from runner.config.loading import trial_name
from runner.halving.replay import Replay, Run, replay
from runner.halving.rungs import read_rungs
from runner.number_format import finite, significant
from runner.records.metrics_log import log_column, sample_column
from runner.report.trials import PageTrial
from runner.storage.storage import Storage

# The columns of a log that say how good a trial was at an epoch.
VALIDATION_COLUMNS = tuple(
    column for metric in METRICS for column in (log_column("val", "study", metric.key), sample_column(metric.key))
)
_MAX_CELLS = 100  # that are shown


class BracketCell(NamedTuple):
    """A cell at a rung.

    Attributes:
        value: the mean over its seeds, or why it has none; empty where it was halted before.
    """

    value: str
    is_kept: bool


class Bracket(NamedTuple):
    """The rungs of an experiment.

    Attributes:
        metric: that cells are ranked by.
        epochs: of each rung.
        rows: the name of each cell, with what it was at each rung; whoever came furthest is first.
        left_out: how many more cells there are.
    """

    experiment: str
    metric: Metric
    epochs: Sequence[int]
    rows: Sequence[tuple[str, Sequence[BracketCell]]]
    left_out: int


def read_bracket(experiment: Storage) -> Bracket | None:
    """The bracket of an experiment; None where nothing has been decided.

    Raises:
        StorageError: rungs.json is damaged.
    """
    recorded = read_rungs(experiment)
    if recorded is None or not recorded[1]:
        return None
    halving, rungs = recorded
    (metric,) = (metric for metric in METRICS if metric.key == halving.metric)

    # The order of the last rung, below it that of the ones before: so a column's kept cells stand together.
    order = dict.fromkeys(cell.name for rung in reversed(rungs) for cell in rung.cells)
    at_rungs = [{cell.name: (rank < rung.num_kept, cell) for rank, cell in enumerate(rung.cells)} for rung in rungs]
    rows = []
    for name in order:
        cells = []
        for at_rung in at_rungs:
            if name not in at_rung:
                cells.append(BracketCell("", is_kept=False))
                continue
            is_kept, cell = at_rung[name]
            ended = ", ".join(dict.fromkeys(trial.ended for trial in cell.trials.values() if trial.ended))
            value = significant(cell.mean) if cell.mean is not None else ended.replace("_", " ") or "not finite"
            cells.append(BracketCell(value, is_kept))
        rows.append((name, cells))
    left_out = max(len(rows) - _MAX_CELLS, 0)
    return Bracket(experiment.name, metric, [rung.epochs for rung in rungs], rows[:_MAX_CELLS], left_out)


def replayed(trials: Sequence[PageTrial], logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Replay]:
    """What halving would have done; empty where not all trials of the grid are finished, after the same epochs.

    Args:
        logs: of all trials, under their folders' paths; where one is missing nothing can be said.
    """
    lengths = {trial.row.get("epochs") for trial in trials}
    if len(lengths) != 1 or any(trial.status != "finished" for trial in trials):
        return []
    if not all(trial.folder.root in logs for trial in trials):
        return []
    runs = [_run(trial, logs[trial.folder.root]) for trial in trials]
    return replay(runs, int(lengths.pop() or 0))


def _run(trial: PageTrial, log: Sequence[Mapping[str, Any]]) -> Run:
    """A trial with its values by epoch: of the sample or, for the metric that chooses weights, of one half of it."""
    by_epoch: dict[str, dict[int, float]] = {}
    for row in log:
        for metric in METRICS:
            for column in (log_column("val", "study", metric.key), sample_column(metric.key)):
                if (value := finite(row.get(column))) is not None:
                    by_epoch.setdefault(metric.key, {})[int(row["epoch"])] = value
    final = {metric.key: value for metric in METRICS if (value := finite(trial.row.get(metric.key))) is not None}
    cell = trial_name({name: value for name, value in trial.params.items() if name != "seed"})
    return Run(cell, trial.shown, by_epoch, final)
