"""Which trial leads on which metric, and where the lead may be chance."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from gan.evaluation.metrics import Metric
from runner.number_format import counted
from runner.records.equal_losses import describe_equal_losses, equal_losses
from runner.report.figures import MAX_IN_FULL, Figure, figure, present
from runner.report.seeds import over_seeds
from runner.report.trials import PageTrial

_MAX_FEW_SEEDS = 5
_MAX_BAD = 12  # trials whose bad ends are told one by one
_BAD_ENDS = {"failed": "failed", "diverged": "diverged", "out_of_memory": "ran out of memory"}


class Leader(NamedTuple):
    """The best trial on one metric.

    Attributes:
        overlapping: trials whose intervals overlap with the leader's, the best first; None without intervals.
        runner_up: the second best and its figure; None where there is no other.
        num_ranked: trials that have this metric.
    """

    metric: Metric
    trial: PageTrial
    figure: Figure
    overlapping: Sequence[PageTrial] | None
    runner_up: tuple[PageTrial, Figure] | None
    num_ranked: int


class Decision(NamedTuple):
    """The first part of the page.

    Attributes:
        sentences: the verdict; each sentence as pieces of text, each with whether it is a trial's name.
        caveats: whole sentences on how far the verdict can be trusted.
    """

    sentences: Sequence[Sequence[tuple[str, bool]]]
    leaders: Sequence[Leader]
    caveats: Sequence[str]


def decide(trials: Sequence[PageTrial], metrics: Sequence[Metric]) -> Decision:
    """The verdict over the trials that have figures, did not end badly and were not halted.

    Trials that differ in their seed alone are ranked as one, by their means.
    """
    cells = over_seeds(trials)
    # A trial that ended badly may still have figures, but it must not lead.
    ranked_cells = [cell for cell in cells if cell.is_ranked]
    leaders = [_leader_on(metric, ranked_cells) for metric in present(ranked_cells, metrics)]
    seeds = _seeds_text(ranked_cells)

    num_halted = sum(cell.status == "halted" for cell in cells)
    sentences = _verdict(leaders, len(cells), seeds, num_halted)
    # Each costs the end of a log: of more trials the command's end alone tells.
    few = trials if len(trials) <= MAX_IN_FULL else ()
    same = equal_losses((trial.shown, trial.folder, trial.status) for trial in few)
    caveats = [
        *_caveats_of_trials(trials),
        *(f"{line}." for line in describe_equal_losses(same)),
        *_caveats_of_figures(trials, leaders, seeds),
        *_caveats_of_few_seeds(ranked_cells),
    ]
    return Decision(sentences, leaders, caveats)


def join(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _leader_on(metric: Metric, trials: Sequence[PageTrial]) -> Leader:
    """The best of the trials that have this metric; at least one must have it."""
    ranked = sorted(
        ((trial, found) for trial in trials if (found := figure(trial.row, metric.key))),
        key=lambda pair: -metric.goodness(pair[1].value),
    )
    (best, best_figure), others = ranked[0], ranked[1:]

    # None means that overlaps are unknown. An empty list means that there are none.
    overlapping = None
    if best_figure.has_interval and all(other.has_interval for _, other in others):
        overlapping = [trial for trial, other in others if _overlap(best_figure, other)]
    return Leader(metric, best, best_figure, overlapping, others[0] if others else None, len(ranked))


def _overlap(one: Figure, other: Figure) -> bool:
    """True where two intervals share a point."""
    assert one.low is not None and one.high is not None and other.low is not None and other.high is not None
    return one.low <= other.high and other.low <= one.high


def _seeds_text(cells: Sequence[PageTrial]) -> str:
    """`3 seeds` where the cells' figures are means over so many; empty where no cell is repeated."""
    if all(cell.num_seeds == 1 for cell in cells):
        return ""
    # The number is named only where all cells have the same one, and it is more than 1.
    counts = {cell.num_counted for cell in cells}
    return f"{counts.pop()} seeds" if len(counts) == 1 and 1 not in counts else "the seeds"


def _verdict(leaders: Sequence[Leader], num_cells: int, seeds: str, num_halted: int) -> list[list[tuple[str, bool]]]:
    """One sentence on who leads, and one on overlaps where intervals are known.

    Args:
        seeds: as `_seeds_text` returns it.
        num_halted: cells that take no part because they were halted.
    """
    if not leaders:
        return [[("No trial has been evaluated yet.", False)]]

    if num_cells == 1:
        figures = ", ".join(f"{leader.metric.title} {leader.figure.text}" for leader in leaders)
        mean = f", as the mean over {seeds}" if seeds else ""
        return [[("There is one trial, ", False), (leaders[0].trial.shown, True), (f"{mean}: {figures}.", False)]]

    # It was chosen at the rungs, and there is nothing to compare it with at the end.
    if num_halted and all(leader.num_ranked == 1 for leader in leaders):
        halted = counted(num_halted, "other setting")
        return [[(leaders[0].trial.shown, True), (f" is left of the halved sweep; {halted} were halted.", False)]]

    overlaps = _overlaps_sentence(leaders, seeds)
    sentence = _leaders_sentence(leaders, seeds)
    return [sentence, [(overlaps, False)]] if overlaps else [sentence]


