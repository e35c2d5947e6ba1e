"""A sweep in one process, trial after trial, as no command offers it: so that tests of sweeps need no Ray."""

from collections.abc import Sequence

from runner.checking import Options
from runner.command import add_training_arguments, new_parser, run_command
from runner.run import run_experiment
from runner.screen import Screen


def main(argv: Sequence[str] | None = None) -> int:
    """Takes what runner.tune takes."""
    parser = new_parser("tests.runner.sweep_here", "A sweep in one process.", "")
    add_training_arguments(parser)
    return run_command(
        parser,
        lambda arguments: run_experiment(
            arguments.experiment, Options(storage=arguments.storage, in_process=True), Screen()
        ),
        argv,
    )
