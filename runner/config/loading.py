"""An experiment file becomes an Experiment and its trials; every rule is checked here, once."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import ValidationError

from runner.config.messages import describe, explain
from runner.config.schema import SWEEP_FIELDS, Experiment
from runner.config.search_space import Choice, read_search_space
from runner.errors import ConfigError
from runner.number_format import shortest

SINGLE_TRIAL = "trial"
SECTIONS = ("data", "model", "training", "evaluation", "sweep", "checkpoint", "resources", "tracking")
MAX_ERRORS_SHOWN = 8
ExperimentSource: TypeAlias = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class PlannedTrial:
    """One cell of the sweep: `params` are the swept fields under their short names; `config` has them
    filled in and sweeps nothing."""

    name: str
    params: Mapping[str, Any]
    config: Experiment


def load_experiment(source: ExperimentSource, overrides: Sequence[str] = ()) -> Experiment:
    """Reads a YAML file, or takes what one would hold, applies `KEY=VALUE` overrides, and checks every rule, of each
    trial too.

    Raises:
        ConfigError: with the file, the field, its value, the rule and what to do.
    """
    values = copy.deepcopy(dict(source)) if isinstance(source, Mapping) else read_yaml(Path(source))
    for override in overrides:
        apply_override(values, override)
    experiment = validate(values, origin_of(source))
    plan_trials(experiment, origin_of(source))
    return experiment


def origin_of(source: ExperimentSource) -> str:
    """What errors call an experiment by: its path, where it has one."""
    return "the experiment" if isinstance(source, Mapping) else str(source)


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


def plan_trials(experiment: Experiment, origin: str) -> list[PlannedTrial]:
    """One trial for each cell of the sweep, in the order of the samples and of the file's grid; a cell that a later
    sample draws again is the same trial.

    Raises:
        ConfigError: the sweep breaks a rule of its own, a value breaks its field's, or two cells of the grid are equal.
    """
    try:
        space = read_search_space(experiment.sweep)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None
    trials: dict[str, PlannedTrial] = {}
    for cells in space.samples(experiment.training.seed):
        of_sample: dict[str, PlannedTrial] = {}
        for cell in cells:
            config = fill_in(experiment, cell, origin)
            params = {field: read_field(config, SWEEP_FIELDS[field]) for field in cell}
            name = trial_name(params)
            if name in of_sample:
                where = ", ".join(choice.place for choice in cell.values())
                raise ConfigError(
                    f"{origin}: the trial {name} stands in the sweep twice ({where}): keep each value once"
                )
            of_sample[name] = PlannedTrial(name, params, config)
        trials |= of_sample
    return list(trials.values())


def fill_in(experiment: Experiment, cell: Mapping[str, Choice], origin: str) -> Experiment:
    """The experiment of one cell; raises ConfigError that names the value's place."""
    values = experiment.model_dump()
    values["sweep"] = {}
    for field, choice in cell.items():
        section, name = SWEEP_FIELDS[field].split(".")
        values[section][name] = choice.value
    try:
        return validate(values, origin)
    except ConfigError as error:
        message = str(error)
        for field, choice in cell.items():
            message = message.replace(f"{SWEEP_FIELDS[field]} is", f"{choice.place} is")
        raise ConfigError(message) from None


def read_field(config: Experiment, path: str) -> Any:
    """The value at `section.field`."""
    section, field = path.split(".")
    return getattr(getattr(config, section), field)


def trial_name(params: Mapping[str, Any]) -> str:
    """`batch_size=4,lambda_l1=100`: keys sorted, numbers in their shortest form; `trial` where nothing is swept."""
    return ",".join(f"{key}={shortest(params[key])}" for key in sorted(params)) or SINGLE_TRIAL


def to_yaml(experiment: Experiment) -> bytes:
    """The resolved experiment as a file that loads again to the same one."""
    return yaml.safe_dump(experiment.model_dump(), sort_keys=False, allow_unicode=True).encode()
