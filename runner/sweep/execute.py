"""Runs the pending trials, followed by a monitor, and comes to the results of all trials."""

import contextlib
import dataclasses
from collections.abc import Sequence

from gan.data.epochs import steps_per_epoch
from runner.config.halving import Halving
from runner.config.loading import to_yaml
from runner.console import Console
from runner.halving.rungs import read_rungs, write_rungs
from runner.halving.stages import Stage, describe_rung, next_stage, reason_halted
from runner.process.lease import Lease
from runner.records.commands import record_command
from runner.records.results import TrialResult
from runner.records.seeds import repeated_cells
from runner.records.starts import Cause, cause_of, newest_start, read_starts
from runner.records.trial_file import read_outcome, settle_outcome, write_outcome
from runner.records.trial_folders import Trial
from runner.report.reading import read_left_result
from runner.storage.run_folder import EXPERIMENT_FILE, PATCHES, RUNGS
from runner.sweep.check import SweepPlan
from runner.sweep.monitor import Monitor, MonitoredTrial
from runner.sweep.prepare import Prepared
from runner.sweep.session import Session
from runner.sweep.waiting import ResourceWatch
from runner.tracking.tensorboard_trial import TensorBoardTrial
from runner.tracking.tracker import INTERVAL_S, Tracker, TrialTracking
from runner.tracking.wandb_runs import WandbDestination
from runner.tracking.wandb_sweep import WandbSweep
from runner.tracking.wandb_trial import WandbTrial
from runner.trial.job import TrialJob
from runner.trial.resources import TrialResources

_MAX_NAMED = 6  # trials in a line


def run_trials(plan: SweepPlan, prepared: Prepared, session: Session) -> list[TrialResult]:
    """Trains what is pending; the results of all trials, written and shown."""
    lease, console = session.lease, session.console
    _print_what_is_not_run(plan, console)
    # Reports and the Python interface read an experiment from its folder alone.
    with plan.folder.exclusive(lease.check_current):
        plan.folder.write(EXPERIMENT_FILE, to_yaml(plan.experiment))
        record_command(plan.folder, lease.attempt, plan.options.command)
        if plan.halving is None:
            plan.folder.remove(RUNGS)  # of an earlier start: no rung decides anything now
    to_run = {trial.name for trial in plan.pending}
    trials = [_monitored(trial, plan, prepared, lease, is_pending=trial.name in to_run) for trial in plan.trials]

    with contextlib.closing(_new_tracker(plan, [trial.job for trial in trials], session)) as tracker:
        left = [read_left_result(plan.folder, trial) for trial in plan.left]
        resources = prepared.resources
        at_once = resources.max_concurrent if resources and not plan.options.in_process else 1
        with Monitor(plan.folder, session, trials, tracker, at_once, left) as monitor:
            if plan.halving is not None:
                _decide(plan, plan.halving, trials, session)
            if resources is not None and not session.stop.is_due():
                is_joined = plan.options.address is not None
                with ResourceWatch(plan, session, resources) if is_joined else contextlib.nullcontext():
                    _train(plan, trials, resources, session)
        # Where another start has taken over, the results are that start's to write.
        lease.check_current()

        # W&B comes last: it may keep the command waiting.
        results = monitor.write_results()
        console.results(results, repeated_cells(results))
        tracker.finish([result.row for result in results])
    return results


def _train(plan: SweepPlan, trials: Sequence[MonitoredTrial], resources: TrialResources, session: Session) -> None:
    """Trains the pending trials to their ends or, where the sweep is halved, from rung to rung."""
    ray_folder = str(plan.folder.scratch(session.lease.ray_folder))
    if plan.halving is None:
        session.backend.train([trial.job for trial in trials if trial.is_pending], resources, ray_folder)
        return

    by_name = {trial.job.name: trial for trial in trials}
    stage = _decide(plan, plan.halving, trials, session)
    while stage.to_train and not session.stop.reason:
        jobs = [_job_of_stage(by_name[name].job, stage.epochs) for name in stage.to_train]
        # Ray keeps what it knows of a stage's trials in a folder of that stage.
        session.backend.train(jobs, resources, f"{ray_folder}/epoch_{stage.epochs}")

        done, stage = stage, _decide(plan, plan.halving, trials, session)
        # The end, or a rung that a trial keeps from being decided.
        if stage.epochs == done.epochs:
            _say_who_blocks(stage, [by_name[name].job for name in stage.to_train], session.console)
            return


def _say_who_blocks(stage: Stage, jobs: Sequence[TrialJob], console: Console) -> None:
    """A line where trials have failed: machine trouble decides nothing."""
    failed = [job.name for job in jobs if read_outcome(job.trial)["status"] == "failed"]
    if failed and any(stage.epochs in job.halving.rungs(job.config.training.epochs) for job in jobs if job.halving):
        more = f" and {len(failed) - _MAX_NAMED} more" if len(failed) > _MAX_NAMED else ""
        console.print(
            f"the rung at epoch {stage.epochs} is not decided: {', '.join(failed[:_MAX_NAMED])}{more} failed; the same "
            "command tries again"
        )


