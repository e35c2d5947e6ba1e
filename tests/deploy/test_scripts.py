"""The shell scripts of deploy/ run with programs that stand for Slurm, and with the real runner where it matters."""

import re
import shlex
import signal
import subprocess
from itertools import pairwise, product
from pathlib import Path

import pytest

from runner.config.loading import load_experiment
from runner.errors import Exit
from tests.deploy.desk import DEPLOY, Desk
from tests.support.commands import finish, read_until, write_experiment

SLURM = DEPLOY / "slurm"
BATCH_SCRIPTS = sorted(SLURM.glob("*.sbatch"))
# What `man sbatch` knows, of what our scripts use; with the form of its values.
SBATCH_OPTIONS = {
    "array": r"\d+-\d+%\d+",
    "cpus-per-task": r"\d+",
    "exclusive": "",
    "gpus-per-node": r"\d+",
    "job-name": r"\w+",
    "mem": r"\d+G|0",
    "nodes": r"\d+",
    "ntasks": r"\d+",
    "ntasks-per-node": r"\d+",
    "open-mode": "append|truncate",
    "output": r"[\w%-]+\.log",
    "requeue": "",
    "signal": r"B:TERM@\d+",
    "time": r"\d+:\d\d:\d\d",
}
SEVERAL = {"SLURM_NNODES": "3", "SLURM_CPUS_ON_NODE": "8", "SLURMD_NODENAME": "n1", "HEAD_IP": "10.0.0.1"}
TASK = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}


def directives(script: Path) -> dict[str, str]:
    """The options in a batch script's head, which ends for Slurm at the first line that is no comment."""
    lines = script.read_text().splitlines()
    head = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    found = [line.removeprefix("#SBATCH --") for line in lines[:head] if line.startswith("#SBATCH")]
    assert len(found) == sum(line.startswith("#SBATCH") for line in lines), "Slurm does not read those further down"
    return {name: value for name, _, value in (option.partition("=") for option in found)}


@pytest.mark.parametrize("script", [*DEPLOY.rglob("*.sh"), *BATCH_SCRIPTS], ids=lambda path: path.name)
def test_bash_can_read_the_script(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize("script", BATCH_SCRIPTS, ids=lambda path: path.name)
def test_a_batch_script_asks_slurm_for_what_slurm_knows(script: Path) -> None:
    options = directives(script)
    assert options.keys() <= SBATCH_OPTIONS.keys()
    for name, value in options.items():
        assert re.fullmatch(SBATCH_OPTIONS[name], value), f"--{name}={value}"


@pytest.mark.parametrize("script", BATCH_SCRIPTS, ids=lambda path: path.name)
def test_a_batch_script_gets_its_signal_in_time_and_may_be_queued_again(script: Path) -> None:
    options = directives(script)
    assert int(options["signal"].partition("@")[2]) >= 120  # Slurm may be a minute late
    assert "requeue" in options
    assert options["open-mode"] == "append"  # the log of the start before stays


def test_several_nodes_are_whole_nodes() -> None:
    assert "exclusive" in directives(SLURM / "several_nodes.sbatch")


# The loop for a spot machine.


def test_the_loop_starts_again_after_75_and_after_nothing_else(desk: Desk) -> None:
    desk.program("sleep", "")
    desk.program(
        "train",
        """
import pathlib, os, sys
codes = pathlib.Path(os.environ["DESK"], "codes.txt")
code, *rest = codes.read_text().split()
codes.write_text(" ".join(rest))
told("train " + " ".join(sys.argv[1:]))
sys.exit(int(code))
""",
    )
    for codes, last in (("75 75 0 75", 0), ("75 1 75", 1), ("2 75", 2), ("75 130 75", 130)):
        (desk.folder / "codes.txt").write_text(codes)
        code, _ = desk.run(DEPLOY / "spot_loop.sh", "train", "two words")
        assert code == last
        assert (desk.folder / "codes.txt").read_text() == "75" * (codes.split()[-1] == "75")
    assert desk.told()[:3] == ["train two words"] * 3


# The wrapper that queues a job again.


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_a_job_that_was_not_stopped_early_is_not_queued_again(desk: Desk, code: int) -> None:
    assert desk.run(SLURM / "requeue_on_75.sh", "bash", "-c", f"exit {code}")[0] == code
    assert desk.told() == []


def test_a_job_that_was_stopped_early_is_queued_again(desk: Desk) -> None:
    assert desk.run(SLURM / "requeue_on_75.sh", "bash", "-c", "exit 75")[0] == 75
    assert desk.told() == ["scontrol requeue 7"]


def test_of_an_array_only_the_task_that_was_stopped_early_is_queued_again(desk: Desk) -> None:
    assert desk.run(SLURM / "requeue_on_75.sh", "bash", "-c", "exit 75", **TASK)[0] == 75
    assert desk.told() == ["scontrol requeue 7_3"]


def test_each_sigterm_to_the_batch_script_reaches_the_command_whose_own_exit_code_counts(desk: Desk) -> None:
    heard = 'echo heard; [ -n "${first:-}" ] && exit 75; first=1'
    command = f"trap '{heard}' TERM; echo ready; while :; do sleep 0.1 & wait; done"
    process = desk.start(SLURM / "requeue_on_75.sh", "bash", "-c", command)
    read_until(process, "ready")
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        read_until(process, "heard")
    finish(process)
    assert process.returncode == 75
    assert desk.told() == ["scontrol requeue 7"]


# The batch scripts.


@pytest.mark.slow
def test_a_task_that_slurm_signals_saves_its_trial_and_is_queued_again(desk: Desk) -> None:
    file = write_experiment(desk.folder, training={"epochs": 10_000})
    process = desk.start(SLURM / "array.sbatch", file, "--in-process", **TASK)
    read_until(process, r"epoch \d+/10000")
    process.send_signal(signal.SIGTERM)

    printed = finish(process)
    assert process.returncode == Exit.STOPPED
    assert "stopped (SIGTERM); the same command goes on" in printed
    assert desk.told() == ["scontrol requeue 7_3"]
    assert list((desk.folder / "results/batch_4_lambda_100/trials/trial/checkpoints").glob("step_*"))


def test_one_node_runs_all_trials_on_that_node_alone(desk: Desk) -> None:
    file = desk.folder / "experiments" / "batch_sweep.yaml"
    code, printed = desk.run(SLURM / "one_node.sbatch", file, "--dry-run", RAY_ADDRESS="10.0.0.1:6379")
    assert code == 0, printed
    assert "6 trials" in printed
    assert desk.told() == []


def test_the_tasks_of_an_array_train_each_combination_once(desk: Desk) -> None:
    desk.record_python()
    first, last = map(int, re.match(r"(\d+)-(\d+)", directives(SLURM / "array.sbatch")["array"]).groups())  # type: ignore[union-attr]
    file = str(desk.folder / "experiments" / "baseline.yaml")
    for index in range(first, last + 1):
        task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(index)}
        assert desk.run(SLURM / "array.sbatch", file, "--set", "training.epochs=3", **task)[0] == 0

    experiments = []
    for line in desk.told():
        words = shlex.split(line)
        assert words[:3] == ["python", "-m", "runner.train"]
        overrides = [value for option, value in pairwise(words) if option == "--set"]
        experiments.append(load_experiment(file, overrides))
    trained = [(experiment.training.batch_size, experiment.training.lambda_l1) for experiment in experiments]
    assert sorted(trained) == sorted(product((1, 4, 10), (10, 100)))
    assert len({experiment.name for experiment in experiments}) == len(trained)
    assert {experiment.training.epochs for experiment in experiments} == {3}


