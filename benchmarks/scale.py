"""What a sweep of many trials costs its main process: `python -m benchmarks.scale [--trials N] [--json FILE]`.

One tiny trial is trained, and its folder is copied under the names of all trials of a sweep, with the records that make
each of them that trial. Then, each in a process of its own: the command with nothing left to do, the command while one
trial trains (how many files its watch opens), `runner.status`, the page, and the plan of ten times as many trials.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from benchmarks.figures import benchmark_parser, publish
from runner.config.fingerprint import Fingerprints, fingerprint_trial
from runner.config.loading import PlannedTrial, load_experiment, plan_trials
from runner.records.metrics_log import encode_row, read_rows
from runner.records.trial_file import read_trial_file, write_trial_file
from runner.storage.run_folder import CHECKPOINTS, MANIFEST, METRICS_LOG, TRIALS, WEIGHTS_RECORD
from runner.storage.storage import Storage

NAME = "many"
WATCH_S = 90.0
COUNTED_S = (60.0, 85.0)  # of these
EXPERIMENT: dict[str, Any] = {
    "name": NAME,
    "data": {"patch_size": 64, "synthetic": {"train": 4, "val": 1, "seed": 0}},
    "model": {"channels": 1, "receptive_field": 16},
    "training": {"epochs": 40, "batch_size": 32, "precision": "fp32"},
    "evaluation": {"num_patches": 4, "every_n_epochs": 10},
    "checkpoint": {"every_n_epochs": 100},
    "log_every_n_steps": 1,
    "resources": {"cpus_per_worker": 1},
    "tracking": {"wandb": "off"},
}


class Ended(NamedTuple):
    """A process that has come to its end: seconds of the clock and of processors, and the most memory, in GB."""

    wall_s: float
    cpu_s: float
    memory_gb: float
    output: str


def main() -> None:
    """Prints the table; writes JSON where asked to."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--trials", type=int, default=1000, help="finished trials in the folder")
    parser.add_argument(
        "--keep", metavar="DIR", type=Path, help="where the folder is made and stays, or is from before"
    )
    parser.add_argument("--watched", metavar="DIR", help=argparse.SUPPRESS)  # a process of this benchmark itself
    arguments = parser.parse_args()
    if arguments.watched:
        _run_watched(Path(arguments.watched))
        return

    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        experiment = make_trials(folder, arguments.trials)
        publish({"trials": arguments.trials, **measure(folder, experiment)}, arguments.json)


def make_trials(folder: Path, count: int) -> Path:
    """An experiment's file, and beside it a storage where all of its trials are finished; they may be there already."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _write_experiment(folder / f"{NAME}.yaml", count)
    storage = folder / "storage"
    if (storage / NAME / TRIALS).exists():
        return path

    _train_one(path, folder / "one")
    (storage / NAME).mkdir(parents=True)
    shutil.copytree(folder / "one" / "patches", storage / "patches")
    model = Storage.open(folder / "one" / NAME / TRIALS / "trial")
    experiment = Storage.open(storage / NAME)
    for number, planned in enumerate(plan_trials(load_experiment(path), str(path))):
        copy_trial(model, experiment, planned, number)
    return path


def copy_trial(model: Storage, experiment: Storage, planned: PlannedTrial, number: int) -> None:
    """A finished trial's folder as that of another trial, whose figures differ a little from its own."""
    trial = experiment.at(f"{TRIALS}/{planned.name}")
    shutil.copytree(model.local_copy(), trial.local_copy())

    content = read_trial_file(model)
    assert content is not None
    fingerprints = fingerprint_trial(planned.config, content["data_fingerprint"])
    runtime = {name: content[name] for name in ("threads", "precision", "kernels")}
    write_trial_file(trial, planned.config, fingerprints, planned.params, runtime)
    for record in (WEIGHTS_RECORD, *(f"{CHECKPOINTS}/{step}/{MANIFEST}" for step in trial.names(CHECKPOINTS))):
        _rewrite_record(trial, record, fingerprints)

    # The losses and metrics of a trial lie around those of the model, so that charts and ranks are of many values.
    factor = float(np.exp(0.2 * np.random.default_rng(number).normal()))
    rows = [{key: _scaled(key, value, factor) for key, value in row.items()} for row in read_rows(model)]
    trial.write(METRICS_LOG, b"".join(map(encode_row, rows)))


