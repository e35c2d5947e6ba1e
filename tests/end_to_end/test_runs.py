"""Whole runs on a real local Ray: sweeps, faults, and the same weights after any of them."""

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from gan.data.patches import Patches
from gan.networks.model import ModelSettings
from gan.training.loop import fit
from gan.training.losses import LOSS_NAMES
from gan.training.process_group import ProcessGroup
from gan.training.settings import TrainingSettings
from gan.training.state import TrainState
from runner.process.processes import MARK, is_alive
from runner.storage.storage import Storage
from runner.storage.tensor_writer import write_tensors
from tests.support.commands import (
    ROOT,
    Command,
    assert_same_end,
    descendants,
    files_of_store,
    finish,
    kill_family,
    read_metrics,
    read_starts,
    read_until,
    run,
    start,
    wait_for_starts,
    wait_for_step,
    write_experiment,
)
from tests.support.kill_points import run_forked, start_fork
from tests.support.pictures import pair_picture
from tests.support.ray_endpoints import (
    ask_dashboard,
    dashboard_address,
    node_metrics,
    open_to_other_machines,
    wait_until,
)
from tests.support.sharing import made_once
from tests.support.wandb_trials import offline_run

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("own_home")]

LONG = {"epochs": 12}
WORKER = "ray::RayTrainWorker"
DRIVER, CONTROLLERS = "ray::ImplicitFunc", "ray::Controllers"
HIGH_FILE_NUMBER = 987  # which no other process uses
STATE = "ray::TrainStateActor"  # of the dashboard


def trial_of(storage: Path) -> Path:
    return storage / "small" / "trials" / "trial"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storage of an undisturbed run, made without Ray."""

    def make(folder: Path) -> None:
        path = write_experiment(folder, training=LONG)
        ended = run_forked([path, "--in-process", "--storage", folder / "results"], folder / "output.txt")
        assert ended.code == 0, ended.output

    return made_once(tmp_path_factory, "undisturbed_long", make) / "results"


def newest_checkpoint(trial: Path) -> int:
    return max(int(path.name.removeprefix("step_")) for path in (trial / "checkpoints").glob("step_*"))


def last_step(trial: Path) -> int:
    rows = read_metrics(trial)
    return rows[-1]["step"] if rows else 0


def is_marked(pid: int) -> bool:
    """Whether what is looked for among all processes to end those of a start is seen at this one."""
    with contextlib.suppress(OSError):
        return f"{MARK}=".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    return not is_alive(pid)


def has_torch(pid: int) -> bool:
    try:
        return "libtorch_cpu" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


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


def kill_main_process(process: Command) -> None:
    """Ray's processes live on for seconds, and the next start meets them."""
    process.kill()


def terminate_group(process: Command) -> None:
    """As `timeout` does: Ray's processes have groups of their own."""
    os.killpg(process.pid, signal.SIGTERM)
    output = finish(process)
    assert process.returncode == 75, output
    assert "stopping (SIGTERM)" in output


def press_ctrl_c(process: Command) -> None:
    """As a terminal does."""
    os.killpg(process.pid, signal.SIGINT)
    output = finish(process)
    assert process.returncode == 130, output


def press_ctrl_c_twice(process: Command) -> None:
    """The second time, nothing is waited for."""
    os.killpg(process.pid, signal.SIGINT)
    read_until(process, r"stopping \(Ctrl-C")
    os.killpg(process.pid, signal.SIGINT)
    output = finish(process)
    assert process.returncode == 130, output


def terminate_everything(process: Command) -> None:
    """As systemd does: Ray ends together with the command, which must not wait for it."""
    family = descendants(process.pid)
    assert not [title for pid, title in family.items() if is_alive(pid) and not is_marked(pid)]
    for pid in (process.pid, *family):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    output = finish(process)
    assert process.returncode == 75, output
    # Ray's end is seen by its own error or, where it is silent, by the watch over it.
    assert re.search(r"stopped \(SIGTERM\)(, without Ray)?; the same command goes on from the last", output), output
    assert not [title for pid, title in family.items() if is_alive(pid)]


