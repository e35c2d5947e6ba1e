"""Ranges that are drawn from, seeds that repeat: which trials follow from them, on every machine and for good."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import runner.tune
from runner.config.loading import PlannedTrial, load_experiment, plan_trials
from runner.config.search_space import Range
from runner.errors import ConfigError
from tests.support.commands import write_experiment

Capture = pytest.CaptureFixture[str]
LAMBDA = {"lambda_l1": {"log_uniform": [10, 1000]}}
RATE = {"learning_rate": {"uniform": [0.0001, 0.001]}}


def trials_of(tmp_path: Path, sweep: dict[str, Any], **training: Any) -> list[PlannedTrial]:
    """The trials of SMALL with that sweep."""
    path = write_experiment(tmp_path, sweep=sweep, training=training)
    return plan_trials(load_experiment(path), str(path))


def drawn(trials: list[PlannedTrial], field: str) -> list[float]:
    """A field's values, each once, in the order of the trials."""
    return list(dict.fromkeys(trial.params[field] for trial in trials))


def test_what_is_drawn_is_the_same_on_every_machine_and_in_every_version(tmp_path: Path) -> None:
    trials = trials_of(tmp_path, {**LAMBDA, **RATE, "samples": 3})
    assert [trial.name for trial in trials] == [
        "lambda_l1=23.0185,learning_rate=0.000186315",
        "lambda_l1=14.8114,learning_rate=0.000422896",
        "lambda_l1=629.474,learning_rate=0.000619566",
    ]
    assert drawn(trials_of(tmp_path, {**LAMBDA, "samples": 3}, seed=1), "lambda_l1") == [63.7899, 14.1049, 212.742]


def test_the_value_trained_with_is_the_one_in_the_name(tmp_path: Path) -> None:
    for trial in trials_of(tmp_path, {**LAMBDA, **RATE, "samples": 20}):
        named = dict(part.split("=") for part in trial.name.split(","))
        assert list(named) == ["lambda_l1", "learning_rate"]
        assert float(named["lambda_l1"]) == trial.config.training.lambda_l1
        assert float(named["learning_rate"]) == trial.config.training.learning_rate
        assert len(trial.name) <= len("lambda_l1=123.456,learning_rate=0.000123456")


def test_more_samples_or_fields_change_nothing_that_was_drawn_before(tmp_path: Path) -> None:
    four = trials_of(tmp_path, {**LAMBDA, "samples": 4})
    eight = trials_of(tmp_path, {**LAMBDA, "samples": 8})
    assert [trial.name for trial in eight[:4]] == [trial.name for trial in four]
    assert len({trial.name for trial in eight}) == 8
    wider = trials_of(tmp_path, {**RATE, **LAMBDA, "batch_size": [4, 8], "samples": 4, "seeds": 2})
    assert drawn(wider, "lambda_l1") == drawn(four, "lambda_l1")


def test_each_sample_is_combined_with_the_whole_grid_and_with_every_seed(tmp_path: Path) -> None:
    trials = trials_of(tmp_path, {**LAMBDA, "batch_size": [4, 8], "samples": 3, "seeds": 2}, seed=5)
    first, second, third = drawn(trials, "lambda_l1")
    assert [tuple(trial.params.values()) for trial in trials] == [
        (value, batch_size, seed) for value in (first, second, third) for batch_size in (4, 8) for seed in (5, 6)
    ]
    assert trials[1].name.endswith(",seed=6")
    assert trials[1].name.startswith("batch_size=4,lambda_l1=")
    assert trials[1].config.training.seed == 6


@pytest.mark.parametrize(("seeds", "names"), [(1, ["trial"]), (3, ["seed=0", "seed=1", "seed=2"])])
def test_seeds_alone_repeat_the_one_trial(tmp_path: Path, seeds: int, names: list[str]) -> None:
    assert [trial.name for trial in trials_of(tmp_path, {"seeds": seeds})] == names


