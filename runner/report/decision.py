"""Which trial leads on which metric, and where that may be chance."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from runner.report.figures import Figure, Metric, figure, present
from runner.report.records import TrialRecord
from runner.report.seeds import over_seeds

MAX_FEW_SEEDS = 5


class Leader(NamedTuple):
    """The best trial on one metric.

    Attributes:
        overlapping: trials whose intervals overlap with the leader's, the best first; None without intervals.
        runner_up: the second best and its figure; None where there is no other.
        num_ranked: trials that have this metric.
    """

    metric: Metric
    trial: TrialRecord
    figure: Figure
    overlapping: Sequence[TrialRecord] | None
    runner_up: tuple[TrialRecord, Figure] | None
    num_ranked: int


class Decision(NamedTuple):
    """What the page opens with.

    Attributes:
        sentences: the verdict as pieces of text, each with whether it is a trial's name.
        caveats: whole sentences on how far the verdict can be trusted.
    """

    sentences: Sequence[Sequence[tuple[str, bool]]]
    leaders: Sequence[Leader]
    caveats: Sequence[str]


def decide(trials: Sequence[TrialRecord], metrics: Sequence[Metric]) -> Decision:
    """The verdict over the trials that have figures and did not end badly; over the means of those that differ in
    their seed alone."""
    cells = over_seeds(trials)
    able = [cell for cell in cells if not cell.ended_badly]
    leaders = [leader_on(metric, able) for metric in present(able, metrics)]
    over = name_seeds(able)
    said = [*caveats(trials, leaders, over), *odds_of_luck(able)]
    return Decision(verdict(leaders, len(cells), over), leaders, said)


def name_seeds(cells: Sequence[TrialRecord]) -> str:
    """What the cells' means are over, such as `3 seeds`; empty where no cell is repeated."""
    if all(cell.num_seeds == 1 for cell in cells):
        return ""
    counts = {cell.num_counted for cell in cells}
    return f"{counts.pop()} seeds" if len(counts) == 1 and 1 not in counts else "the seeds"


def leader_on(metric: Metric, trials: Sequence[TrialRecord]) -> Leader:
    """The best of the trials that have this metric; one at least must."""
    ranked = sorted(
        ((trial, found) for trial in trials if (found := figure(trial.row, metric.key))),
        key=lambda pair: -metric.goodness(pair[1].value),
    )
    (best, best_figure), others = ranked[0], ranked[1:]
    overlapping = None
    if best_figure.has_interval and all(other.has_interval for _, other in others):
        overlapping = [trial for trial, other in others if overlap(best_figure, other)]
    return Leader(metric, best, best_figure, overlapping, others[0] if others else None, len(ranked))


def overlap(one: Figure, other: Figure) -> bool:
    """True where two intervals share a point."""
    assert one.low is not None and one.high is not None and other.low is not None and other.high is not None
    return one.low <= other.high and other.low <= one.high


def verdict(leaders: Sequence[Leader], num_cells: int, over: str) -> list[list[tuple[str, bool]]]:
    """One sentence on who leads, and one on overlaps where intervals are known.

    Args:
        over: what figures are means over; empty where they are none.
    """
    if not leaders:
        return [[("No trial has been evaluated yet.", False)]]
    if num_cells == 1:
        said = ", ".join(f"{leader.metric.title} {leader.figure.text}" for leader in leaders)
        mean = f", as the mean over {over}" if over else ""
        return [[("There is one trial, ", False), (leaders[0].trial.shown, True), (f"{mean}: {said}.", False)]]
    won: dict[str, list[str]] = {}
    for leader in leaders:
        won.setdefault(leader.trial.shown, []).append(leader.metric.title)
    ordered = sorted(won.items(), key=lambda item: -len(item[1]))
    sentence: list[tuple[str, bool]] = []
    for index, (name, titles) in enumerate(ordered):
        on = f"all {len(titles)} metrics" if len(ordered) == 1 and len(titles) > 1 else join(titles)
        sentence += [("; " if index else "", False), (name, True), (f"{' leads' if not index else ''} on {on}", False)]
    sentence.append((f", by the mean over {over}." if over else ".", False))
    said_of_overlaps = overlaps(leaders, over)
    return [sentence, [(said_of_overlaps, False)]] if said_of_overlaps else [sentence]


