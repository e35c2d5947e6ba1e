"""Validation metrics by epoch: which charts there are, and which epoch of each trial is marked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from runner.report.charts.by_epoch import draw_by_epoch
from runner.report.charts.lines import Chart
from runner.report.trials import PageTrial
from tests.support.experiment_folder import write_experiment_folder
from tests.support.report_pages import page_of, trial


def logged(
    name: str, columns: Mapping[str, Sequence[float | None]], select: str | None = "swd", best_epoch: int | None = None
) -> PageTrial:
    """A trial with a row for each epoch, of 10 steps each.

    Args:
        columns: the values of its log by epoch.
        select, best_epoch: which metric chose which epoch's weights.
    """
    num_epochs = max(map(len, columns.values()))
    log = [
        {"step": 10 * epoch, "epoch": epoch, **{name: values[epoch - 1] for name, values in columns.items()}}
        for epoch in range(1, num_epochs + 1)
    ]
    made = trial(name, best_epoch=best_epoch)
    return replace(made, log=log, record={"config": {"evaluation": {"select": select}}})


def marked(chart: Chart) -> list[tuple[float, str]]:
    """The share of its length at which each line is marked, and the value there."""
    return [(round(line.best.x / 1000, 3), line.best.about) for line in chart.lines if line.best]


def test_the_best_value_of_each_line_is_marked_whether_high_or_low_is_better() -> None:
    made = [
        logged("a", {"val/ssim": [0.1, 0.3, 0.2, 0.3], "val/l1": [0.4, 0.3, 0.2, 0.25]}),
        logged("b", {"val/ssim": [0.5, 0.4], "val/l1": [0.1, 0.2]}),
    ]
    ssim, l1 = draw_by_epoch(made)
    assert (ssim.name, l1.name) == ("SSIM", "L1")
    # Of equal ones the first.
    assert marked(ssim) == [(0.5, "0.3000"), (0.5, "0.5000")]
    assert marked(l1) == [(0.75, "0.2000"), (0.5, "0.1000")]
    assert (ssim.low, ssim.high) == pytest.approx((0.1 - 0.06 * 0.4, 0.5 + 0.06 * 0.4))


def test_the_epoch_of_the_best_weights_is_marked_where_their_metric_is_drawn() -> None:
    values = {"val_selection/swd": [0.3, 0.1, 0.2], "val/ssim": [0.1, 0.2, 0.3]}
    ssim, swd = draw_by_epoch([logged("a", values, best_epoch=3)])
    assert (ssim.name, swd.name) == ("SSIM", "SWD, chooses best weights")
    assert marked(swd) == [(1.0, "0.2000")]
    # While it runs nothing is recorded yet, and another metric has its own best.
    assert marked(draw_by_epoch([logged("a", values)])[1]) == [(0.667, "0.1000")]
    assert marked(draw_by_epoch([logged("a", values, "ssim", 1)])[0]) == [(1.0, "0.3000")]
    assert marked(draw_by_epoch([logged("a", values, "ssim", 1)])[1]) == [(0.667, "0.1000")]


def test_a_metric_that_chooses_has_a_chart_beside_that_of_the_whole_sample() -> None:
    values = {"val_selection/ssim": [0.2, 0.1], "val/ssim": [0.1, 0.2]}
    whole, half = draw_by_epoch([logged("a", values, "ssim", 1)])
    assert (whole.name, marked(whole)) == ("SSIM", [(1.0, "0.2000")])
    assert (half.name, marked(half)) == ("SSIM, chooses best weights", [(0.5, "0.2000")])


def test_values_that_are_none_are_left_out_and_so_is_a_chart_of_nothing_else() -> None:
    (chart,) = draw_by_epoch(
        [logged("a", {"val/ssim": [None, 0.1, 0.2], "val/l1": [None, None, None]}), trial("begun")]
    )
    assert chart.name == "SSIM"
    assert [line.trial for line in chart.lines] == [0]
    assert chart.lines[0].raw.count(",") == 2
    assert draw_by_epoch([trial("begun")]) == []


def test_a_page_has_these_charts_and_a_link_to_them_once_something_is_evaluated(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path, sweep={"batch_size": [2, 8]})
    losses, _, by_epoch = page_of(folder).partition('<section id="by-epoch"')
    assert '<a href="#by-epoch">' in losses
    assert by_epoch.count('class="best-point') == 2 * 4
    assert "SSIM (SSIM, no unit) over the training; at the best epoch batch_size=2 0." in by_epoch
    waiting = write_experiment_folder(tmp_path, "waiting", outcomes={"trial": ("waiting", "")})
    assert 'id="by-epoch"' not in page_of(waiting)
