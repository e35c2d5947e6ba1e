"""All trials of an experiment through Ray Tune."""

from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import tune

from runner.control import Control
from runner.job import TrialJob
from runner.records import read_outcome
from runner.resources import Allotment
from runner.trial import end_for, run_trial

# A driver waits for its workers and computes nothing; Tune refuses an empty request.
DRIVER_RESOURCES = {"CPU": 0, "node:__internal_head__": 0.001}
DRIVER_FAILURES = 3


def start_control() -> Any:
    """The Control actor, on the cluster's head."""
    actor = ray.remote(Control)
    return actor.options(num_cpus=0, resources={"node:__internal_head__": 0.001}, max_concurrency=16).remote()


def run_sweep(jobs: Sequence[TrialJob], allotment: Allotment, ray_folder: str, control: Any) -> None:
    """Runs the jobs, as many at once as fit, and returns when all have ended.

    Args:
        ray_folder: absolute path of a fresh folder for Ray's own files.
        control: the handle of the Control actor.
    """
    driver = tune.with_parameters(
        run_trial,
        jobs={job.name: job for job in jobs},
        allotment=allotment,
        ray_folder=ray_folder,
        control=control,
    )
    tuner = tune.Tuner(
        tune.with_resources(driver, DRIVER_RESOURCES),
        param_space={"cell": tune.grid_search([cell(job) for job in jobs])},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=allotment.max_concurrent,
            trial_name_creator=trial_name,
            trial_dirname_creator=trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=ray_folder,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=DRIVER_FAILURES),
        ),
    )
    by_name = {job.name: job for job in jobs}
    try:
        results = tuner.fit()
    except Exception as error:  # Ray itself has come to harm, as when its machine runs out of memory
        for job in jobs:
            if read_outcome(job.trial)["status"] == "running":
                end_for(job, error, control)
        return
    for result in results:
        if result.error is not None:  # the driver itself, after its restarts
            end_for(by_name[result.config["cell"]["trial"]], result.error, control)


def cell(job: TrialJob) -> Mapping[str, Any]:
    """What Tune and the dashboard show of a trial."""
    return {"trial": job.name, **job.params}


def trial_name(trial: Any) -> str:
    """Tune's trials carry our names."""
    return str(trial.config["cell"]["trial"])
