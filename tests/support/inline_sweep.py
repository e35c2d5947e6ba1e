"""A sweep in one process, trial after trial, as no command offers it: so that tests of sweeps need no Ray."""

import sys
from collections.abc import Sequence

from runner.command import add_training_arguments, new_parser, run_command
from runner.console import Console
from runner.sweep.check import Options
from runner.sweep.run import run_experiment


def main(argv: Sequence[str] | None = None) -> int:
    """Takes what runner.tune takes."""
    parser = new_parser("tests.support.inline_sweep", "A sweep in one process.", "")
    add_training_arguments(parser)
    return run_command(
        parser,
        lambda arguments: run_experiment(
            arguments.experiment, Options(storage=arguments.storage, in_process=True), Console()
        ),
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())
