"""A checked run is carried out: patches, trials, results."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from gan.epochs import steps_per_epoch
from runner.backends import Backend, InProcess, OnRay
from runner.checking import CheckedRun, Options
from runner.config import Data
from runner.errors import DataError, Exit, FullError, StorageError
from runner.experiment import to_yaml
from runner.job import TrialJob
from runner.lease import Lease, Superseded
from runner.losing import ended_without_ray
from runner.monitor import Monitor, Watched
from runner.placing import PlacedTrial
from runner.plan import count_patches, describe_plan
from runner.preflight import check_checkpoints, check_precision, check_room, keep_initial_weights
from runner.preparation import PATCHES, PatchStore, describe_store, find_store, prepare_patches
from runner.processes import end_marked
from runner.repeats import repeated_cells
from runner.resources import Allotment, allot, this_machine
from runner.screen import Screen
from runner.shards import ShardReport
from runner.sources import Source
from runner.stopping import INTERRUPT, StopFlag, Stopped, stop_flag, stop_signals
from runner.storage import Storage, is_full
from runner.sweep_tracking import SweepTracking
from runner.syncing import sync_hint
from runner.tracker import Tracker
from runner.tracking import TrialTracking
from runner.uplink import Uplink

EXPERIMENT_FILE = "experiment.yaml"


def print_plan(run: CheckedRun, options: Options, screen: Screen) -> Exit:
    """Says what would be done, and does nothing."""
    num_patches: dict[str, int] = {}
    for place in run.placed:
        data = place.trial.config.data
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
    trials = [place.trial for place in run.placed]
    check_room(run, [place for place in run.placed if is_pending(place, options)], None)
    for line in describe_plan(run.experiment, trials, num_patches):
        screen.say(line)
    if options.address is None:
        screen.say(allot(run.experiment.resources, [this_machine()], len(run.placed)).describe())
    else:
        screen.say(f"the resources of the cluster at {options.address} are checked when the run starts")
    screen.say("dry run: nothing was run")
    return Exit.FINISHED


def execute(run: CheckedRun, options: Options, screen: Screen, started: float) -> Exit:
    """Prepares the patches, trains what is not finished, and writes the results.

    Args:
        started: when the command began, by time.monotonic(), for its time limit.

    Raises:
        UserError: the machine, the storage or what stands on it can't be used.
        FullError: the disk is full.
    """
    pending = [place for place in run.placed if is_pending(place, options)]
    here = None
    if pending and options.address is None:
        here = allot(run.experiment.resources, [this_machine()], len(run.placed))
    check_room(run, pending, here)  # both are refused before anything is written
    stop = stop_flag(started, options.time_limit_s)
    try:
        with contextlib.ExitStack() as stack:
            return execute_with(run, pending, options, screen, stop, here, stack)
    except Stopped:
        return Exit.INTERRUPTED if stop.reason == INTERRUPT else Exit.STOPPED
    except Superseded as error:
        screen.say(f"this command ends: {error}")
        return Exit.STOPPED
    except OSError as error:
        if not is_full(error):
            raise
        raise FullError(
            f"--storage: there is no room at {run.storage.shown} ({error}); "
            "make room, and the same command goes on from the last checkpoint"
        ) from error


def is_pending(place: PlacedTrial, options: Options) -> bool:
    """True for a trial that is to be run: what has diverged would diverge again."""
    return not place.finished and (options.retry_diverged or not place.diverged)


def execute_with(
    run: CheckedRun,
    pending: Sequence[PlacedTrial],
    options: Options,
    screen: Screen,
    stop: StopFlag,
    here: Allotment | None,
    stack: contextlib.ExitStack,
) -> Exit:
    """As execute, leaving to the stack what must be undone at the end.

    Args:
        here: what a trial would be given on this machine; None where it runs elsewhere, or nothing is to run.
    """
    handle_signals = stack.enter_context(stop_signals(stop))
    lease = acquire_lease(run, options, stop, screen)
    stack.callback(lease.release)
    stop.before_exit = lambda: end_marked(lease.token)
    backend: Backend = InProcess()
    if not options.in_process:
        backend = OnRay(options.address, lease.token, screen, handle_signals, dashboard=options.dashboard)
    stack.callback(backend.close)
    stack.enter_context(ended_without_ray(backend, stop, screen))
    if pending:
        backend.begin()  # what follows goes on beside it
    check_checkpoints(run, pending, screen)
    keep_initial_weights(run, pending)
    if here is not None:
        check_precision(run, pending, here.device)
    elif pending:
        allot(run.experiment.resources, backend.nodes(), len(run.placed))  # refused before patches are made
    stores = {}
    with contextlib.suppress(Stopped):
        stores = prepare_stores(run, pending, backend, stop, screen)
    allotment = allot(run.experiment.resources, backend.nodes(), len(run.placed)) if pending else None
    if allotment is not None:
        screen.say(allotment.describe())
    say_what_is_not_run(run, pending, screen)
    run.folder.write(EXPERIMENT_FILE, to_yaml(run.experiment))
    watched = [watch(run, place, stores, lease, allotment) for place in run.placed]
    tracker = track(run, watched, lease, screen)
    stack.callback(tracker.close)
    with Monitor(run.folder, lease, watched, screen, stop, backend, tracker) as monitor:
        if allotment is not None and not stop.is_due():
            to_run = {place.folder for place in pending}
            jobs = [trial.job for trial in watched if trial.job.name in to_run]
            backend.train(jobs, allotment, str(run.folder.at(lease.ray_folder).local_path))
    lease.check_current()
    results = monitor.write_results()
    rows = [result.row for result in results]
    screen.results(rows, repeated_cells(results))
    tracker.finish(rows)
    say_what_next(run, watched, rows, screen)
    code = exit_code([row["status"] for row in rows], stop.reason)
    if code in (Exit.STOPPED, Exit.INTERRUPTED):
        screen.say(f"stopped ({stop.reason}); the same command goes on from the last checkpoint")
    return code


def say_what_is_not_run(run: CheckedRun, pending: Sequence[PlacedTrial], screen: Screen) -> None:
    """Which trials are left as they are, and why."""
    finished = sum(place.finished for place in run.placed)
    if finished:
        screen.say(f"finished before, not run again: {finished} of {len(run.placed)} trials")
    if diverged := len(run.placed) - len(pending) - finished:
        screen.say(f"diverged before, not run again: {diverged} of {len(run.placed)} trials (--retry-diverged does)")


def acquire_lease(run: CheckedRun, options: Options, stop: StopFlag, screen: Screen) -> Lease:
    """The experiment's lease; raises StorageError where it is held, or the storage can't be written."""
    try:
        run.folder.make_folder()
        return Lease.acquire(
            run.folder,
            on_loss=lambda: stop.set("another start of the command has taken over"),
            take_over=options.take_over,
            say=screen.say,
            is_stopped=stop.is_due,
        )
    except OSError as error:
        if is_full(error):
            raise
        raise StorageError(
            f"--storage: {run.folder.root} can't be written ({error.strerror or error}); give a folder that can."
        ) from error


def prepare_stores(
    run: CheckedRun, pending: Sequence[PlacedTrial], backend: Backend, stop: StopFlag, screen: Screen
) -> dict[str, PatchStore]:
    """The patch store under each patching that a trial to be run uses; raises Stopped when asked to stop."""

    def cut(source: Source, data: Data, folder: Storage) -> Iterator[ShardReport]:
        for report in backend.cut(source, data, folder):
            if stop.is_due():
                raise Stopped
            yield report

    stores: dict[str, PatchStore] = {}
    for place in pending:
        data = place.trial.config.data
        if data.patching in stores:
            continue
        located = run.sources[data.patching]
        patches = run.storage.at(PATCHES)
        store = prepare_patches(data, located.source, located.fingerprint, patches, cut, screen.say)
        stores[data.patching] = store
        for line in describe_store(store):
            screen.say(line)
    return stores


def watch(
    run: CheckedRun,
    place: PlacedTrial,
    stores: Mapping[str, PatchStore],
    lease: Lease,
    allotment: Allotment | None,
) -> Watched:
    """A trial with all that its worker and the monitor need to know."""
    config = place.trial.config
    store = stores.get(config.data.patching)
    job = TrialJob(
        experiment=run.folder,
        name=place.folder,
        config=config,
        params=place.trial.params,
        ids=place.ids,
        store=run.storage.at(f"{PATCHES}/{place.ids.data}"),
        threads=allotment.cpus_per_worker if allotment else 1,
        lease_token=lease.token,
        attempt=lease.attempt,
    )
    job.trial.make_folder()
    training = config.training
    num_patches = store.num_patches("train") if store else 0  # a finished trial needs no patches
    steps = steps_per_epoch(num_patches, training.batch_size, config.resources.workers)
    return Watched(job, training.epochs * steps, place.finished)


def track(run: CheckedRun, trials: Sequence[Watched], lease: Lease, screen: Screen) -> Tracker:
    """What feeds W&B: a run for each trial and, where the experiment sweeps, one for all of them."""
    experiment = run.experiment
    uplink = Uplink(experiment.tracking.wandb, screen.say)
    trackings = {}
    for job in (watched.job for watched in trials):
        config, artifacts = job.config.model_dump(), experiment.tracking.artifacts
        trackings[job.name] = TrialTracking(job.trial, experiment.name, config, uplink, artifacts=artifacts)
    sweep = SweepTracking(run.folder, experiment.model_dump(), uplink) if experiment.sweep else None
    return Tracker(trackings, sweep, lease.check_current, screen.say)


def say_what_next(
    run: CheckedRun, watched: Sequence[Watched], rows: Sequence[Mapping[str, object]], screen: Screen
) -> None:
    """Where the results are, why trials ended early, how to sync what W&B holds offline."""
    for trial, row in zip(watched, rows, strict=True):
        if row["status"] not in ("finished", "stopped"):
            screen.say(f"{trial.job.name}: {row['status']}: {trial.reason}; see {trial.job.trial.shown}/log.txt")
    screen.say(f"results: {run.folder.shown}/report.html and results.csv")
    if run.experiment.tracking.wandb != "off" and (hint := sync_hint(run.folder)):
        screen.say(f"Weights & Biases is offline; to upload: {hint}")


def exit_code(statuses: Sequence[object], stop_reason: str) -> Exit:
    """What the command ends with."""
    if all(status == "finished" for status in statuses):
        return Exit.FINISHED
    if stop_reason and "stopped" in statuses:
        return Exit.INTERRUPTED if stop_reason == INTERRUPT else Exit.STOPPED
    return Exit.TRIAL_FAILED
