"""What all commands share: options, short error messages, exit codes."""

import argparse
import contextlib
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn

from runner.errors import Exit, StorageError, UserError
from runner.process.output import lasting_output
from runner.process.stop_request import ending_signals
from runner.storage.folder import expand_home
from runner.storage.storage import LOOKED_UP, Unreachable, is_uri

_MAX_ERROR_LINES = 25
_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class _Parser(argparse.ArgumentParser):
    """A parser that says what to write in place of an argument that it does not know."""

    def error(self, message: str) -> NoReturn:
        """Ends the command with exit code 2."""
        if message.startswith("unrecognized arguments:"):
            if "--resume" in message or "--continue" in message:
                message += " (to go on with a run, give the same command again)"
            elif re.search(r" [a-z_.]+=", message):
                message += " (each KEY=VALUE needs a --set of its own)"
        super().error(message)


def new_parser(module: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser whose --help ends with an example."""
    return _Parser(
        prog=f"python -m {module}",
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_traceback(parser: argparse.ArgumentParser) -> None:
    """Adds the option --traceback, which every command has."""
    parser.add_argument("--traceback", action="store_true", help="show where in the program an error came from")


def user_path(text: str) -> str:
    """Parses a path or URI: `~` is the home folder, which shells leave as it is in `--storage=~/x`."""
    try:
        return text if is_uri(text) else expand_home(text)
    except StorageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None


def machine_path(text: str) -> str:
    """As `user_path`, for what has to be a file or a folder of this machine."""
    path = user_path(text)
    if is_uri(path):
        raise argparse.ArgumentTypeError(f"{text!r} must be a path on this machine, and not the URI of a bucket")
    return path


def add_address(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """Adds the option --address, whose value is for cluster_address.

    Args:
        otherwise: what is used where there is neither the option nor RAY_ADDRESS.
    """
    parser.add_argument("--address", help=f"an existing Ray cluster (default: RAY_ADDRESS, else {otherwise})")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that runner.tune and runner.train share."""
    # What to run, and where.
    parser.add_argument("experiment", metavar="EXPERIMENT.yaml", type=user_path, help="the experiment file, or its URI")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", dest="overrides", action="append", default=[],
        help="override a field, for example --set training.epochs=2 (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--storage",
        metavar="DIR_OR_URI",
        type=user_path,
        default="results",
        help="where results go (default: ./results)",
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        type=machine_path,
        help="where local copies of what is in a bucket live (default: PIX2PIX_CACHE, else your cache folder)",
    )
    add_address(parser, "a new local one; `local` for that in any case")

    # How this start of the command behaves.
    parser.add_argument(
        "--time-limit",
        metavar="TIME",
        type=_parse_duration,
        help="stop cleanly before this much time, for example 30m",
    )
    parser.add_argument(
        "--wait",
        metavar="TIME",
        type=_parse_duration,
        help="how long to wait for machines that may still join the cluster, for example 2h (default: 15m where it "
        "has an autoscaler or no machine with cores yet)",
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


def _parse_duration(text: str) -> float:
    """Seconds in a duration such as 90, 45s, 30m, 1.5h or 2d."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 90, 45s, 30m, 2h or 1d")
    return float(match[1]) * _UNITS_S[match[2]]


def run_training(arguments: argparse.Namespace, *, single: bool, in_process: bool = False) -> Exit:
    """Runs the experiment that the parsed options of a training command ask for.

    Args:
        single: the experiment must be one trial.
        in_process: trains without Ray.
    """
    # Loaded late, so that --help and a wrong option are answered at once.
    from runner.console import Console
    from runner.on_ray.connection.address import cluster_address
    from runner.records.commands import command_text
    from runner.sweep.check import Options
    from runner.sweep.run import run_experiment

    options = Options(
        overrides=tuple(arguments.overrides),
        storage=arguments.storage,
        cache=arguments.cache,
        address=None if in_process else cluster_address(arguments.address),
        time_limit_s=arguments.time_limit,
        wait_s=arguments.wait,
        take_over=arguments.take_over,
        retry_diverged=arguments.retry_diverged,
        dry_run=arguments.dry_run,
        dashboard=arguments.dashboard,
        in_process=in_process,
        single=single,
        command=command_text(arguments.program, arguments.typed),
    )
    # From the session on, a signal is a request to save and stop; until then there is nothing to save.
    with unwound_on_sigterm():
        return run_experiment(arguments.experiment, options, Console())


def run_command(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], Exit], argv: Sequence[str] | None
) -> int:
    """Parses the options and does the work of a command.

    Errors become a few lines on stderr; with --traceback, Python's traceback follows them.

    Returns:
        The exit code.
    """
    with lasting_output():
        arguments = parser.parse_args(argv)
        # For the record of a run.
        arguments.program, arguments.typed = parser.prog, sys.argv[1:] if argv is None else list(argv)
        try:
            return int(work(arguments))
        except (Exception, KeyboardInterrupt) as error:
            text, code = _explain(error)
            show_error(text)
            if arguments.traceback:
                traceback.print_exception(error)
            return int(code)


def _explain(error: BaseException) -> tuple[str, Exit]:
    """The message and the exit code for an error that ends a command."""
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if isinstance(error, Unreachable):
        return f"{error}. {LOOKED_UP} The same command tries again.", Exit.BAD_INPUT
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command goes on from the last checkpoint", Exit.INTERRUPTED
    return f"unexpected {type(error).__name__}: {error}\nUse --traceback to see where it came from.", Exit.TRIAL_FAILED


@contextlib.contextmanager
def unwound_on_sigterm() -> Iterator[None]:
    """Inside the block SIGTERM and SIGHUP raise SystemExit: half-written files are cleaned up before the command ends.

    Does nothing outside of the main thread, which alone may handle signals.
    """

    def end(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(int(Exit.STOPPED))

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show_error(text: str) -> None:
    """Prints an error to stderr, at most 25 lines of it."""
    # A script's log stays readable even if every checkpoint of a thousand trials is damaged.
    lines = text.splitlines() or [""]
    if len(lines) > _MAX_ERROR_LINES:
        lines = [*lines[: _MAX_ERROR_LINES - 1], f"... and {len(lines) - _MAX_ERROR_LINES + 1} more lines"]
    lines[0] = f"error: {lines[0]}"
    print("\n".join(lines), file=sys.stderr)
