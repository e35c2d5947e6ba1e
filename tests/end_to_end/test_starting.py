"""What is loaded, and what a trial is given, before anything trains."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.commands import ROOT, write_experiment
from tests.support.kill_points import run_forked

HEAVY = ("numpy", "pandas", "pyarrow", "pydantic", "ray", "torch", "torch._dynamo", "wandb")


def modules_after(code: str, *arguments: object) -> set[str]:
    """The heavy libraries that a fresh interpreter has loaded once it has run some code."""
    told = f"\nimport json, sys; print(json.dumps([name for name in {HEAVY} if name in sys.modules]), file=sys.stderr)"
    command = [sys.executable, "-c", code + told, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(ended.stderr.splitlines()[-1]))


RUN = "import sys\nfrom runner.tune import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass"


def test_help_loads_no_library() -> None:
    assert modules_after(RUN, "--help") == set()


@pytest.mark.parametrize("setting", ["training.epochz=3", "data.source=no/such/place"])
def test_what_is_wrong_is_said_before_ray_or_torch_is_loaded(tmp_path: Path, setting: str) -> None:
    loaded = modules_after(RUN, write_experiment(tmp_path), "--set", setting, "--storage", tmp_path / "results")
    assert not loaded & {"pandas", "ray", "torch", "wandb"}


def test_the_main_process_and_a_driver_that_waits_load_no_torch() -> None:
    loaded = modules_after(
        "import runner.sweep.execute, runner.on_ray.connection.cluster, runner.on_ray.tune, runner.on_ray.prepare"
    )
    assert "ray" in loaded
    assert not loaded & {"torch", "wandb"}


def test_setting_torch_up_does_not_load_its_compiler() -> None:
    code = (
        "from runner.trial.runtime import RuntimeSettings, set_up_torch\n"
        "set_up_torch(RuntimeSettings(1, 'fp32', ''), deterministic=True)"
    )
    determined = "\nimport torch\nassert torch.are_deterministic_algorithms_enabled()"
    assert "torch._dynamo" not in modules_after(code + determined)


def test_threads_do_not_depend_on_how_many_trials_are_left(tmp_path: Path) -> None:
    path = write_experiment(
        tmp_path,
        data={"patching": "resize"},
        training={"epochs": 1},
        sweep={"lambda_l1": [1, 2]},
        resources={"cpus_per_worker": "auto"},
        tracking={"wandb": "off"},
    )
    trial = tmp_path / "results" / "small" / "trials" / "lambda_l1=2"
    threads = []
    for _ in range(2):
        arguments = [path, "--storage", tmp_path / "results"]
        ended = run_forked(arguments, tmp_path / "output.txt", module="tests.support.inline_sweep")
        assert ended.code == 0, ended.output
        threads.append(yaml.safe_load((trial / "trial.yaml").read_text())["threads"])
        shutil.rmtree(trial)
    assert threads[0] == threads[1]
