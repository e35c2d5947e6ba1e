"""A worker's process begins before it is wanted, with all loaded, and Ray gives it to the worker."""

import os
import subprocess
import sys

import pytest

from tests.support.commands import ROOT

# An actor as Ray Train makes its workers, from a process that is an actor itself, as ours does.
BEGUN_AHEAD = """
import os, sys, time
from pathlib import Path

import psutil

from runner.on_ray.connection.cluster import start_ray, stop_ray
from runner.on_ray.prestart import prestart_first, prestart_next, worker_environment


def idle_ones():
    return {process.pid for process in psutil.Process().children(recursive=True) if is_ready(process)}


def is_ready(process):
    try:
        is_idle = "".join(process.cmdline()).startswith("ray::IDLE")
        return is_idle and "libtorch_cpu" in Path(f"/proc/{process.pid}/maps").read_text()
    except (OSError, psutil.Error):
        return False


def one_more(known):
    give_up_at = time.monotonic() + 120
    while not (found := idle_ones() - known):
        assert time.monotonic() < give_up_at, "no process was begun"
        time.sleep(0.1)  # a poll
    (pid,) = found
    return pid


class Maker:
    def make(self):
        from ray.train.v2._internal.execution.worker_group import WorkerGroup

        environment = WorkerGroup._get_worker_runtime_env(custom_runtime_env=worker_environment(2))
        self.worker = ray.remote(num_cpus=1, runtime_env=environment)(Worker).remote()
        return ray.get(self.worker.see.remote())

    def prestart_next(self):
        ray.get(self.worker.prestart_next.remote())


class Worker:
    def see(self):
        return os.getpid(), "runner.on_ray.worker" in sys.modules, os.environ["OMP_NUM_THREADS"]

    def prestart_next(self):
        prestart_next()


start_ray(None, "", dashboard=False)
begun = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
assert not [line for line in begun if "monitor.py" in line], "a process that nobody needs"
import ray
import runner.on_ray.tune

prestart_first(1, 2)
first = one_more(set())
maker = ray.remote(num_cpus=0)(Maker).remote()
assert ray.get(maker.make.remote()) == (first, True, "2"), "another process became the worker"

ray.get(maker.prestart_next.remote())
second = one_more(set())
assert second != first
assert ray.get(maker.make.remote()) == (second, True, "2"), "another process became the next worker"
stop_ray()
print("begun ahead")
"""


@pytest.mark.ray
def test_the_first_worker_and_the_next_one_get_a_process_that_has_all_loaded() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", BEGUN_AHEAD], env=environment, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert "begun ahead" in done.stdout, done.stdout + done.stderr


# Which GPUs a process may see is said with its first task. Whoever asks before sees all of them for good.
NO_GPU_ASKED_FOR = """
import torch

def refuse(*_):
    raise AssertionError("a GPU was asked for")

for name in ("is_available", "device_count", "init", "_lazy_init"):
    setattr(torch.cuda, name, refuse)
torch._C._cuda_getDeviceCount = refuse

from runner.on_ray.prestart import load_worker
load_worker()
import sys
assert "runner.on_ray.worker" in sys.modules
print("loaded")
"""


def test_what_is_loaded_ahead_asks_for_no_gpu() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", NO_GPU_ASKED_FOR], env=environment, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert "loaded" in done.stdout, done.stdout + done.stderr
