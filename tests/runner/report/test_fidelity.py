"""Fidelity against sharpness: which trials are points, and which of them no other one beats."""

import re
from pathlib import Path
from typing import Any

import pytest

from runner.records.results import TrialResult
from runner.report.charts.fidelity import Fidelity, draw_fidelity
from runner.report.figures import STUDY_METRICS
from runner.report.reading import read_results
from runner.report.trials import PageTrial
from runner.report.writer import Report
from runner.storage.storage import Storage
from tests.support.experiment_folder import write_experiment_folder
from tests.support.report_pages import page_of, trial


def rated(name: str, l1: float, swd: float, **row: Any) -> PageTrial:
    return trial(name, **{"l1": l1, "swd": swd, "ssim": 0.5, "spectrum": 3.0, "hp_l1": 0.1, **row})


def drawn(*trials: PageTrial) -> Fidelity:
    found = draw_fidelity(trials, STUDY_METRICS)
    assert found is not None
    return found


def front_of(found: Fidelity) -> list[str]:
    return [one.trial.name for one in found.front]


def test_the_front_has_the_trials_that_no_other_one_beats_the_nearest_to_the_target_first() -> None:
    found = drawn(
        rated("sharp", 0.40, 0.1),
        rated("beaten by both", 0.45, 0.5),
        rated("blurred", 0.10, 0.4),
        rated("between", 0.20, 0.2),
        rated("as near as between but less sharp", 0.20, 0.3),
        rated("as sharp as sharp but less near", 0.41, 0.1),
    )
    assert (found.fidelity.title, found.sharpness.title) == ("L1", "SWD")
    assert front_of(found) == ["blurred", "between", "sharp"]
    assert [point.best for point in found.points] == [True, False, True, True, False, False]
    assert [point.tag for point in found.points] == ["3", "", "1", "2", "", ""]
    # Low values are at the left and, as y grows downwards, at the bottom.
    sharp, _, blurred, *_ = found.points
    assert blurred.x < sharp.x
    assert blurred.y < sharp.y
    # The line goes through the front's points, from one's height to the next one's.
    numbers = re.findall(r"([MLVH])([\d.]+)", found.path)
    assert [letter for letter, _ in numbers] == ["M", "V", "L", "V", "L", "V", "H"]
    assert [float(y) for letter, y in numbers if letter == "V"] == pytest.approx(
        sorted(point.y for point in found.points if point.best), abs=0.01
    )


def test_trials_with_equal_values_are_on_the_front_together() -> None:
    assert front_of(drawn(rated("a", 0.1, 0.2), rated("b", 0.1, 0.2), rated("c", 0.1, 0.3))) == ["a", "b"]


def test_both_intervals_are_drawn_and_lie_around_the_point() -> None:
    intervals = {"l1_low": 0.08, "l1_high": 0.13, "swd_low": 0.1, "swd_high": 0.35}
    point, other = drawn(rated("a", 0.1, 0.3, **intervals), rated("b", 0.2, 0.2)).points
    assert point.bar is not None and point.bar_across is not None
    assert point.bar_across[0] < point.x < point.bar_across[1]
    assert point.bar[0] > point.y > point.bar[1]
    assert (other.bar, other.bar_across) == (None, None)
    assert point.about == "a: L1 0.1000 (0.080–0.130), SWD 0.3000 (0.10–0.35)"


def test_only_trials_that_ended_well_and_have_both_values_are_points() -> None:
    good = [rated("a", 0.1, 0.3), rated("b", 0.2, 0.2, status="early_stopped")]
    bad = [
        rated(status, 0.01, 0.01, status=status)
        for status in ("diverged", "failed", "out_of_memory", "halted", "running", "stopped")
    ]
    found = drawn(*good, *bad, trial("no swd", l1=0.01))
    assert [point.about.partition(":")[0] for point in found.points] == ["a", "b"]
    assert draw_fidelity([good[0], *bad], STUDY_METRICS) is None
    assert draw_fidelity([trial("a", ssim=0.1, swd=0.1), trial("b", ssim=0.1, swd=0.1)], STUDY_METRICS) is None


def test_of_very_many_trials_the_whole_front_is_shown_and_its_first_ones_are_named() -> None:
    on_front = [rated(f"f{i}", 0.1 + i / 1000, 0.2 - i / 1000) for i in range(20)]
    found = drawn(*on_front, *(rated(f"t{i}", 0.3, 0.3) for i in range(1001)))
    assert sum(point.best for point in found.points) == 20
    assert (len(found.front), found.more) == (12, 8)
    assert found.left_out == 1021 - len(found.points) > 0
    assert len(found.points) <= 420


def test_settings_over_seeds_are_points_with_their_lowest_and_highest_values(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path, sweep={"batch_size": [2, 8], "seeds": 2})
    results = [
        TrialResult(params, {**row, "swd": 0.2 + 0.01 * index})
        for index, (params, row) in enumerate(read_results(str(folder))[1])
    ]
    rendered = Report([Storage.open(folder)]).render([results]).decode()
    section = rendered[rendered.index('<section id="fidelity"') :].partition("</section>")[0]
    assert '<a href="#fidelity">' in rendered
    assert section.count("<title>batch_size=") == 2
    assert section.count('class="bar"') == 4
    assert "SWD 0.2050 (0.200–0.210)" in section
    assert 'id="fidelity"' not in page_of(folder)  # nothing there sees blur
