"""What all commands share: arguments, errors for people, exit codes."""

import argparse
import contextlib
import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn

from runner.errors import Exit, UserError

MAX_ERROR_LINES = 25
UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def new_parser(module: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser whose --help ends with an example."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_traceback(parser: argparse.ArgumentParser) -> None:
    """The option that every command has."""
    parser.add_argument("--traceback", action="store_true", help="show where in the program an error came from")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that runner.tune and runner.train share."""
    parser.add_argument("experiment", metavar="EXPERIMENT.yaml", help="the experiment file")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", dest="overrides", action="append", default=[],
        help="override a field, for example --set training.epochs=2 (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--storage", metavar="DIR_OR_URI", default="results", help="where results go (default: ./results)"
    )
    parser.add_argument(
        "--address", default=os.environ.get("RAY_ADDRESS"),
        help="an existing Ray cluster (default: RAY_ADDRESS, else a local one of our own)",
    )  # fmt: skip
    parser.add_argument(
        "--time-limit",
        metavar="TIME",
        type=parse_duration,
        help="stop cleanly before this much time, for example 30m",
    )
    parser.add_argument(
        "--take-over", action="store_true", help="take the place of a command that is running this experiment"
    )
    parser.add_argument(
        "--retry-diverged", action="store_true", help="go on with trials whose losses were not finite, too"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, run nothing")
    parser.add_argument(
        "--dashboard",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the Ray dashboard, on 127.0.0.1",
    )
    add_traceback(parser)


def parse_duration(text: str) -> float:
    """Seconds of 90, 45s, 30m, 1.5h or 2d."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 90, 45s, 30m, 2h or 1d")
    return float(match[1]) * UNITS_S[match[2]]


def run_training(arguments: argparse.Namespace, *, single: bool, in_process: bool = False) -> Exit:
    """Runs what the parsed options of a training command ask for."""
    from runner.console import Console
    from runner.sweep.check import Options
    from runner.sweep.run import run_experiment

    options = Options(
        overrides=tuple(arguments.overrides),
        storage=arguments.storage,
        address=arguments.address,
        time_limit_s=arguments.time_limit,
        take_over=arguments.take_over,
        retry_diverged=arguments.retry_diverged,
        dry_run=arguments.dry_run,
        dashboard=arguments.dashboard,
        in_process=in_process,
        single=single,
    )
    return run_experiment(arguments.experiment, options, Console())


def run_command(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], Exit], argv: Sequence[str] | None
) -> int:
    """Parses, works, and turns errors into a few lines on stderr and an exit code."""
    arguments = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # files may have names that it can't show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return int(work(arguments))
    except UserError as error:
        show_error(str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        show_error("interrupted; the same command goes on from the last checkpoint")
        code = Exit.INTERRUPTED
    except Exception as error:
        show_error(f"unexpected {type(error).__name__}: {error}\nWith --traceback it says where.")
        code = Exit.TRIAL_FAILED
    if arguments.traceback:
        traceback.print_exc()
    return int(code)


@contextlib.contextmanager
def unwound_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as an exception does, so that nothing half-written stays, and then the command."""

    def end(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(int(Exit.STOPPED))

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def show_error(text: str) -> None:
    """At most 25 lines on stderr."""
    lines = text.splitlines() or [""]
    if len(lines) > MAX_ERROR_LINES:
        lines = [*lines[: MAX_ERROR_LINES - 1], f"... and {len(lines) - MAX_ERROR_LINES + 1} more lines"]
    lines[0] = f"error: {lines[0]}"
    print("\n".join(lines), file=sys.stderr)
