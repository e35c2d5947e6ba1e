"""How numbers are written on screen and page."""

from typing import Any

import pytest

from runner.number_format import (
    byte_size,
    clock,
    counted,
    duration,
    shortest,
    significant,
    significant_or_dash,
    tick,
    to_width,
)


@pytest.mark.parametrize(
    ("value", "on_page", "on_screen"),
    [
        (0.21, "0.2100", "0.21"),
        (16.0, "16.00", "16"),
        (0.0, "0", "0"),
        (-0.00012345, "-0.0001234", "-0.0001234"),
        (1234.5, "1234", "1234"),
        (12345.678, "12346", "12346"),
        (9_876_543.2, "9876543", "9876543"),
        (1.5e9, "1.500e+09", "1.5e+09"),
        (float("inf"), "inf", "inf"),
    ],
)
def test_a_figure_has_four_digits_and_an_exponent_only_where_it_is_large(
    value: float, on_page: str, on_screen: str
) -> None:
    assert (significant(value), significant_or_dash(value)) == (on_page, on_screen)


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (123_456, "123456"), ("stopped", "stopped")])
def test_a_cell_that_is_no_fraction_is_shown_as_it_is(value: Any, text: str) -> None:
    assert significant_or_dash(value) == text


@pytest.mark.parametrize(("width", "text"), [(0.013, "0.216"), (0.13, "0.22"), (1.3, "0.2"), (130.0, "0")])
def test_a_value_is_as_fine_as_the_range_around_it(width: float, text: str) -> None:
    assert to_width(0.2164, width) == text


@pytest.mark.parametrize(
    ("value", "text"), [(100.0, "100"), (0.0002, "0.0002"), (True, "true"), (None, "null"), ("tiles", "tiles")]
)
def test_a_value_of_an_experiment_is_as_short_as_it_can_be(value: Any, text: str) -> None:
    assert shortest(value) == text


@pytest.mark.parametrize(("value", "text"), [(1_500_000, "1.5M"), (12_000, "12k"), (0.05, "0.05")])
def test_a_tick_has_a_letter_for_thousands_and_millions(value: float, text: str) -> None:
    assert tick(value) == text


@pytest.mark.parametrize(
    ("seconds", "on_page", "on_screen"),
    [
        (None, "–", "-"),
        (12.34, "12.3 s", "0:12"),
        (187.0, "3 min 07 s", "3:07"),
        (7_500.0, "2 h 05 min", "2:05:00"),
    ],
)
def test_a_time_is_a_clock_on_the_screen_and_words_on_the_page(
    seconds: float | None, on_page: str, on_screen: str
) -> None:
    assert (duration(seconds), clock(seconds)) == (on_page, on_screen)


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(400_000, "0.4 MB"), (4_800_000, "4.8 MB"), (230e6, "230 MB"), (1.44e9, "1.4 GB")]
)
def test_bytes_are_in_decimal_units(num_bytes: float, text: str) -> None:
    assert byte_size(num_bytes) == text


def test_one_is_singular() -> None:
    assert [counted(count, "trial") for count in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]
    assert counted(3, "patch", "patches") == "3 patches"