def measure(folder: Path, path: Path) -> dict[str, Any]:
    """The figures of the storage that `make_trials` has made."""
    storage = folder / "storage"
    recheck = _run("-m", "runner.tune", str(path), "--storage", str(storage), "--no-dashboard")
    status = _run("-m", "runner.status", str(storage / NAME))
    page = _run("-m", "runner.report", str(storage / NAME), "--out", str(folder / "page.html"))
    ten_times = _write_experiment(folder / "plan.yaml", 10 * sum(1 for _ in (storage / NAME / TRIALS).iterdir()))
    plan = _run("-m", "runner.tune", str(ten_times), "--storage", str(folder / "empty"), "--dry-run")
    watched = json.loads(_run("-m", "benchmarks.scale", "--watched", str(folder)).output.splitlines()[-1])
    return {
        "recheck_s": recheck.wall_s,
        "recheck_cpu_s": recheck.cpu_s,
        "recheck_memory_gb": recheck.memory_gb,
        **{f"watch_{name}": value for name, value in watched.items()},
        "status_s": status.wall_s,
        "status_cpu_s": status.cpu_s,
        "status_memory_gb": status.memory_gb,
        "report_s": page.wall_s,
        "report_cpu_s": page.cpu_s,
        "report_memory_gb": page.memory_gb,
        "page_mb": (folder / "page.html").stat().st_size / 1e6,
        **_page_height(folder / "page.html"),
        "dry_run_ten_times_s": plan.wall_s,
        "dry_run_ten_times_cpu_s": plan.cpu_s,
        "dry_run_ten_times_memory_gb": plan.memory_gb,
    }


def _write_experiment(path: Path, count: int) -> Path:
    """A grid of as many trials, as nearly square as its two fields allow."""
    across = next(width for width in range(round(count**0.5), 0, -1) if count % width == 0)
    sweep = {
        "lambda_l1": list(range(1, count // across + 1)),
        "learning_rate": [round(1e-5 * (number + 1), 6) for number in range(across)],
    }
    path.write_text(yaml.safe_dump(EXPERIMENT | {"sweep": sweep}))
    return path


def _train_one(path: Path, storage: Path) -> None:
    """The trial whose folder is copied."""
    _run("-m", "runner.train", str(path), "--storage", str(storage), "--in-process", "--set", "sweep=")


def _rewrite_record(trial: Storage, name: str, fingerprints: Fingerprints) -> None:
    record = json.loads(trial.read(name))
    record |= {"config_fingerprint": fingerprints.config, "data_fingerprint": fingerprints.data}
    trial.write(name, json.dumps(record).encode())


def _scaled(key: str, value: Any, factor: float) -> Any:
    is_figure = isinstance(value, float) and key not in ("seconds", "images_per_second")
    return value * factor if is_figure else value


def _run(*arguments: str) -> Ended:
    """Runs Python to its end; raises RuntimeError where that is not a good one."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began
        output.seek(0)
        text = output.read().decode()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}:\n{text[-2000:]}")
    return Ended(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6, text)


def _run_watched(folder: Path) -> None:
    """In a process of its own: trains the last trial for a while, and counts the files that other threads open."""
    import resource

    from runner.console import Console
    from runner.sweep.check import Options
    from runner.sweep.run import run_experiment

    opened: list[float] = []

    def count(event: str, _: tuple[Any, ...]) -> None:
        if event == "open" and threading.current_thread() is not threading.main_thread():
            opened.append(time.monotonic())

    path, storage = folder / f"{NAME}.yaml", folder / "storage"
    *_, last = plan_trials(load_experiment(path), str(path))
    trial, aside = storage / NAME / TRIALS / last.name, folder / "aside"
    trial.rename(aside)
    sys.addaudithook(count)
    began = time.monotonic()
    try:
        options = Options(storage=str(storage), in_process=True, time_limit_s=WATCH_S)
        run_experiment(path, options, Console())
    finally:
        shutil.rmtree(trial, ignore_errors=True)
        aside.rename(trial)
    # The first look opens all, and the end writes the results: what counts goes on between them.
    from_s, to_s = COUNTED_S
    figures = {
        "opened_a_second": sum(from_s <= at - began < to_s for at in opened) / (to_s - from_s),
        "opened_in_all": len(opened),
        "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }
    print(json.dumps(figures))


def _page_height(page: Path) -> dict[str, float]:
    """Pixels of the page in a window of 1280, as it is opened; nothing where there is no browser."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browser, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not browser or not driver:
        return {}
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(option)
    with webdriver.Chrome(options=options, service=Service(driver)) as opened:
        began = time.perf_counter()
        opened.get(page.as_uri())
        height = opened.execute_script("return document.documentElement.scrollHeight")
        return {"page_height_px": float(height), "page_opened_s": time.perf_counter() - began}


if __name__ == "__main__":
    main()
