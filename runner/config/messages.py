"""Values, fields and broken rules in words, for the person who wrote the experiment."""

import difflib
import json
import re
import typing
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from runner.config.scalars import how_to_write, is_bare
from runner.config.schema import ALL_FIELDS, UNITS, Experiment
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
        hint = suggest(str(location[-1]), _known_fields(location[:-1]), ALL_FIELDS)
        return f"`{field}` is not a field of an experiment; ", hint
    if problem["type"] == "missing":
        return f"`{field}` is missing: ", f"give the experiment a {field}, for example `{field}: my_sweep`"
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
        if rule.endswith("number"):
            rule += f" of {UNITS[field]}" if field in UNITS else ""
            rule += how_to_write(value) if isinstance(value, str) else ""
    return f"{field} is {show(value)}: it ", rule


def suggest(name: str, known: Collection[str], elsewhere: Collection[str] = ()) -> str:
    """What an unknown field may have been meant to be.

    Args:
        known: the fields that could stand in its place.
        elsewhere: the dotted names of fields in other sections.
    """
    strange = ", ".join(f"U+{ord(character):04X}" for character in dict.fromkeys(name) if not character.isascii())
    remark = f"its {strange} only looks like a usual character; " if strange else ""
    if "." in name and any(f"{field}.".startswith(f"{name}.") for field in elsewhere):
        parent, _, field = name.rpartition(".")
        return f"write `{field}:` in the section `{parent}:`"

    here: dict[str, list[str]] = {}
    there: dict[str, list[str]] = {}
    for field in known:
        here[_plain(field)] = [field]
    for field in elsewhere:
        there.setdefault(field.rpartition(".")[2], []).append(field)
    # The right name in the wrong section, perhaps for a wrong indentation, is more likely than another name.
    for candidates, cutoff in ((here, 1), (there, 1), (here, 0.6), (there, 0.8)):
        if close := difflib.get_close_matches(_plain(name), candidates, n=1, cutoff=cutoff):
            # `seedx` may be `seed` or `seeds`.
            alike = [other for other in candidates if cutoff < 1 and other.rstrip("s") == close[0].rstrip("s")]
            fields = [field for other in alike or close for field in candidates[other]]
            return f"{remark}did you mean {' or '.join(f'`{field}`' for field in fields)}?"
    return f"{remark}known fields: {', '.join(known)}"


# Cyrillic letters that look like these.
_LOOKALIKES = str.maketrans("\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u0458", "aeopcyxisj")


def _plain(name: str) -> str:
    """A field's name as it would be written: in small ASCII letters, with _ between words."""
    letters = unicodedata.normalize("NFKD", name).lower().translate(_LOOKALIKES)
    return re.sub(r"[^a-z0-9]+", "_", letters).strip("_")


def _dotted(location: Sequence[Any]) -> str:
    """`sweep.batch_size[2]` for ("sweep", "batch_size", 2)."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{_shorten(part)}" for part in location)
    return "".join(parts).removeprefix(".")


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
        kind = fields[part].annotation if part in fields else None
        kind = typing.get_origin(kind) or kind  # dict, of what `sweep` holds
    return path


def _known_fields(location: Sequence[Any]) -> list[str]:
    """The names of a section's fields."""
    kind: Any = Experiment
    for part in location:
        kind = kind.model_fields[part].annotation
    return list(kind.model_fields)


def show(value: Any) -> str:
    """A value as the file would have it, on one line, at most 60 characters."""
    if isinstance(value, str) and is_bare(value):
        text = value
    else:
        text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return _shorten(text)


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def describe(value: Any) -> str:
    """A value for a sentence: `nothing` for None."""
    return "nothing" if value is None else show(value)
