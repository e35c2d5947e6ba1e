"""A trial as a worker gets it, for tests that need no sweep."""

from runner.config.fingerprint import Fingerprints
from runner.config.schema import Experiment
from runner.process.lease import Lease
from runner.storage.storage import Storage
from runner.trial.job import TrialJob


def job_of(experiment: Storage, lease: Lease, start_token: str = "") -> TrialJob:
    """The job of a trial named `trial`, whose folder is there."""
    job = TrialJob(
        experiment=experiment,
        name="trial",
        config=Experiment(name="small"),
        params={},
        fingerprints=Fingerprints("config", "data"),
        store=experiment,
        threads=1,
        lease_token=lease.token,
        attempt=lease.attempt,
        start_token=start_token,
    )
    job.trial.make_folder()
    return job
