"""The columns that a metric has: `val_eval/ssim_min` in metrics.jsonl, `eval_ssim_low` in results.csv.

The study's mode has no mark in a name, eval mode is named.
"""

from collections.abc import Mapping

_LOG_SUFFIXES = {"study": "", "eval": "_eval"}
_RESULT_PREFIXES = {"study": "", "eval": "eval_"}


def log_columns(split: str, mode: str, metric: str, parts: Mapping[str, float]) -> dict[str, float]:
    """Columns of metrics.jsonl: `final/ssim` for the mean, `final/ssim_min` and so on for the other parts.

    Args:
        split: `val` for the sample of an epoch, `final` for all validation patches.
    """
    column = log_column(split, mode, metric)
    return {column if part == "mean" else f"{column}_{part}": value for part, value in parts.items()}


def log_column(split: str, mode: str, metric: str) -> str:
    """The column of metrics.jsonl that has the mean."""
    return f"{split}{_LOG_SUFFIXES[mode]}/{metric}"


def result_column(mode: str, metric: str) -> str:
    """The column of results.csv that has the mean."""
    return f"{_RESULT_PREFIXES[mode]}{metric}"