@pytest.mark.parametrize("log", [False, True])
def test_values_fill_their_range_evenly(log: bool) -> None:
    found = Range("lambda_l1", "", 0.1, 1000, log, False)
    values = [found.draw(0, sample) for sample in range(2000)]
    assert all(0.1 <= value <= 1000 for value in values)
    low, high = (math.log(0.1), math.log(1000)) if log else (0.1, 1000)
    places = [((math.log(value) if log else value) - low) / (high - low) for value in values]
    quarters = Counter(min(int(4 * place), 3) for place in places)
    assert sorted(quarters) == [0, 1, 2, 3]
    assert all(430 < count < 570 for count in quarters.values())


def test_a_range_no_wider_than_the_rounding_is_never_left() -> None:
    found = Range("lambda_l1", "", 1.00000021, 1.00000049, False, False)
    assert all(found.low <= found.draw(0, sample) <= found.high for sample in range(50))


def test_whole_numbers_are_drawn_for_whole_fields_and_the_ends_as_often_as_others() -> None:
    counts = Counter(Range("batch_size", "", 1, 4, False, True).draw(0, sample) for sample in range(2000))
    assert sorted(counts) == [1, 2, 3, 4]
    assert all(isinstance(value, int) for value in counts)
    assert all(430 < count < 570 for count in counts.values())
    by_logarithm = Counter(Range("batch_size", "", 1, 4, True, True).draw(0, sample) for sample in range(2000))
    assert by_logarithm[1] > by_logarithm[2] > by_logarithm[3] > by_logarithm[4] > 0


def test_what_is_drawn_again_is_run_once_and_said(tmp_path: Path, capsys: Capture) -> None:
    sweep = {"batch_size": {"uniform": [1, 2]}, "samples": 6}
    assert sorted(trial.name for trial in trials_of(tmp_path, sweep)) == ["batch_size=1", "batch_size=2"]
    path = write_experiment(tmp_path, sweep=sweep)
    assert runner.tune.main([str(path), "--dry-run", "--storage", str(tmp_path / "results")]) == 0
    output = capsys.readouterr().out
    assert "note: 4 of the 6 trials are drawn a second time, and run once" in output
    assert "small: 2 trials" in output


def test_a_dry_run_shows_what_is_drawn(tmp_path: Path, capsys: Capture) -> None:
    sweep = {**LAMBDA, "samples": 2, "seeds": 2}
    path = write_experiment(tmp_path, sweep=sweep)
    overrides = ["--set", "training.seed=7", "--set", "training.lambda_l1=3"]
    assert runner.tune.main([str(path), "--dry-run", "--storage", str(tmp_path / "results"), *overrides]) == 0
    output = capsys.readouterr().out
    for trial in trials_of(tmp_path, sweep, seed=7):
        assert f"  {trial.name}: 3 epochs of" in output
    assert "note: --set training.lambda_l1 has no effect" in output
    assert "--set training.seed has no effect" not in output
    assert not (tmp_path / "results").exists()


