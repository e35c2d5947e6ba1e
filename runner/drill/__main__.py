"""The command line of `python -m runner.drill`."""

import argparse
import math
import sys
from collections.abc import Sequence

from runner.command import add_address, add_traceback, new_parser, run_command, user_path
from runner.errors import Exit


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns its exit code."""
    parser = new_parser(
        "runner.drill",
        "Breaks small runs in many ways and prints which of the faults they survived: the same command again, and\n"
        "every byte as in a run that nothing happened to. Only processes that it started are ended.\n"
        "Exit code 0: all that were tried survived; 1: some did not.\n"
        "With --trace spot: runs a sweep on a cluster of this machine whose nodes come and go, and prints its goodput.",
        "python -m runner.drill --minutes 20\n  python -m runner.drill --trace spot --minutes 5 --seed 1",
    )

    parser.add_argument("--minutes", metavar="N", type=_minutes, default=20.0, help="about how long (default: 20)")
    add_address(parser, "a local one for each command")
    parser.add_argument(
        "--storage", metavar="DIR_OR_URI", type=user_path,
        help="where the runs go, for a cluster a bucket or a folder that all nodes see "
        "(default: a temporary folder, removed if all survived)",
    )  # fmt: skip
    parser.add_argument(
        "--trace",
        choices=["spot"],
        help="nodes of spot machines that come and go under one sweep, in place of the faults",
    )
    parser.add_argument("--json", metavar="FILE", type=user_path, help="write the table as JSON, too")
    parser.add_argument("--seed", type=int, help="draws the random moments (default: a new one, which is printed)")
    add_traceback(parser)

    return run_command(parser, _run_drill, argv)


def _minutes(text: str) -> float:
    """Parses a number of minutes above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes: give one above 0, for example 20")
    return value


def _run_drill(arguments: argparse.Namespace) -> Exit:
    # Imported here, so that `--help` does not wait for it.
    if arguments.trace is not None:
        from runner.drill.spot.run import run_trace

        return run_trace(arguments)
    from runner.drill.run import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
