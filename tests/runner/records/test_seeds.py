"""Trials that differ in their seed alone, together: mean and spread on the console, in a file, on the page."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import rich.console

from runner.console import Console
from runner.records.results import TrialResult
from runner.records.seeds import Spread, repeated_cells, spread
from runner.report.__main__ import main
from runner.report.charts.heatmaps import heat_maps
from runner.report.figures import STUDY_METRICS
from runner.report.reading import read_results
from runner.report.seeds import over_seeds
from runner.report.verdict.decision import decide
from runner.report.writer import Report
from runner.storage.storage import Storage
from tests.support.experiment_folder import write_experiment_folder
from tests.support.report_pages import said, trial

SWEEP = {"batch_size": [2, 8], "seeds": 3}


def result(batch_size: int, seed: int, ssim: float | None, status: str = "finished") -> TrialResult:
    """A trial's parameters and row."""
    row = {"trial": f"batch_size={batch_size},seed={seed}", "status": status, "ssim": ssim}
    return TrialResult({"batch_size": batch_size, "seed": seed}, row)


def test_a_cell_over_its_seeds_has_mean_spread_and_extremes() -> None:
    results = [
        result(b, s, value)
        for b, values in ((2, (0.1, 0.2, 0.6)), (8, (0.5, 0.5, 0.5)))
        for s, value in enumerate(values)
    ]
    two, eight = repeated_cells(results)
    assert (two.name, two.params, two.num_seeds, two.num_counted) == ("batch_size=2", {"batch_size": 2}, 3, 3)
    assert two.metrics["ssim"] == pytest.approx((0.3, 0.07**0.5, 0.1, 0.6))
    assert two.metrics["ssim"].text == "0.30 ± 0.26"
    assert two.metrics["ssim"].ends == "0.10 to 0.60"
    assert eight.metrics["ssim"].text == "0.5000 ± 0.0000"
    assert list(two.metrics) == ["ssim"]


def test_a_trial_that_ended_by_its_patience_counts_with_the_finished_ones() -> None:
    (cell,) = repeated_cells([result(1, 0, 0.1), result(1, 1, 0.3, "early_stopped"), result(1, 2, 0.9, "halted")])
    assert (cell.num_seeds, cell.num_counted) == (3, 2)
    assert cell.metrics["ssim"].mean == pytest.approx(0.2)


def test_only_finished_trials_count_once_there_are_some() -> None:
    results = [result(2, 0, 0.1), result(2, 1, 0.2), result(2, 2, 0.9, "running")]
    (cell,) = repeated_cells(results)
    assert (cell.num_seeds, cell.num_counted, cell.metrics["ssim"].max) == (3, 2, 0.2)
    (cell,) = repeated_cells([result(2, 0, 0.1, "running"), result(2, 1, 0.9, "diverged")])
    assert (cell.num_counted, cell.metrics["ssim"]) == (1, Spread(0.1, None, 0.1, 0.1))
    (cell,) = repeated_cells([result(2, 0, 0.1, "failed"), result(2, 1, 0.9, "diverged")])
    assert (cell.num_counted, cell.metrics) == (0, {})


def test_nothing_is_said_of_seeds_where_none_repeats() -> None:
    assert repeated_cells([result(2, 0, 0.1), result(8, 0, 0.2)]) == []
    assert repeated_cells([TrialResult({}, {"status": "finished"})]) == []


def test_a_single_value_has_no_spread() -> None:
    assert spread([0.25]).text == "0.25"
    assert spread([0.25]).ends == ""


def test_the_screen_has_a_second_table_over_the_seeds(tmp_path: Path) -> None:
    _, results = read_results(str(write_experiment_folder(tmp_path, sweep=SWEEP)))
    stream = io.StringIO()
    Console(rich.console.Console(file=stream, soft_wrap=True)).results(results, repeated_cells(results))
    lines = stream.getvalue().splitlines()
    title = lines.index("over 3 seeds: mean ± standard deviation (min to max)")
    assert lines[title + 1].split() == ["trial", "seeds", "SSIM", "PSNR", "L1", "HP-L1"]
    assert lines[title + 2].startswith("batch_size=2")
    assert lines[title + 2].count("±") == 4
    assert lines[title + 3].count(" to ") == 4