def _leaders_sentence(leaders: Sequence[Leader], seeds: str) -> list[tuple[str, bool]]:
    """`a leads on SSIM and PSNR; b on L1.`, the trial with most metrics first."""
    titles_by_trial: dict[str, list[str]] = {}
    for leader in leaders:
        titles_by_trial.setdefault(leader.trial.shown, []).append(leader.metric.title)
    ordered = sorted(titles_by_trial.items(), key=lambda item: -len(item[1]))

    sentence: list[tuple[str, bool]] = []
    # Only the first trial gets the verb: "a leads on SSIM; b on L1".
    for index, (name, titles) in enumerate(ordered):
        on = f"all {len(titles)} metrics" if len(ordered) == 1 and len(titles) > 1 else join(titles)
        sentence += [("; " if index else "", False), (name, True), (f"{' leads' if not index else ''} on {on}", False)]
    sentence.append((f", by the mean over {seeds}." if seeds else ".", False))
    return sentence


def _overlaps_sentence(leaders: Sequence[Leader], seeds: str) -> str:
    """On which metrics the lead may be chance; empty where no interval is known."""
    known = [leader for leader in leaders if leader.overlapping is not None and leader.runner_up is not None]
    if not known:
        return ""

    # Intervals over seeds are ranges of a few values. That two of them do not overlap makes nothing clear.
    interval = "range over its seeds" if seeds else "interval"
    open_ones = [leader for leader in known if leader.overlapping]
    if not open_ones:
        titles = join([leader.metric.title for leader in known])
        return f"No other trial's {interval} overlaps with the leader's on {titles}."

    # Only the first count has the noun: "2 other trials on SSIM and 1 on L1".
    counts = [len(leader.overlapping or ()) for leader in open_ones]
    numbers = [counted(counts[0], "other trial"), *map(str, counts[1:])]
    others = [f"{number} on {leader.metric.title}" for number, leader in zip(numbers, open_ones, strict=True)]

    clear = [leader.metric.title for leader in known if not leader.overlapping]
    end = f" {'There is no overlap' if seeds else 'It is clear'} on {join(clear)}." if clear else ""
    return f"The leader's {interval} overlaps with that of {join(others)}: there the lead may be chance.{end}"


def _caveats_of_trials(trials: Sequence[PageTrial]) -> list[str]:
    """Which trials are not finished, and which ended badly."""
    caveats = []
    counts = Counter(trial.status for trial in trials)
    unfinished = [f"{counts[status]} {status}" for status in ("running", "stopped", "waiting") if counts[status]]
    if unfinished:
        caveats.append(
            f"{counts['finished']} of {counted(len(trials), 'trial')} finished ({', '.join(unfinished)}): figures of "
            "the others are of a sample of the validation patches, taken at their last evaluation."
        )

    if counts["halted"]:
        caveats.append(
            f"{counts['halted']} of {counted(len(trials), 'trial')} halted at a rung, before the last epoch: they take "
            "no part in the ranking."
        )

    bad = [trial for trial in trials if trial.ended_badly]
    for trial in bad[:_MAX_BAD]:
        reason = f": {trial.reason.rstrip('.')}" if trial.reason else ""
        caveats.append(f"{trial.shown} {_BAD_ENDS[trial.status]}{reason}. It takes no part in the ranking.")
    if more := bad[_MAX_BAD:]:
        caveats.append(f"{counted(len(more), 'more trial')} failed, diverged or ran out of memory, and take no part.")
    return caveats


def _caveats_of_figures(trials: Sequence[PageTrial], leaders: Sequence[Leader], seeds: str) -> list[str]:
    """How far the figures can be compared, and what they do not see."""
    caveats = []
    most_ranked = max((leader.num_ranked for leader in leaders), default=0)
    if partly := [leader.metric.title for leader in leaders if leader.num_ranked < most_ranked]:
        caveats.append(f"Not all trials have a value of {join(partly)}.")
    # A trial that has not begun has no record, so it is left out here.
    if len({trial.record["data_fingerprint"] for trial in trials if "data_fingerprint" in trial.record}) > 1:
        caveats.append("Not all trials were validated on the same patches: their figures are not strictly comparable.")
    if leaders and len(trials) > 1 and all(leader.overlapping is None for leader in leaders):
        unknown = "No range over seeds is" if seeds else "No intervals are"
        caveats.append(f"{unknown} known for all trials: small differences may be chance.")
    if blurry := [leader.metric.title for leader in leaders if leader.metric.favours_blur]:
        verb = "favours" if len(blurry) == 1 else "favour"
        caveats.append(f"{join(blurry)} {verb} blurred pictures: look at the pictures before choosing.")
    return caveats


def _caveats_of_few_seeds(cells: Sequence[PageTrial]) -> list[str]:
    """How often the ranges of two settings that are equally good do not overlap, where the seeds are few."""
    counts = [cell.num_counted for cell in cells if cell.num_counted > 1]
    if len(counts) < 2 or min(counts) > _MAX_FEW_SEEDS:
        return []

    # Of 2n values in random order, all n of the one setting come before or after all n of the other.
    num_seeds = min(counts)
    odds = math.comb(2 * num_seeds, num_seeds) // 2
    return [f"Of two settings that are equally good, the ranges over {num_seeds} seeds lie apart in 1 of {odds} cases."]
