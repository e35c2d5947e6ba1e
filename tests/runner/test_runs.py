"""Whole runs on a real local Ray: sweeps, faults, and the same weights after any of them."""

import json
import os
import signal
import stat
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from gan.patches import Patches
from gan.state import ModelSettings, TrainState
from gan.team import Team
from gan.training import TrainingSettings, fit
from runner.tensor_files import write_tensors
from tests.runner.experiments import (
    assert_same_end,
    descendants,
    finish,
    read_metrics,
    read_starts,
    run,
    start,
    wait_for_starts,
    wait_for_step,
    write_experiment,
)

pytestmark = pytest.mark.slow

LONG = {"epochs": 20}
WORKER = "ray::RayTrainWorker"
DRIVER = "ray::ImplicitFunc"


def trial_of(storage: Path) -> Path:
    return storage / "small" / "trials" / "trial"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storage of an undisturbed run, made without Ray."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code, output = run(
        "runner.train", write_experiment(folder, training=LONG), "--in-process", "--storage", folder / "results"
    )
    assert code == 0, output
    return folder / "results"


def test_a_killed_worker_restarts_by_itself_and_ends_with_the_same_weights(tmp_path: Path, undisturbed: Path) -> None:
    storage = tmp_path / "results"
    secret = "0123456789abcdef0123456789abcdef01234567"
    process = start(
        "runner.train", write_experiment(tmp_path, training=LONG), "--storage", storage, env={"WANDB_API_KEY": secret}
    )
    wait_for_step(process, trial_of(storage), 50)
    family = descendants(process.pid)
    for pid in family:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if "wandb" not in family[pid]:  # the tracking service of the main process, which speaks to W&B
            assert secret.encode() not in environment, family[pid]
    (worker,) = (pid for pid, title in family.items() if title.startswith(WORKER))
    os.kill(worker, signal.SIGKILL)
    output = finish(process)
    assert process.returncode == 0, output
    assert_same_end(trial_of(storage), trial_of(undisturbed))
    (row,) = json.loads((storage / "small" / "results.json").read_text())
    assert row["restarts"] == 1
    assert row["steps_lost"] > 0
    stores = [next((place / "patches").glob("*/train.arrow")).read_bytes() for place in (storage, undisturbed)]
    assert stores[0] == stores[1], "Ray Data and the plain loop cut the same patches"
    assert "Ray dashboard: http://127.0.0.1:" in output
    assert secret not in output
    token = Path.home() / ".ray" / "auth_token"
    assert not token.exists() or stat.S_IMODE(token.stat().st_mode) == 0o600


def test_killed_stopped_and_interrupted_and_started_again_at_once_it_ends_with_the_same_weights(
    tmp_path: Path, undisturbed: Path
) -> None:
    storage = tmp_path / "results"
    arguments = ("runner.train", write_experiment(tmp_path, training=LONG), "--storage", storage, "--no-dashboard")
    first = start(*arguments)
    reached = wait_for_step(first, trial_of(storage), 40)
    first.kill()
    second = start(*arguments)
    reached = wait_for_step(second, trial_of(storage), reached + 150)
    second.terminate()
    output = finish(second)
    assert second.returncode == 75, output
    assert "stopping (SIGTERM)" in output
    (row,) = json.loads((storage / "small" / "results.json").read_text())
    assert row["status"] == "stopped"
    third = start(*arguments)
    wait_for_step(third, trial_of(storage), reached + 30)
    os.killpg(third.pid, signal.SIGINT)
    output = finish(third)
    assert third.returncode == 130, output
    code, output = run(*arguments)
    assert code == 0, output
    assert_same_end(trial_of(storage), trial_of(undisturbed))
    first.communicate()


def test_a_sweep_on_real_pairs_learns_and_is_not_run_again(tmp_path: Path, maps: Path) -> None:
    path = write_experiment(
        tmp_path,
        data={"source": str(maps), "patching": "resize"},
        model={"channels": 8},
        training={"epochs": 5, "learning_rate": 1e-3},
        sweep={"batch_size": [8, 16], "lambda_l1": [100]},
    )
    arguments = ("runner.tune", path, "--storage", tmp_path / "results", "--no-dashboard")
    code, output = run(*arguments)
    assert code == 0, output
    experiment = tmp_path / "results" / "small"
    rows = json.loads((experiment / "results.json").read_text())
    assert [row["trial"] for row in rows] == ["batch_size=8,lambda_l1=100", "batch_size=16,lambda_l1=100"]
    assert [(row["batch_size"], row["status"], row["steps"]) for row in rows] == [
        (8, "finished", 100),
        (16, "finished", 50),
    ]
    for row in rows:
        means = [
            logged["epoch_mean/l1_loss"]
            for logged in read_metrics(experiment / "trials" / row["trial"])
            if "epoch_mean/l1_loss" in logged
        ]
        assert len(means) == 5
        assert means[-1] < 0.9 * means[0]
        (offline,) = (experiment / "trials" / row["trial"] / "wandb").glob("offline-run-*")
        assert list(offline.glob("run-*.wandb"))
    written = {path: path.stat().st_mtime_ns for path in (experiment / "trials").rglob("*")}
    code, output = run(*arguments)
    assert code == 0, output
    assert "finished before, not run again: 2 of 2 trials" in output
    assert {path: path.stat().st_mtime_ns for path in (experiment / "trials").rglob("*")} == written


