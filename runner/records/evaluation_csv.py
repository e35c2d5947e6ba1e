"""What an evaluation of all patches comes to: columns of a row, a table, records for JSON, a CSV of every patch."""

import csv
import io
from collections.abc import Mapping
from typing import Any

from gan.evaluation.bootstrap import CONFIDENCE, NUM_DRAWS, SEED
from gan.evaluation.evaluate import MODES, Scores

PREFIXES = {"study": "{}/", "eval": "{}_eval/"}


def named(prefix: str, metric: str, parts: Mapping[str, float]) -> dict[str, float]:
    """`final/ssim` for the mean, `final/ssim_min` and so on for the other parts."""
    return {f"{prefix}{metric}" + (f"_{part}" if part != "mean" else ""): value for part, value in parts.items()}


def final_row(scores: Scores) -> dict[str, float]:
    """The columns of a trial's last row: `final/` has the study's mode, `final_eval/` eval mode."""
    row: dict[str, float] = {}
    for mode in MODES:
        for name, parts in record(scores, mode).items():
            row |= named(PREFIXES[mode].format("final"), name, parts)
    return row


def record(scores: Scores, mode: str) -> dict[str, dict[str, float]]:
    """Of each metric mean, min, max, std, low and high, the last two the ends of the mean's 95 % interval."""
    summaries = scores.summaries(mode)
    return {name: {**summary._asdict(), **interval._asdict()} for name, (summary, interval) in summaries.items()}


def bootstrap_record() -> dict[str, Any]:
    """How the intervals were taken."""
    return {"resampled": "pictures", "draws": NUM_DRAWS, "confidence": CONFIDENCE, "seed": SEED}


def csv_of(scores: Scores) -> bytes:
    """One row a patch and mode: picture, the patch's row and column in it, mode, every metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["picture", "row", "column", "mode", *scores.metrics])
    for mode in MODES:
        for place, values in zip(scores.places, scores.values[mode].tolist(), strict=True):
            writer.writerow([*place, mode, *(f"{value:.9g}" for value in values)])
    return text.getvalue().encode()
