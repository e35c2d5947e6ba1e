"""What the benchmarks share: timing, medians with their spread, the table and the JSON file."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Spread(NamedTuple):
    """The median of repeated measurements and their extremes."""

    median: float
    min: float
    max: float

    def __str__(self) -> str:
        return f"{shown(self.median)} ({shown(self.min)} to {shown(self.max)})"


def spread(values: Sequence[float]) -> Spread:
    """The spread of one value or more."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(values: Sequence[float], others: Sequence[float]) -> Spread:
    """The spread of value / other, taken pair by pair: measured turn by turn, each pair had the same machine."""
    return spread([value / other for value, other in zip(values, others, strict=True)])


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def benchmark_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser that says what the module's docstring says and knows `--json FILE`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", type=Path, help="where to write the figures")
    return parser


def publish(figures: Mapping[str, Any], json_path: Path | None) -> None:
    """Prints the figures as a table, with the machine that gave them, and writes them where asked to.

    Args:
        figures: a name each; values are numbers, texts, or a `Spread`, which JSON has as an object.
    """
    figures = {**machine(), **figures}
    width = max(len(name) for name in figures)
    for name, value in figures.items():
        print(f"{name:{width}}  {shown(value)}")
    if json_path:
        plain = {name: value._asdict() if isinstance(value, Spread) else value for name, value in figures.items()}
        json_path.write_text(json.dumps(plain, indent=1) + "\n")


def shown(value: object) -> str:
    """A number to four digits, anything else as it is."""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def machine() -> dict[str, Any]:
    """The processor, its cores that this process may use, and the GPU where there is one."""
    found: dict[str, Any] = {"processor": processor_name(), "cores": len(os.sched_getaffinity(0))}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def processor_name() -> str:
    """The model as Linux names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
