"""What a bucket costs: `python -m benchmarks.storage [--latency S] [--only PART] [--json FILE]`.

A server of its own on this machine keeps the objects, and a proxy before it counts requests; `--latency` lets each of
them wait for so many seconds, as a network does. Counted are the requests of a trial that runs, a minute, by kind and
by what they are for; of `runner.status`; and of the command where all trials are finished, for each of them. Timed are
a checkpoint of 64 channels and 256 pixels, which takes some 3 GB of memory, and the time to the first step with and
without a local copy of the patches: in a folder, and in the bucket.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
import yaml

from benchmarks.figures import benchmark_parser, publish, seconds, spread
from tests.support.object_proxy import FaultProxy, SeenRequest, on
from tests.support.object_server import client_environment, make_bucket, object_server, open_bucket

WARM_UP_S, COUNTED_S = 20.0, 60.0
SAVED = re.compile(r"checkpoint at step \d+: ([\d.]+) MB, training waited ([\d.]+) s, written in ([\d.]+) s beside it")
RUNNING: dict[str, Any] = {
    "name": "running",
    "data": {"patch_size": 64, "synthetic": {"train": 8, "val": 2, "seed": 0}},
    "model": {"channels": 16, "receptive_field": 16},
    "training": {"epochs": 1000, "batch_size": 4, "precision": "fp32"},
    "evaluation": {"num_patches": 8, "every_n_epochs": 20},
    "checkpoint": {"every_n_epochs": 20},
    "log_every_n_steps": 10,
    "resources": {"cpus_per_worker": 1},
    "tracking": {"wandb": "off"},
}
SHORT = RUNNING | {
    "name": "short",
    "data": {"patch_size": 64, "patching": "resize", "synthetic": {"train": 4, "val": 2, "seed": 0}},
    "model": {"channels": 1, "receptive_field": 16},
    "training": {"epochs": 1, "batch_size": 4, "precision": "fp32"},
    "log_every_n_steps": 1,
}
LARGE = RUNNING | {
    "name": "large",
    "data": {"patch_size": 256, "patching": "resize", "synthetic": {"train": 3, "val": 2, "seed": 0}},
    "model": {"channels": 64, "receptive_field": 70},
    "training": {"epochs": 20, "batch_size": 1, "precision": "fp32"},
    "evaluation": {"num_patches": 1, "every_n_epochs": 100},
    "checkpoint": {"every_n_epochs": 100},
    "log_every_n_steps": 1,
}
PATCHES = SHORT | {
    "name": "many",
    "data": {"patch_size": 256, "synthetic": {"train": 30, "val": 2, "seed": 0}},
}


class Place:
    """A bucket behind the proxy, and a folder for what is on this machine."""

    def __init__(self, folder: Path, endpoint: str, proxy: FaultProxy) -> None:
        self.folder, self.proxy, self._endpoint = folder, proxy, endpoint
        self.bucket = make_bucket(endpoint)
        self.storage = f"s3://{self.bucket}/results"
        self.cache = folder / "cache"

    @property
    def environment(self) -> dict[str, str]:
        """With which a command finds the bucket."""
        return {**os.environ, **client_environment(self.proxy.endpoint), "PIX2PIX_CACHE": str(self.cache)}

    def read(self, name: str) -> str:
        """An object of the storage, past the proxy."""
        return bytes(obstore.get(open_bucket(self._endpoint, self.bucket), f"results/{name}").bytes()).decode()

    def command(self, module: str, *arguments: object) -> "subprocess.Popen[bytes]":
        """Starts a command."""
        with open(self.folder / "output.txt", "ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", module, *map(str, arguments)],
                env=self.environment, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def finish(self, module: str, *arguments: object) -> list[SeenRequest]:
        """Runs a command to its end; its requests. Raises RuntimeError where that is no good one."""
        self.proxy.clear()
        if self.command(module, *arguments).wait():
            raise RuntimeError(f"{module} failed:\n{(self.folder / 'output.txt').read_text()[-2000:]}")
        return list(self.proxy.requests)


def main() -> None:
    """Prints the table; writes JSON where asked to."""
    parts: dict[str, Callable[[Place], dict[str, Any]]] = {
        "running": measure_running,
        "recheck": measure_recheck,
        "checkpoint": measure_checkpoint,
        "first_step": measure_first_step,
    }
    parser = benchmark_parser(__doc__)
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="seconds that each request waits")
    parser.add_argument("--only", choices=parts, action="append", help="a part of it (repeatable)")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"latency_s": arguments.latency}
    for name in arguments.only or parts:
        with new_place(arguments.latency) as place:
            figures |= parts[name](place)
    publish(figures, arguments.json)


@contextmanager
def new_place(latency_s: float) -> Iterator[Place]:
    """An empty bucket."""
    with object_server() as server, FaultProxy(server.endpoint) as proxy, tempfile.TemporaryDirectory() as folder:
        if latency_s:
            proxy.delay(latency_s)
        yield Place(Path(folder), server.endpoint, proxy)


def measure_running(place: Place) -> dict[str, Any]:
    """Requests of a trial that runs, over a minute that begins some time after its start; and of `runner.status`."""
    path = write(place.folder, RUNNING)
    process = place.command("runner.train", path, "--in-process", "--storage", place.storage)
    try:
        place.proxy.wait_for(on("put", "*/trials/trial/metrics.jsonl"), timeout_s=120)
        time.sleep(WARM_UP_S)
        place.proxy.clear()
        time.sleep(COUNTED_S)
        seen = list(place.proxy.requests)
        # The trial goes on meanwhile: what it asks for in that time is taken off.
        began = time.monotonic()
        all_seen = place.finish("runner.status", f"{place.storage}/running")
        status_s = time.monotonic() - began
    finally:
        process.terminate()
        process.wait()
    minutes = COUNTED_S / 60
    epochs = sum(request.kind == "put" and "/images/" in request.key for request in seen)
    return {
        "running_requests_a_minute": len(seen) / minutes,
        **{f"running_{kind}_a_minute": count / minutes for kind, count in kinds(seen).items()},
        **{f"running_for_{what}_a_minute": count / minutes for what, count in purposes(seen).items()},
        "running_evaluations": epochs,
        "running_checkpoints": sum(request.kind == "put" and key_ends(request, "/manifest.json") for request in seen),
        "status_requests": len(all_seen) - round(len(seen) * status_s / COUNTED_S),
        "status_s": status_s,
    }


def measure_recheck(place: Place) -> dict[str, Any]:
    """Requests of the command where nothing is left to do, with few and with more trials: what each trial costs."""
    seen, took_s = {}, {}
    for count in (2, 8):
        experiment = SHORT | {"name": f"short{count}", "sweep": {"lambda_l1": list(range(1, count + 1))}}
        path = write(place.folder, experiment)
        arguments = ("tests.support.inline_sweep", path, "--storage", place.storage)
        place.finish(*arguments)
        began = time.monotonic()
        seen[count] = place.finish(*arguments)
        took_s[count] = time.monotonic() - began
    per_trial = {kind: (count - kinds(seen[2])[kind]) / 6 for kind, count in kinds(seen[8]).items()}
    return {
        "recheck_2_trials_requests": len(seen[2]),
        "recheck_8_trials_requests": len(seen[8]),
        "recheck_requests_a_trial": (len(seen[8]) - len(seen[2])) / 6,
        **{f"recheck_{kind}_a_trial": count for kind, count in per_trial.items()},
        "recheck_s_a_trial": (took_s[8] - took_s[2]) / 6,
    }


def measure_checkpoint(place: Place) -> dict[str, Any]:
    """How long training waits for a checkpoint, and how long its write takes beside it, by the trial's log."""
    path = write(place.folder, LARGE)
    folder = place.folder / "results"
    place.finish("runner.train", path, "--in-process", "--storage", folder)
    log = {"folder": (folder / "large/trials/trial/log.txt").read_text()}
    shutil.rmtree(folder)
    place.finish("runner.train", path, "--in-process", "--storage", place.storage)
    log["bucket"] = place.read("large/trials/trial/log.txt")
    figures: dict[str, Any] = {"checkpoint_plain_puts_s": plain_puts_s(place)}

    for where, text in log.items():
        # Without the one at the end, which comes while the one before it may still be written.
        saved = [tuple(map(float, found)) for found in SAVED.findall(text)][:-1]
        figures |= {
            f"checkpoint_{where}_mb": saved[0][0],
            f"checkpoint_{where}_waited_s": spread([waited for _, waited, _ in saved]),
            f"checkpoint_{where}_written_s": spread([written for *_, written in saved]),
        }
    return figures


