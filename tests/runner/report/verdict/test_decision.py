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
from runner.records.results import TrialResult
from runner.records.seeds import repeated_cells
from runner.report.figures import STUDY_METRICS
from runner.report.reading import read_results
from runner.report.seeds import with_trials
from runner.report.trials import PageTrial
from runner.report.verdict.compared import MAX_CELLS
from runner.report.verdict.decision import decide
from runner.report.writer import Report
from runner.storage.storage import Storage
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
    assert said(decision) == ("a leads on both metrics. The lead is clear on L1 and on SSIM over 1 of 2 others.")
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
    assert said(decision) == "No winner yet: 1 trial can still win. So far a is ahead on both metrics."
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
    assert said(decision) == "a leads on both metrics."
    assert "can’t tell differences from chance: it takes 6 at least." in decision.about


def test_other_patches_make_nothing_clear() -> None:
    trials, values = three_trials()
    path = trials[1].folder.root
    values[path] = PatchValues([*ORIGINS[1:], ORIGINS[0]], values[path].metrics)
    decision = decide(trials, STUDY_METRICS, values)
    assert said(decision) == "a leads on both metrics."
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
    assert said(decision) == ("batch_size=1 leads on SSIM, by the mean over 3 seeds. The lead is clear on SSIM.")
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
    assert any("of the half of the pictures that decided nothing" in caveat for caveat in decision.caveats)

    alone = decide([lucky[0], halted], STUDY_METRICS, values)
    assert said(alone) == "lucky is left of the halved sweep; 1 other setting was halted."
    assert alone.leaders[0].figure.value == pytest.approx(0.3, abs=0.01)


def test_of_very_many_trials_no_difference_is_told_because_the_best_of_them_are_good_by_chance() -> None:
    random = np.random.default_rng(0)
    values = random.normal(0, 1, (MAX_CELLS + 1, NUM_PICTURES))
    made = [measured(f"{i:03d}", ssim=values[i], l1=values[i]) for i in range(MAX_CELLS + 1)]
    patches = {one.folder.root: found for one, found in made}
    decision = decide([one for one, _ in made], STUDY_METRICS, patches)
    assert all(leader.unclear is None for leader in decision.leaders)
    assert f"Differences of more than {MAX_CELLS} are not told from chance" in decision.about
    assert decide([one for one, _ in made[1:]], STUDY_METRICS, patches).leaders[0].num_compared == MAX_CELLS - 1


def test_settings_with_more_seeds_than_others_are_ranked_by_those_that_all_have() -> None:
    # By all its seeds the first one is ahead, and by those of the other it is behind.
    few = [trial(f"8,{s}", params={"batch_size": 8, "seed": s}, ssim=v) for s, v in enumerate((0.6, 0.601, 0.599))]
    more = (0.5, 0.501, 0.4991, 0.9, 0.9)
    many = [trial(f"1,{s}", params={"batch_size": 1, "seed": s}, ssim=v) for s, v in enumerate(more)]
    assert said(decide([*few, *many], STUDY_METRICS)).startswith(
        "batch_size=8 leads on SSIM, by the mean over 3 seeds."
    )


def test_what_is_left_of_a_halved_sweep_is_not_ranked_without_the_values_of_its_patches() -> None:
    lucky = measured("lucky", ssim=0.9 + NOISE[0], l1=0.2 + NOISE[0])
    honest = measured("honest", ssim=0.4 + NOISE[1], l1=0.2 + NOISE[1])
    halted = trial("halted", status="halted", ssim=0.1)
    trials = [lucky[0], honest[0], halted]
    decision = decide(trials, STUDY_METRICS, {honest[0].folder.root: honest[1]})
    assert said(decision).startswith("lucky has no sound evaluation.csv, so what is left of this halved sweep")
    assert not decision.leaders

    running = decide([*trials, trial("d", status="running", ssim=0.1)], STUDY_METRICS)
    assert said(running).startswith("No winner yet")
    assert not any("half of the pictures" in caveat for caveat in running.caveats)


def test_a_cell_that_can_not_win_any_more_keeps_nobody_waiting() -> None:
    trials = over_seeds(0.001)
    trials[1] = trial("1,1", params={"batch_size": 1, "seed": 1}, status="diverged", ssim=0.5)
    trials[2] = trial("1,2", params={"batch_size": 1, "seed": 2}, status="failed")
    assert said(decide(trials, STUDY_METRICS)).startswith("batch_size=4 leads on SSIM")


def test_cells_have_no_seeds_of_earlier_starts() -> None:
    trials = [*over_seeds(0.001), trial("8,3", params={"batch_size": 8, "seed": 3}, ssim=0.9, in_sweep=False)]
    assert said(decide(trials, STUDY_METRICS)).startswith("batch_size=1 leads on SSIM, by the mean over 3 seeds.")
    assert [cell.num_seeds for cell, _ in with_trials(trials)] == [3, 3, 3]
    assert [cell.num_seeds for cell in repeated_cells([TrialResult(t.params, t.row) for t in trials])] == [3, 3, 3]


@pytest.mark.parametrize("status", ["finished", "stopped"])
def test_experiments_of_other_patches_or_the_other_direction_are_not_ranked(tmp_path: Path, status: str) -> None:
    ended = {"trial": (status, "Ctrl-C")} if status != "finished" else {}
    one = write_experiment_folder(tmp_path, "one", outcomes=ended)
    other = write_experiment_folder(tmp_path, "other", patching="resize", outcomes=ended)
    assert "validated on different patches, so they are not ranked" in page_of(one, other)

    turned = write_experiment_folder(tmp_path, "turned", outcomes=ended, direction="map_to_satellite")
    back = write_experiment_folder(tmp_path, "back", outcomes=ended, direction="satellite_to_map")
    assert "validated on different patches, so they are not ranked" in page_of(turned, back)


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
    assert "The lead is clear on" in rendered
    assert "same 20 pictures" in rendered
    report = Report([Storage.open(folder)])
    first = report.render([read_results(str(folder))[1]])
    assert report.render([read_results(str(folder))[1]]) == first

    file = folder / "trials" / "batch_size=8" / "evaluation.csv"
    file.write_text(file.read_text().replace(",study,0.", ",study,0.1", 1))
    assert "batch_size=8 has no sound evaluation.csv" in page_of(folder)
