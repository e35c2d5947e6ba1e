from collections.abc import Sequence

import pytest

from runner.halving.replay import Replay, Run, replay

EPOCHS = 20  # first rungs at 1, 2 and 4: rungs at 1, 3, 9, at 2, 6, 18, and at 4, 12


def run(cell: str, values: Sequence[float], seed: int = 0, metric: str = "swd") -> Run:
    """A trial that was measured after each epoch; its last value is that of the end."""
    return Run(cell, f"{cell},seed={seed}", {metric: dict(enumerate(values, start=1))}, {metric: values[-1]})


def straight(cell: str, value: float) -> Run:
    return run(cell, [value] * EPOCHS)


def late(cell: str, begins_at: int) -> Run:
    """Bad at first, and the best from an epoch on."""
    return run(cell, [9.0] * (begins_at - 1) + [0.1] * (EPOCHS - begins_at + 1))


def halted(found: Sequence[Replay]) -> dict[int, int | None]:
    return {replayed.first_epochs: replayed.halted_at for replayed in found}


def test_a_winner_that_always_led_is_kept_from_any_first_rung() -> None:
    found = replay([straight(cell, value) for cell, value in zip("abcd", (0.4, 0.1, 0.3, 0.2), strict=True)], EPOCHS)
    assert halted(found) == {1: None, 2: None, 4: None}
    assert {replayed.winner for replayed in found} == {"b"}


def test_a_winner_that_begins_slowly_is_lost_at_an_early_rung_and_kept_at_a_later_one() -> None:
    runs = [late("slow", 4), straight("a", 0.2), straight("b", 0.3), straight("c", 0.4)]
    assert halted(replay(runs, EPOCHS)) == {1: 1, 2: 2, 4: None}


def test_it_may_be_lost_at_a_later_rung_than_the_first() -> None:
    values = [0.1, 0.1, 0.1, 0.1, 9.0, 9.0, 9.0, 9.0, 9.0] + [0.1] * (EPOCHS - 9)
    # Of ten cells four go on at epoch 1, two at epoch 3, and one at epoch 9.
    runs = [run("dips", values), *(straight(cell, 0.2 + index) for index, cell in enumerate("abcdefghi"))]
    assert halted(replay(runs, EPOCHS))[1] == 9


def test_the_share_saved_is_that_of_the_epochs() -> None:
    found = replay([straight(cell, 0.1) for cell in "abc"], EPOCHS)
    # Three cells to epoch 4, one of them to 20: 28 of 60 epochs.
    assert [replayed.share_saved for replayed in found if replayed.first_epochs == 4] == [pytest.approx(1 - 28 / 60)]


def test_cells_are_ranked_by_the_mean_over_their_seeds() -> None:
    runs = [
        *(run("a", [value] * EPOCHS, seed) for seed, value in enumerate((0.1, 0.9))),
        *(run("b", [value] * EPOCHS, seed) for seed, value in enumerate((0.4, 0.4))),
        *(run("c", [value] * EPOCHS, seed) for seed, value in enumerate((0.6, 0.6))),
    ]
    assert {replayed.winner for replayed in replay(runs, EPOCHS)} == {"b"}


def test_nothing_is_said_of_two_cells_or_of_epochs_that_were_not_measured() -> None:
    assert replay([straight("a", 0.1), straight("b", 0.2)], EPOCHS) == []
    sparse = [Run(cell, cell, {"swd": {10: 0.1, 20: 0.1}}, {"swd": 0.1}) for cell in "abc"]
    assert replay(sparse, EPOCHS) == []


def test_a_metric_that_one_trial_lacks_is_left_out() -> None:
    runs = [straight("a", 0.1), straight("b", 0.2), run("c", [0.3] * EPOCHS, metric="ssim")]
    assert replay(runs, EPOCHS) == []
