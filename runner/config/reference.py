"""The reference of experiment files, made of the schema: a page for people, and a JSON schema for editors."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from gan.evaluation.metrics import METRICS
from runner.config.fingerprint import may_change
from runner.config.halving import HALVING, Halving
from runner.config.schema import SWEEP_FIELDS, SWEEP_SECTIONS, Data, Experiment
from runner.config.search_space import LOG_UNIFORM, SAMPLES, SEED, SEEDS, UNIFORM, has_range

PAGE, SCHEMA = "configuration.md", "experiment.schema.json"

_NO_LIMIT = 2**63  # where a whole number ends that is as large as is possible: no limit to speak of
_INTRODUCTION = """# Experiment files

Made by `make docs` from `runner/config/schema.py`: do not edit.

An experiment file is YAML. Only `name` is needed: every other field has a default. `--set SECTION.FIELD=VALUE`
overrides a field for one start of a command. Unknown fields are errors, and so are values of another type.

    # yaml-language-server: $schema=../docs/experiment.schema.json
    name: my_sweep
    data: {source: data/maps}
    training: {epochs: 200, batch_size: 4}
    sweep:
      lambda_l1: [10, 100]

The comment in the first line tells editors with a YAML language server where they find the fields and their rules; the
path is relative to the file.

- **Numbers** are decimal: `200`, `0.5`, `2e-4`, `10_000`. What YAML 1.1 takes for other numbers (`010` for 8, `1:30`
  for 90) is an error. Only `true` and `false` are booleans.
- **Texts** are taken as they are: `name: 2024_01_15` needs no quotes, nor does `--set data.source=@maps`. In paths `~`
  is the home folder; other paths are relative to where the command runs.
- **Anchors**, aliases and `<<:` work as in other YAML.

"On resume" says whether a field may have another value when a trial goes on that has begun. A change of a fixed field
is refused with both values. Data and initial weights count by their content: where they come from may change, the
pictures and the weights may not.
"""
_SWEEP = f"""
## sweep

What the trials differ in; without it the experiment is one trial. Fields have their short names.

- A list is a grid: `batch_size: [1, 4]`. Lists are combined with each other.
- A range is drawn from: `lambda_l1: {{{LOG_UNIFORM}: [10, 1000]}}` or `{{{UNIFORM}: [10, 1000]}}`. `{SAMPLES}` says
  how often; each sample is combined with the whole grid.
- `{SEEDS}: 3` repeats all of it from three seeds, `training.seed` and the two after it.
- `{HALVING}: {{metric: swd, first_epochs: 20, reduction_factor: 3}}` trains all cells to epoch 20, the best third of
  them to epoch 60, the best third of these to epoch 180, and so on to the end: see docs/halving.md.

A sweep may get more values, samples, seeds and fields later: trials that are there are not run again. Trials that it
does not name any more stay as they are, and in the results.

"""


def reference_page() -> str:
    """docs/configuration.md."""
    schema = Experiment.model_json_schema()
    parts = [_INTRODUCTION, "\n## At the top\n\n", *_table(schema, schema, "")]
    for name, section in schema["properties"].items():
        if name == "sweep":
            parts += [_SWEEP, *_swept_table(schema)]
        elif "$ref" in section:
            parts += _section(schema, name, section["$ref"])
    return "".join(parts)


def _section(schema: Mapping[str, Any], name: str, reference: str) -> Iterator[str]:
    section = _definition(schema, reference)
    yield f"\n## {name}\n\n{_on_one_line(section['description'])}\n\n"
    yield from _table(schema, section, f"{name}.")


def _definition(schema: Mapping[str, Any], reference: str) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], schema["$defs"][reference.rpartition("/")[2]])


def _table(schema: Mapping[str, Any], section: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """A row for each field of a section; inner sections' fields stand with their dotted names."""
    yield "| field | meaning | values | default | on resume |\n| --- | --- | --- | --- | --- |\n"
    yield from _rows(schema, section, prefix, "")


def _rows(schema: Mapping[str, Any], section: Mapping[str, Any], prefix: str, inner: str) -> Iterator[str]:
    for name, field in section["properties"].items():
        if "$ref" in field:
            # At the top each section has a table of its own.
            if prefix:
                yield from _rows(schema, _definition(schema, field["$ref"]), f"{prefix}{name}.", f"{inner}{name}.")
            continue
        if f"{prefix}{name}" == "sweep":
            continue

        default = "needed" if "default" not in field else f"`{_shown(field['default'])}`"
        resume = "may change" if may_change(f"{prefix}{name}") else "fixed"
        if f"{prefix}{name}" == "name":
            resume = "another experiment"

        meaning = _on_one_line(field["description"])
        yield f"| `{inner}{name}` | {meaning} | {_values(field)} | {default} | {resume} |\n"


