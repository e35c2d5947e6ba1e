"""An experiment file becomes an Experiment and its trials. Every rule of the file is checked here."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import ValidationError

from runner.config.experiment_yaml import WrittenExperiment, read_yaml
from runner.config.halving import check_fits
from runner.config.messages import explain
from runner.config.schema import SWEEP_FIELDS, Experiment
from runner.config.search_space import Choice, read_search_space
from runner.errors import ConfigError
from runner.number_format import shortest

ExperimentSource: TypeAlias = str | Path | Mapping[str, Any]

_SINGLE_TRIAL = "trial"  # the name of the trial of an experiment that sweeps nothing
_MAX_ERRORS_SHOWN = 8


@dataclass(frozen=True)
class PlannedTrial:
    """One cell of the sweep, before it has a folder.

    Attributes:
        params: the swept fields under their short names.
        config: the experiment with these values filled in, which sweeps nothing.
    """

    name: str
    params: Mapping[str, Any]
    config: Experiment


def load_experiment(source: ExperimentSource | WrittenExperiment, overrides: Sequence[str] = ()) -> Experiment:
    """Loads an experiment and checks every rule, of each of its trials too.

    Args:
        source: the path or URI of a YAML file, or the mapping that such a file holds, or what `read_experiment` made
            of it.
        overrides: fields to set, as `KEY=VALUE`.

    Raises:
        ConfigError: with the file, the line, the field, its value, the rule and what to do.
    """
    written = read_experiment(source, overrides)
    with written.errors_name_lines():
        # The trials are planned to find wrong values in the sweep, too.
        experiment = validate(written.values, written.origin)
        plan_trials(experiment, written.origin)
    return experiment


def read_experiment(source: ExperimentSource | WrittenExperiment, overrides: Sequence[str] = ()) -> WrittenExperiment:
    """What an experiment says, no rule checked; raises ConfigError where that is no YAML."""
    if isinstance(source, WrittenExperiment):
        written = copy.deepcopy(source)
    elif isinstance(source, Mapping):
        written = WrittenExperiment("the experiment", copy.deepcopy(dict(source)))
    else:
        written = read_yaml(str(source))
    for override in overrides:
        written.override(override)
    return written


def validate(values: Mapping[str, Any], origin: str) -> Experiment:
    """The typed experiment; raises ConfigError that names up to eight wrong fields."""
    try:
        return Experiment.model_validate(dict(values))
    except ValidationError as error:
        # A field of several types breaks one rule for each: one line says them all.
        rules: dict[str, list[str]] = {}
        for problem in error.errors(include_url=False):
            subject, rule = explain(problem)
            rules.setdefault(subject, []).append(rule)

        lines = [subject + ", or ".join(dict.fromkeys(either)) for subject, either in rules.items()]
        shown = lines[:_MAX_ERRORS_SHOWN]
        if len(lines) > len(shown):
            shown.append(f"and {len(lines) - len(shown)} more")
        raise ConfigError("\n".join(f"{origin}: {line}" for line in shown)) from None


def plan_trials(experiment: Experiment, origin: str) -> list[PlannedTrial]:
    """One trial for each cell of the sweep, in the order of the samples and of the file's grid.

    A cell that a later sample draws a second time is the same trial.

    Args:
        origin: how errors name the experiment.

    Raises:
        ConfigError: the sweep breaks a rule, a value breaks the rule of its field, or two cells of the grid are equal.
    """
    try:
        space = read_search_space(experiment.sweep)
        if space.halving is not None:
            check_fits(space.halving, experiment.training.epochs)
            if experiment.evaluation.patience is not None:
                raise ConfigError(
                    f"evaluation.patience is {experiment.evaluation.patience}, with sweep.halving: a trial that ends "
                    "by itself has nothing to be ranked by at a rung; take one of the two out"
                )
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from None

    trials: dict[str, PlannedTrial] = {}
    for cells in space.samples(experiment.training.seed):
        of_sample: dict[str, Mapping[str, Choice]] = {}
        for cell in cells:
            config = _fill_in(experiment, cell, origin)
            params = {field: read_field(config, SWEEP_FIELDS[field]) for field in cell}
            name = trial_name(params)
            # Twice within a sample is a mistake in the file. A later sample may draw the same values by chance.
            if name in of_sample:
                twice = [choice.location for field, choice in cell.items() if choice != of_sample[name][field]]
                raise ConfigError(
                    f"{origin}: trial {name} is in the sweep twice ({', '.join(twice)}): keep each value once"
                )
            of_sample[name] = cell
            trials.setdefault(name, PlannedTrial(name, params, config))
    return list(trials.values())


def _fill_in(experiment: Experiment, cell: Mapping[str, Choice], origin: str) -> Experiment:
    """The experiment of one cell; raises ConfigError that says where in the file a wrong value is."""
    # Dumped and validated again, so that each trial passes every rule with its values.
    values = experiment.model_dump()
    values["sweep"] = {}
    for field, choice in cell.items():
        section, name = SWEEP_FIELDS[field].split(".")
        values[section][name] = choice.value

    try:
        config = validate(values, origin)
    except ConfigError as error:
        # The error names `training.batch_size`; the person has written `sweep.batch_size[2]`.
        message = str(error)
        for field, choice in cell.items():
            message = message.replace(f"{SWEEP_FIELDS[field]} is", f"{choice.location} is")
        raise ConfigError(message) from None
    # Ten thousand trials share the sections in which they do not differ, so that they take little memory.
    own = {name: getattr(experiment, name) for name in type(experiment).model_fields if name != "sweep"}
    return config.model_copy(update={name: value for name, value in own.items() if value == getattr(config, name)})


def read_field(config: Experiment, path: str) -> Any:
    """The value of a field that can be swept, such as `training.seed`."""
    section, field = path.split(".")
    return getattr(getattr(config, section), field)


def trial_name(params: Mapping[str, Any]) -> str:
    """`batch_size=4,lambda_l1=100`: keys sorted, numbers in their shortest form; `trial` where nothing is swept."""
    return ",".join(f"{key}={shortest(params[key])}" for key in sorted(params)) or _SINGLE_TRIAL


def to_yaml(experiment: Experiment) -> bytes:
    """An experiment with all its fields, as a file that loads again to the same experiment."""
    return yaml.safe_dump(experiment.model_dump(), sort_keys=False, allow_unicode=True).encode()
