"""What a long piece of work shows of itself: a bar, lines now and then, or nothing."""

import io

import pytest
import rich.console

from runner.console import Console


def lines(console: Console) -> list[str]:
    file = console.rich.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("is_terminal", [False, True])
def test_quick_work_shows_nothing(is_terminal: bool) -> None:
    console = Console(rich.console.Console(file=io.StringIO(), force_terminal=is_terminal, width=80))
    with console.progress("cutting pictures", 3) as bar:
        for _ in range(3):
            bar.advance()
    assert lines(console) == []


def test_in_a_file_there_is_a_line_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("runner.screen.progress_bar.time.monotonic", lambda: now)
    console = Console(rich.console.Console(file=io.StringIO(), width=80))
    with console.progress("cutting pictures", 1000) as bar:
        for _ in range(100):
            now += 1.0
            bar.advance(10)
    assert lines(console) == [
        "cutting pictures: 310 of 1000 (31 %), 1:09 left",
        "cutting pictures: 620 of 1000 (62 %), 0:38 left",
        "cutting pictures: 930 of 1000 (93 %), 0:07 left",
    ]


def test_on_a_terminal_a_bar_is_there_though_the_first_piece_takes_long_and_is_gone_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runner.screen.progress_bar._QUICK_S", 0.0)
    console = Console(rich.console.Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80))
    with console.progress("exporting [x]", 3) as bar:
        while "exporting [x]" not in "".join(lines(console)):
            pass  # the bar's own thread shows it
        bar.advance(3)
    assert lines(console)[-1].endswith("\x1b[1A\x1b[2K"), "the bar is erased"
