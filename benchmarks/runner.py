"""What the runner costs around gan's loop: `python -m benchmarks.runner [--repeats N] [--only PART] [--json FILE]`.

Speed inside Tune and Train is measured against the bare loop, turn by turn, on one core: taken from the logs'
training time, so that evaluation and saving, which the bare loop has not, count for neither. The time to the
first step is from the start of the command, with the patches made before. A sweep's overhead is its wall time
beyond the time that its trials took from their first step to their end, over as many as run at once. Its
trials are shorter than any real one: what the overhead would make of trials of five minutes is computed.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
import yaml

from benchmarks.figures import benchmark_parser, publish, ratios, seconds, spread
from gan.data.patches import Patches
from gan.networks.model import ModelSettings
from gan.training.loop import BeforeStep, EpochEnd, fit
from gan.training.settings import TrainingSettings
from gan.training.state import TrainState

TRIAL_S = 300.0
SETTLED_STEP = 20
POLL_S = 0.05
PROFILE_S = 0.2  # looking at all processes takes longer than at a file
MEMORY_STEPS = (100, 1100)
TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"patch_size": 64, "synthetic": {"train": 4, "val": 1, "seed": 0}},
    "model": {"channels": 8, "receptive_field": 16},
    "training": {"epochs": 7, "batch_size": 2, "precision": "fp32"},
    "evaluation": {"num_patches": 1, "every_n_epochs": 100},
    "checkpoint": {"every_n_epochs": 100},
    "log_every_n_steps": 10,
    "resources": {"cpus_per_worker": 1},
    "tracking": {"wandb": "off"},
}
REALISTIC = TINY | {
    "name": "realistic",
    "data": {"patch_size": 256, "synthetic": {"train": 11, "val": 1, "seed": 0}},
    "model": {"channels": 32, "receptive_field": 70},
    "training": {"epochs": 1, "batch_size": 1, "precision": "fp32"},
}
SHORT = TINY | {"name": "short", "training": {"epochs": 1, "batch_size": 8, "precision": "fp32"}}


class Run(NamedTuple):
    """A command that has come to its end.

    Attributes:
        wall_s: from its start to its end.
        first_step_s: from its start to the end of its first trial's first step.
        memory_mb: resident memory of the first trial's worker after each of its steps that was seen.
    """

    storage: Path
    wall_s: float
    first_step_s: float
    memory_mb: dict[int, float]


def main() -> None:
    """Prints the table; writes JSON where asked to."""
    parts: dict[str, Callable[[Path, int], dict[str, Any]]] = {
        "commands": measure_commands,
        "speed": measure_speed,
        "trials": measure_trials,
        "start": measure_start,
        "data": measure_data,
    }
    parser = benchmark_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=2, help="runs of each, turn by turn")
    parser.add_argument("--only", choices=parts, action="append", help="a part of it (repeatable)")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in arguments.only or parts:
        with tempfile.TemporaryDirectory() as folder:
            figures |= parts[name](Path(folder), arguments.repeats)
    publish(figures, arguments.json)


def measure_commands(folder: Path, repeats: int) -> dict[str, Any]:
    """How long a person waits for help, and for the word that a config is wrong."""
    path = write(folder, SHORT)
    arguments = {"help": ["--help"], "rejected_config": [str(path), "--set", "training.epochz=2"]}
    return {
        f"{name}_s": spread([seconds(lambda given=given: python("runner.tune", *given)) for _ in range(repeats + 1)])  # type: ignore[misc]
        for name, given in arguments.items()
    }


def measure_speed(folder: Path, repeats: int) -> dict[str, Any]:
    """Steps a second inside Tune and Train over the bare loop's, the first step, and memory over 1,000 steps."""
    figures: dict[str, Any] = {}
    for experiment in (TINY, REALISTIC):
        name = experiment["name"]
        path = write(folder, experiment)
        warm = prepare(path, folder / name, experiment)
        (store,) = (warm / "patches").iterdir()
        bare, inside, runs = [], [], []
        for repeat in range(repeats):
            bare.append(bare_speed(experiment, store))
            runs.append(run(path, warm, folder / f"{name}{repeat}"))
            inside.append(logged_speed(runs[-1].storage / name / "trials" / "trial"))
        figures |= {
            f"{name}_bare_steps_per_s": spread(bare),
            f"{name}_inside_to_bare": ratios(inside, bare),
            f"{name}_first_step_s": spread([done.first_step_s for done in runs]),
        }
        if experiment is TINY:
            figures |= memory_figures([done.memory_mb for done in runs])
    return figures


