"""An experiment file becomes an Experiment and its trials; every rule is checked here, once."""

import difflib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from runner.config import SWEEP_FIELDS, Experiment
from runner.errors import ConfigError

SINGLE_TRIAL = "trial"
SECTIONS = ("data", "model", "training", "evaluation", "sweep", "checkpoint", "resources", "tracking")
MAX_ERRORS_SHOWN = 8


@dataclass(frozen=True)
class Trial:
    """One cell of the sweep: `params` are the swept fields under their short names; `config` has them
    filled in and sweeps nothing."""

    name: str
    params: Mapping[str, Any]
    config: Experiment


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Reads a YAML file, applies `KEY=VALUE` overrides, and checks every rule, of each trial too.

    Raises:
        ConfigError: with the file, the field, its value, the rule and what to do.
    """
    values = read_yaml(Path(path))
    for override in overrides:
        apply_override(values, override)
    experiment = validate(values, str(path))
    plan_trials(experiment, str(path))
    return experiment


def read_yaml(path: Path) -> dict[str, Any]:
    """The file's mapping; raises ConfigError where it can't be read or is none."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=ExperimentLoader)
    except OSError as error:
        raise ConfigError(
            f"{path}: it can't be read ({error.strerror}). Give the path of an experiment file."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: it is not a UTF-8 text. Give the path of an experiment file.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: it is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: it must hold fields such as `name:` and `training:`, but holds {describe(values)}")
    return values


class ExperimentLoader(yaml.SafeLoader):
    """Safe YAML in which a field given twice is an error, 2e-4 is a number, and only true and false are
    booleans (so that `wandb: off` is the text it looks like)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ValueError(f"line {key_node.start_mark.line + 1}: the field {key!r} must be a text")
            if key in seen:
                raise ValueError(f"line {key_node.start_mark.line + 1}: the field `{key}` is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


BOOLEAN_TAG, FLOAT_TAG = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
ExperimentLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != BOOLEAN_TAG]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
ExperimentLoader.add_implicit_resolver(BOOLEAN_TAG, re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
ExperimentLoader.add_implicit_resolver(
    FLOAT_TAG,
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Sets one dotted field from `KEY=VALUE`, the value in YAML; raises ConfigError where that can't be."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {override}: write it as KEY=VALUE, for example --set training.epochs=2")
    try:
        value = yaml.load(text, Loader=ExperimentLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {' '.join(str(error).split())}") from None
    *sections, field = key.split(".")
    place = values
    for depth, section in enumerate(sections):
        inner = place.setdefault(section, {})
        if inner is None:
            inner = place[section] = {}
        if not isinstance(inner, dict):
            name = ".".join(sections[: depth + 1])
            raise ConfigError(f"--set {override}: `{name}` is {describe(inner)}, which has no field `{field}`")
        place = inner
    place[field] = value


def validate(values: Mapping[str, Any], origin: str) -> Experiment:
    """The typed experiment; raises ConfigError that names up to eight offending fields."""
    if "name" not in values:
        raise ConfigError(f"{origin}: `name` is missing: give the experiment a name, for example `name: my_sweep`")
    filled = {key: {} if value is None and key in SECTIONS else value for key, value in values.items()}
    try:
        return Experiment.model_validate(filled)
    except ValidationError as error:
        rules: dict[str, list[str]] = {}
        for problem in error.errors(include_url=False):
            subject, rule = explain(problem)
            rules.setdefault(subject, []).append(rule)
        lines = [subject + ", or ".join(dict.fromkeys(either)) for subject, either in rules.items()]
        shown = lines[:MAX_ERRORS_SHOWN]
        if len(lines) > len(shown):
            shown.append(f"and {len(lines) - len(shown)} more")
        raise ConfigError("\n".join(f"{origin}: {line}" for line in shown)) from None


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


def plan_trials(experiment: Experiment, origin: str) -> list[Trial]:
    """One trial for each cell of the sweep, in the order of the file's grid.

    Raises:
        ConfigError: a swept field that is unknown, an empty list, a value that breaks its field's rule,
            two equal cells.
    """
    fields = {sweep_field(key, origin): values for key, values in experiment.sweep.items()}
    if len(fields) < len(experiment.sweep):
        raise ConfigError(f"{origin}: sweep names one field twice ({', '.join(experiment.sweep)}): keep one of them")
    for key, values in experiment.sweep.items():
        if not values:
            raise ConfigError(f"{origin}: sweep.{key} is an empty list: give it values, or take it out")
    trials: dict[str, Trial] = {}
    for cell in cells({short: list(enumerate(values)) for short, values in fields.items()}):
        params = {short: value for short, (_, value) in cell.items()}
        config = fill_in(experiment, cell, origin)
        params = {short: read_field(config, SWEEP_FIELDS[short]) for short in params}
        name = trial_name(params)
        if name in trials:
            where = ", ".join(f"sweep.{short}[{index}]" for short, (index, _) in cell.items())
            raise ConfigError(f"{origin}: the trial {name} stands in the sweep twice ({where}): keep each value once")
        trials[name] = Trial(name, params, config)
    return list(trials.values())


def cells(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of one value an axis; one empty cell where there are no axes."""
    for combination in itertools.product(*axes.values()):
        yield dict(zip(axes, combination, strict=True))


def sweep_field(key: str, origin: str) -> str:
    """The short name of a swept field: `batch_size` for `batch_size` and for `training.batch_size`."""
    short = key.rsplit(".", 1)[-1]
    if (key == short and short in SWEEP_FIELDS) or SWEEP_FIELDS.get(short) == key:
        return short
    close = difflib.get_close_matches(short, SWEEP_FIELDS, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"it can be one of {', '.join(SWEEP_FIELDS)}"
    raise ConfigError(f"{origin}: `sweep.{key}` is no field that can be swept; {hint}")


def fill_in(experiment: Experiment, cell: Mapping[str, tuple[int, Any]], origin: str) -> Experiment:
    """The experiment of one cell; raises ConfigError that names the list's place."""
    values = experiment.model_dump()
    values["sweep"] = {}
    for short, (_, value) in cell.items():
        section, field = SWEEP_FIELDS[short].split(".")
        values[section][field] = value
    try:
        return validate(values, origin)
    except ConfigError as error:
        message = str(error)
        for short, (index, _) in cell.items():
            message = message.replace(f"{SWEEP_FIELDS[short]} is", f"sweep.{short}[{index}] is")
        raise ConfigError(message) from None


def read_field(config: Experiment, path: str) -> Any:
    """The value at `section.field`."""
    section, field = path.split(".")
    return getattr(getattr(config, section), field)


def trial_name(params: Mapping[str, Any]) -> str:
    """`batch_size=4,lambda_l1=100`: keys sorted, numbers in their shortest form; `trial` where nothing is swept."""
    return ",".join(f"{key}={shortest(params[key])}" for key in sorted(params)) or SINGLE_TRIAL


def shortest(value: Any) -> str:
    """100 for 100.0, 0.0002 for 2e-4, true for True."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    return str(value)


def to_yaml(experiment: Experiment) -> bytes:
    """The resolved experiment as a file that loads again to the same one."""
    return yaml.safe_dump(experiment.model_dump(), sort_keys=False, allow_unicode=True).encode()