def _job_of_stage(job: TrialJob, epochs: int) -> TrialJob:
    """The job with which a trial is trained to the end of an epoch."""
    has_run = newest_start(job.trial).get("attempt") == job.attempt
    return dataclasses.replace(job, until=epochs, cause=cause_of(**read_outcome(job.trial)) if has_run else job.cause)


def _decide(plan: SweepPlan, halving: Halving, trials: Sequence[MonitoredTrial], session: Session) -> Stage:
    """Decides the rungs that can be decided, and records it: rungs.json, and the outcomes of trials that are halted.

    Done again it changes nothing, so that it may be broken off anywhere.
    """
    stage = next_stage(plan.folder, plan.trials, halving)
    before = read_rungs(plan.folder)
    if before != (halving, stage.rungs) and (stage.rungs or before is not None):
        with plan.folder.exclusive(session.lease.check_current):
            write_rungs(plan.folder, halving, stage.rungs)
        for rung in stage.rungs:
            if before is None or rung not in before[1]:
                session.console.print(describe_rung(rung, halving))

    halted = stage.halted
    for trial in trials:
        status = read_outcome(trial.job.trial)["status"]
        halted_at = halted.get(trial.job.name)
        if halted_at is not None and not trial.finished and status not in ("halted", "diverged", "out_of_memory"):
            with trial.job.committing():
                write_outcome(trial.job.trial, "halted", reason_halted(trial.job.name, halted_at, halving))
        trial.goal_epochs = stage.epochs if halted_at is None else halted_at.epochs
    return stage


def _print_what_is_not_run(plan: SweepPlan, console: Console) -> None:
    """Which trials are left as they are, and why."""
    num_trials, finished = len(plan.trials), sum(trial.is_finished for trial in plan.trials)
    if finished:
        console.print(f"finished before, not run again: {finished} of {num_trials} trials")
    pending = {trial.name for trial in plan.pending}
    if diverged := sum(trial.has_diverged and trial.name not in pending for trial in plan.trials):
        console.print(f"diverged before, not run again: {diverged} of {num_trials} trials (--retry-diverged does)")
    if plan.halving and (halted := num_trials - len(pending) - finished - diverged):
        console.print(f"halted before, not run again: {halted} of {num_trials} trials")


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
        halving=plan.halving,
    )
    job.trial.make_folder()
    if is_pending:
        job = dataclasses.replace(job, cause=_settle(job, lease))

    store = prepared.stores.get(config.data.patching)
    num_patches = store.num_patches("train") if store else 0  # a finished trial needs no patches
    steps = steps_per_epoch(num_patches, config.training.batch_size)
    return MonitoredTrial(job, steps, trial.is_finished, is_pending)


def _settle(job: TrialJob, lease: Lease) -> Cause | None:
    """Leaves no outcome of an earlier start that the trial's status could be taken from; what ended it before."""
    with job.committing():
        settle_outcome(job.trial, lease.left_stopping)
        outcome = read_outcome(job.trial)
        # It is tried again, so it waits for its turn.
        if outcome["status"] in ("failed", "out_of_memory"):
            write_outcome(job.trial, "cut_off", f"{outcome['status']}: {outcome['reason']}")
        if outcome["status"] in ("halted", "early_stopped"):
            write_outcome(job.trial, "paused", f"it was {outcome['status']} before, and goes on now")
    return cause_of(**outcome) if read_starts(job.trial) else None


def _new_tracker(plan: SweepPlan, jobs: Sequence[TrialJob], session: Session) -> Tracker:
    """What feeds TensorBoard, and W&B: a run for each trial and, where the experiment sweeps, one for all of them."""
    experiment, notify = plan.experiment, session.console.print
    destination = WandbDestination(experiment.tracking.wandb, notify)
    trials: dict[str, list[TrialTracking]] = {job.name: [] for job in jobs}
    for job in jobs:
        # The files first: they wait for no network.
        if experiment.tracking.tensorboard:
            trials[job.name].append(TensorBoardTrial(job, notify))
        config, artifacts = job.config.model_dump(), experiment.tracking.artifacts
        trials[job.name].append(WandbTrial(job.trial, experiment.name, config, destination, artifacts=artifacts))
    sweep = WandbSweep(plan.folder, experiment.model_dump(), destination) if experiment.sweep else None
    interval_s = max(INTERVAL_S, plan.storage.poll_interval_s)
    return Tracker(trials, sweep, session.lease.check_current, notify, interval_s)
