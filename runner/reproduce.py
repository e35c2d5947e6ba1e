"""`python -m runner.reproduce TRIAL_DIR`: trains a trial again, elsewhere, and compares the bits."""

import argparse
import sys
from collections.abc import Sequence

from runner.command import add_traceback, new_parser, run_command, unwound_on_sigterm, user_path
from runner.errors import Exit


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = new_parser(
        "runner.reproduce",
        "Trains a trial again from its trial.yaml, in this process and in a temporary folder, with the threads and\n"
        "the precision that it recorded, and compares losses, metrics and weights to the bit. It ends at the first\n"
        "difference: exit code 1, with the step and the field. Where all is the same: exit code 0, and the SHA-256 of\n"
        "the weights. A trial that is half done or halted is compared as far as it got. Nothing in the results is\n"
        "changed.",
        "python -m runner.reproduce results/baseline/trials/trial --epochs 2",
    )

    parser.add_argument(
        "trial", metavar="TRIAL_DIR", type=user_path, help="a trial's folder or URI, STORAGE/EXPERIMENT/trials/TRIAL"
    )
    parser.add_argument(
        "--epochs", metavar="N", type=_positive, help="compare the first N epochs only (default: as far as it got)"
    )

    add_traceback(parser)
    return run_command(parser, _run_reproduce, argv)


def _positive(text: str) -> int:
    """Parses a number of epochs."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of epochs: give a whole number, 1 or more")
    return int(text)


def _run_reproduce(arguments: argparse.Namespace) -> Exit:
    """Trains, compares and says what came of it."""
    # Loaded late, because torch takes seconds.
    from runner.console import Console
    from runner.models.reproduction import reproduce

    console = Console()
    try:
        with unwound_on_sigterm():
            reproduction = reproduce(arguments.trial, arguments.epochs, console)
    except KeyboardInterrupt:
        console.print("interrupted: nothing was compared to the end; the same command begins again")
        return Exit.INTERRUPTED

    for line in reproduction.lines():
        console.print(line, wrap=False)
    return Exit.TRIAL_FAILED if reproduction.difference else Exit.FINISHED


if __name__ == "__main__":
    sys.exit(main())
