"""The tables on the screen, however wide it is: a number is shown whole or not at all."""

import io
from typing import Any

import pytest
import rich.console

from runner.console import Console, progress_table
from runner.records.seeds import RepeatedCell, spread
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
}
LOGGED = {"epoch": 122, "step": 1200, "total_gen_loss": 12.3456, "total_disc_loss": 0.51234, "l1_loss": 0.34567}


def screen(width: int) -> Console:
    """A terminal whose text is kept."""
    rich_console = rich.console.Console(
        file=io.StringIO(), force_terminal=True, color_system=None, width=width, soft_wrap=True
    )
    return Console(rich_console)


def lines_of(console: Console) -> list[str]:
    file = console.rich.file
    assert isinstance(file, io.StringIO)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("width", "titles", "cells"),
    [
        (
            160,
            "trial status epochs steps SSIM PSNR L1 HP-L1 seconds images/s restarts",
            "out_of_memory 122 123456 0.1235 12.35 0.2346 0.03457 12346 123.5 1",
        ),
        (80, "trial status epochs SSIM PSNR L1 HP-L1", "out_of_memory 122 0.1235 12.35 0.2346 0.03457"),
        (60, "trial status SSIM PSNR", "out_of_memory 0.1235 12.35"),
    ],
)
def test_the_results_on_a_narrow_screen_have_fewer_columns_and_all_digits(width: int, titles: str, cells: str) -> None:
    console = screen(width)
    console.results([ROW | {"trial": SHORT}], [])
    head, row = lines_of(console)
    assert head.split() == titles.split()
    assert row.split() == [SHORT, *cells.split()]
    assert max(len(head), len(row)) <= width


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_long_name_is_folded_and_takes_no_digit_from_the_numbers(width: int) -> None:
    console = screen(width)
    console.results([ROW | {"trial": LONG}], [])
    _, first, *rest = lines_of(console)
    name, *cells = first.split()
    assert name + "".join(rest).replace(" ", "") == LONG
    assert cells[0] == "out_of_memory" and "0.1235" in cells
    assert set(cells) < {"out_of_memory", "122", "123456", "0.1235", "12.35", "0.2346", "0.03457", "12346"}
    assert len(first) <= width


@pytest.mark.parametrize(
    ("width", "titles", "cells"),
    [
        (
            160,
            "trial status epoch step step/s gen disc L1 SSIM PSNR ETA restarts",
            "running 122/200 123456/400000 42.74 12.35 0.5123 0.3457 0.1235 12.35 1:47:51 1",
        ),
        (80, "trial status epoch L1 SSIM PSNR ETA", "running 122/200 0.3457 0.1235 12.35 1:47:51"),
    ],
)
def test_the_progress_on_a_narrow_screen_keeps_metrics_and_time_left(width: int, titles: str, cells: str) -> None:
    progress = TrialProgress(
        SHORT, "running", 200, 123_456, 400_000, 0.0234, 1, LOGGED, {"ssim": 0.123456, "psnr": 12.3456}
    )
    console = screen(width)
    console.rich.print(progress_table([progress]))
    head, row = lines_of(console)
    assert head.split() == titles.split()
    assert row.split() == [SHORT, *cells.split()]


def test_means_over_seeds_on_a_narrow_screen_are_whole() -> None:
    metrics = {
        key: spread([value, 1.1 * value, 1.3 * value]) for key, value in (("ssim", 0.1), ("psnr", 12), ("l1", 0.2))
    }
    console = screen(60)
    console.results([], [RepeatedCell("batch_size=4", {}, 3, 3, metrics)])
    head, middle, ends = lines_of(console)[-3:]
    assert head.split() == ["trial", "seeds", "SSIM", "PSNR"]
    assert middle.split() == ["batch_size=4", "3", *["0.113", "±", "0.015", "13.6", "±", "1.8"]]
    assert ends.split() == ["(0.100", "to", "0.130)", "(12.0", "to", "15.6)"]


def test_a_file_has_all_columns_whatever_the_names_are() -> None:
    console = Console(rich.console.Console(file=io.StringIO(), soft_wrap=True))
    console.results([ROW | {"trial": 3 * LONG}], [])
    _, row = lines_of(console)
    assert row.split() == [
        3 * LONG, "out_of_memory", "122", "123456", "0.1235", "12.35", "0.2346", "0.03457", "12346", "123.5", "1",
    ]  # fmt: skip
