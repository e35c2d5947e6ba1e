"""The tables on the screen, however wide it is: a number is shown whole or not at all."""

import io
import itertools
import re
from typing import Any

import pytest
import rich.console
from rich.console import RenderableType

from runner.console import Console
from runner.records.results import TrialResult
from runner.records.seeds import RepeatedCell, spread
from runner.screen.live_view import LiveView
from runner.screen.sweep_progress import by_interest, describe_counts, sweep_eta_s
from runner.screen.trial_tables import progress_table, results_table
from runner.trial.progress import TrialProgress

SHORT, LONG = "batch_size=4,lambda_l1=10", "batch_size=4,lambda_l1=10,learning_rate=0.000123456,patching=tiles"
ROW: dict[str, Any] = {
    "status": "out_of_memory",
    "epochs": 122,
    "steps": 123_456,
    "ssim": 0.123456,
    "psnr": 12.3456,
    "l1": 0.23456,
    "hp_l1": 0.034567,
    "seconds": 12345.678,
    "images_per_second": 123.456,
    "restarts": 1,
    "goodput": 0.8512,
}
LOGGED = {"epoch": 122, "step": 1200, "total_gen_loss": 12.3456, "total_disc_loss": 0.51234, "l1_loss": 0.34567}


def console(width: int, height: int = 24, color: str | None = None, *, no_color: bool = False) -> Console:
    """A terminal whose text is kept."""
    return Console(
        rich.console.Console(
            file=io.StringIO(), force_terminal=True, color_system=color, no_color=no_color, width=width,  # type: ignore[arg-type]
            height=height, soft_wrap=True, highlight=False,
        )
    )  # fmt: skip


def lines_of(shown: Console) -> list[str]:
    file = shown.rich.file
    assert isinstance(file, io.StringIO)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def rendered(renderable: RenderableType, width: int, height: int = 24) -> list[str]:
    shown = console(width, height)
    shown.rich.print(renderable)
    return lines_of(shown)


def result(name: str, **row: Any) -> TrialResult:
    params = dict(part.split("=") for part in name.split(",")) if "=" in name else {}
    return TrialResult(params, ROW | {"trial": name} | row)


def swept(count: int) -> list[dict[str, Any]]:
    """The parameters of a sweep over three fields, one of which has values of many digits."""
    grid = itertools.product((1, 4, 10), (0.5, 10, 100, 1000, 1e39), (0.0002, 1.23456e-05))
    return [
        dict(zip(("batch_size", "lambda_l1", "learning_rate"), cell, strict=True))
        for cell in itertools.islice(grid, count)
    ]


