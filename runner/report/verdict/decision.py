"""Which trial leads on which metric, and which leads are more than chance."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from gan.evaluation.metrics import Metric
from runner.comparison.differences import Difference
from runner.comparison.equal_losses import describe_equal_losses, equal_losses
from runner.comparison.patch_values import PatchValues
from runner.number_format import counted, significant, to_width
from runner.report.figures import MAX_IN_FULL, Figure, figure, present
from runner.report.trials import PageTrial
from runner.report.verdict.compared import Compared, compare
from runner.report.verdict.ranking import Ranking, rank

_MAX_BAD = 12  # trials whose bad ends are told one by one
_BAD_ENDS = {"failed": "failed", "diverged": "diverged", "out_of_memory": "ran out of memory"}
_NO_VALUES: Mapping[str, PatchValues] = MappingProxyType({})


class Leader(NamedTuple):
    """The best trial on one metric.

    Attributes:
        runner_up: the second best and its figure; None where there is no other.
        lead: by how much it is better than the second best; None where that was not compared.
        unclear: compared trials from which its lead may be chance, the best first; None where nothing was compared.
        num_compared: trials that it was compared with.
        num_ranked: trials that have this metric.
    """

    metric: Metric
    trial: PageTrial
    figure: Figure
    runner_up: tuple[PageTrial, Figure] | None
    lead: Difference | None
    unclear: Sequence[PageTrial] | None
    num_compared: int
    num_ranked: int

    @property
    def lead_text(self) -> str:
        """The lead with its interval; empty where it is not known."""
        if self.lead is None:
            return ""
        width = self.lead.high - self.lead.low
        if not math.isfinite(width):
            return ""
        low, high = (to_width(end, width) if width else significant(end) for end in self.lead[1:])
        return f"{significant(self.lead.value)} ({low} to {high})"


class Decision(NamedTuple):
    """The first part of the page.

    Attributes:
        sentences: the verdict; each sentence as pieces of text, each with whether it is a trial's name.
        caveats: whole sentences on how far the verdict can be trusted.
        about: how trials were compared, in whole sentences; empty where they were not.
        is_final: False while a trial may still win.
        ranked: the cells that may lead, with the figures that they are ranked by.
    """

    sentences: Sequence[Sequence[tuple[str, bool]]]
    leaders: Sequence[Leader]
    caveats: Sequence[str]
    about: str = ""
    is_final: bool = True
    ranked: Sequence[PageTrial] = ()


def decide(
    trials: Sequence[PageTrial], metrics: Sequence[Metric], values: Mapping[str, PatchValues] = _NO_VALUES
) -> Decision:
    """The verdict over the trials that have figures, did not end badly and were not halted.

    Trials that differ in their seed alone are ranked as one, by their means. Trials that were not validated on the same
    data are not ranked at all.

    Args:
        values: of each patch, under the folders' paths of trials that are done.
    """
    ranking = rank(trials, values)
    caveats = _caveats_of_trials(trials)
    if ranking.obstacle:
        return Decision([[(ranking.obstacle, False)]], [], caveats, is_final=not ranking.waiting)

    cells = [cell for cell, _ in ranking.ranked]
    shown = present(cells, metrics)
    compared = Compared([], [], None, "")
    if not ranking.waiting and len(cells) > 1:
        compared = compare(ranking.ranked, shown, ranking.values)
    leaders = [_leader_on(metric, cells, compared) for metric in shown]

    caveats = [*caveats, *_caveats_of_equal_losses(trials), *_caveats_of_figures(leaders)]
    if ranking.is_on_report_half:
        caveats.append(
            "These figures are of the half of the pictures that decided nothing; the tables have those of all pictures."
        )
    sentences = _verdict(leaders, ranking)
    return Decision(sentences, leaders, caveats, compared.about, is_final=not ranking.waiting, ranked=cells)


def join(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _leader_on(metric: Metric, cells: Sequence[PageTrial], compared: Compared) -> Leader:
    """The best of the cells that have this metric; at least one must have it."""
    ranked = sorted(
        ((cell, found) for cell in cells if (found := figure(cell.row, metric.key))),
        key=lambda pair: -metric.goodness(pair[1].value),
    )
    (best, best_figure), others = ranked[0], ranked[1:]

    leads = [(cell, lead) for cell, _ in others if (lead := compared.lead(metric, best, cell)) is not None]
    unclear = [cell for cell, lead in leads if lead.low <= 0] if leads else None
    runner_up = others[0] if others else None
    return Leader(
        metric=metric,
        trial=best,
        figure=best_figure,
        runner_up=runner_up,
        lead=compared.lead(metric, best, runner_up[0]) if runner_up else None,
        unclear=unclear,
        num_compared=len(leads),
        num_ranked=len(ranked),
    )


def _seeds_text(cells: Sequence[PageTrial]) -> str:
    """`3 seeds` where the cells' figures are means over so many; empty where no cell is repeated."""
    if all(cell.num_seeds == 1 for cell in cells):
        return ""
    # The number is named only where all cells have the same one, and it is more than 1.
    counts = {cell.num_counted for cell in cells}
    return f"{counts.pop()} seeds" if len(counts) == 1 and 1 not in counts else "the seeds"