def plain_puts_s(place: Place) -> float:
    """How long this server takes for the objects of the last checkpoint, put by the store's library alone."""
    content = 1e6 * float(SAVED.findall(place.read("large/trials/trial/log.txt"))[-1][0])
    store = open_bucket(place.proxy.endpoint, place.bucket, timeout="600s")
    parts = [bytes(round(share * content)) for share in (0.32, 0.64, 0.02, 0.02)]  # as generator and its moments
    return seconds(lambda: [obstore.put(store, f"plain/{number}", part) for number, part in enumerate(parts)])


def measure_first_step(place: Place) -> dict[str, Any]:
    """From the start of the command to the end of the first step, on patches that were made before."""
    path = write(place.folder, PATCHES)
    folder = place.folder / "results"
    figures: dict[str, Any] = {}
    for where, storage in (("folder", folder), ("bucket", place.storage)):
        place.finish("runner.train", path, "--in-process", "--storage", storage)
        if where == "folder":
            figures["first_step_folder_s"] = _first_step_s(place, path, storage, "folder")
    sizes = [int(file.stat().st_size) for file in (folder / "patches").rglob("*.arrow")]
    shutil.rmtree(place.cache)
    figures["first_step_cold_cache_s"] = _first_step_s(place, path, place.storage, "cold")
    figures["first_step_warm_cache_s"] = _first_step_s(place, path, place.storage, "warm")
    return {"first_step_patches_mb": sum(sizes) / 1e6, **figures}