def _values(field: Mapping[str, Any]) -> str:
    """The type, the unit and the range of a field: `whole number of epochs, 1 or more`."""
    members = field.get("anyOf", [field])
    unit = f" of {field['unit']}" if "unit" in field else ""
    return "; or ".join(_values_of_one(member, unit) for member in members)


def _values_of_one(member: Mapping[str, Any], unit: str) -> str:
    if "enum" in member:
        return ", ".join(f"`{_shown(value)}`" for value in member["enum"]) + unit.replace(" of", "", 1)
    if "const" in member:
        return f"`{_shown(member['const'])}`"
    words = {
        "boolean": "`true`, `false`",
        "string": "text",
        "null": "`null`",
        "integer": "whole number",
        "number": "number",
        "object": "texts under names",
    }
    text = words[member["type"]] + (unit if member["type"] in ("integer", "number") else "")

    low, high = member.get("minimum"), member.get("maximum")
    if low is not None and high is not None:
        return f"{text} from {low:g} to {high:g}"
    limits = {
        "{} or more": low,
        "more than {}": member.get("exclusiveMinimum"),
        "{} or less": high,
        "less than {}": member.get("exclusiveMaximum"),
    }
    known = [words.format(f"{limit:g}") for words, limit in limits.items() if limit is not None and limit < _NO_LIMIT]
    return " ".join([f"{text}," if known else text, " and ".join(known)]).strip()


def _swept_table(schema: Mapping[str, Any]) -> Iterator[str]:
    yield "| field | of | as a range |\n| --- | --- | --- |\n"
    for short, path in SWEEP_FIELDS.items():
        as_range = "yes" if has_range(short) else f"no: `{SEEDS}`" if short == SEED else "no"
        yield f"| `{short}` | `{path}` | {as_range} |\n"
    yield f"| `{SAMPLES}` | how often ranges are drawn | |\n"
    yield f"| `{SEEDS}` | from how many seeds each trial is repeated | |\n"
    yield f"| `{HALVING}` | `metric`, `first_epochs`, `reduction_factor`: which cells are trained to the end | |\n"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def json_schema() -> str:
    """docs/experiment.schema.json, for editors: the rules of each field. Only the runner knows those between fields."""
    schema = Experiment.model_json_schema()
    sections = [schema, *schema["$defs"].values()]
    for section in sections:
        section["description"] = _on_one_line(section["description"])
        section.pop("title", None)
        for field in section["properties"].values():
            field.pop("title", None)
            if "description" in field:
                field["description"] = _on_one_line(field["description"])
            if field.get("type") == "object":
                field["type"] = ["object", "null"]
            # An empty section has its defaults.
            if "$ref" in field:
                reference = {"$ref": field.pop("$ref")}
                field["anyOf"] = [reference, {"type": "null"}]
                field.pop("default")

    schema["properties"]["sweep"] |= _sweep_schema(schema)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def _sweep_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The rules of `sweep:`: a list of the field's values or, for numbers, a range of them."""
    sections = {name: kind.__name__ for name, kind in SWEEP_SECTIONS.items()} | {"data": Data.__name__}
    properties: dict[str, Any] = {}
    for short, path in SWEEP_FIELDS.items():
        section, _, name = path.partition(".")
        field = schema["$defs"][sections[section]]["properties"][name]
        value = {key: rule for key, rule in field.items() if key not in ("default", "description", "unit")}
        kinds: list[dict[str, Any]] = [{"type": "array", "items": value, "minItems": 1, "uniqueItems": True}]
        if has_range(short):
            ends = {"type": "array", "items": value, "minItems": 2, "maxItems": 2}
            one = {"type": "object", "properties": {UNIFORM: ends, LOG_UNIFORM: ends}, "additionalProperties": False}
            kinds.append(one | {"minProperties": 1, "maxProperties": 1})
        properties[short] = {"description": field["description"], "anyOf": kinds}
        properties[path] = {"$ref": f"#/properties/sweep/properties/{short}"}

    count = {"type": "integer", "minimum": 1, "maximum": 10_000}
    properties[SAMPLES] = {"description": "How often ranges are drawn.", **count}
    properties[SEEDS] = {"description": "From how many seeds each trial is repeated.", **count}
    default = Halving()
    properties[HALVING] = {
        "description": "Trains all cells to a first rung, and only the best ones further.",
        "type": "object",
        "properties": {
            "metric": {
                "description": "What cells are ranked by.",
                "enum": [metric.key for metric in METRICS],
                "default": default.metric,
            },
            "first_epochs": {"description": "The epochs of the first rung.", "type": "integer", "minimum": 1},
            "reduction_factor": {
                "description": "Of the cells at a rung, one in so many goes on.",
                "type": "integer",
                "minimum": 2,
                "default": default.reduction_factor,
            },
        },
        "required": ["first_epochs"],
        "additionalProperties": False,
    }
    return {"type": ["object", "null"], "properties": properties, "additionalProperties": False}