@pytest.mark.parametrize(
    "ways_to_stop",
    [
        (kill_main_process, terminate_group, press_ctrl_c_twice),
        # The last is as when the machine is switched off.
        pytest.param((press_ctrl_c, terminate_everything, kill_family), marks=pytest.mark.soak),
    ],
)
def test_however_it_is_stopped_and_started_again_at_once_it_ends_with_the_same_weights(
    tmp_path: Path, undisturbed: Path, ways_to_stop: Sequence[Callable[[Command], None]]
) -> None:
    storage = tmp_path / "results"
    trial = trial_of(storage)
    arguments = ("runner.train", write_experiment(tmp_path, training=LONG), "--storage", storage)
    for number, stop in enumerate(ways_to_stop, 1):
        process = start(*arguments, "--no-dashboard")
        wait_for_starts(process, trial, number)
        reached = wait_for_step(process, trial, last_step(trial) + 10)
        stop(process)

        if stop in (terminate_group, press_ctrl_c):
            assert newest_checkpoint(trial) >= last_step(trial) >= reached
        if stop is terminate_group:
            (row,) = json.loads((storage / "small" / "results.json").read_text())
            assert row["status"] == "stopped"

    code, output = run(*arguments, "--in-process")
    assert code == 0, output
    assert_same_end(trial, trial_of(undisturbed))
    tracked = offline_run(Storage.open(trial))
    assert tracked.steps == [row["step"] for row in read_metrics(trial)]
    # Who stops a command by Ctrl-C or SIGTERM, even so that nothing could be saved, has no fault to look for.
    killed = [way for way in ways_to_stop if way in (kill_main_process, kill_family)]
    assert (tracked.summary["status"], tracked.summary["restarts"]) == ("finished", len(killed))


def fault(function: str, call: int, when: str, do: str, trial: str, times: int) -> dict[str, object]:
    module = "runner.trial.loop"
    names = {"module": module, "function": f"{module}.{function}", "trial": trial}
    return {**names, "call": call, "when": when, "do": do, "times": times}


def test_faults_of_one_trial_leave_the_others_alone_and_failures_are_results(tmp_path: Path, undisturbed: Path) -> None:
    """In one sweep: killed around its report to Ray, its driver killed, hung; broken code; not finite."""
    storage, done = tmp_path / "results", tmp_path / "done"
    done.mkdir()
    good, broken = "lambda_l1=100", "lambda_l1=10"
    faults = [
        fault("TrialRun._report", 3, "before", "kill", good, 1),
        fault("TrialRun._report", 2, "after", "kill", good, 1),
        fault("TrialRun._choose_action", 9, "before", "raise", broken, 99),
    ]
    path = write_experiment(
        tmp_path,
        training=LONG,
        sweep={"lambda_l1": [100, 10, 1e39]},
        resources={"max_failures": 2, "hang_timeout": 8},  # each driver counts anew
        tracking={"wandb": "off"},
    )
    environment = {
        "FAULTS": json.dumps(faults),
        "FAULTS_DONE": str(done),
        "PYTHONPATH": str(ROOT / "tests" / "support" / "faults"),
    }
    trials = storage / "small" / "trials"
    process = start("runner.tune", path, "--storage", storage, "--no-dashboard", env=environment)
    wait_for_starts(process, trials / good, 3)  # both kills are over
    # Its driver, whose successor waits for the same end; then what has all trials' controllers, which begin again.
    for title in (DRIVER, CONTROLLERS):
        for pid in [pid for pid, shown in descendants(process.pid).items() if shown.startswith(title)]:
            os.kill(pid, signal.SIGKILL)
    wait_for_starts(process, trials / good, 4)
    wait_for_step(process, trials / good, read_starts(trials / good)[-1]["from_step"] + 25)
    os.kill(read_starts(trials / good)[-1]["pid"], signal.SIGSTOP)
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


