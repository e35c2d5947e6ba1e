"""The verdict of the page: who leads, where that is clear, and when nothing may be said."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gan.data.patches import PatchOrigin
from gan.data.selection import selection_half
from gan.evaluation.evaluate import Scores
from gan.evaluation.metrics import METRICS
from runner.comparison.patch_values import PatchValues
from runner.records.evaluation_csv import csv_of
from runner.report.decision import decide
from runner.report.figures import STUDY_METRICS
from runner.report.reading import read_results
from runner.report.trials import PageTrial
from runner.report.writer import Report
from runner.storage.folder import Storage
from tests.support.experiment_folder import write_experiment_folder
from tests.support.report_pages import page_of, said, trial

NUM_PICTURES = 20
PICTURES = [f"{index}.jpg" for index in range(NUM_PICTURES)]
ORIGINS = [(name, "0", "0") for name in PICTURES]
NOISE = np.random.default_rng(0).normal(0, 0.01, (3, NUM_PICTURES))
NOISE -= NOISE.mean(axis=1, keepdims=True)


def measured(name: str, *, ssim: Sequence[float], l1: Sequence[float]) -> tuple[PageTrial, PatchValues]:
    """A trial with these values of its patches."""
    values = {"ssim": np.array(ssim), "l1": np.array(l1)}
    return trial(name, ssim=values["ssim"].mean(), l1=values["l1"].mean()), PatchValues(ORIGINS, values)


def three_trials() -> tuple[list[PageTrial], dict[str, PatchValues]]:
    """`a` is hardly better than `b` on SSIM, and much better than both others on L1."""
    made = [
        measured("a", ssim=0.301 + NOISE[0], l1=0.2 + NOISE[0]),
        measured("b", ssim=0.300 + NOISE[1], l1=0.3 + NOISE[1]),
        measured("c", ssim=0.200 + NOISE[2], l1=0.4 + NOISE[2]),
    ]
    return [one for one, _ in made], {one.folder.root: values for one, values in made}


def test_the_leader_is_named_with_the_metrics_on_which_it_may_be_chance() -> None:
    trials, values = three_trials()
    decision = decide(trials, STUDY_METRICS, values)
    assert said(decision) == (
        "a leads on all 2 metrics. The leader is clearly better over all others on L1 and over 1 of 2 on SSIM."
    )
    assert [[other.name for other in leader.unclear or ()] for leader in decision.leaders] == [["b"], []]
    assert "same 20 pictures (20 patches)" in decision.about
    assert "95 % for all pairs on all metrics at once (6)." in decision.about
    assert "2000 draws" in decision.about
    assert "With one seed they tell models apart, not settings" in decision.about


def test_a_lead_is_what_the_leader_is_better_by_in_either_direction() -> None:
    trials, values = three_trials()
    by_metric = {leader.metric.key: leader.lead for leader in decide(trials, STUDY_METRICS, values).leaders}
    for lead, expected in ((by_metric["ssim"], 0.001), (by_metric["l1"], 0.1)):
        assert lead is not None
        assert lead.value == pytest.approx(expected, abs=0.01)
        assert lead.low < lead.value < lead.high
    assert by_metric["l1"].low > 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("metric", "leader"),
    [("ssim", "high"), ("psnr", "high"), ("l1", "low"), ("hp_l1", "low"), ("swd", "low"), ("spectrum", "low")],
)
def test_higher_is_better_for_ssim_and_psnr_only(metric: str, leader: str) -> None:
    decision = decide([trial("low", **{metric: 0.1}), trial("high", **{metric: 0.2})], STUDY_METRICS)
    assert decision.leaders[0].trial.name == leader
    assert decision.leaders[0].unclear is None
    assert decision.about == "low has no sound evaluation.csv: differences can’t be told from chance."


@pytest.mark.parametrize("status", ["running", "waiting", "stopped", "failed"])
def test_there_is_no_winner_while_a_trial_may_still_win(status: str) -> None:
    trials, values = three_trials()
    decision = decide([*trials, trial("d", status=status)], STUDY_METRICS, values)
    assert said(decision) == "No winner yet: 1 trial can still win. So far a is ahead on all 2 metrics."
    assert all(leader.unclear is None and leader.lead is None for leader in decision.leaders)
    assert not decision.is_final


@pytest.mark.parametrize("status", ["diverged", "out_of_memory"])
def test_a_trial_that_ended_badly_leads_nowhere_and_its_reason_is_told(status: str) -> None:
    bad = trial("bad", status=status, reason="the losses at step 7 are not finite", ssim=0.9)
    decision = decide([bad, trial("good", ssim=0.1)], STUDY_METRICS)
    assert said(decision) == "good leads on SSIM."
    assert any("the losses at step 7 are not finite. It takes no part" in caveat for caveat in decision.caveats)
    assert said(decide([bad], STUDY_METRICS)) == "No trial has been evaluated yet."


def test_trials_of_different_data_are_not_ranked() -> None:
    decision = decide([trial("a", ssim=0.1, data="one"), trial("b", ssim=0.2, data="other")], STUDY_METRICS)
    assert said(decision) == "These trials were validated on different patches, so they are not ranked."
    assert not decision.leaders


def test_trials_that_are_not_in_the_sweep_any_more_are_told_and_not_ranked() -> None:
    left = trial("left", ssim=0.9, in_sweep=False, status="stopped", data="other")
    decision = decide([left, trial("a", ssim=0.1, data="one"), trial("b", ssim=0.2, data="one")], STUDY_METRICS)
    assert said(decision) == "b leads on SSIM."
    assert "1 trial of an earlier start, not in the sweep any more: not ranked." in decision.caveats


@pytest.mark.parametrize("num_pictures", [1, 5])
def test_few_pictures_make_nothing_clear(num_pictures: int) -> None:
    trials, values = three_trials()
    few = {
        path: PatchValues([(f"{i % num_pictures}.jpg", "0", str(i)) for i in range(NUM_PICTURES)], found.metrics)
        for path, found in values.items()
    }
    decision = decide(trials, STUDY_METRICS, few)
    assert said(decision) == "a leads on all 2 metrics."
    assert "can’t tell differences from chance: it takes 6 at least." in decision.about


def test_other_patches_make_nothing_clear() -> None:
    trials, values = three_trials()
    path = trials[1].folder.root
    values[path] = PatchValues([*ORIGINS[1:], ORIGINS[0]], values[path].metrics)
    decision = decide(trials, STUDY_METRICS, values)
    assert said(decision) == "a leads on all 2 metrics."
    assert "measured on the same patches" in decision.about


def over_seeds(spread: float, num_seeds: int = 3) -> list[PageTrial]:
    """Three settings; the first one leads by 0.1 on SSIM, and seeds make it this much better or worse."""
    random = np.random.default_rng(1)
    return [
        trial(
            f"{size},{seed}",
            params={"batch_size": size, "seed": seed},
            ssim=mean + spread * random.standard_normal(),
        )
        for size, mean in ((1, 0.5), (4, 0.4), (8, 0.3))
        for seed in range(num_seeds)
    ]


def test_settings_are_told_apart_by_their_seeds() -> None:
    decision = decide(over_seeds(0.001), STUDY_METRICS)
    assert said(decision) == (
        "batch_size=1 leads on SSIM, by the mean over 3 seeds. The leader is clearly better over all others on SSIM."
    )
    assert "Differences between settings are taken seed by seed, over 3 seeds." in decision.about
    assert "may be chance" in said(decide(over_seeds(0.2), STUDY_METRICS))


def test_two_seeds_are_told_to_be_few() -> None:
    decision = decide(over_seeds(0.001, num_seeds=2), STUDY_METRICS)
    assert "Two seeds hardly tell settings apart" in decision.about


def test_settings_that_share_no_two_seeds_are_not_told_apart() -> None:
    trials = [one for one in over_seeds(0.001) if one.params["batch_size"] != 4 or one.params["seed"] == 0]
    decision = decide(trials, STUDY_METRICS)
    assert said(decision) == "batch_size=1 leads on SSIM, by the mean over the seeds."
    assert decision.about == "No two seeds are there for all settings: nothing can be told of differences."


def test_a_setting_of_which_a_seed_diverged_does_not_lead() -> None:
    trials = over_seeds(0.001)
    trials[1] = trial("1,1", params={"batch_size": 1, "seed": 1}, status="diverged", ssim=0.5)
    assert said(decide(trials, STUDY_METRICS)).startswith("batch_size=4 leads on SSIM, by the mean over 3 seeds.")


def test_a_halved_sweep_is_compared_by_the_pictures_that_decided_nothing() -> None:
    chosen_by = np.array([name in selection_half(PICTURES) for name in PICTURES])
    # Better by far on the half that the rungs were decided by, and worse on the other.
    lucky = measured("lucky", ssim=np.where(chosen_by, 0.9, 0.3) + NOISE[0], l1=0.2 + NOISE[0])
    honest = measured("honest", ssim=0.4 + NOISE[1], l1=0.2 + NOISE[1])
    values = {one.folder.root: found for one, found in (lucky, honest)}
    assert said(decide([lucky[0], honest[0]], STUDY_METRICS, values)).startswith("lucky leads on ")

    halted = trial("halted", status="halted", ssim=0.1)
    decision = decide([lucky[0], honest[0], halted], STUDY_METRICS, values)
    assert decision.leaders[0].trial.name == "honest"
    assert decision.leaders[0].figure.value == pytest.approx(0.4, abs=0.01)
    assert decision.leaders[0].figure.has_interval
    assert "same 10 pictures" in decision.about
    assert any("by the half of the pictures that decided nothing" in caveat for caveat in decision.caveats)


def test_the_best_of_very_many_trials_are_compared() -> None:
    random = np.random.default_rng(0)
    made = [
        measured(f"{i:03d}", ssim=i / 100 + random.normal(0, 0.01, NUM_PICTURES), l1=random.uniform(0, 1, NUM_PICTURES))
        for i in range(100)
    ]
    decision = decide([one for one, _ in made], STUDY_METRICS, {one.folder.root: found for one, found in made})
    assert "among the 24 best, at once" in decision.about
    assert decision.leaders[0].num_compared == 23
    assert decision.leaders[0].num_ranked == 100


def with_patch_values(folder: Path) -> None:
    """Writes an evaluation.csv for each trial of an experiment, of values whose means are those of its results."""
    random = np.random.default_rng(0)
    for _, row in read_results(str(folder))[1]:
        keys = [metric.key for metric in METRICS if row[metric.key] is not None]
        noise = random.normal(0, 0.001, (NUM_PICTURES, len(keys)))
        values = np.array([row[key] for key in keys]) + noise - noise.mean(axis=0)
        scores = Scores(
            keys,
            [PatchOrigin(name, 0, 0) for name in PICTURES],
            {"study": values, "eval": values},
        )
        Storage.open(folder / "trials" / row["trial"]).write("evaluation.csv", csv_of(scores))


def test_a_page_compares_what_the_trials_left_and_no_changed_file(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path, sweep={"batch_size": [2, 8]})
    with_patch_values(folder)
    rendered = page_of(folder)
    assert "clearly better over the other on" in rendered
    assert "same 20 pictures" in rendered
    report = Report([Storage.open(folder)])
    first = report.render([read_results(str(folder))[1]])
    assert report.render([read_results(str(folder))[1]]) == first

    file = folder / "trials" / "batch_size=8" / "evaluation.csv"
    file.write_text(file.read_text().replace(",study,0.", ",study,0.1", 1))
    assert "batch_size=8 has no sound evaluation.csv" in page_of(folder)
