"""What the runner costs around gan's loop: `python -m benchmarks.runner [--json FILE]`.

The same trial is trained by the bare loop, by the command in one process, and by the command on Ray.
Speed is taken from each one's own log, without evaluation and saving, so that only what stands between
the steps counts; the time to the first step is from the start of the command.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from gan.patches import Patches
from gan.state import ModelSettings, TrainState
from gan.training import Decision, LoggedStep, TrainingSettings, fit

EPOCHS = 3
EXPERIMENT: dict[str, Any] = {
    "name": "bench",
    "data": {"patch_size": 64, "synthetic": {"train": 4, "val": 1, "seed": 0}},
    "model": {"channels": 8, "receptive_field": 16},
    "training": {"epochs": EPOCHS, "batch_size": 2, "precision": "fp32"},
    "evaluation": {"num_patches": 1, "every_n_epochs": EPOCHS},
    "checkpoint": {"every_n_epochs": EPOCHS},
    "log_every_n_steps": 10,
    "resources": {"cpus_per_worker": 1},
    "tracking": {"wandb": "off"},
}


def main() -> None:
    """Prints the table; writes JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", type=Path, help="where to write the figures")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, turn by turn")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), arguments.repeats)
    for name, value in figures.items():
        print(f"{name:32} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    """Medians over the repeats, taken turn by turn, with the spread of each ratio."""
    experiment = folder / "bench.yaml"
    experiment.write_text(yaml.safe_dump(EXPERIMENT))
    speeds: dict[str, list[float]] = {"bare": [], "in_process": [], "on_ray": []}
    first_step_s: dict[str, list[float]] = {"in_process": [], "on_ray": []}
    run_command(experiment, folder / "warm", "--in-process")
    (store,) = (folder / "warm" / "patches").glob("*/train.arrow")
    for repeat in range(repeats):
        speeds["bare"].append(bare_speed(store))
        for name, options in (("in_process", ["--in-process"]), ("on_ray", ["--no-dashboard"])):
            storage = folder / f"{name}{repeat}"
            storage.mkdir()
            (storage / "patches").symlink_to(folder / "warm" / "patches")
            first_step_s[name].append(run_command(experiment, storage, *options))
            speeds[name].append(logged_speed(storage))
    ratios = {name: [a / b for a, b in zip(speeds[name], speeds["bare"], strict=True)] for name in first_step_s}
    return {
        "processor_threads": 1,
        "bare_steps_per_s": round(statistics.median(speeds["bare"]), 2),
        **{f"{name}_to_bare": spread(values) for name, values in ratios.items()},
        **{f"{name}_first_step_s": spread(values) for name, values in first_step_s.items()},
    }


def spread(values: list[float]) -> str:
    """Median and extremes."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def bare_speed(store: Path) -> float:
    """Steps a second of gan.fit alone, from its 20th step on."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    training = EXPERIMENT["training"]
    settings = TrainingSettings(
        **training, lambda_l1=100.0, learning_rate=2e-4, seed=0, log_every_n_steps=EXPERIMENT["log_every_n_steps"]
    )
    model = ModelSettings(**EXPERIMENT["model"], patch_size=64)
    state = TrainState(model, 0, settings.learning_rate, "fp32", torch.device("cpu"))
    times: list[tuple[int, float]] = []

    def note(logged: LoggedStep) -> None:
        times.append((logged.step, time.perf_counter()))

    def note_epoch(logged: LoggedStep, means: dict[str, float]) -> Decision:
        note(logged)
        return Decision.GO_ON

    fit(state, Patches.open(store), settings, on_step=note, on_epoch=note_epoch)
    return steps_per_s([(step, seconds) for step, seconds in times if step >= 20])


def logged_speed(storage: Path) -> float:
    """Steps a second as metrics.jsonl has them, from the 20th step on."""
    lines = (storage / "bench" / "trials" / "trial" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return steps_per_s([(row["step"], row["seconds"]) for row in rows if row["step"] >= 20])


def steps_per_s(times: list[tuple[int, float]]) -> float:
    """From (step, seconds) pairs."""
    (first_step, start), (last_step, end) = times[0], times[-1]
    return (last_step - first_step) / (end - start)


def run_command(experiment: Path, storage: Path, *options: str) -> float:
    """Runs the command to its end; seconds from its start until its worker stood before the first step."""
    start = time.time()
    subprocess.run(
        [sys.executable, "-m", "runner.train", str(experiment), "--storage", str(storage), *options],
        check=True,
        capture_output=True,
    )
    log = storage / "bench" / "trials" / "trial" / "starts.jsonl"
    return log.stat().st_mtime - start


if __name__ == "__main__":
    main()