def test_an_unmeetable_request_is_refused_before_anything_trains(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, resources={"workers": 8, "cpus_per_worker": 64})
    code, output = run("runner.train", path, "--storage", tmp_path / "results", "--no-dashboard")
    assert code == 2, output
    assert "8 worker(s) with 64 core(s) and 0 GPU(s) each were asked for" in output
    assert not (tmp_path / "results").exists()


def train_without_ray(rank: int, store: str, folder: str) -> None:
    """What one of two workers does, by gan alone."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    state = TrainState(ModelSettings(4, 16, 64), 0, 2e-4, "fp32", torch.device("cpu"))
    settings = TrainingSettings(
        epochs=8, batch_size=8, lambda_l1=100.0, learning_rate=2e-4, seed=0, precision="fp32", log_every_n_steps=5
    )
    fit(state, Patches.open(store), settings, team=Team(rank, 2, dist.new_group(backend="gloo")))
    if rank == 0:
        with open(Path(folder, "weights"), "wb") as stream:
            write_tensors(stream, state.generator.state_dict())
    dist.destroy_process_group()


def test_two_workers_of_which_one_is_killed_end_with_the_weights_of_two_that_were_not(tmp_path: Path) -> None:
    storage = tmp_path / "results"
    path = write_experiment(
        tmp_path, training={"epochs": 8, "precision": "fp32"}, resources={"workers": 2, "cpus_per_worker": 1}
    )
    process = start("runner.train", path, "--storage", storage, "--no-dashboard")
    wait_for_step(process, trial_of(storage), 50)
    workers = [pid for pid, title in descendants(process.pid).items() if title.startswith(WORKER)]
    assert len(workers) == 2
    os.kill(max(workers), signal.SIGKILL)
    output = finish(process)
    assert process.returncode == 0, output
    (store,) = (storage / "patches").glob("*/train.arrow")
    multiprocessing.spawn(train_without_ray, args=(str(store), str(tmp_path)), nprocs=2)
    assert (trial_of(storage) / "weights" / "generator.safetensors").read_bytes() == (tmp_path / "weights").read_bytes()


def fault(function: str, call: int, when: str, do: str, trial: str, times: int) -> dict[str, object]:
    module = "runner.loop"
    names = {"module": module, "function": f"{module}.{function}", "trial": trial}
    return {**names, "call": call, "when": when, "do": do, "times": times}


def test_faults_of_one_trial_leave_the_others_alone_and_failures_are_results(tmp_path: Path, undisturbed: Path) -> None:
    """In one sweep: killed around its report to Ray, hung, its driver killed; broken code; not finite."""
    storage, done = tmp_path / "results", tmp_path / "done"
    done.mkdir()
    good, broken = "lambda_l1=100", "lambda_l1=10"
    faults = [
        fault("TrialRun.tell", 3, "before", "kill", good, 1),
        fault("TrialRun.tell", 2, "after", "kill", good, 1),
        fault("TrialRun.on_step", 2, "before", "raise", broken, 99),
    ]
    path = write_experiment(
        tmp_path,
        training=LONG,
        sweep={"lambda_l1": [100, 10, 1e39]},
        resources={"max_failures": 3, "hang_timeout": 8},
        tracking={"wandb": "off"},
    )
    environment = {
        "FAULTS": json.dumps(faults),
        "FAULTS_DONE": str(done),
        "PYTHONPATH": str(Path(__file__).parent / "faults"),
    }
    trials = storage / "small" / "trials"
    process = start("runner.tune", path, "--storage", storage, "--no-dashboard", env=environment)
    wait_for_starts(process, trials / good, 3)  # both kills are over
    wait_for_step(process, trials / good, read_starts(trials / good)[-1]["from_step"] + 25)
    os.kill(read_starts(trials / good)[-1]["pid"], signal.SIGSTOP)
    wait_for_starts(process, trials / good, 4)
    drivers = [pid for pid, title in descendants(process.pid).items() if title.startswith(DRIVER)]
    (driver,) = (pid for pid in drivers if Path(f"/proc/{pid}/cwd").readlink().name == good)
    os.kill(driver, signal.SIGKILL)
    output = finish(process)
    assert process.returncode == 1, output
    rows = {row["trial"]: row for row in json.loads((storage / "small" / "results.json").read_text())}
    assert {name: row["status"] for name, row in rows.items()} == {
        good: "finished",
        broken: "failed",
        "lambda_l1=1e+39": "diverged",
    }
    assert f"{broken}: failed: ValueError: broken on purpose; see {storage}/small/trials/{broken}/log.txt" in output
    assert "Traceback" in (trials / broken / "log.txt").read_text()
    assert rows[good]["restarts"] == 4
    assert_same_end(trials / good, trial_of(undisturbed))
