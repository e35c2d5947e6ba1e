"""A checked run is carried out: patches, trials, results."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from gan.training.epochs import steps_per_epoch
from runner.config.loading import to_yaml
from runner.config.schema import Data
from runner.console import Console
from runner.data.patch_store import PatchStore, describe_store, find_store
from runner.data.preparation import prepare_patches
from runner.data.shards import ShardReport
from runner.data.sources import Source
from runner.errors import DataError, Exit, FullError, StorageError
from runner.process.lease import Lease, Superseded
from runner.process.processes import end_marked
from runner.process.stop_request import INTERRUPT, Stopped, StopRequest, stop_signals
from runner.records.seeds import repeated_cells
from runner.records.trial_folders import Trial
from runner.storage.folder import Storage, is_full
from runner.storage.run_folder import EXPERIMENT_FILE, PATCHES
from runner.sweep.backends import Backend, InProcess, OnRay
from runner.sweep.check import CheckedRun, Options
from runner.sweep.dry_run import count_patches, describe_plan
from runner.sweep.monitor import Monitor, Watched
from runner.sweep.preflight import check_checkpoints, check_precision, check_room, keep_initial_weights
from runner.sweep.ray_watchdog import ray_watchdog
from runner.tracking.sync_hint import sync_hint
from runner.tracking.tracker import Tracker
from runner.tracking.wandb_runs import WandbDestination
from runner.tracking.wandb_sweep import WandbSweep
from runner.tracking.wandb_trial import WandbTrial
from runner.trial.job import TrialJob
from runner.trial.resources import TrialResources, resolve_resources, this_machine


def print_plan(run: CheckedRun, options: Options, console: Console) -> Exit:
    """Says what would be done, and does nothing."""
    num_patches: dict[str, int] = {}
    for trial in run.trials:
        data = trial.config.data
        if data.patching in num_patches:
            continue
        located = run.sources[data.patching]
        store, _ = find_store(run.storage.at(PATCHES), located.fingerprint)
        if store is not None:
            num_patches[data.patching] = store.num_patches("train")
        elif located.source is not None:
            num_patches[data.patching] = count_patches(located.source, data, "train")
        else:
            raise DataError(f"data.source is {data.source!r}: it is gone, and so are the patches that were made of it")
    check_room(run, [trial for trial in run.trials if is_pending(trial, options)], None)
    for line in describe_plan(run.experiment, run.trials, num_patches):
        console.print(line)
    if options.address is None:
        console.print(resolve_resources(run.experiment.resources, [this_machine()], len(run.trials)).describe())
    else:
        console.print(f"the resources of the cluster at {options.address} are checked when the run starts")
    console.print("dry run: nothing was run")
    return Exit.FINISHED


def execute(run: CheckedRun, options: Options, console: Console, started: float) -> Exit:
    """Prepares the patches, trains what is not finished, and writes the results.

    Args:
        started: when the command began, by time.monotonic(), for its time limit.

    Raises:
        UserError: the machine, the storage or what stands on it can't be used.
        FullError: the disk is full.
    """
    pending = [trial for trial in run.trials if is_pending(trial, options)]
    here = None
    if pending and options.address is None:
        here = resolve_resources(run.experiment.resources, [this_machine()], len(run.trials))
    check_room(run, pending, here)  # both are refused before anything is written
    stop = StopRequest.with_time_limit(started, options.time_limit_s)
    try:
        with contextlib.ExitStack() as stack:
            return execute_with(run, pending, options, console, stop, here, stack)
    except Stopped:
        return Exit.INTERRUPTED if stop.reason == INTERRUPT else Exit.STOPPED
    except Superseded as error:
        console.print(f"this command ends: {error}")
        return Exit.STOPPED
    except OSError as error:
        if not is_full(error):
            raise
        raise FullError(
            f"--storage: there is no room at {run.storage.shown} ({error}); "
            "make room, and the same command goes on from the last checkpoint"
        ) from error


def is_pending(trial: Trial, options: Options) -> bool:
    """True for a trial that is to be run: what has diverged would diverge again."""
    return not trial.is_finished and (options.retry_diverged or not trial.has_diverged)


def execute_with(
    run: CheckedRun,
    pending: Sequence[Trial],
    options: Options,
    console: Console,
    stop: StopRequest,
    here: TrialResources | None,
    stack: contextlib.ExitStack,
) -> Exit:
    """As execute, leaving to the stack what must be undone at the end.

    Args:
        here: what a trial would be given on this machine; None where it runs elsewhere, or nothing is to run.
    """
    handle_signals = stack.enter_context(stop_signals(stop))
    lease = acquire_lease(run, options, stop, console)
    stack.callback(lease.release)
    stop.before_exit = lambda: end_marked(lease.token)
    backend: Backend = InProcess()
    if not options.in_process:
        backend = OnRay(options.address, lease.token, console, handle_signals, dashboard=options.dashboard)
    stack.callback(backend.close)
    stack.enter_context(ray_watchdog(backend, stop, console))
    if pending:
        backend.begin()  # what follows goes on beside it
    check_checkpoints(run, pending, console)
    keep_initial_weights(run, pending)
    if here is not None:
        check_precision(run, pending, here.device)
    elif pending:
        resolve_resources(run.experiment.resources, backend.nodes(), len(run.trials))  # refused before patches are made
    stores = {}
    with contextlib.suppress(Stopped):
        stores = prepare_stores(run, pending, backend, stop, console)
    trial_resources = resolve_resources(run.experiment.resources, backend.nodes(), len(run.trials)) if pending else None
    if trial_resources is not None:
        console.print(trial_resources.describe())
    say_what_is_not_run(run, pending, console)
    run.folder.write(EXPERIMENT_FILE, to_yaml(run.experiment))
    watched = [watch(run, trial, stores, lease, trial_resources) for trial in run.trials]
    tracker = track(run, watched, lease, console)
    stack.callback(tracker.close)
    with Monitor(run.folder, lease, watched, console, stop, backend, tracker) as monitor:
        if trial_resources is not None and not stop.is_due():
            to_run = {trial.name for trial in pending}
            jobs = [trial.job for trial in watched if trial.job.name in to_run]
            backend.train(jobs, trial_resources, str(run.folder.at(lease.ray_folder).local_path))
    lease.check_current()
    results = monitor.write_results()
    rows = [result.row for result in results]
    console.results(rows, repeated_cells(results))
    tracker.finish(rows)
    say_what_next(run, watched, rows, console)
    code = exit_code([row["status"] for row in rows], stop.reason)
    if code in (Exit.STOPPED, Exit.INTERRUPTED):
        console.print(f"stopped ({stop.reason}); the same command goes on from the last checkpoint")
    return code


def say_what_is_not_run(run: CheckedRun, pending: Sequence[Trial], console: Console) -> None:
    """Which trials are left as they are, and why."""
    finished = sum(trial.is_finished for trial in run.trials)
    if finished:
        console.print(f"finished before, not run again: {finished} of {len(run.trials)} trials")
    if diverged := len(run.trials) - len(pending) - finished:
        console.print(f"diverged before, not run again: {diverged} of {len(run.trials)} trials (--retry-diverged does)")


def acquire_lease(run: CheckedRun, options: Options, stop: StopRequest, console: Console) -> Lease:
    """The experiment's lease; raises StorageError where it is held, or the storage can't be written."""
    try:
        run.folder.make_folder()
        return Lease.acquire(
            run.folder,
            on_loss=lambda: stop.set("another start of the command has taken over"),
            take_over=options.take_over,
            notify=console.print,
            is_stopped=stop.is_due,
        )
    except OSError as error:
        if is_full(error):
            raise
        raise StorageError(
            f"--storage: {run.folder.root} can't be written ({error.strerror or error}); give a folder that can."
        ) from error


def prepare_stores(
    run: CheckedRun, pending: Sequence[Trial], backend: Backend, stop: StopRequest, console: Console
) -> dict[str, PatchStore]:
    """The patch store under each patching that a trial to be run uses; raises Stopped when asked to stop."""

    def cut(source: Source, data: Data, folder: Storage) -> Iterator[ShardReport]:
        for report in backend.cut(source, data, folder):
            if stop.is_due():
                raise Stopped
            yield report

    stores: dict[str, PatchStore] = {}
    for trial in pending:
        data = trial.config.data
        if data.patching in stores:
            continue
        located = run.sources[data.patching]
        patches = run.storage.at(PATCHES)
        store = prepare_patches(data, located.source, located.fingerprint, patches, cut, console.print)
        stores[data.patching] = store
        for line in describe_store(store):
            console.print(line)
    return stores


def watch(
    run: CheckedRun,
    trial: Trial,
    stores: Mapping[str, PatchStore],
    lease: Lease,
    trial_resources: TrialResources | None,
) -> Watched:
    """A trial with all that its worker and the monitor need to know."""
    config = trial.config
    store = stores.get(config.data.patching)
    job = TrialJob(
        experiment=run.folder,
        name=trial.name,
        config=config,
        params=trial.params,
        fingerprints=trial.fingerprints,
        store=run.storage.at(f"{PATCHES}/{trial.fingerprints.data}"),
        threads=trial_resources.cpus_per_worker if trial_resources else 1,
        lease_token=lease.token,
        attempt=lease.attempt,
    )
    job.trial.make_folder()
    training = config.training
    num_patches = store.num_patches("train") if store else 0  # a finished trial needs no patches
    steps = steps_per_epoch(num_patches, training.batch_size, config.resources.workers)
    return Watched(job, training.epochs * steps, trial.is_finished)


def track(run: CheckedRun, trials: Sequence[Watched], lease: Lease, console: Console) -> Tracker:
    """What feeds W&B: a run for each trial and, where the experiment sweeps, one for all of them."""
    experiment = run.experiment
    destination = WandbDestination(experiment.tracking.wandb, console.print)
    trackings = {}
    for job in (watched.job for watched in trials):
        config, artifacts = job.config.model_dump(), experiment.tracking.artifacts
        trackings[job.name] = WandbTrial(job.trial, experiment.name, config, destination, artifacts=artifacts)
    sweep = WandbSweep(run.folder, experiment.model_dump(), destination) if experiment.sweep else None
    return Tracker(trackings, sweep, lease.check_current, console.print)


def say_what_next(
    run: CheckedRun, watched: Sequence[Watched], rows: Sequence[Mapping[str, object]], console: Console
) -> None:
    """Where the results are, why trials ended early, how to sync what W&B holds offline."""
    for trial, row in zip(watched, rows, strict=True):
        if row["status"] not in ("finished", "stopped"):
            console.print(f"{trial.job.name}: {row['status']}: {trial.reason}; see {trial.job.trial.shown}/log.txt")
    console.print(f"results: {run.folder.shown}/report.html and results.csv")
    if run.experiment.tracking.wandb != "off" and (hint := sync_hint(run.folder)):
        console.print(f"Weights & Biases is offline; to upload: {hint}")


def exit_code(statuses: Sequence[object], stop_reason: str) -> Exit:
    """What the command ends with."""
    if all(status == "finished" for status in statuses):
        return Exit.FINISHED
    if stop_reason and "stopped" in statuses:
        return Exit.INTERRUPTED if stop_reason == INTERRUPT else Exit.STOPPED
    return Exit.TRIAL_FAILED