def train_without_ray(rank: int, store: Path, folder: Path) -> None:
    """What one of two workers does, by gan alone."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    settings = TrainingSettings(
        epochs=7, batch_size=8, lambda_l1=100.0, learning_rate=2e-4, seed=0, precision="fp32", log_every_n_steps=5
    )
    state = TrainState(ModelSettings(4, 16, 64), settings, torch.device("cpu"))
    group = ProcessGroup(rank, 2, dist.new_group(backend="gloo"))
    for _ in fit(state, Patches.open(store, "train"), settings, group=group):
        pass
    if rank == 0:
        with open(folder / "weights", "wb") as stream:
            write_tensors(stream, state.generator.state_dict())
    dist.destroy_process_group()


def assert_secret_stays_in_the_command(secret: str, family: dict[int, str]) -> None:
    for pid in family:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if "wandb" not in family[pid]:  # the tracking service of the main process, which speaks to W&B
            assert secret.encode() not in environment, family[pid]


def assert_no_process_loads_more_than_it_needs(process: Command, family: dict[int, str]) -> None:
    """Every process that does makes each trial start seconds later."""
    titles = {title for pid, title in family.items() if has_torch(pid)}
    assert {title.split(".")[0] for title in titles} <= {WORKER, CONTROLLERS, STATE}
    assert not has_torch(process.pid)
    assert not [title for title in family.values() if title.startswith(("ray::TrainController", "ray::DatasetManager"))]


def test_two_workers_of_which_one_is_killed_end_with_the_weights_of_two_that_were_not(
    tmp_path: Path, undisturbed: Path
) -> None:
    """With the dashboard: Ray restarts both by itself, the metrics show it, and nothing is open to others meanwhile."""
    storage = tmp_path / "results"
    secret = "0123456789abcdef0123456789abcdef01234567"
    environment = {"WANDB_API_KEY": secret, "RAY_metrics_report_interval_ms": "500"}
    path = write_experiment(
        tmp_path, training={"epochs": 7, "precision": "fp32"}, resources={"workers": 2, "cpus_per_worker": 1}
    )
    process = start("runner.train", path, "--storage", storage, env=environment)
    dashboard, printed = dashboard_address(process)
    wait_for_step(process, trial_of(storage), 50)
    family = descendants(process.pid)
    # Held while we look, so that the run and its dashboard don't end before the answers.
    workers = [pid for pid, title in family.items() if title.startswith(WORKER)]
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)

    assert_secret_stays_in_the_command(secret, family)
    assert_no_process_loads_more_than_it_needs(process, family)
    open_ones = open_to_other_machines(family | {process.pid: "the command"})
    assert all(title.startswith(WORKER) for title in open_ones), "torch's meeting place of workers can't be on loopback"

    runs = ask_dashboard(dashboard, "/api/train/v2/runs/v1")["train_runs"]
    assert [run["name"] for run in runs] == ["trial"]
    actors = ask_dashboard(dashboard, "/api/v0/actors?detail=1")["data"]["result"]["result"]
    assert [actor["repr_name"] for actor in actors].count("RayTrainWorker(trial)") == 2
    named = "filter_keys=name&filter_predicates=%3D&filter_values=Controllers.run_trial(trial)"
    assert len(ask_dashboard(dashboard, f"/api/v0/tasks?{named}")["data"]["result"]["result"]) == 1

    os.kill(max(workers), signal.SIGKILL)
    os.kill(min(workers), signal.SIGCONT)
    metrics: dict[tuple[str, str, str], float] = {}

    def shows_the_restart() -> bool:
        metrics.update(node_metrics(family))
        return metrics.get(("ray_pix2pix_restarts_total", "small", "trial"), 0) == 1

    wait_until(process, shows_the_restart)
    assert {name for name, _, _ in metrics} == {
        *(f"ray_pix2pix_{name}" for name in (*LOSS_NAMES, "steps_per_second", "restarts_total"))
    }

    output = printed + finish(process)
    assert process.returncode == 0, output
    losses = [row["l1_loss"] for row in read_metrics(trial_of(storage))]
    assert metrics["ray_pix2pix_l1_loss", "small", "trial"] in losses
    (row,) = json.loads((storage / "small" / "results.json").read_text())
    assert row["restarts"] == 1
    assert row["steps_lost"] > 0
    assert "Ray dashboard: http://127.0.0.1:" in output
    assert secret not in output
    assert not [path for path in storage.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert stat.S_IMODE((Path.home() / ".ray" / "auth_token").stat().st_mode) == 0o600

    stores = [files_of_store(place) for place in (storage, undisturbed)]
    assert stores[0] == stores[1], "Ray Data and the plain loop make the same files"
    (store,) = (storage / "patches").iterdir()
    processes = [start_fork(train_without_ray, rank, store, tmp_path) for rank in range(2)]
    for each in processes:
        each.join()
    assert [each.exitcode for each in processes] == [0, 0]
    assert (trial_of(storage) / "weights" / "generator.safetensors").read_bytes() == (tmp_path / "weights").read_bytes()


def test_an_unmeetable_request_is_refused_before_anything_trains(tmp_path: Path) -> None:
    path = write_experiment(tmp_path, resources={"workers": 8, "cpus_per_worker": 64})
    code, output = run("runner.train", path, "--storage", tmp_path / "results", "--no-dashboard")
    assert code == 2, output
    assert "each trial needs 8 workers with 64 cores and no GPU each" in output
    assert not (tmp_path / "results").exists()


def test_a_picture_that_only_the_commands_machine_can_read_is_cut_there(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "pairs" / split).mkdir(parents=True)
        pair_picture(1).save(tmp_path / "pairs" / split / "1.png")
    pair_picture(2).save(tmp_path / "2.png")
    # An open file of the command's process has this path in that process alone.
    open_file = os.open(tmp_path / "2.png", os.O_RDONLY)
    os.dup2(open_file, HIGH_FILE_NUMBER)
    (tmp_path / "pairs/train/2.png").symlink_to(f"/proc/self/fd/{HIGH_FILE_NUMBER}")

    path = write_experiment(tmp_path, data={"source": str(tmp_path / "pairs")}, training={"epochs": 1})
    command = [sys.executable, "-m", "runner.tune", str(path), "--no-dashboard", "--storage", str(tmp_path / "results")]
    try:
        done = subprocess.run(
            command, pass_fds=[HIGH_FILE_NUMBER], capture_output=True, text=True, check=False, cwd=ROOT
        )  # fmt: skip
    finally:
        os.close(HIGH_FILE_NUMBER)
        os.close(open_file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 to train on, 1 to validate with" in done.stdout
