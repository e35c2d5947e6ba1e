"""The evaluation of all patches as columns of a log's row, as records for JSON, and as a CSV of every patch."""

import csv
import io
from typing import Any

from gan.evaluation.bootstrap import CONFIDENCE, NUM_DRAWS, SEED
from gan.evaluation.evaluate import Scores
from gan.evaluation.metrics import MODES
from runner.records.metrics_log import log_columns, selection_column


def final_row(scores: Scores) -> dict[str, float]:
    """The columns of a trial's last row: `final/` has the study's mode, `final_eval/` eval mode."""
    row: dict[str, float] = {}
    for mode in MODES:
        for metric, parts in record(scores, mode).items():
            row |= log_columns("final", mode, metric, parts)
    return row


def selection_row(scores: Scores) -> dict[str, float]:
    """The columns that a rung is decided by: each metric's mean in the study's mode.

    Args:
        scores: of the patches of the half to choose by.
    """
    means = scores.values["study"].mean(axis=0).tolist()
    return {selection_column(metric): mean for metric, mean in zip(scores.metrics, means, strict=True)}


def record(scores: Scores, mode: str) -> dict[str, dict[str, float]]:
    """For each metric: mean, min, max, std, low and high; the last two are the ends of the mean's 95 % interval."""
    summaries = scores.summaries(mode)
    return {metric: {**summary._asdict(), **interval._asdict()} for metric, (summary, interval) in summaries.items()}


def bootstrap_record() -> dict[str, Any]:
    """How the intervals were computed."""
    return {"resampled": "pictures", "draws": NUM_DRAWS, "confidence": CONFIDENCE, "seed": SEED}


def csv_of(scores: Scores) -> bytes:
    """One row for each patch and mode: the picture, the patch's row and column in it, the mode, every metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["picture", "row", "column", "mode", *scores.metrics])
    for mode in MODES:
        for origin, values in zip(scores.origins, scores.values[mode].tolist(), strict=True):
            # Nine digits name a float32 exactly.
            writer.writerow([*origin, mode, *(f"{value:.9g}" for value in values)])
    return text.getvalue().encode()
