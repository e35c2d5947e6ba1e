"""Metrics against parameters that were drawn: where the points lie, and that a grid stays a heat map."""

from pathlib import Path

import pytest

from runner.config.search_space import Range
from runner.report.charts.scatters import draw_scatters
from runner.report.figures import STUDY_METRICS
from runner.report.reading import read_drawn
from runner.storage.storage import Storage
from tests.support.experiment_folder import write_experiment_folder
from tests.support.report_pages import page_of, trial

DRAWN = {"lambda_l1": Range("lambda_l1", "sweep.lambda_l1.log_uniform", 1, 100, True, False)}

SEARCH = {"lambda_l1": {"log_uniform": [10, 1000]}, "learning_rate": {"uniform": [0.0001, 0.001]}, "samples": 3}


def test_points_lie_where_their_values_are_and_the_best_is_marked() -> None:
    trials = [
        trial(f"{w}", params={"lambda_l1": w}, psnr=psnr) for w, psnr in ((1.0, 10.0), (10.0, 30.0), (100.0, 20.0))
    ]
    scatters = draw_scatters(trials, STUDY_METRICS, DRAWN)
    assert scatters is not None
    (chart,) = scatters.charts
    left, middle, right = chart.points
    assert (chart.metric.title, chart.parameter, chart.log) == ("PSNR", "lambda_l1", True)
    assert left.x < 100 < 900 < right.x
    assert middle.x == pytest.approx(500)  # the middle by the logarithm
    assert right.y == pytest.approx(50)
    assert left.y > right.y > middle.y > 0  # y grows downwards
    assert [point.best for point in chart.points] == [False, True, False]
    assert middle.about == "10.0: PSNR 30.00"
    assert (scatters.legend, middle.bar) == ([], None)


def test_trials_that_differ_in_more_than_what_was_drawn_have_colours() -> None:
    trials = [
        trial(f"{w},{b}", params={"lambda_l1": w, "batch_size": b}, ssim=0.1, ssim_low=0.05, ssim_high=0.2)
        for w in (2.0, 20.0)
        for b in (4, 8)
    ]
    scatters = draw_scatters(trials, STUDY_METRICS, DRAWN)
    assert scatters is not None
    assert scatters.legend == ["batch_size 4", "batch_size 8"]
    (chart,) = scatters.charts
    assert [point.colour for point in chart.points] == [0, 1, 0, 1]
    low, high = chart.points[0].bar or (0, 0)
    assert 0 < high < chart.points[0].y < low < 100


def test_a_trial_of_another_experiment_that_has_no_number_there_is_no_point() -> None:
    drawn = {"decay_start_epoch": Range("decay_start_epoch", "sweep.decay_start_epoch.uniform", 5, 50, False, True)}
    trials = [trial(f"{epoch}", params={"decay_start_epoch": epoch}, ssim=0.1) for epoch in (None, 7)]
    scatters = draw_scatters(trials, STUDY_METRICS, drawn)
    assert scatters is not None
    assert [point.about for point in scatters.charts[0].points] == ["7: SSIM 0.1000"]
    assert draw_scatters(trials[:1], STUDY_METRICS, drawn) is None


def test_what_went_wrong_or_has_no_figure_is_no_point() -> None:
    bad = trial("bad", params={"lambda_l1": 2.0}, status="diverged", ssim=0.9)
    waiting = trial("waiting", params={"lambda_l1": 3.0}, status="stopped", ssim=None)
    assert draw_scatters([bad, waiting], STUDY_METRICS, DRAWN) is None
    scatters = draw_scatters([bad, waiting, trial("good", params={"lambda_l1": 4.0}, ssim=0.1)], STUDY_METRICS, DRAWN)
    assert scatters is not None
    assert [point.about for point in scatters.charts[0].points] == ["good: SSIM 0.1000"]


def test_an_experiment_that_draws_has_scatters_and_one_with_a_grid_beside_it_its_heat_map(tmp_path: Path) -> None:
    search = write_experiment_folder(tmp_path, "search", sweep={**SEARCH, "batch_size": [2, 8], "seeds": 2})
    grid = write_experiment_folder(tmp_path, "grid", sweep={"batch_size": [2, 8]})
    assert list(read_drawn(Storage.open(search))) == ["lambda_l1", "learning_rate"]
    alone, both = (page_of(*folders) for folders in ((search,), (search, grid)))
    assert alone.count('class="chart scatter"') == 8  # two parameters and four metrics
    assert 'id="grid"' not in alone
    assert "lambda_l1 " in alone and " to " in alone
    assert both.count('class="chart scatter"') == 8
    assert both.count('class="heat-map"') == 8  # four metrics in both modes
    assert 'id="drawn"' not in page_of(grid)


def test_a_zero_of_a_grid_beside_it_makes_an_axis_linear() -> None:
    trials = [trial(f"{w}", params={"lambda_l1": w}, ssim=0.1 + w / 1000) for w in (0.0, 50.0, 100.0)]
    scatters = draw_scatters(trials, STUDY_METRICS, DRAWN)
    assert scatters is not None
    (chart,) = scatters.charts
    assert not chart.log
    assert chart.points[1].x == pytest.approx(500)