def sweep(*statuses: str) -> list[TrialProgress]:
    """Trials of a sweep in these states."""
    return [
        TrialProgress(
            ",".join(f"{name}={value}" for name, value in params.items()), status, 200,
            0 if status == "waiting" else 123_456, 400_000, 0.0234 if status == "running" else 0.0, 1,
            {} if status == "waiting" else LOGGED, {} if status == "waiting" else {"ssim": 0.123456, "psnr": 12.3456},
            params, 4,
        )
        for status, params in zip(statuses, swept(len(statuses)), strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("width", "titles", "cells"),
    [
        (
            160,
            "trial status epochs steps SSIM PSNR L1 HP-L1 seconds images/s restarts goodput",
            "out_of_memory 122 123456 0.1235 12.35 0.2346 0.03457 12346 123.5 1 0.8512",
        ),
        (80, "trial status epochs SSIM PSNR L1 HP-L1", "out_of_memory 122 0.1235 12.35 0.2346 0.03457"),
        (64, "trial status epochs SSIM PSNR", "out_of_memory 122 0.1235 12.35"),
    ],
)
def test_the_results_on_a_narrow_screen_have_fewer_columns_and_all_digits(width: int, titles: str, cells: str) -> None:
    head, row, *notes = rendered(results_table([result(SHORT)]), width)
    assert head.split() == titles.split()
    assert row.split() == [SHORT, *cells.split()]
    assert max(map(len, (head, row, *notes))) <= width


def test_what_was_left_out_is_said_and_where_it_is() -> None:
    *_, first, second = rendered(results_table([result(SHORT)]), 64)
    assert first == "left out: steps, L1, HP-L1, seconds, images/s, restarts, goodput"
    assert second == "  (results.csv has all columns)"
    assert "left out" not in "".join(rendered(results_table([result(SHORT)]), 160))


NUMBER = re.compile(r"[\d.e+/:-]*\d[\d.e+/:-]*")


@pytest.mark.parametrize("count", [1, 2, 4, 30])
def test_no_digit_is_ever_cut_and_no_line_is_longer_than_the_screen(count: int) -> None:
    """Each number on a screen of any width is one of those that a screen without an edge shows."""
    trials = sweep(*("running", "out_of_memory", "finished", *["waiting"] * 27)[:count])
    results = [
        TrialResult(trial.params, ROW | {"trial": trial.name, "status": trial.status, "ssim": 0.123456 + index})
        for index, trial in enumerate(trials)
    ]
    values = {str(value) for trial in trials for value in trial.params.values()}

    for table in (results_table(results), progress_table(trials)):
        whole = values | {number for line in rendered(table, 1000) for number in NUMBER.findall(line)}
        for width in range(40, 201, 1 + count // 10):
            lines = rendered(table, width)
            assert max(map(len, lines)) <= width
            # The digits of these names are no numbers.
            text = "\n".join(lines).replace("lambda_l1", "").replace("L1", "").replace(" l1 ", "")
            assert set(NUMBER.findall(text)) <= whole, "\n".join(lines)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_what_differs_between_trials_can_be_read_on_any_screen(width: int) -> None:
    lines = rendered(progress_table(sweep(*["running"] * 30)), width)
    text = "\n".join(lines)
    for params in swept(30):
        as_columns = r"(?m)^ *" + r" +".join(re.escape(str(value)) for value in params.values()) + r" +running"
        as_name = r",\s*".join(re.escape(f"{name}={value}") for name, value in params.items())
        assert re.search(as_columns, text) or re.search(as_name, text), params


def test_a_parameter_that_all_trials_share_takes_no_room() -> None:
    results = [result(f"batch_size=4,lambda_l1={value},learning_rate=0.000123456,patching=tiles") for value in (1, 10)]
    first, second, row, *_ = rendered(results_table(results), 80)
    assert [*first.split(), *second.split()[:2]] == ["lambda_", "l1", "status"]
    assert row.split()[:2] == ["1", "out_of_memory"]


@pytest.mark.parametrize(
    ("width", "titles", "cells"),
    [
        (
            160,
            "trial status epoch step step/s gen disc train L1 SSIM PSNR ETA restarts",
            "running 122/200 123456/400000 42.74 12.35 0.5123 0.3457 0.1235 12.35 1:47:51 1",
        ),
        (80, "trial status epoch train L1 SSIM PSNR ETA", "running 122/200 0.3457 0.1235 12.35 1:47:51"),
    ],
)
def test_the_progress_on_a_narrow_screen_keeps_metrics_and_time_left(width: int, titles: str, cells: str) -> None:
    progress = TrialProgress(
        SHORT, "running", 200, 123_456, 400_000, 0.0234, 1, LOGGED, {"ssim": 0.123456, "psnr": 12.3456}
    )
    head, row = rendered(progress_table([progress]), width)
    assert head.split() == titles.split()
    assert row.split() == [SHORT, *cells.split()]


def test_the_best_values_have_a_star_where_there_is_no_colour_and_are_bold_where_there_is() -> None:
    results = [
        result("lambda_l1=10", status="finished", ssim=0.1, psnr=12.0),
        result("lambda_l1=100", status="finished", ssim=0.2, psnr=11.0),
        result("lambda_l1=1000", status="stopped", ssim=0.9, psnr=99.0),
    ]
    first, second, third = rendered(results_table(results), 160)[1:4]
    assert {"0.1", "12*"} < set(first.split()) and {"0.2*", "11"} < set(second.split())
    assert "*" not in third, "a trial that is not finished was measured on fewer patches"
    assert "*: the best of a column" in rendered(results_table(results), 160)

    coloured, colourless = console(160, color="standard"), console(160, color="standard", no_color=True)
    for shown in (coloured, colourless):
        shown.results(results, [])
    assert "\x1b[1;32m0.2\x1b[0m" in "\n".join(lines_of(coloured)) and "*" not in "\n".join(lines_of(coloured))
    assert "0.2*" in "\n".join(lines_of(colourless)) and "\x1b[1;32m" not in "\n".join(lines_of(colourless))


def test_equal_values_have_no_best_one() -> None:
    results = [result(f"lambda_l1={value}", status="finished") for value in (10, 100)]
    assert not [line for line in rendered(results_table(results), 160) if "*" in line]


def test_means_over_seeds_on_a_narrow_screen_are_whole() -> None:
    metrics = {
        key: spread([value, 1.1 * value, 1.3 * value]) for key, value in (("ssim", 0.1), ("psnr", 12), ("l1", 0.2))
    }
    shown = console(60)
    shown.results([], [RepeatedCell("batch_size=4", {}, 3, 3, metrics)])
    head, middle, ends, note = lines_of(shown)[-4:]
    assert head.split() == ["trial", "seeds", "SSIM", "PSNR"]
    assert middle.split() == ["batch_size=4", "3", *["0.113", "±", "0.015", "13.6", "±", "1.8"]]
    assert ends.split() == ["(0.100", "to", "0.130)", "(12.0", "to", "15.6)"]
    assert note == "left out: L1 (over_seeds.csv has all columns)"


def test_a_file_has_all_columns_whatever_the_names_are() -> None:
    shown = Console(rich.console.Console(file=io.StringIO(), soft_wrap=True))
    shown.results([result("trial", trial=3 * LONG)], [])
    _, row = lines_of(shown)
    assert row.split() == [
        3 * LONG, "out_of_memory", "122", "123456", "0.1235", "12.35", "0.2346", "0.03457", "12346", "123.5", "1",
        "0.8512",
    ]  # fmt: skip


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (40, 10), (40, 3), (200, 100)])
def test_the_live_view_is_never_higher_than_the_terminal_and_shows_what_runs(width: int, height: int) -> None:
    trials = sweep(*["waiting"] * 12, *["finished"] * 14, "failed", "running", "running", "waiting")
    lines = rendered(LiveView(trials, 2), width, height)
    assert len(lines) < height and max(map(len, lines)) <= width
    if height >= 24:
        assert lines[0].startswith("30 trials: 2 running, 1 failed, 14 finished, 13 waiting; ETA of all ")
        assert [line.count("running") for line in lines[1:]].count(1) == 2
    if height == 24:
        hidden = int(lines[-1].split()[1])
        assert lines[-1] == f"and {hidden} more: {hidden} waiting"
        assert len(lines) == height - 1 == 1 + 2 + (30 - hidden) + 1, "counts, head, trials and this line"