def _first_step_s(place: Place, path: Path, storage: Path | str, name: str) -> float:
    """Of another experiment, on the same patches."""
    content = yaml.safe_load(path.read_text()) | {"name": name}
    path = write(place.folder, content)
    log = Path(str(storage)) / name / "trials/trial/metrics.jsonl"
    opened: list[float] = []

    def watch() -> None:
        if isinstance(storage, Path):
            while not log.exists():
                time.sleep(0.002)
        else:
            place.proxy.wait_for(on("put", f"*/{name}/trials/trial/metrics.jsonl"), timeout_s=600)
        opened.append(time.monotonic())

    place.proxy.clear()
    watcher = threading.Thread(target=watch, daemon=True)
    began = time.monotonic()
    process = place.command("runner.train", path, "--in-process", "--storage", storage)
    watcher.start()
    process.wait()
    watcher.join(10)
    text = log.read_text() if isinstance(storage, Path) else place.read(f"{name}/trials/trial/metrics.jsonl")
    return opened[0] - began + float(json.loads(text.splitlines()[0])["seconds"])


def write(folder: Path, experiment: Mapping[str, Any]) -> Path:
    """The experiment as a file."""
    path = folder / f"{experiment['name']}.yaml"
    path.write_text(yaml.safe_dump(dict(experiment)))
    return path


def kinds(seen: list[SeenRequest]) -> Counter[str]:
    """How many of each kind."""
    return Counter(request.kind for request in seen)


def key_ends(request: SeenRequest, end: str) -> bool:
    """Whether its key has this end."""
    return request.key.endswith(end)


def purposes(seen: list[SeenRequest]) -> Counter[str]:
    """How many for each kind of file."""
    return Counter(_purpose(request) for request in seen)


def _purpose(request: SeenRequest) -> str:
    place = request.key or request.query
    for name in ("lock", "starts.jsonl", "metrics.jsonl", "held.jsonl", "outcome.json", "log.txt", "report.html"):
        if place.endswith(f"/{name}"):
            return name.partition(".")[0]
    for name in ("checkpoints", "weights", "images", "results"):
        if f"/{name}" in place.replace("%2F", "/").removeprefix("results/"):
            return name
    return "other"


if __name__ == "__main__":
    main()
