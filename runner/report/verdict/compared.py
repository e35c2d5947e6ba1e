"""The settings of a page compared with one another: which differences are more than chance."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gan.evaluation.bootstrap import NUM_DRAWS
from gan.evaluation.metrics import Metric
from runner.comparison.differences import LEVEL, Difference, Differences
from runner.comparison.models import MIN_PICTURES, compare_models
from runner.comparison.patch_values import PatchValues
from runner.comparison.settings import compare_settings
from runner.number_format import counted
from runner.report.figures import figure
from runner.report.trials import PageTrial
from runner.report.verdict.ranking import Cell, shared_seeds

MAX_CELLS = 64  # that are compared, which takes some seconds with a thousand pictures


class Compared(NamedTuple):
    """What could be told of the differences between cells.

    Attributes:
        cells: all that are ranked.
        metrics: the compared ones.
        differences: of cells and metrics in these orders; None where nothing can be told.
        about: whole sentences on how it was done, or why it could not be.
    """

    cells: Sequence[PageTrial]
    metrics: Sequence[Metric]
    differences: Differences | None
    about: str

    def lead(self, metric: Metric, leader: PageTrial, other: PageTrial) -> Difference | None:
        """By how much the leader is better than another cell; None where that was not compared."""
        names = [cell.shown for cell in self.cells]
        keys = [found.key for found in self.metrics]
        if self.differences is None or metric.key not in keys or not {leader.shown, other.shown} <= set(names):
            return None
        one, two = names.index(leader.shown), names.index(other.shown)
        # Of a metric of which less is better, the lead is what the other one has more.
        first, second = (one, two) if metric.higher_is_better else (two, one)
        return self.differences.of(keys.index(metric.key), first, second)


def compare(cells: Sequence[Cell], metrics: Sequence[Metric], values: Mapping[str, PatchValues]) -> Compared:
    """Compares the cells by their seeds where these are repeated, and by their pictures where they are not.

    Args:
        cells: at least two, all trained to the end and measured on the same patches.
        values: of each patch, under the folders' paths of trials.
    """
    shown = [cell for cell, _ in cells]
    if len(cells) > MAX_CELLS:
        # All pairs must be looked at: a few that are chosen by the same figures are the best by chance, too.
        about = (
            f"Differences of more than {MAX_CELLS} are not told from chance: sweep the best of them again, with seeds."
        )
        return Compared(shown, [], None, about)
    if any(cell.num_seeds > 1 for cell in shown):
        return _compare_seeds(cells, metrics)
    return _compare_pictures(shown, metrics, values)


def _compare_seeds(cells: Sequence[Cell], metrics: Sequence[Metric]) -> Compared:
    """By the values of each seed that all cells have."""
    shown = [cell for cell, _ in cells]
    by_seed = [{trial.params.get("seed"): trial for trial in trials} for _, trials in cells]
    seeds = shared_seeds(cells)
    if len(seeds) < 2:
        return Compared(shown, [], None, "No two seeds are there for all settings: nothing can be told of differences.")

    known = [m for m in metrics if all(figure(trials[s].row, m.key) for trials in by_seed for s in seeds)]
    if not known:
        return Compared(shown, [], None, "")
    values = [[[trials[seed].row[m.key] for seed in seeds] for trials in by_seed] for m in known]
    differences = compare_settings(np.array(values, dtype=float))
    about = (
        f"Differences between settings are taken seed by seed, over {len(seeds)} seeds. Their intervals hold at "
        f"{_percent(LEVEL)} for {_all_pairs(differences)} Each is the wider one of two, both corrected "
        "for the number of metrics: Tukey’s interval for all pairs, from the spread over seeds of all settings, "
        "and the t-interval of the two settings’ own differences, at a level for a third of the settings."
    )
    if len(seeds) == 2 and len(shown) > 2:
        about += " Two seeds hardly tell settings apart: three or more can."
    return Compared(shown, known, differences, about)


def _compare_pictures(
    cells: Sequence[PageTrial], metrics: Sequence[Metric], values: Mapping[str, PatchValues]
) -> Compared:
    """By the values of the same patches."""
    measured = [values.get(cell.folder.root) for cell in cells]
    found = [one for one in measured if one is not None]
    if len(found) < len(cells):
        missing = next(cell.shown for cell, one in zip(cells, measured, strict=True) if one is None)
        about = f"{missing} has no sound evaluation.csv: differences can’t be told from chance."
        return Compared(cells, [], None, about)
    if any(list(one.origins) != list(found[0].origins) for one in found):
        about = "Not all trials were measured on the same patches: differences can’t be told from chance."
        return Compared(cells, [], None, about)
    num_pictures = len(set(found[0].pictures))
    if num_pictures < MIN_PICTURES:
        about = (
            f"{counted(num_pictures, 'picture')} can’t tell differences from chance: it takes {MIN_PICTURES} at least."
        )
        return Compared(cells, [], None, about)

    known = [m for m in metrics if all(m.key in one.metrics and np.isfinite(one.metrics[m.key]).all() for one in found)]
    if not known:
        return Compared(cells, [], None, "")
    differences = compare_models(np.array([[one.metrics[m.key] for one in found] for m in known]), found[0].pictures)
    about = (
        f"Differences between models are taken patch by patch, of the same {num_pictures} pictures "
        f"({len(found[0].origins)} patches). Their intervals hold at {_percent(LEVEL)} for "
        f"{_all_pairs(differences)} They are made by a paired bootstrap of whole pictures with "
        f"{NUM_DRAWS} draws: as wide as the largest difference of a draw, in standard errors, is in all but "
        f"{_percent(1 - LEVEL)} of the draws. With one seed they tell models apart, not settings: with another seed "
        "each setting would have another model."
    )
    return Compared(cells, known, differences, about)


def _all_pairs(differences: Differences) -> str:
    """What the intervals hold for, to the end of the sentence."""
    number = differences.num_compared
    return f"all pairs on all metrics at once ({number})." if number > 1 else "this one difference."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