def test_lines_are_broken_between_words_on_a_terminal_and_not_at_all_in_a_file() -> None:
    line = "  lambda_l1=10: 200 epochs of 4,384 patches, 876,800 steps; memory about 1.2 GB in bf16, disk 870 MB"
    terminal, file = console(60), Console(rich.console.Console(file=io.StringIO(), soft_wrap=True))
    for shown in (terminal, file):
        shown.print(line)
    assert lines_of(file) == [line]
    first, second = lines_of(terminal)
    assert f"{first} {second.strip()}" == line and second.startswith("    ")
    terminal.print(line, wrap=False)
    assert lines_of(terminal)[2] == line


def test_the_time_left_of_a_sweep_counts_the_trials_that_wait_for_a_place() -> None:
    def trial(status: str, step: int, step_s: float, batch_size: int = 1) -> TrialProgress:
        return TrialProgress("trial", status, 1, step, 100, step_s, 0, {}, {}, {}, batch_size)

    running, waiting = trial("running", 40, 1.0), trial("waiting", 0, 0.0)
    assert sweep_eta_s([running], 1) == pytest.approx(60)
    assert sweep_eta_s([waiting, running], 1) == pytest.approx(160)
    assert sweep_eta_s([running, waiting], 2) == pytest.approx(100)
    assert sweep_eta_s([running, trial("waiting", 0, 0.0, batch_size=3)], 2) == pytest.approx(300)
    assert sweep_eta_s([trial("finished", 100, 1.0)], 1) is None, "nothing is left"
    assert sweep_eta_s([waiting], 1) is None, "the speed is not known"


def test_evaluations_count_for_the_time_left_once_they_have_been_seen() -> None:
    trial = TrialProgress("trial", "running", 2, 50, 100, 1.0, 0, {}, {})
    assert (trial.eta_s, trial._replace(pace_s=1.5).eta_s) == (50, 75)


def test_what_runs_comes_first_and_then_what_went_wrong() -> None:
    trials = sweep("waiting", "finished", "failed", "running")
    assert [trial.status for trial in by_interest(trials)] == ["running", "failed", "finished", "waiting"]
    assert describe_counts(trials) == "4 trials: 1 running, 1 failed, 1 finished, 1 waiting"


def test_without_a_terminal_a_sweep_says_how_far_it_is_when_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("runner.console.time.monotonic", lambda: now)
    shown = Console(rich.console.Console(file=io.StringIO(), soft_wrap=True))
    before, after = ("waiting", "waiting"), ("running", "waiting")
    for statuses, at in ((before, 0), (after, 10), (before, 20), (after, 40), (after, 300), (after, 350)):
        now = 1000.0 + at
        shown.show(sweep(*statuses), 1)
    counts = [line.partition(";")[0] for line in lines_of(shown) if line.startswith("2 trials")]
    assert counts == ["2 trials: 2 waiting", *["2 trials: 1 running, 1 waiting"] * 2]
