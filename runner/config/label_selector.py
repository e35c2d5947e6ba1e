"""Labels of machines, and what a selector asks of them: Ray's rules, to be known before Ray is there.

https://docs.ray.io/en/releases-2.60.0/ray-core/scheduling/labels.html: `ray start --labels zone=a` gives a node labels.
A selector has for each label a value (`a`), several (`in(a, b)`), or what it must not be (`!a`, `!in(a, b)`), which a
node without that label is not either.
"""

import re
from collections.abc import Mapping

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL = re.compile(rf"(?:[A-Za-z0-9.-]{{1,253}}/)?{_NAME}")
_CONDITION = re.compile(rf"(?P<not>!?)(?:in\((?P<several>{_NAME}(?:, ?{_NAME})*)\)|(?P<one>{_NAME}))")


def check_label_selector(selector: Mapping[str, str]) -> Mapping[str, str]:
    """The selector; raises ValueError for what Ray would not take, with the field, the value, the rule."""
    for label, condition in selector.items():
        if not _LABEL.fullmatch(label):
            raise ValueError(
                f"resources.label_selector has the label {label!r}: a label has letters, digits, - _ . and may have a "
                "prefix that ends in /"
            )
        if not _CONDITION.fullmatch(condition):
            raise ValueError(
                f"resources.label_selector.{label} is {condition!r}: it must be a value, `in(a, b)` for one of "
                "several, or either with ! before it for none of them; values have letters, digits, - _ ."
            )
    return selector


def has_labels(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """True where a machine with these labels is one that the selector asks for."""
    return all(_is_met(labels.get(label), condition) for label, condition in selector.items())


def _is_met(value: str | None, condition: str) -> bool:
    parts = _CONDITION.fullmatch(condition)
    assert parts is not None, condition  # the selector was checked
    values = [part.strip() for part in parts["several"].split(",")] if parts["several"] else [parts["one"]]
    return (value in values) != bool(parts["not"])
