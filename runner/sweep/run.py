"""From an experiment file to its results: the arrow that the commands of training follow.

    load_experiment -> check_experiment -> prepare -> run_trials -> report_outcome

On the way, a trial: run_trials -> run_tune -> run_trial -> train_worker -> train_trial -> fit -> train_step.
"""

import time

from runner.config.loading import ExperimentSource, load_experiment, read_experiment
from runner.console import Console
from runner.errors import Exit, FullError
from runner.storage.storage import is_unreachable, takes_nothing
from runner.sweep.check import Options, SweepPlan, check_experiment


def run_experiment(source: ExperimentSource, options: Options, console: Console) -> Exit:
    """Runs all trials of an experiment that are not finished yet.

    Args:
        source: the path of an experiment file, or what one would hold.

    Raises:
        UserError: something is wrong with the experiment, the data, the storage or the machine; nothing was
            run, and nothing is half-written.
        FullError: the disk is full, or the object store can't be used.
    """
    started = time.monotonic()
    try:
        return _run_experiment(source, options, console, started)
    except OSError as error:
        if not takes_nothing(error):
            raise

        if is_unreachable(error):
            raise FullError(
                f"--storage: {error}; when it answers again and takes the credentials, the same command goes on from "
                "the last checkpoint"
            ) from error
        raise FullError(
            f"--storage: there is no room at {options.storage} ({error}); "
            "make room, and the same command goes on from the last checkpoint"
        ) from error


def _run_experiment(source: ExperimentSource, options: Options, console: Console, started: float) -> Exit:
    """As above.

    Args:
        started: when the command began, by time.monotonic(), for its time limit.
    """
    written = read_experiment(source, options.overrides)
    with written.errors_name_lines():
        experiment = load_experiment(written)
        plan = check_experiment(experiment, written.origin, options)
    for note in plan.notes:
        console.print(f"note: {note}")

    if options.dry_run:
        from runner.sweep.dry_run import print_plan

        return print_plan(plan, console)
    return _run(plan, console, started)


def _run(plan: SweepPlan, console: Console, started: float) -> Exit:
    """Prepares, runs and reports; ends early where it is asked to, or where another start takes over."""
    # What follows loads libraries for a second: not before the input is sound.
    from runner.process.home import ensure_home
    from runner.process.lease import Superseded
    from runner.process.stop_request import Stopped, StopRequest
    from runner.sweep.execute import run_trials
    from runner.sweep.outcome import report_outcome
    from runner.sweep.prepare import prepare
    from runner.sweep.session import open_session

    ensure_home()
    stop = StopRequest.with_time_limit(started, plan.options.time_limit_s)
    try:
        with open_session(plan, stop, console) as session:
            prepared = prepare(plan, session)
            results = run_trials(plan, prepared, session)
            return report_outcome(plan, results, stop, console)
    # Before any trial has begun: there is nothing new to report.
    except Stopped:
        return stop.exit_code
    except Superseded as error:
        console.print(f"this command ends: {error}")
        return Exit.STOPPED
