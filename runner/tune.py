"""`python -m runner.tune EXPERIMENT.yaml`: runs all trials of an experiment."""

import sys
from collections.abc import Sequence

from runner.command import add_training_arguments, new_parser, run_command, run_training


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = new_parser(
        "runner.tune",
        "Runs all trials of an experiment on Ray. The same command again goes on where it was; finished trials "
        "are not run again. A file without `sweep:` is one trial.",
        "python -m runner.tune experiments/batch_sweep.yaml --set data.source=data/maps --time-limit 8h",
    )
    add_training_arguments(parser)
    return run_command(parser, lambda arguments: run_training(arguments, single=False), argv)


if __name__ == "__main__":
    sys.exit(main())
