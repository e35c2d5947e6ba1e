"""The search space of `sweep:`, and the values that it gives to each trial.

Lists are a grid. Ranges are drawn from, `samples` times. Each sample is combined with the whole grid, and `seeds`
repeats all of it. The value of sample i for a field depends only on (training.seed, field, i), the same on every
machine: a sweep that gets more samples or more fields keeps the trials that it has.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, localcontext
from typing import Any, NamedTuple

from pydantic import ValidationError

from runner.config.halving import HALVING, Halving, read_halving
from runner.config.messages import explain, show, suggest
from runner.config.schema import NOT_SWEPT, SWEEP_FIELDS, SWEEP_SECTIONS, base_types
from runner.errors import ConfigError

SAMPLES, SEEDS, SEED = "samples", "seeds", "seed"
UNIFORM, LOG_UNIFORM = "uniform", "log_uniform"
_MAX_COUNT = 10_000
_DRAWN_DIGITS = 6  # significant ones: the value trained with is the one in the trial's name


class Choice(NamedTuple):
    """A value of a field, and its location in the file: `sweep.batch_size[2]`."""

    value: Any
    location: str


class Range(NamedTuple):
    """A field that is drawn between two numbers, both of them included.

    Attributes:
        location: in the file: `sweep.lambda_l1.log_uniform`.
        log: uniform in the logarithm instead of in the value.
        whole: whole numbers only.
    """

    field: str
    location: str
    low: float
    high: float
    log: bool
    whole: bool

    def draw(self, seed: int, sample: int) -> float:
        """The value of a sample, counted from 0."""
        digest = hashlib.sha256(f"{seed} {self.field} {sample}".encode()).digest()
        # In decimal arithmetic: pow and log of floats round differently from one C library to the next.
        with localcontext(prec=28):
            share = Decimal(int.from_bytes(digest[:8])) / 2**64
            # With half a number more on each side, the ends are drawn as often as the numbers between them.
            margin = Decimal("0.5") if self.whole else Decimal(0)
            low, high = Decimal(self.low) - margin, Decimal(self.high) + margin
            drawn = low * (high / low) ** share if self.log else low + (high - low) * share
            rounded = int(drawn.to_integral_value()) if self.whole else float(f"{drawn:.{_DRAWN_DIGITS}g}")
        # Rounding may have led out of the range.
        return min(max(rounded, self.low), self.high)


class SearchSpace(NamedTuple):
    """A checked sweep: lists and ranges under the fields' short names, in the order of the file."""

    lists: Mapping[str, Sequence[Choice]]
    ranges: Mapping[str, Range]
    num_samples: int
    num_seeds: int
    halving: Halving | None

    @property
    def num_cells(self) -> int:
        """The number of trials that the sweep asks for, with those that are drawn twice."""
        return self.num_samples * self.num_seeds * math.prod(map(len, self.lists.values()))

    def samples(self, seed: int) -> Iterator[list[dict[str, Choice]]]:
        """The cells of each sample in turn; one sample where nothing is drawn.

        Args:
            seed: training.seed, which decides the draws, and is the first of the `seeds`.
        """
        grid = dict(self.lists)
        if self.num_seeds > 1:
            grid[SEED] = [Choice(seed + i, f"sweep.{SEEDS} (number {i + 1})") for i in range(self.num_seeds)]

        for sample in range(self.num_samples):
            drawn = {
                field: Choice(found.draw(seed, sample), f"{found.location} (sample {sample + 1})")
                for field, found in self.ranges.items()
            }
            yield [drawn | dict(zip(grid, cell, strict=True)) for cell in itertools.product(*grid.values())]


def read_search_space(sweep: Mapping[str, Any]) -> SearchSpace:
    """The search space of an experiment's `sweep:`.

    The values in lists are not checked here: each trial is checked with all of its values.

    Raises:
        ConfigError: a field that can't be swept, an empty list, a wrong range, samples or seeds that are missing or
            don't fit the rest, more than 10,000 trials.
    """
    lists: dict[str, Sequence[Choice]] = {}
    ranges: dict[str, Range] = {}
    for key, values in sweep.items():
        if key in (SAMPLES, SEEDS, HALVING):
            continue
        field = _swept_field(key)
        if field in lists or field in ranges:
            raise ConfigError(f"sweep names one field twice ({', '.join(sweep)}): keep one of them")
        if isinstance(values, Mapping):
            ranges[field] = _read_range(key, field, values)
        else:
            lists[field] = _read_list(key, values)

    # Samples and ranges need each other; seeds are counted or listed, not both.
    if ranges and SAMPLES not in sweep:
        raise ConfigError(
            f"sweep.{SAMPLES} is missing: {', '.join(ranges)} is drawn from a range; say how often, for example "
            f"`{SAMPLES}: 8`"
        )
    if SAMPLES in sweep and not ranges:
        raise ConfigError(
            f"sweep.{SAMPLES} is {show(sweep[SAMPLES])}, but nothing is drawn: give a field a range, for example "
            f"`lambda_l1: {{{LOG_UNIFORM}: [10, 1000]}}`, or take {SAMPLES} out"
        )
    if SEEDS in sweep and SEED in lists:
        raise ConfigError(
            f"sweep.{SEEDS} is {show(sweep[SEEDS])}, but sweep.{SEED} lists the seeds itself: keep one of the two"
        )

    space = SearchSpace(lists, ranges, _read_count(sweep, SAMPLES), _read_count(sweep, SEEDS), read_halving(sweep))
    if space.num_cells > _MAX_COUNT:
        raise ConfigError(
            f"sweep asks for {space.num_cells:,} trials ({', '.join(sweep)}): at most {_MAX_COUNT:,} are allowed; give "
            "fewer values, samples or seeds"
        )
    return space


