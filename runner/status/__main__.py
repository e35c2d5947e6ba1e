"""`python -m runner.status EXPERIMENT_DIR`: the table of an experiment that runs or has ended, from another shell."""

import argparse
import sys
from collections.abc import Sequence

from runner.command import add_traceback, new_parser, run_command, unwound_on_sigterm, user_path
from runner.errors import Exit


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = new_parser(
        "runner.status",
        "Shows the trials of an experiment that runs or has ended, and who runs it: from another shell, or from\n"
        "another machine that sees the storage. It only reads, and never disturbs a run.",
        "python -m runner.status results/batch_sweep --watch",
    )
    parser.add_argument(
        "folder", metavar="EXPERIMENT_DIR", type=user_path, help="an experiment's folder or URI, STORAGE/EXPERIMENT"
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="show it again every two seconds, of a bucket less often, until the run ends or Ctrl-C",
    )
    add_traceback(parser)
    return run_command(parser, _run_status, argv)


def _run_status(arguments: argparse.Namespace) -> Exit:
    """Shows the experiment once, or until its run ends."""
    # Loads pydantic and rich, which --help must not wait for.
    from runner.console import Console
    from runner.status.command import show_status, watch_status

    if not arguments.watch:
        show_status(arguments.folder, Console())
        return Exit.FINISHED
    try:
        with unwound_on_sigterm():
            watch_status(arguments.folder, Console())
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return Exit.FINISHED


if __name__ == "__main__":
    sys.exit(main())