def memory_figures(memories: list[dict[int, float]]) -> dict[str, Any]:
    """Growth while nothing but steps is done: the final evaluation, which loads libraries, comes after these."""
    first, last = MEMORY_STEPS
    spans = [[step for step in sorted(memory) if first <= step <= last] for memory in memories]
    ends = [(steps[0], steps[-1]) for steps in spans]
    return {
        "memory_steps": spread([end - begin for begin, end in ends]),
        "memory_growth_mb": spread(
            [memory[end] - memory[begin] for memory, (begin, end) in zip(memories, ends, strict=True)]
        ),
        "memory_mb": spread([memory[end] for memory, (_, end) in zip(memories, ends, strict=True)]),
    }


def measure_trials(folder: Path, repeats: int) -> dict[str, Any]:
    """Sweeps of 1, 4 and 16 short trials: what one costs beside its own work, and the pause between two."""
    figures: dict[str, Any] = {}
    warm = prepare(write(folder, SHORT), folder / "short", SHORT)
    for count in (1, 4, 16):
        path = write(folder, SHORT | {"sweep": {"lambda_l1": list(range(1, count + 1))}})
        done = run(path, warm, folder / f"trials{count}", "--no-dashboard")
        trials = list(spans(done.storage / "short" / "trials"))
        at_once = max(sum(other.begin <= trial.begin < other.end for other in trials) for trial in trials)
        compute_s = sum(trial.end - trial.begin for trial in trials) / at_once
        overhead_s = done.wall_s - compute_s
        real_s = TRIAL_S * count / at_once
        figures |= {
            f"trials_{count}_at_once": at_once,
            f"trials_{count}_first_step_s": done.first_step_s,
            f"trials_{count}_wall_s": done.wall_s,
            f"trials_{count}_wall_to_compute": done.wall_s / compute_s,
            f"trials_{count}_overhead_a_trial_s": overhead_s * at_once / count,
            f"trials_{count}_wall_to_compute_at_300_s_computed": (real_s + overhead_s) / real_s,
        }
        if pauses := pauses_between(trials, at_once):
            figures[f"trials_{count}_pause_s"] = spread(pauses)
    return figures


def measure_start(folder: Path, repeats: int) -> dict[str, Any]:
    """The processor time of each process, up to a trial's first step: with the dashboard, as by default."""
    path = write(folder, SHORT)
    warm = prepare(path, folder / "short", SHORT)
    first_steps, processes = [], []
    for repeat in range(repeats):
        first_step_s, taken_s = profile_start(path, warm, folder / f"start{repeat}")
        first_steps.append(first_step_s)
        processes.append(taken_s)

    names = sorted(set().union(*processes), key=lambda name: -max(taken_s.get(name, 0.0) for taken_s in processes))
    profile = {f"start_{name}_cpu_s": spread([taken_s.get(name, 0.0) for taken_s in processes]) for name in names}
    total = spread([sum(taken_s.values()) for taken_s in processes])
    return {"start_first_step_s": spread(first_steps), "start_all_cpu_s": total, **profile}


def profile_start(path: Path, warm: Path, storage: Path) -> tuple[float, dict[str, float]]:
    """Seconds to the first step of a run, and the seconds of a core that each of its processes took until then."""
    start = time.time()
    process = begin(path, warm, storage)
    taken: dict[int, tuple[str, float]] = {}
    while not (at := first_step_at(storage)) and process.poll() is None:
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = each.cpu_times()
                taken[each.pid] = (process_name(each), times.user + times.system)
        time.sleep(PROFILE_S)
    expect_success(process)

    by_name: dict[str, float] = {}
    for name, spent_s in taken.values():
        by_name[name] = by_name.get(name, 0.0) + spent_s
    return at - start, by_name


def process_name(process: psutil.Process) -> str:
    """Ray's title without the task, or the module that Python runs, or the program."""
    line = process.cmdline()
    if line and line[0].startswith("ray::"):
        return line[0].split()[0].removeprefix("ray::").partition(".")[0]
    modules = [part for part in line[1:] if part.endswith(".py") or part.startswith("runner.")]
    return Path(modules[0]).name.removesuffix(".py") if modules else process.name()


def measure_data(folder: Path, repeats: int) -> dict[str, Any]:
    """The time to the first step with 1, 4 and 16 times the data, prepared before; without Ray, which has no part."""
    figures: dict[str, Any] = {}
    for times in (1, 4, 16):
        data = TINY["data"] | {"synthetic": {"train": 4 * times, "val": 1, "seed": 0}}
        experiment = SHORT | {"data": data, "log_every_n_steps": 1, "training": SHORT["training"] | {"batch_size": 64}}
        path = write(folder, experiment)
        warm = prepare(path, folder / f"data{times}", experiment)
        done = run(path, warm, folder / f"run{times}", "--in-process", module="runner.train")
        figures[f"data_{times}x_first_step_in_process_s"] = done.first_step_s
    return figures


def write(folder: Path, experiment: dict[str, Any]) -> Path:
    """The experiment as a file."""
    path = folder / f"{experiment['name']}.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return path


