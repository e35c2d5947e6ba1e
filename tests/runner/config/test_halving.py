from typing import Any

import pytest

from runner.config.halving import Halving, read_halving
from runner.config.loading import load_experiment
from runner.errors import ConfigError


def experiment(halving: Any, **sweep: Any) -> dict[str, Any]:
    return {"name": "h", "training": {"epochs": 200}, "sweep": {"batch_size": [1, 4], **sweep, "halving": halving}}


@pytest.mark.parametrize(("num_cells", "share"), [(6, 28), (9, 24), (30, 25)])
def test_three_rungs_take_about_a_quarter_of_the_steps(num_cells: int, share: int) -> None:
    halving = Halving("swd", 20, 3)
    assert halving.rungs(200) == (20, 60, 180)
    assert round(100 * halving.cell_epochs(num_cells, 200) / (num_cells * 200)) == share


def test_at_the_last_epoch_nothing_is_ranked() -> None:
    assert Halving("swd", 20, 3).rungs(180) == (20, 60)
    assert Halving("swd", 20, 3).rungs(181) == (20, 60, 180)


@pytest.mark.parametrize(("num_cells", "kept"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 3), (10, 4)])
def test_the_best_part_is_rounded_up(num_cells: int, kept: int) -> None:
    assert Halving("swd", 20, 3).num_kept(num_cells) == kept


def test_metric_and_factor_have_defaults() -> None:
    assert read_halving({"halving": {"first_epochs": 5}}) == Halving("swd", 5, 3)
    assert read_halving({}) is None


@pytest.mark.parametrize(
    ("halving", "text"),
    [
        ({"first_epochs": 20, "reduction_factor": 1}, "sweep.halving.reduction_factor is 1: it must be a whole number"),
        ({"first_epochs": 20, "reduction_factor": 2.5}, "sweep.halving.reduction_factor is 2.5: it"),
        ({"first_epochs": 20, "reduction_factor": True}, "sweep.halving.reduction_factor is true: it"),
        ({"first_epochs": 0}, "sweep.halving.first_epochs is 0: it must be a whole number of epochs, 1 or more"),
        ({"first_epochs": 200}, "sweep.halving.first_epochs is 200: it must be less than training.epochs, 200"),
        ({"first_epochs": 20, "metric": "fid"}, "sweep.halving.metric is 'fid': it must be one of ssim, psnr"),
        ({"first_epochs": 20, "metric": ["swd"]}, r"sweep.halving.metric is \["),
        ({"first_epoch": 20}, "`sweep.halving.first_epoch` is not a field of halving; did you mean `first_epochs`"),
        ({}, "`sweep.halving.first_epochs` is missing: say where the first rung is, for example `halving: {"),
        (None, "sweep.halving is null: it must hold fields of its own, for example"),
        ([20], r"sweep.halving is \[20\]: it must hold fields"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_refused_with_field_value_rule_and_remedy(halving: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        load_experiment(experiment(halving))


@pytest.mark.parametrize(("field", "values"), [("epochs", [100, 200]), ("patching", ["tiles", "resize"])])
def test_cells_that_can_not_be_compared_are_not_halved(field: str, values: list[Any]) -> None:
    with pytest.raises(ConfigError, match=f"sweep.{field} with sweep.halving: .*; take one of the two out"):
        load_experiment(experiment({"first_epochs": 20}, **{field: values}))
