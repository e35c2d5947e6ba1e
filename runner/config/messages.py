"""Values, fields and broken rules in words, for the person who wrote the experiment."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from runner.config.schema import Experiment
from runner.number_format import shortest

# pydantic's names of the rules.
_RULES = {
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be {le} or less",
    "less_than": "must be less than {lt}",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be a text (put it in quotes)",
    "string_too_short": "must not be empty",
    "list_type": "must be a list of values, for example [1, 4, 10]",
    "dict_type": "must hold fields of its own",
    "model_type": "must hold fields of its own",
    "model_attributes_type": "must hold fields of its own",
}


def explain(problem: Mapping[str, Any]) -> tuple[str, str]:
    """One of pydantic's errors in two texts: the field and its value; the rule and what to do."""
    location = _field_location(problem["loc"])
    field, value, context = _dotted(location), problem["input"], problem.get("ctx", {})

    if problem["type"] == "extra_forbidden":
        known = _known_fields(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known fields: {', '.join(known)}"
        return f"`{field}` is not a field of an experiment; ", hint
    if problem["type"] == "value_error" and isinstance(value, dict):
        # A rule of several fields together: its text names them itself.
        return "", str(context["error"])

    if problem["type"] == "value_error":
        rule = str(context["error"])
    elif problem["type"] == "literal_error":
        expected = str(context["expected"]).replace(" or ", ", ")
        rule = f"must be one of {expected}" if "," in expected else f"must be {expected}"
    else:
        limits = {name: shortest(limit) for name, limit in context.items()}
        rule = _RULES.get(problem["type"], problem["msg"]).format(**limits)
    return f"{field} is {show(value)}: it ", rule


def _dotted(location: Sequence[Any]) -> str:
    """`sweep.batch_size[2]` for ("sweep", "batch_size", 2)."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _field_location(location: Sequence[Any]) -> list[Any]:
    """The names and list indices on the way to a field.

    pydantic's location also names the member of a union that was tried (`gpus_per_worker`, `constrained-float`).
    """
    path: list[Any] = []
    kind: Any = Experiment
    for part in location:
        if isinstance(part, str) and not (isinstance(kind, type) and issubclass(kind, BaseModel)) and kind is not dict:
            break
        path.append(part)
        fields = getattr(kind, "model_fields", {})
        kind = dict if part == "sweep" else fields[part].annotation if part in fields else None
    return path


def _known_fields(location: Sequence[Any]) -> list[str]:
    """The names of a section's fields."""
    kind: Any = Experiment
    for part in location:
        kind = kind.model_fields[part].annotation
    return list(kind.model_fields)


def show(value: Any) -> str:
    """A value as the file would have it, on one line, at most 60 characters."""
    text = json.dumps(value, default=str) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def describe(value: Any) -> str:
    """A value for a sentence: `nothing` for None."""
    return "nothing" if value is None else show(value)