def _swept_field(key: str) -> str:
    """The short name of a swept field: `batch_size` for `batch_size` and for `training.batch_size`."""
    short = key.rsplit(".", 1)[-1]
    if (key == short and short in SWEEP_FIELDS) or SWEEP_FIELDS.get(short) == key:
        return short
    if short == NOT_SWEPT:
        raise ConfigError(
            f"`sweep.{key}` is not a field that can be swept, because trials would be named after a path: give each "
            "file an experiment of its own, and compare them with `python -m runner.report EXPERIMENT_DIR...`"
        )
    hint = suggest(short, [*SWEEP_FIELDS, SAMPLES, SEEDS, HALVING])
    raise ConfigError(f"`sweep.{key}` is not a field that can be swept; {hint}")


def _read_list(key: str, values: Any) -> list[Choice]:
    """The values of a list, each with its location."""
    if not isinstance(values, list):
        raise ConfigError(
            f"sweep.{key} is {show(values)}: it must be a list of values, for example [1, 4, 10], or for numbers a "
            f"range, for example {{{LOG_UNIFORM}: [10, 1000]}}"
        )
    if not values:
        raise ConfigError(f"sweep.{key} is an empty list: give it values, or take it out")
    return [Choice(value, f"sweep.{key}[{index}]") for index, value in enumerate(values)]


def _read_range(key: str, field: str, values: Mapping[str, Any]) -> Range:
    """The range of `{uniform: [a, b]}` or `{log_uniform: [a, b]}`."""
    kind = _number_kind(field)

    # May the field have a range, and is this one written as a range?
    if kind is None or not has_range(field):
        remedy = f"use `{SEEDS}: 3` for three of them, or a list" if field == SEED else "give a list of them"
        reason = "repeats are counted, not drawn" if field == SEED else "its values are no range of numbers"
        raise ConfigError(f"sweep.{key} is {show(values)}, but {reason}: {remedy}")
    if len(values) != 1 or not values.keys() <= {UNIFORM, LOG_UNIFORM}:
        raise ConfigError(
            f"sweep.{key} is {show(values)}: a range is {{{UNIFORM}: [a, b]}} or {{{LOG_UNIFORM}: [a, b]}}; write one "
            "of the two"
        )

    # Are its two ends numbers that the field may have, in this order?
    ((name, ends),) = values.items()
    location = f"sweep.{key}.{name}"
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(is_number, ends)):
        raise ConfigError(f"{location} is {show(ends)}: it must be two numbers, the lowest and the highest value")
    for index, end in enumerate(ends):
        _check_end(field, end, f"{location}[{index}]")
    low, high = ends
    if low >= high:
        raise ConfigError(f"{location} is {show(ends)}: the first number must be less than the second; exchange them")
    if name == LOG_UNIFORM and low <= 0:
        raise ConfigError(
            f"{location}[0] is {show(low)}: it must be more than 0, which has no logarithm; raise it, or use {UNIFORM}"
        )
    return Range(field, location, low, high, name == LOG_UNIFORM, kind is int)


def is_number(value: Any) -> bool:
    """True for a number of YAML, of which booleans are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def has_range(field: str) -> bool:
    """True for a swept field, by its short name, that can be drawn from a range."""
    return field != SEED and _number_kind(field) is not None


def _number_kind(field: str) -> type | None:
    """int or float for a field whose values can be a range of numbers, else None."""
    # `patching` is swept, but its section is not, and it has no numbers.
    section, name = SWEEP_FIELDS[field].split(".")
    if section not in SWEEP_SECTIONS:
        return None
    kinds = base_types(SWEEP_SECTIONS[section].model_fields[name].annotation)
    return next((kind for kind in (int, float) if kind in kinds), None)


def _check_end(field: str, value: float, location: str) -> None:
    """Raises ConfigError where the field may not have that value: if it may have both ends, it may have all between."""
    section, name = SWEEP_FIELDS[field].split(".")
    try:
        SWEEP_SECTIONS[section].model_validate({name: value})
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            # Only this field's own rules: rules with other fields are checked with each trial.
            if problem["loc"][:1] == (name,):
                raise ConfigError(f"{location} is {show(value)}: it {explain(problem)[1]}") from None


def _read_count(sweep: Mapping[str, Any], key: str) -> int:
    """`samples` or `seeds`; 1 where it is not given."""
    count = sweep.get(key, 1)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MAX_COUNT:
        raise ConfigError(f"sweep.{key} is {show(count)}: it must be a whole number from 1 to {_MAX_COUNT}")
    return count
