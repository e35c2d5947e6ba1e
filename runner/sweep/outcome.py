"""What the command ends with: where the results are, why trials ended early, and its exit code."""

from collections.abc import Sequence

from runner.comparison.equal_losses import describe_equal_losses, equal_losses
from runner.console import Console
from runner.errors import Exit
from runner.number_format import counted
from runner.process.stop_request import StopRequest
from runner.records.results import ENDED_WELL, TrialResult
from runner.records.trial_file import read_outcome
from runner.storage.run_folder import LOG, REPORT, RESULTS_CSV, trial_path
from runner.sweep.check import SweepPlan
from runner.tracking.sync_hint import sync_hint

_MAX_BAD = 20  # trials that a line tells of


def report_outcome(plan: SweepPlan, results: Sequence[TrialResult], stop: StopRequest, console: Console) -> Exit:
    """Prints what to look at next; the exit code."""
    bad = [result.row for result in results if result.row["status"] not in (*ENDED_WELL, "stopped")]
    for row in bad[:_MAX_BAD]:
        folder = plan.folder.at(trial_path(row["trial"]))
        console.print(f"{row['trial']}: {row['status']}: {read_outcome(folder)['reason']}; see {folder.shown}/{LOG}")
    if len(bad) > _MAX_BAD:
        console.print(f"and {counted(len(bad) - _MAX_BAD, 'more trial')} like these: see {RESULTS_CSV}")
    rows = [result.row for result in results]
    ended = [(row["trial"], plan.folder.at(trial_path(row["trial"])), row["status"]) for row in rows]
    for line in describe_equal_losses(equal_losses(ended)):
        console.print(line)
    console.print(f"results: {plan.folder.shown}/{REPORT} and {RESULTS_CSV}")
    if plan.experiment.tracking.wandb != "off" and (hint := sync_hint(plan.folder)):
        console.print(f"Weights & Biases is offline; to upload: {hint}", wrap=False)

    code = exit_code([result.row["status"] for result in results], stop)
    if code in (Exit.STOPPED, Exit.INTERRUPTED):
        console.print(f"stopped ({stop.reason}); the same command goes on from the last checkpoint")
    return code


def exit_code(statuses: Sequence[object], stop: StopRequest) -> Exit:
    """The exit code for the trials' statuses."""
    if all(status in ENDED_WELL for status in statuses):
        return Exit.FINISHED
    # A request that came too late to stop a trial does not decide the exit code.
    if stop.reason and "stopped" in statuses:
        return stop.exit_code
    return Exit.TRIAL_FAILED
