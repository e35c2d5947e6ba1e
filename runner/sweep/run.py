"""From an experiment file to its results: the arrow that the commands of training follow.

load_experiment -> prepare_patches -> run_sweep -> run_trial -> train_worker -> fit -> write_results
"""

import time

from runner.config.loading import ExperimentSource
from runner.console import Console
from runner.errors import Exit
from runner.sweep.check import Options, check


def run_experiment(source: ExperimentSource, options: Options, console: Console) -> Exit:
    """Runs all trials of an experiment that are not finished yet.

    Args:
        source: the path of an experiment file, or what one would hold.

    Raises:
        UserError: something is wrong with the experiment, the data, the storage or the machine; nothing was
            run, and nothing is half-written.
    """
    started = time.monotonic()
    checked = check(source, options, console)

    from runner.sweep.execute import execute, print_plan  # torch comes with these: not before the input is sound

    if options.dry_run:
        return print_plan(checked, options, console)
    return execute(checked, options, console, started)
