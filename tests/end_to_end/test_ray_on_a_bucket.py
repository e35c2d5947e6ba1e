"""A training through Ray whose storage is a bucket: killed twice, it ends with the bits of a run in a folder."""

import os
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.drill.local_cluster import local_cluster
from runner.storage.run_folder import CHECKPOINTS, MANIFEST, METRICS_LOG, WEIGHTS
from runner.storage.storage import Storage
from tests.support.commands import (
    Command,
    assert_same_end,
    descendants,
    finish,
    kill_family,
    read_starts,
    start,
    write_experiment,
)
from tests.support.kill_points import run_forked
from tests.support.object_server import ObjectServer, client_environment
from tests.support.sharing import made_once

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("own_home")]

WORKER = "ray::RayTrainWorker"
LONG = {"epochs": 12}
RAY_SESSIONS = Path("/tmp/ray")


@pytest.fixture(scope="module")
def in_a_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trial of a run that nothing happened to, made without Ray."""

    def make(folder: Path) -> None:
        path = write_experiment(folder, training=LONG)
        ended = run_forked([path, "--in-process", "--storage", folder / "results"], folder / "output.txt")
        assert ended.code == 0, ended.output

    return made_once(tmp_path_factory, "undisturbed_long", make) / "results/small/trials/trial"


def wait_for(process: Command, holds: Callable[[], bool]) -> None:
    while not holds():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)  # a poll


def files_with(secret: str, folder: Path) -> list[Path]:
    """The files below a folder that have a text in them."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and secret.encode() in path.read_bytes():
            found.append(path)
    return found


def test_killed_on_a_bucket_it_ends_with_the_bits_of_a_folder_and_has_told_no_secret(
    tmp_path: Path, in_a_folder: Path, s3_server: ObjectServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, cache = secrets.token_hex(16), tmp_path / "cache"
    planted = {"AWS_ACCESS_KEY_ID": f"id{secret}", "AWS_SECRET_ACCESS_KEY": f"key{secret}", "WANDB_API_KEY": secret * 2}
    for name, value in {**client_environment(s3_server.endpoint), **planted}.items():
        monkeypatch.setenv(name, value)

    path = write_experiment(tmp_path, training=LONG, tracking={"wandb": "offline"})
    uri = f"s3://{bucket}/a prefix"
    arguments = ["runner.train", path, "--storage", uri, "--cache", cache, "--no-dashboard"]
    trial = Storage.open(f"{uri}/small/trials/trial", str(cache))

    def has_checkpoint_after(step: int) -> bool:
        names = [name for name in trial.names(CHECKPOINTS) if int(name.removeprefix("step_")) > step]
        return any(trial.exists(f"{CHECKPOINTS}/{name}/{MANIFEST}") for name in names)

    # The worker dies, and Ray begins another one; then all of it dies.
    process = start(*arguments)
    wait_for(process, lambda: has_checkpoint_after(0))
    (worker,) = [pid for pid, command in descendants(process.pid).items() if command.startswith(WORKER)]
    os.kill(worker, signal.SIGKILL)
    wait_for(process, lambda: trial.read("starts.jsonl").count(b"\n") == 2)
    kill_family(process)
    printed = finish(process)

    process = start(*arguments)
    printed += finish(process)
    assert process.returncode == 0, printed

    local = tmp_path / "copy"
    shutil.copytree(Storage.open(uri, str(cache)).local_copy(), local)
    copied = local / "small/trials/trial"
    assert_same_end(copied, in_a_folder)
    starts = read_starts(copied)
    assert [start["attempt"] for start in starts] == [1, 1, 2]
    assert trial.read(METRICS_LOG) == (copied / METRICS_LOG).read_bytes()

    assert secret not in printed
    assert [*files_with(secret, local), *files_with(secret, tmp_path), *files_with(secret, RAY_SESSIONS)] == []


def test_nodes_that_share_nothing_but_the_bucket_train_a_sweep_and_one_without_it_is_named(
    tmp_path: Path, s3_server: ObjectServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in client_environment(s3_server.endpoint).items():
        monkeypatch.setenv(name, value)
    path = write_experiment(tmp_path, training={"epochs": 6}, sweep={"lambda_l1": [1, 2]}, tracking={"wandb": "off"})
    uri = f"s3://{bucket}/results"
    experiment = Storage.open(f"{uri}/small", str(tmp_path / "looked"))
    machines = [tmp_path / name for name in ("head", "first", "second", "third")]
    for machine in machines:
        machine.mkdir()

    monkeypatch.setenv("PIX2PIX_CACHE", str(machines[0] / "cache"))
    with local_cluster(tmp_path / "head", cwd=machines[0]) as cluster:
        command = ["runner.tune", path, "--address", cluster.address, "--storage", uri]

        # A node without the keys is found before anything is trained.
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            patch.setenv("PIX2PIX_STORE_RETRY_S", "0")
            blind = cluster.add_node(cwd=machines[3])
            cluster.await_start(blind)
        process = start(*command, cwd=tmp_path)
        printed = finish(process)
        assert process.returncode == 2, printed
        assert f"not every node of the cluster sees {uri}/small" in printed
        assert "need the endpoint and the credentials in their environment" in printed
        assert experiment.names("trials") == []
        blind.kill()

        nodes = []
        for machine in machines[1:3]:
            own_cache = ["env", f"PIX2PIX_CACHE={machine / 'cache'}"]
            nodes.append(cluster.add_node(cwd=machine, python=[*own_cache, sys.executable]))
        cluster.await_start(*nodes)
        process = start(*command, cwd=tmp_path)
        trials = [experiment.at(f"trials/lambda_l1={value}") for value in (1, 2)]
        printed = finish(process)
        assert process.returncode == 0, printed

    for machine in machines[1:3]:
        assert list((machine / "cache/copies").glob("*/files/meta.json"))
    assert all(trial.exists(WEIGHTS) for trial in trials)