def test_the_results_have_a_row_a_trial_and_a_file_of_the_cells_as_long_as_there_are_repeats(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path, sweep=SWEEP)
    assert main([str(folder)]) == 0
    with (folder / "results.csv").open() as stream:
        assert [row["seed"] for row in csv.DictReader(stream)] == ["0", "1", "2"] * 2
    rows = json.loads((folder / "results.json").read_text())
    with (folder / "over_seeds.csv").open() as stream:
        first, second = csv.DictReader(stream)
    assert list(first)[:8] == [
        "batch_size", "cell", "seeds", "seeds_counted", "ssim_mean", "ssim_std", "ssim_min", "ssim_max",
    ]  # fmt: skip
    assert (first["batch_size"], first["cell"], first["seeds"]) == ("2", "batch_size=2", "3")
    assert float(second["ssim_mean"]) == pytest.approx(sum(row["ssim"] for row in rows[3:]) / 3)
    write_experiment_folder(tmp_path, sweep={"batch_size": [2, 8]})
    assert main([str(folder)]) == 0
    assert not (folder / "over_seeds.csv").exists()


def repeated(batch_size: int, values: tuple[float, ...], **row: Any) -> list[Any]:
    """Trials of one cell, one for each of these values of SSIM."""
    return [
        trial(f"{batch_size},{seed}", params={"batch_size": batch_size, "seed": seed}, ssim=value, **row)
        for seed, value in enumerate(values)
    ]


def test_the_verdict_goes_by_the_mean_over_the_seeds() -> None:
    lucky, better = repeated(2, (0.10, 0.20, 0.90)), repeated(8, (0.50, 0.55, 0.60))
    decision = decide([*lucky, *better], STUDY_METRICS)
    assert said(decision) == ("batch_size=8 leads on SSIM, by the mean over 3 seeds. On SSIM the lead may be chance.")
    assert decision.leaders[0].figure.value == pytest.approx(0.55)


def test_one_setting_over_its_seeds_is_told_without_a_ranking() -> None:
    trials = [trial(f"seed={seed}", params={"seed": seed}, ssim=0.1 + seed) for seed in (0, 1)]
    assert said(decide(trials, STUDY_METRICS)) == "There is one setting, trial, as the mean over 2 seeds: SSIM 0.6000."
    assert heat_maps(over_seeds(trials), STUDY_METRICS) == []


def test_a_cell_of_the_heat_map_is_the_mean_over_its_seeds() -> None:
    trials = [*repeated(2, (0.1, 0.2)), *repeated(8, (0.5, 0.7))]
    diverged = trial("8,2", params={"batch_size": 8, "seed": 2}, ssim=0.9, status="diverged")
    (heat_map,) = heat_maps(over_seeds([*trials, diverged]), STUDY_METRICS)
    ((_, (two, eight)),) = heat_map.facets[0].rows
    assert (two.figure.value, two.figure.interval) == (pytest.approx(0.15), "0.10–0.20")
    assert (eight.figure.value, eight.note, eight.best) == (pytest.approx(0.6), "2 of 3 seeds", True)
    assert two.note == ""


def test_trials_without_repeats_stay_as_they_are() -> None:
    trials = [trial("a", params={"batch_size": 2}, ssim=0.1), trial("b", params={"batch_size": 8}, ssim=0.2)]
    assert over_seeds(trials) == trials


def test_a_page_over_seeds_has_a_table_of_them(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path, sweep=SWEEP, outcomes={"batch_size=2,seed=1": ("failed", "for a test")})
    rendered = Report([Storage.open(folder)]).render([read_results(str(folder))[1]]).decode()
    assert 'id="seeds"' in rendered
    assert "2 of 3" in rendered
    assert "No winner yet: 1 trial can still win. So far" in rendered
    assert "A cell is a setting, by the mean over its seeds." in rendered
    plain = write_experiment_folder(tmp_path, "plain", sweep={"batch_size": [2, 8]})
    assert 'id="seeds"' not in Report([Storage.open(plain)]).render([read_results(str(plain))[1]]).decode()
