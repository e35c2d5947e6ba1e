"""The work of `python -m runner.status`: shows an experiment once, or until its run ends."""

import shlex
import time
from datetime import datetime

from runner.console import Console
from runner.number_format import duration
from runner.process.lease import Holder
from runner.records.results import ENDED_WELL
from runner.records.seeds import repeated_cells
from runner.screen.sweep_progress import by_interest, describe_counts, describe_rest, describe_sweep
from runner.screen.trial_tables import progress_table
from runner.status.reading import Status, StatusReader
from runner.storage.run_folder import EXPERIMENT_FILE, REPORT
from runner.storage.storage import Storage

_INTERVAL_S = 2.0
_MAX_ROWS = 40


def show_status(folder: str, console: Console) -> None:
    """Prints who holds the experiment, the counts of its trials, and their table.

    Raises:
        DataError: the folder is no experiment's.
        ConfigError: what is in it is not what a run leaves.
    """
    reader = StatusReader(folder)
    _print(reader, reader.read(), console)


def watch_status(folder: str, console: Console) -> None:
    """Shows the experiment until nobody runs it any more; then prints its table. Raises as `show_status`."""
    reader = StatusReader(folder)
    status = reader.read()
    if status.is_held:
        status = _follow(reader, status, console)
    _print(reader, status, console)


def _follow(reader: StatusReader, status: Status, console: Console) -> Status:
    """Shows the experiment while it is held; the last status."""
    if not console.rich.is_terminal:
        console.print(describe_holder(status))
    console.begin()
    try:
        while status.is_held:
            console.show(status.trials, _num_running(status), [describe_holder(status)])
            time.sleep(max(_INTERVAL_S, reader.experiment.poll_interval_s))
            status = reader.read()
    finally:
        console.end()
    return status


def _print(reader: StatusReader, status: Status, console: Console) -> None:
    console.print(describe_holder(status))
    if not status.trials:
        console.print("its trials are not planned yet: the run is being prepared, or ended before that")
    elif status.is_held:
        console.print(describe_sweep(status.trials, _num_running(status)))
        trials = by_interest(status.trials)
        console.rich.print(progress_table(trials[:_MAX_ROWS]))
        if rest := trials[_MAX_ROWS:]:
            console.print(describe_rest(rest))
    else:
        console.print(describe_counts(status.trials))
        results = reader.results(status)
        console.results(results, repeated_cells(results))

    if step := describe_next_step(status, reader.experiment):
        console.print(step, wrap=False)


def describe_next_step(status: Status, experiment: Storage) -> str:
    """What the person may do next, with the command for it; "" where nothing is known."""
    folder = shlex.quote(experiment.shown)
    if status.is_held:
        return f"to follow it: python -m runner.status {folder} --watch"
    if not status.trials:
        return "to go on: give the same command again"

    # The experiment's own file has what --set gave it, too.
    storage = shlex.quote(experiment.above(1).shown)
    again = f"python -m runner.tune {folder}/{EXPERIMENT_FILE} --storage {storage}"
    statuses = {trial.status for trial in status.trials}
    if statuses <= set(ENDED_WELL):
        if experiment.exists(REPORT):
            return f"to look at it: {experiment.shown}/{REPORT}"
        return f"to compare its trials: python -m runner.report {folder}"
    if statuses <= {*ENDED_WELL, "diverged"}:
        return f"to try again what has diverged: {again} --retry-diverged"
    return f"to go on: {again}"


def describe_holder(status: Status) -> str:
    """Who holds the experiment, since when, and when it last gave a sign of life; or that nobody does."""
    holder = status.holder
    if holder is None:
        return "no command is running this experiment"
    process = f"process {holder.pid} on {holder.host}"
    age_s = max(holder.heartbeat_age_s, 0.0)
    if not status.is_held:
        return (
            f"no command is running this experiment: {process} has left its lock, and gave its last sign of life "
            f"{duration(age_s)} ago"
        )
    stopping = f", stopping ({holder.stopping})" if holder.stopping else ""
    return f"run by {process}{_since(holder)}, last heartbeat {duration(age_s)} ago{stopping}"


def _since(holder: Holder) -> str:
    # Locks of earlier releases do not say it.
    return f" since {datetime.fromtimestamp(holder.since):%Y-%m-%d %H:%M:%S}" if holder.since else ""


def _num_running(status: Status) -> int:
    """How many trials run at a time: as many as do now."""
    return max(sum(trial.status == "running" for trial in status.trials), 1)
