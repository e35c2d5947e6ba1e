"""`python -m runner.train EXPERIMENT.yaml`: runs the one trial of an experiment that sweeps nothing."""

import sys
from collections.abc import Sequence

from runner.command import add_training_arguments, new_parser, run_command, run_training


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = new_parser(
        "runner.train",
        "Runs the one trial of an experiment that sweeps nothing. The same command again goes on where it was.",
        "python -m runner.train experiments/baseline.yaml --set training.epochs=2 --in-process",
    )
    add_training_arguments(parser)
    parser.add_argument(
        "--in-process",
        action="store_true",
        help="train in this process, without Ray: for a debugger, or a machine without Ray",
    )
    return run_command(
        parser, lambda arguments: run_training(arguments, single=True, in_process=arguments.in_process), argv
    )


if __name__ == "__main__":
    sys.exit(main())