def test_several_nodes_get_one_head_with_a_token_and_the_command_joins_it(desk: Desk) -> None:
    desk.record_python(75, after="but=n1")
    code, printed = desk.run(SLURM / "several_nodes.sbatch", "experiment.yaml", "--set", "a=b", **SEVERAL)
    assert code == 75, printed

    head, others, command, queued = sorted(desk.told(), key=lambda line: ("head" not in line, "srun" not in line, line))
    assert "srun nodes=1 at=n1 but=None ray start --block --num-cpus=8 --head" in head
    assert "--node-ip-address=10.0.0.1 --port=6379 --dashboard-host=127.0.0.1" in head
    assert others == "srun nodes=2 at=None but=n1 ray start --block --num-cpus=8 --address=10.0.0.1:6379"
    assert command.startswith("python -m runner.tune experiment.yaml --set a=b --address 10.0.0.1:6379 --storage /")
    assert queued == "scontrol requeue 7"

    token = desk.folder / "home" / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600


def test_one_node_of_several_has_no_others(desk: Desk) -> None:
    desk.record_python()
    assert desk.run(SLURM / "several_nodes.sbatch", "experiment.yaml", **SEVERAL | {"SLURM_NNODES": "1"})[0] == 0
    assert [line.split()[0] for line in desk.told()] == ["srun", "python"]


def test_a_head_that_does_not_start_ends_the_job(desk: Desk) -> None:
    desk.record_python()
    code, printed = desk.run(SLURM / "several_nodes.sbatch", "experiment.yaml", **SEVERAL, HEAD_FAILS="1")
    assert code not in (0, Exit.STOPPED)
    assert "no head" in printed
    assert [line.split()[0] for line in desk.told()] == ["srun"]


def test_results_go_where_storage_says(desk: Desk) -> None:
    desk.record_python()
    for script, more in (("one_node", {}), ("array", TASK), ("several_nodes", SEVERAL)):
        desk.run(SLURM / f"{script}.sbatch", "experiment.yaml", STORAGE="/scratch/results", **more)
    commands = [line for line in desk.told() if line.startswith("python")]
    assert len(commands) == 3
    assert all("--storage /scratch/results" in command for command in commands)
