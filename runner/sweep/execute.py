"""Runs the pending trials, followed by a monitor, and comes to the results of all trials."""

import contextlib
import dataclasses
from collections.abc import Sequence

from gan.data.epochs import steps_per_epoch
from runner.config.loading import to_yaml
from runner.console import Console
from runner.process.lease import Lease
from runner.records.results import TrialResult
from runner.records.seeds import repeated_cells
from runner.records.starts import Cause, cause_of, read_starts
from runner.records.trial_file import read_outcome, settle_outcome, write_outcome
from runner.records.trial_folders import Trial
from runner.report.reading import read_result
from runner.storage.run_folder import EXPERIMENT_FILE, PATCHES
from runner.sweep.check import SweepPlan
from runner.sweep.monitor import Monitor, MonitoredTrial
from runner.sweep.prepare import Prepared
from runner.sweep.session import Session
from runner.sweep.waiting import ResourceWatch
from runner.tracking.tracker import Tracker
from runner.tracking.wandb_runs import WandbDestination
from runner.tracking.wandb_sweep import WandbSweep
from runner.tracking.wandb_trial import WandbTrial
from runner.trial.job import TrialJob


def run_trials(plan: SweepPlan, prepared: Prepared, session: Session) -> list[TrialResult]:
    """Trains what is pending; the results of all trials, written and shown."""
    lease, console = session.lease, session.console
    _print_what_is_not_run(plan, console)
    # Reports and the Python interface read an experiment from its folder alone.
    plan.folder.write(EXPERIMENT_FILE, to_yaml(plan.experiment))
    to_run = {trial.name for trial in plan.pending}
    trials = [_monitored(trial, plan, prepared, lease, is_pending=trial.name in to_run) for trial in plan.trials]

    with contextlib.closing(_new_tracker(plan, [trial.job for trial in trials], session)) as tracker:
        left = [read_result(plan.folder, trial, None) for trial in plan.left]
        resources = prepared.resources
        at_once = resources.max_concurrent if resources and not plan.options.in_process else 1
        with Monitor(plan.folder, session, trials, tracker, at_once, left) as monitor:
            if resources is not None and not session.stop.is_due():
                jobs = [trial.job for trial in trials if trial.is_pending]
                is_joined = plan.options.address is not None
                with ResourceWatch(plan, session, resources) if is_joined else contextlib.nullcontext():
                    session.backend.train(jobs, resources, str(plan.folder.scratch(lease.ray_folder)))
        # Where another start has taken over, the results are that start's to write.
        lease.check_current()

        # W&B comes last: it may keep the command waiting.
        results = monitor.write_results()
        console.results(results, repeated_cells(results))
        tracker.finish([result.row for result in results])
    return results


def _print_what_is_not_run(plan: SweepPlan, console: Console) -> None:
    """Which trials are left as they are, and why."""
    num_trials, finished = len(plan.trials), sum(trial.is_finished for trial in plan.trials)
    if finished:
        console.print(f"finished before, not run again: {finished} of {num_trials} trials")
    if diverged := num_trials - len(plan.pending) - finished:
        console.print(f"diverged before, not run again: {diverged} of {num_trials} trials (--retry-diverged does)")


def _monitored(trial: Trial, plan: SweepPlan, prepared: Prepared, lease: Lease, *, is_pending: bool) -> MonitoredTrial:
    """A trial with all that its worker and the monitor need to know; its folder is made."""
    config = trial.config
    job = TrialJob(
        experiment=plan.folder,
        name=trial.name,
        config=config,
        params=trial.params,
        fingerprints=trial.fingerprints,
        store=plan.storage.at(f"{PATCHES}/{trial.fingerprints.data}"),
        # Without resources no trial is to run, so that the number is not used.
        threads=prepared.resources.cpus_per_worker if prepared.resources else 1,
        lease_token=lease.token,
        attempt=lease.attempt,
    )
    job.trial.make_folder()
    if is_pending:
        job = dataclasses.replace(job, cause=_settle(job, lease))

    store = prepared.stores.get(config.data.patching)
    num_patches = store.num_patches("train") if store else 0  # a finished trial needs no patches
    steps = steps_per_epoch(num_patches, config.training.batch_size, config.resources.workers)
    return MonitoredTrial(job, config.training.epochs * steps, trial.is_finished, is_pending)


def _settle(job: TrialJob, lease: Lease) -> Cause | None:
    """Leaves no outcome of an earlier start that the trial's status could be taken from; what ended it before."""
    with job.committing():
        settle_outcome(job.trial, lease.left_stopping)
        outcome = read_outcome(job.trial)
        # It is tried again, so it waits for its turn.
        if outcome["status"] in ("failed", "out_of_memory"):
            write_outcome(job.trial, "cut_off", f"{outcome['status']}: {outcome['reason']}")
    return cause_of(**outcome) if read_starts(job.trial) else None


def _new_tracker(plan: SweepPlan, jobs: Sequence[TrialJob], session: Session) -> Tracker:
    """What feeds W&B: a run for each trial and, where the experiment sweeps, one for all of them."""
    experiment, notify = plan.experiment, session.console.print
    destination = WandbDestination(experiment.tracking.wandb, notify)
    trials = {
        job.name: WandbTrial(
            job.trial, experiment.name, job.config.model_dump(), destination, artifacts=experiment.tracking.artifacts
        )
        for job in jobs
    }
    sweep = WandbSweep(plan.folder, experiment.model_dump(), destination) if experiment.sweep else None
    return Tracker(trials, sweep, session.lease.check_current, notify)
