"""All trials of an experiment through Ray Tune."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.search import BasicVariantGenerator

from runner.on_ray.controllers import start_controllers
from runner.on_ray.private import HEAD_NODE, propagate_no_credentials
from runner.records.trial_file import read_outcome
from runner.trial.heartbeat import Coordinator
from runner.trial.job import TrialJob
from runner.trial.resources import TrialResources

# A driver waits for its workers and computes nothing; Tune refuses an empty request.
_DRIVER_RESOURCES = {"CPU": 0, HEAD_NODE: 0.001}
_DRIVER_FAILURES = 3


def start_coordinator() -> Any:
    """The handle of a new Coordinator actor, on the cluster's head."""
    actor = ray.remote(Coordinator)
    return actor.options(num_cpus=0, resources={HEAD_NODE: 0.001}, max_concurrency=16).remote()


def new_search(max_concurrent: int) -> BasicVariantGenerator:
    """Gives Tune the trials in order. Its attribute `max_concurrent` may change while they run."""
    return BasicVariantGenerator(max_concurrent=max_concurrent)


def run_tune(
    jobs: Sequence[TrialJob],
    trial_resources: TrialResources,
    ray_folder: str,
    coordinator: Any,
    search: BasicVariantGenerator,
    is_stopping: Callable[[], bool],
) -> None:
    """Runs the jobs, as many at once as fit, and returns when all have ended.

    Args:
        ray_folder: absolute path of a fresh folder for Ray's own files.
        coordinator: the handle of the Coordinator actor.
        search: what `new_search` returned.
        is_stopping: whether the command was asked to stop.
    """
    by_name = {job.name: job for job in jobs}
    coordinator.set_pending.remote(list(by_name))
    propagate_no_credentials()
    controllers = start_controllers()

    # The jobs go with the function: tune.with_parameters would put them into Ray's store, and a process that
    # has objects there is ended by Ray, without a message, when Ray is killed.
    def drive(param_space: Mapping[str, Any]) -> None:
        """Waits for the trial's end: this process needs little memory."""
        name = param_space["cell"]["trial"]
        # Ray lists a task by its name, and titles the process that runs it.
        run = controllers.run_trial.options(name=f"Controllers.run_trial({name})")
        status = ray.get(run.remote(by_name[name], trial_resources, ray_folder, coordinator))
        tune.report({"status": status, "trial_name": name})

    tuner = tune.Tuner(
        tune.with_resources(drive, _DRIVER_RESOURCES),
        param_space={"cell": tune.grid_search([_cell(job) for job in jobs])},
        tune_config=tune.TuneConfig(
            search_alg=search,
            # A driver's process runs one trial after another, and loads its libraries once.
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=ray_folder,
            verbose=0,
            # Of the driver alone: Ray Train counts the failures of the workers (see new_trainer).
            failure_config=tune.FailureConfig(max_failures=_DRIVER_FAILURES),
        ),
    )

    try:
        results = tuner.fit()
    except Exception as error:  # Ray itself has failed, as when its machine runs out of memory
        if is_stopping():  # who stops the command may stop Ray with it: no trial has failed
            return
        for job in jobs:
            if read_outcome(job.trial)["status"] == "running":
                _record_external_end(job, error, coordinator)
        return

    for result in results:
        if result.error is not None:  # the driver itself failed, after its restarts
            _record_external_end(by_name[result.config["cell"]["trial"]], result.error, coordinator)


def _record_external_end(job: TrialJob, error: BaseException, coordinator: Any) -> None:
    """Records the outcome of a trial whose driver could not do so."""
    from runner.on_ray.driver import record_external_end  # torch comes with it

    record_external_end(job, error, coordinator)


def _cell(job: TrialJob) -> Mapping[str, Any]:
    """What Tune and the dashboard show of a trial."""
    return {"trial": job.name, **job.params}


def _trial_name(trial: Any) -> str:
    """Tune's trials carry our names."""
    return str(trial.config["cell"]["trial"])