def prepare(path: Path, storage: Path, experiment: dict[str, Any]) -> Path:
    """A storage folder with the experiment's patches, made by a run that soon ends."""
    python("runner.train", str(path), "--in-process", "--storage", str(storage), "--set", "training.epochs=1",
           "--set", "sweep=", "--set", "training.batch_size=64", "--set", "model.channels=1")  # fmt: skip
    return storage


def run(path: Path, warm: Path, storage: Path, *options: str, module: str = "runner.tune") -> Run:
    """Runs the command to its end, on the patches of another run."""
    start = time.time()
    process = begin(path, warm, storage, *options, module=module)
    first_step_s = 0.0
    memory: dict[int, float] = {}
    while process.poll() is None:
        time.sleep(POLL_S)
        if not first_step_s:
            first_step_s = max(first_step_at(storage) - start, 0.0)
        else:
            memory |= worker_memory_mb(storage)
    expect_success(process)
    return Run(storage, time.time() - start, first_step_s, memory)


def begin(path: Path, warm: Path, storage: Path, *options: str, module: str = "runner.tune") -> psutil.Popen:
    """Begins the command, on the patches of another run."""
    storage.mkdir()
    (storage / "patches").symlink_to(warm / "patches")
    command = [sys.executable, "-m", module, str(path), "--storage", str(storage), *options]
    return psutil.Popen(command, stdout=subprocess.DEVNULL)


def expect_success(process: psutil.Popen) -> None:
    """Waits for a command's end; raises RuntimeError where it failed."""
    if code := process.wait():
        raise RuntimeError(f"{' '.join(process.args)} ended with {code}")


def first_step_at(storage: Path) -> float:
    """When the first trial's first step ended, by its first row, just written; 0 while there is none."""
    for log in storage.glob("*/trials/*/metrics.jsonl"):
        if rows := read_lines(log):
            return time.time() - rows[0]["seconds"] * (1 - 1 / rows[0]["step"])
    return 0.0


def worker_memory_mb(storage: Path) -> dict[int, float]:
    """Resident memory of a trial's worker by the last step it has logged; nothing where there is none."""
    for trial in storage.glob("*/trials/*"):
        rows, starts = read_lines(trial / "metrics.jsonl"), read_lines(trial / "starts.jsonl")
        if rows and starts:
            with contextlib.suppress(OSError, IndexError):
                status = Path(f"/proc/{starts[-1]['pid']}/status").read_text()
                return {rows[-1]["step"]: float(status.partition("VmRSS:")[2].split()[0]) / 1e3}
    return {}


class Span(NamedTuple):
    """When a trial's worker stood before its first step, and when the trial had ended, in seconds of the clock."""

    begin: float
    end: float


def spans(trials: Path) -> Iterator[Span]:
    """Of all trials of a sweep, by the times of their files."""
    for trial in trials.iterdir():
        yield Span((trial / "starts.jsonl").stat().st_mtime, (trial / "outcome.json").stat().st_mtime)


def pauses_between(trials: list[Span], at_once: int) -> list[float]:
    """From each end of a trial to the start of the one that took its place."""
    begins = sorted(trial.begin for trial in trials)[at_once:]
    ends = sorted(trial.end for trial in trials)
    return [begin - end for begin, end in zip(begins, ends, strict=False)]


def bare_speed(experiment: dict[str, Any], store: Path) -> float:
    """Steps a second of gan.fit alone on one core, after the first steps."""
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # as the runner has it
    settings = TrainingSettings(
        **experiment["training"],
        lambda_l1=100.0,
        learning_rate=2e-4,
        seed=0,
        log_every_n_steps=experiment["log_every_n_steps"],
    )
    model = ModelSettings(**experiment["model"], patch_size=experiment["data"]["patch_size"])
    state = TrainState(model, settings, torch.device("cpu"))
    times: list[tuple[int, float]] = []

    for event in fit(state, Patches.open(store, "train"), settings):
        if not isinstance(event, BeforeStep):
            logged = event.last if isinstance(event, EpochEnd) else event
            times.append((logged.step, time.perf_counter()))
    return steps_per_s(times)


def logged_speed(trial: Path) -> float:
    """Steps a second as metrics.jsonl has them, after the first steps."""
    return steps_per_s([(row["step"], row["seconds"]) for row in read_lines(trial / "metrics.jsonl")])


def steps_per_s(times: list[tuple[int, float]]) -> float:
    """From (step, seconds) pairs, from SETTLED_STEP on."""
    timed = [(step, at) for step, at in times if step >= SETTLED_STEP]
    (first_step, start), (last_step, end) = timed[0], timed[-1]
    return (last_step - first_step) / (end - start)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def python(module: str, *arguments: str) -> None:
    """Runs a command to its end, whatever that is."""
    subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, check=False)


if __name__ == "__main__":
    main()
