"""What Ray is asked for a trial's workers."""

from pathlib import Path

import pytest

from runner.on_ray.placement import Placement
from runner.on_ray.trainer import new_trainer
from runner.process.lease import Lease
from runner.storage.storage import Storage
from runner.trial.resources import TrialResources
from tests.support.trial_jobs import job_of

pytestmark = pytest.mark.ray


def test_workers_are_asked_for_where_the_experiment_says(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    lease = Lease.acquire(storage)
    job = job_of(storage, lease)
    lease.release()

    chosen = TrialResources(2, 3, 0.0, 1, accelerator_type="A100", label_selector={"zone": "a"})
    scaling = new_trainer(job, chosen, str(tmp_path), None, Placement("trial", None)).scaling_config
    assert (scaling.accelerator_type, scaling.label_selector) == ("A100", {"zone": "a"})
    anywhere = new_trainer(
        job, TrialResources(1, 1, 0.0, 1), str(tmp_path), None, Placement("trial", None)
    ).scaling_config
    assert (anywhere.accelerator_type, anywhere.label_selector) == (None, None)
