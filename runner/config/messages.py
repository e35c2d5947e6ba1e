"""Values, fields and broken rules in words, for the person who wrote the experiment."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from runner.config.schema import Experiment
from runner.number_format import shortest

RULES = {
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
    """Field and value; then the rule and what to do."""
    location = field_location(problem["loc"])
    field, value, context = dotted(location), problem["input"], problem.get("ctx", {})
    if problem["type"] == "extra_forbidden":
        known = known_fields(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known fields: {', '.join(known)}"
        return f"`{field}` is no field of an experiment; ", hint
    if problem["type"] == "value_error" and isinstance(value, dict):
        return "", str(context["error"])  # of several fields together: the text names them
    if problem["type"] == "value_error":
        rule = str(context["error"])
    elif problem["type"] == "literal_error":
        expected = str(context["expected"]).replace(" or ", ", ")
        rule = f"must be one of {expected}" if "," in expected else f"must be {expected}"
    else:
        limits = {name: shortest(limit) for name, limit in context.items()}
        rule = RULES.get(problem["type"], problem["msg"]).format(**limits)
    return f"{field} is {show(value)}: it ", rule


def field_location(location: Sequence[Any]) -> list[Any]:
    """The path of names and list places, without pydantic's names for the members of a union."""
    path: list[Any] = []
    kind: Any = Experiment
    for part in location:
        if isinstance(part, str) and not (isinstance(kind, type) and issubclass(kind, BaseModel)) and kind is not dict:
            break
        path.append(part)
        fields = getattr(kind, "model_fields", {})
        kind = dict if part == "sweep" else fields[part].annotation if part in fields else None
    return path


def dotted(location: Sequence[Any]) -> str:
    """`sweep.batch_size[2]` for ("sweep", "batch_size", 2)."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def known_fields(location: Sequence[Any]) -> list[str]:
    """Names of the fields of the section at a place."""
    kind: Any = Experiment
    for part in location:
        kind = kind.model_fields[part].annotation
    return list(kind.model_fields)


def show(value: Any) -> str:
    """A value as it would stand in the file, on one line, at most 60 characters."""
    text = json.dumps(value, default=str) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def describe(value: Any) -> str:
    """What a value is, for a person."""
    return "nothing" if value is None else f"{show(value)}"