BAD = [
    (LAMBDA, "sweep.samples is missing: lambda_l1 is drawn from a range; say how often, for example `samples: 8`"),
    ({**LAMBDA, "samples": 0}, "sweep.samples is 0: it must be a whole number from 1 to 10000"),
    ({**LAMBDA, "samples": True}, "sweep.samples is true: it must be a whole number"),
    ({**LAMBDA, "samples": None}, "sweep.samples is null: it must be a whole number"),
    ({"samples": 4}, "sweep.samples is 4, but nothing is drawn: give a field a range"),
    (
        {**LAMBDA, "samples": 5000, "seeds": 3},
        "sweep asks for 15,000 trials (lambda_l1, samples, seeds): at most 10,000",
    ),
    ({"seeds": 0}, "sweep.seeds is 0: it must be a whole number from 1 to 10000"),
    ({"seeds": 2.5}, "sweep.seeds is 2.5: it must be a whole number"),
    ({"seeds": 2, "seed": [0, 1]}, "sweep.seeds is 2, but sweep.seed lists the seeds itself: keep one of the two"),
    ({"lambda_l1": {"uniform": [1]}, "samples": 2}, "sweep.lambda_l1.uniform is [1]: it must be two numbers"),
    ({"lambda_l1": {"uniform": 1}, "samples": 2}, "sweep.lambda_l1.uniform is 1: it must be two numbers"),
    ({"lambda_l1": {"uniform": [1, "a"]}, "samples": 2}, 'sweep.lambda_l1.uniform is [1, "a"]: it must be two numbers'),
    ({"lambda_l1": {"uniform": [1, True]}, "samples": 2}, "sweep.lambda_l1.uniform is [1, true]: it must be two"),
    ({"lambda_l1": {"uniform": [5, 5]}, "samples": 2}, "sweep.lambda_l1.uniform is [5, 5]: the first number must be"),
    ({"lambda_l1": {"uniform": [1, math.inf]}, "samples": 2}, 'sweep.lambda_l1.uniform is [1, ".inf"]: it must be two'),
    ({"lambda_l1": {"log_uniform": [0, 5]}, "samples": 2}, "sweep.lambda_l1.log_uniform[0] is 0: it must be more than"),
    ({"lambda_l1": {"uniform": [-1, 5]}, "samples": 2}, "sweep.lambda_l1.uniform[0] is -1: it must be 0 or more"),
    ({"learning_rate": {"uniform": [0.1, 2]}, "samples": 2}, "sweep.learning_rate.uniform[1] is 2: it must be 1 or"),
    ({"batch_size": {"uniform": [1, 2.5]}, "samples": 2}, "sweep.batch_size.uniform[1] is 2.5: it must be a whole"),
    ({"lambda_l1": {"normal": [1, 2]}, "samples": 2}, 'sweep.lambda_l1 is {"normal": [1, 2]}: a range is {uniform:'),
    ({"lambda_l1": {}, "samples": 2}, "sweep.lambda_l1 is {}: a range is {uniform: [a, b]} or {log_uniform: [a, b]}"),
    ({"receptive_field": {"uniform": [1, 70]}, "samples": 2}, "but its values are no range of numbers: give a list"),
    ({"patching": {"uniform": [1, 2]}, "samples": 2}, "but its values are no range of numbers: give a list of them"),
    ({"deterministic": {"uniform": [0, 1]}, "samples": 2}, "but its values are no range of numbers"),
    ({"seed": {"uniform": [0, 9]}, "samples": 2}, "but repeats are counted, not drawn: use `seeds: 3`"),
    ({**LAMBDA, "training.lambda_l1": [1], "samples": 2}, "sweep names one field twice"),
    ({"lambda": {"uniform": [0, 9]}, "samples": 2}, "`sweep.lambda` is not a field that can be swept; did you mean"),
    ({**LAMBDA, "sample": 2}, "`sweep.sample` is not a field that can be swept; did you mean `samples`?"),
    (
        {**LAMBDA, "batch_size": [4, 4], "samples": 2},
        "is in the sweep twice (sweep.batch_size[1]): keep each value once",
    ),
]


@pytest.mark.parametrize(("sweep", "message"), BAD, ids=[message[:60] for _, message in BAD])
def test_a_broken_rule_names_field_value_rule_and_remedy(tmp_path: Path, sweep: dict[str, Any], message: str) -> None:
    path = write_experiment(tmp_path, sweep=sweep)
    with pytest.raises(ConfigError) as caught:
        load_experiment(path)
    assert re.match(rf"{re.escape(str(path))}, line \d+: ", str(caught.value))
    assert message in str(caught.value)


def test_a_drawn_value_that_does_not_fit_the_rest_is_named_with_its_sample(tmp_path: Path) -> None:
    path = write_experiment(
        tmp_path,
        sweep={"batch_size": {"uniform": [3, 4]}, "samples": 8},
        resources={"workers": 4, "gpus_per_worker": 0},
    )
    with pytest.raises(ConfigError, match=r"sweep\.batch_size\.uniform \(sample \d\) is 3, but resources\.workers is"):
        load_experiment(path)


def test_a_range_of_a_field_whose_own_value_would_not_fit_is_no_error(tmp_path: Path) -> None:
    path = write_experiment(
        tmp_path,
        model={"receptive_field": 286},
        sweep={"receptive_field": [16, 70], "decay_start_epoch": {"uniform": [1, 2]}, "samples": 2},
        training={"decay_end_epoch": 3, "decay_start_epoch": 1},
    )
    assert len(plan_trials(load_experiment(path), "")) in (2, 4)