def _verdict(leaders: Sequence[Leader], ranking: Ranking) -> list[list[tuple[str, bool]]]:
    """Who leads, and where that is clear; while a trial may still win, only who is ahead."""
    if not leaders:
        return [[("No trial has been evaluated yet.", False)]]

    seeds = _seeds_text([cell for cell, _ in ranking.ranked])
    if len(ranking.cells) == 1:
        figures = ", ".join(f"{leader.metric.title} {leader.figure.text}" for leader in leaders)
        mean = f", as the mean over {seeds}" if seeds else ""
        kind = "setting" if seeds else "trial"
        return [[(f"There is one {kind}, ", False), (leaders[0].trial.shown, True), (f"{mean}: {figures}.", False)]]

    # It was chosen at the rungs, and there is nothing to compare it with at the end.
    num_halted = sum(cell.status == "halted" for cell, _ in ranking.cells)
    if num_halted and not ranking.waiting and all(leader.num_ranked == 1 for leader in leaders):
        halted = f"{counted(num_halted, 'other setting')} {'was' if num_halted == 1 else 'were'} halted"
        return [[(leaders[0].trial.shown, True), (f" is left of the halved sweep; {halted}.", False)]]

    if ranking.waiting:
        open_until = f"No winner yet: {counted(len(ranking.waiting), 'trial')} can still win. So far "
        return [[(open_until, False), *_leaders_sentence(leaders, seeds, "is ahead")]]
    clear = _clear_sentence(leaders)
    sentence = _leaders_sentence(leaders, seeds, "leads")
    return [sentence, [(clear, False)]] if clear else [sentence]


def _leaders_sentence(leaders: Sequence[Leader], seeds: str, verb: str) -> list[tuple[str, bool]]:
    """`a leads on SSIM and PSNR; b on L1.`, the trial with most metrics first."""
    titles_by_trial: dict[str, list[str]] = {}
    for leader in leaders:
        titles_by_trial.setdefault(leader.trial.shown, []).append(leader.metric.title)
    ordered = sorted(titles_by_trial.items(), key=lambda item: -len(item[1]))

    sentence: list[tuple[str, bool]] = []
    # Only the first trial gets the verb: "a leads on SSIM; b on L1".
    for index, (name, titles) in enumerate(ordered):
        on = join(titles)
        if len(ordered) == 1 and len(titles) > 1:
            on = "both metrics" if len(titles) == 2 else f"all {len(titles)} metrics"
        sentence += [("; " if index else "", False), (name, True), (f"{'' if index else f' {verb}'} on {on}", False)]
    sentence.append((f", by the mean over {seeds}." if seeds else ".", False))
    return sentence


def _clear_sentence(leaders: Sequence[Leader]) -> str:
    """On which metrics a lead is clear, and on which it may be chance; empty where nothing was compared."""
    compared = [(leader, len(leader.unclear)) for leader in leaders if leader.unclear is not None]
    clear = [leader.metric.title for leader, unclear in compared if not unclear]
    chance = [leader.metric.title for leader, unclear in compared if unclear == leader.num_compared]
    partly = [
        f"on {leader.metric.title} over {leader.num_compared - unclear} of {leader.num_compared} others"
        for leader, unclear in compared
        if 0 < unclear < leader.num_compared
    ]
    if not compared:
        return ""
    if not clear and not partly:
        on = "Each of these leads" if len(chance) == len(leaders) > 1 else f"On {join(chance)} the lead"
        return f"{on} may be chance."

    parts = [f"on {join(clear)}"] if clear else []
    sentence = f"The lead is clear {join([*parts, *partly])}."
    return sentence + (f" On {join(chance)} it may be chance." if chance else "")


def _caveats_of_trials(trials: Sequence[PageTrial]) -> list[str]:
    """Which trials are not finished, and which ended badly."""
    caveats = []
    if num_left := sum(not trial.in_sweep for trial in trials):
        caveats.append(f"{counted(num_left, 'trial')} of an earlier start, not in the sweep any more: not ranked.")
    trials = [trial for trial in trials if trial.in_sweep]

    counts = Counter(trial.status for trial in trials)
    num_done = sum(trial.is_done for trial in trials)
    unfinished = [f"{counts[status]} {status}" for status in ("running", "stopped", "waiting") if counts[status]]
    if unfinished:
        caveats.append(
            f"{num_done} of {counted(len(trials), 'trial')} finished ({', '.join(unfinished)}): figures of "
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


def _caveats_of_equal_losses(trials: Sequence[PageTrial]) -> list[str]:
    """Which trials of one experiment are equal to the bit though their settings differ."""
    # Each costs the end of a log: of more trials the command's end alone tells.
    if len(trials) > MAX_IN_FULL:
        return []
    caveats = []
    for experiment in dict.fromkeys((trial.experiment, trial.params.get("experiment")) for trial in trials):
        # Those of two experiments may be meant to be the same.
        own = [
            trial
            for trial in trials
            if (trial.experiment, trial.params.get("experiment")) == experiment and trial.in_sweep
        ]
        same = equal_losses((trial.shown, trial.folder, trial.status) for trial in own)
        caveats += [f"{line}." for line in describe_equal_losses(same)]
    return caveats


def _caveats_of_figures(leaders: Sequence[Leader]) -> list[str]:
    """How far the figures can be compared, and what they do not see."""
    caveats = []
    most_ranked = max((leader.num_ranked for leader in leaders), default=0)
    if partly := [leader.metric.title for leader in leaders if leader.num_ranked < most_ranked]:
        caveats.append(f"Not all trials have a value of {join(partly)}.")
    if blurry := [leader.metric.title for leader in leaders if leader.metric.favours_blur]:
        verb = "favours" if len(blurry) == 1 else "favour"
        caveats.append(f"{join(blurry)} {verb} blurred pictures: look at the pictures before choosing.")
    return caveats
