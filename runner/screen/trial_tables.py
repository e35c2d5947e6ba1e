"""The tables of trials: while they run, their results, and their means over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from gan.evaluation.metrics import EPOCH_METRICS, METRICS, Metric
from runner.number_format import clock, finite, shortest, significant_or_dash
from runner.records.results import TrialResult
from runner.records.seeds import RepeatedCell, Spread, counting
from runner.screen.fitting_table import FittingTable
from runner.storage.run_folder import OVER_SEEDS, RESULTS_CSV
from runner.trial.progress import TrialProgress

LOSS_TITLES = {"total_gen_loss": "gen", "total_disc_loss": "disc", "l1_loss": "train L1"}
PROGRESS_METRICS = tuple(metric for metric in EPOCH_METRICS if metric.key in ("ssim", "psnr"))

_STATUS_STYLES = {
    "running": "cyan",
    "finished": "green",
    "halted": "dim",
    "early_stopped": "green",
    "waiting": "dim",
    "stopped": "yellow",
    "failed": "red",
    "diverged": "red",
    "out_of_memory": "red",
}
_LEFT = ("trial", "status")

# What a narrow screen does without, the least important first.
_PROGRESS_DROP = ("step", "restarts", "disc", "gen", "step/s", "train L1", "PSNR", "SSIM", "ETA")
# The metrics that stay longest, among them one that sees blur; of the others the last ones of the table go first.
_MAIN_METRICS = ("SSIM", "PSNR", "SWD")
_OTHER_METRICS = tuple(metric.title for metric in METRICS if metric.title not in _MAIN_METRICS)
_RESULTS_DROP = (
    *("goodput", "restarts", "images/s", "steps", "seconds"),
    *(*reversed(_OTHER_METRICS), *reversed(_MAIN_METRICS)),
    "epochs",
)
_RESULTS_KEEP = ("epochs", "SSIM", "PSNR")
_RESULT_TITLES = {
    "trial": "trial",
    "status": "status",
    "epochs": "epochs",
    "steps": "steps",
    **{metric.key: metric.title for metric in METRICS},
    "seconds": "seconds",
    "images_per_second": "images/s",
    "restarts": "restarts",
    "goodput": "goodput",
}


def progress_table(trials: Sequence[TrialProgress]) -> FittingTable:
    """Status, epoch, speed, losses, metrics, time left and restarts of each trial."""
    metrics = [metric.title for metric in PROGRESS_METRICS]
    columns = ("trial", "status", "epoch", "step", "step/s", *LOSS_TITLES.values(), *metrics, "ETA", "restarts")
    table = FittingTable(columns, left=_LEFT, drop=_PROGRESS_DROP, keep=("SSIM", "ETA"))

    for trial in trials:
        table.add_row(
            trial.name,
            trial.status,
            f"{trial.epoch}/{trial.epochs}",
            f"{trial.step}/{trial.total_steps or '?'}",
            f"{1 / trial.step_s:.2f}" if trial.step_s and trial.status == "running" else "",
            *(significant_or_dash(trial.row.get(name)) for name in LOSS_TITLES),
            *(significant_or_dash(trial.metrics.get(metric.key)) for metric in PROGRESS_METRICS),
            clock(trial.eta_s) if trial.status == "running" else "",
            str(trial.restarts),
            params=_texts(trial.params),
            styles={"status": _STATUS_STYLES.get(trial.status, "")},
        )
    return table


def results_table(results: Sequence[TrialResult]) -> FittingTable:
    """The most important columns of results.csv, the best values marked."""
    table = FittingTable(
        list(_RESULT_TITLES.values()),
        left=_LEFT,
        drop=_RESULTS_DROP,
        keep=_RESULTS_KEEP,
        elsewhere=f"{RESULTS_CSV} has all columns",
    )
    best = {metric.title: _best(results, metric) for metric in METRICS}

    for index, result in enumerate(results):
        table.add_row(
            *(significant_or_dash(result.row.get(column)) for column in _RESULT_TITLES),
            params=_texts(result.params),
            styles={"status": _STATUS_STYLES.get(str(result.row["status"]), "")},
            best=[title for title, indices in best.items() if index in indices],
        )
    return table


def seeds_table(cells: Sequence[RepeatedCell]) -> FittingTable:
    """Each cell of the sweep over its seeds."""
    metrics = [metric for metric in METRICS if any(metric.key in cell.metrics for cell in cells)]
    titles = [metric.title for metric in metrics]
    table = FittingTable(
        ["trial", "seeds", *titles],
        left=_LEFT,
        drop=[title for title in _RESULTS_DROP if title in titles],
        keep=_RESULTS_KEEP,
        elsewhere=f"{OVER_SEEDS} has all columns",
    )

    for cell in cells:
        all_count = cell.num_counted == cell.num_seeds
        seeds = str(cell.num_seeds) if all_count else f"{cell.num_counted} of {cell.num_seeds}"
        found = [cell.metrics.get(metric.key) for metric in metrics]
        texts = ("-" if spread is None else _spread_text(spread) for spread in found)
        table.add_row(cell.name, seeds, *texts, params=_texts(cell.params))
    return table


def _texts(params: Mapping[str, Any]) -> dict[str, str]:
    return {name: shortest(value) for name, value in params.items()}


def _best(results: Sequence[TrialResult], metric: Metric) -> list[int]:
    """The results with a metric's best value, among those that can be compared; none where all are alike."""
    counted = counting([str(result.row["status"]) for result in results])
    values = {i: value for i in counted if (value := finite(results[i].row.get(metric.key))) is not None}
    if len(set(values.values())) < 2:
        return []
    best = max(values.values(), key=metric.goodness)
    return [i for i, value in values.items() if value == best]


def _spread_text(spread: Spread) -> str:
    """Mean and standard deviation, with the extremes below where there are two values or more."""
    return f"{spread.text}\n({spread.ends})" if spread.ends else spread.text
