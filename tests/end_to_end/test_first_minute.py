"""A first run on a machine whose environment is against it."""

import sys
from pathlib import Path

import pytest

from runner.storage.storage import Storage
from tests.support.commands import descendants, finish, start, wait_for_step, write_experiment
from tests.support.ray_endpoints import open_to_other_machines
from tests.support.wandb_trials import offline_run

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_a_sweep_trains_whatever_the_environment_of_its_first_start_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A space in the interpreter's path, no home, an empty RAY_ADDRESS, too long a folder, another run's W&B."""
    environment = tmp_path / "My Projects"
    environment.symlink_to(sys.prefix)
    monkeypatch.setattr(sys, "executable", str(environment / "bin" / "python"))
    long = tmp_path / ("é" * 30)
    long.mkdir()
    variables = {
        "HOME": "/proc/1",
        "RAY_ADDRESS": "",
        "RAY_TMPDIR": str(long),
        "WANDB_SWEEP_ID": "abc",
        "WANDB_RUN_ID": "another",
        "WANDB_DIR": "/proc/no",
    }
    path = write_experiment(tmp_path, training={"epochs": 10})
    process = start("runner.tune", path, "--storage", tmp_path / "results", env=variables)

    trial = tmp_path / "results/small/trials/trial"
    wait_for_step(process, trial, 5)
    family = descendants(process.pid) | {process.pid: "the command"}
    assert open_to_other_machines(family) == set(), "one worker has nobody to meet, and Ray is on loopback"
    output = finish(process)
    assert process.returncode == 0, output
    assert "note: Ray's sockets and logs go to /tmp/ray" in output
    assert "it asks for the token that is in /" in output
    assert offline_run(Storage.open(trial)).steps
    assert not list(long.iterdir())
