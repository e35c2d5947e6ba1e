"""Which labels a selector asks for, and which selectors are refused."""

import pytest

from runner.config.label_selector import has_labels
from runner.config.loading import load_experiment
from runner.errors import ConfigError
from tests.support.commands import SMALL


@pytest.mark.parametrize(
    ("condition", "met_by"),
    [
        ("a", {"a"}),
        ("!a", {"b", "c", None}),  # a machine without the label has not that value
        ("in(a, b)", {"a", "b"}),
        ("in(a,b)", {"a", "b"}),
        ("!in(a, b)", {"c", None}),
    ],
)
def test_a_condition_is_met_by_these_values(condition: str, met_by: set[str | None]) -> None:
    values = ("a", "b", "c", None)
    labels = [{"zone": value} if value else {} for value in values]
    assert {value for value, own in zip(values, labels, strict=True) if has_labels(own, {"zone": condition})} == met_by


def test_all_labels_are_asked_for() -> None:
    selector = {"zone": "a", "ray.io/node-group": "!slow"}
    assert has_labels({"zone": "a", "ray.io/node-group": "fast"}, selector)
    assert not has_labels({"zone": "a", "ray.io/node-group": "slow"}, selector)


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ({"zone": "-a"}, "resources.label_selector.zone is '-a': it must be a value"),
        ({"zone": "in()"}, "it must be a value"),
        ({"zone": "a b"}, "it must be a value"),
        ({"zo ne": "a"}, "has the label 'zo ne'"),
        ({"zone": 1}, "resources.label_selector.zone is 1: it must be a text (put it in quotes)"),
        ("a", "resources.label_selector is 'a': it must hold fields of its own"),
    ],
)
def test_what_ray_would_not_take_is_refused_in_words(selector: object, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_experiment({**SMALL, "resources": {"label_selector": selector}})
    assert said in str(refused.value)


def test_an_empty_selector_asks_for_nothing() -> None:
    for empty in (None, {}):
        assert load_experiment({**SMALL, "resources": {"label_selector": empty}}).resources.label_selector == {}
    assert load_experiment(SMALL, ["resources.label_selector.zone=a"]).resources.label_selector == {"zone": "a"}
