"""How far a whole sweep is: how many trials are in which state, and how long the rest takes."""

import heapq
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from runner.number_format import clock, counted
from runner.trial.progress import TrialProgress

# What a person wants to see first where not all trials fit.
_ORDER = ("running", "failed", "diverged", "out_of_memory", "stopped", "halted", "early_stopped", "finished", "waiting")


def describe_counts(trials: Sequence[TrialProgress]) -> str:
    """`30 trials: 2 running, 1 failed, 12 finished, 15 waiting`."""
    counts = Counter(trial.status for trial in trials)
    ordered = sorted(counts, key=_rank)
    # The statuses of results.csv are words that are joined by `_`.
    return f"{counted(len(trials), 'trial')}: " + ", ".join(f"{counts[s]} {s.replace('_', ' ')}" for s in ordered)


def describe_rest(trials: Sequence[TrialProgress]) -> str:
    """`and 960 more: 930 finished, 30 waiting`, below a table that does not show these."""
    return f"and {len(trials)} more: {describe_counts(trials).partition(': ')[2]}"


def describe_sweep(trials: Sequence[TrialProgress], at_once: int) -> str:
    """The counts, and the time until all trials are finished where that can be said."""
    eta_s = sweep_eta_s(trials, at_once)
    return describe_counts(trials) + (f"; ETA of all {clock(eta_s)}" if eta_s is not None else "")


def by_interest(trials: Sequence[TrialProgress]) -> list[TrialProgress]:
    """What runs first, then what went wrong; those of one status stay in their order."""
    return sorted(trials, key=lambda trial: _rank(trial.status))


def sweep_eta_s(trials: Sequence[TrialProgress], at_once: int) -> float | None:
    """Seconds until the last trial has finished; None where nothing is left to do, or the speed is not known yet.

    A trial that has not run yet is taken to need as long for a picture as the others do on average.

    Args:
        at_once: how many trials run at a time.
    """
    paces = [trial.mean_pace_s / trial.batch_size for trial in trials if trial.mean_pace_s]
    left = [trial for trial in by_interest(trials) if trial.status in ("running", "waiting")]
    if not left or not paces or not all(trial.total_steps for trial in left):
        return None

    mean_pace_s = fmean(paces)
    # Each trial begins where one before it ends. Those that run are the first.
    ends = [0.0] * max(at_once, 1)
    for trial in left:
        pace_s = trial.mean_pace_s or mean_pace_s * trial.batch_size
        begin = heapq.heappop(ends)
        heapq.heappush(ends, begin + (trial.total_steps - trial.step) * pace_s)
    return max(ends)


def _rank(status: str) -> int:
    return _ORDER.index(status) if status in _ORDER else len(_ORDER)