def overlaps(leaders: Sequence[Leader], over: str) -> str:
    """On which metrics the lead may be chance; empty where no interval is known.

    Args:
        over: what figures are means over; their intervals, ranges of a few values, then make nothing clear.
    """
    interval = "range over its seeds" if over else "interval"
    known = [leader for leader in leaders if leader.overlapping is not None and leader.runner_up is not None]
    if not known:
        return ""
    open_ones = [leader for leader in known if leader.overlapping]
    if not open_ones:
        titles = join([leader.metric.title for leader in known])
        return f"No other trial's {interval} overlaps with the leader's on {titles}."
    counts = [len(leader.overlapping or ()) for leader in open_ones]
    said = [f"{count} on {leader.metric.title}" for count, leader in zip(counts, open_ones, strict=True)]
    said[0] = said[0].replace(" on", f" other trial{'s' if counts[0] != 1 else ''} on", 1)
    clear = [leader.metric.title for leader in known if not leader.overlapping]
    end = f" {'There is no overlap' if over else 'It is clear'} on {join(clear)}." if clear else ""
    return f"The leader's {interval} overlaps with that of {join(said)}: there the lead may be chance.{end}"


def caveats(trials: Sequence[TrialRecord], leaders: Sequence[Leader], over: str) -> list[str]:
    """What a reader must know before believing the verdict."""
    said = []
    counts = {status: sum(trial.status == status for trial in trials) for status in {t.status for t in trials}}
    unfinished = [f"{counts[status]} {status}" for status in ("running", "stopped", "waiting") if counts.get(status)]
    if unfinished:
        said.append(
            f"{counts.get('finished', 0)} of {len(trials)} trials finished ({', '.join(unfinished)}): figures of the "
            "others are of a sample of the validation patches, taken at their last evaluation."
        )
    for trial in trials:
        if trial.ended_badly:
            reason = f": {trial.reason.rstrip('.')}" if trial.reason else ""
            said.append(f"{trial.shown} {words(trial.status)}{reason}. It takes no part in the ranking.")
    partly = [leader.metric.title for leader in leaders if leader.num_ranked < max(one.num_ranked for one in leaders)]
    if partly:
        said.append(f"Not all trials have a value of {join(partly)}.")
    if len({trial.record["data_fingerprint"] for trial in trials if "data_fingerprint" in trial.record}) > 1:
        said.append("Not all trials were validated on the same patches: their figures are not strictly comparable.")
    if leaders and len(trials) > 1 and all(leader.overlapping is None for leader in leaders):
        unknown = "No range over seeds is" if over else "No intervals are"
        said.append(f"{unknown} known for all trials: small differences may be chance.")
    if {leader.metric.title for leader in leaders} & {"SSIM", "PSNR", "L1"}:
        said.append("SSIM, PSNR and L1 favour blurred pictures: look at the pictures before choosing.")
    return said


def odds_of_luck(cells: Sequence[TrialRecord]) -> list[str]:
    """How often ranges over so few seeds lie apart though the settings are as good as each other: of 2n values in
    random order, all n of the one come before all n of the other, or after them."""
    counts = [cell.num_counted for cell in cells if cell.num_counted > 1]
    if len(counts) < 2 or min(counts) > MAX_FEW_SEEDS:
        return []
    num_seeds = min(counts)
    odds = math.comb(2 * num_seeds, num_seeds) // 2
    return [f"Of two settings that are equally good, the ranges over {num_seeds} seeds lie apart in 1 of {odds} cases."]


def words(status: str) -> str:
    """A bad end as a verb."""
    return {"failed": "failed", "diverged": "diverged", "out_of_memory": "ran out of memory"}[status]


def join(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
