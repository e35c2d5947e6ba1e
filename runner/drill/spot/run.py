"""Runs one sweep undisturbed, and then again on a cluster whose nodes come and go; compares the two."""

import argparse
import contextlib
import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from runner.command import unwound_on_sigterm
from runner.console import Console
from runner.drill.command_run import CommandRun
from runner.drill.comparison import differences
from runner.drill.local_cluster import local_cluster
from runner.drill.processes import POLL_S
from runner.drill.run import new_folder, open_table_folder
from runner.drill.spot.replay import Replay
from runner.drill.spot.trace import Change, draw_trace, per_day
from runner.drill.target_run import EXPERIMENT
from runner.errors import ConfigError, Exit, ResourceError
from runner.number_format import significant_or_dash
from runner.on_ray.connection.address import LOCAL
from runner.records.goodput import total_goodput
from runner.report.reading import read_results
from runner.storage.folder import Folder
from runner.storage.run_folder import EXPERIMENT_FILE, STARTS, TRIALS, WEIGHTS, trial_path

_NAME = "spot"
_NODES = 2
_EPOCHS = 40
_TRIALS_A_MINUTE = 1.5  # a trial takes some 15 s of a core
_MIN_TRIALS = 4
_WITHIN_S = 900.0
_PATIENCE = 6.0  # a sweep fails when it takes longer than the trace and the undisturbed one by this factor


@dataclass
class TraceResult:
    """What came of a trace.

    Attributes:
        rows: of results.csv, a trial each.
        undisturbed: goodput of the undisturbed sweep.
        different: how each trial that has not the undisturbed one's bits differs from it.
        digests: SHA-256 of each trial's weights.
        counts: how many nodes came and went, in which way.
        trace_s: for how long nodes were taken away.
        problem: why the sweep did not end; empty where it did.
    """

    rows: Sequence[Mapping[str, Any]] = ()
    undisturbed: float | None = None
    different: dict[str, list[str]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    counts: Mapping[Change, int] = field(default_factory=dict)
    trace_s: float = 0.0
    problem: str = ""

    @property
    def survived(self) -> bool:
        """True where all trials have finished with the bits of the undisturbed sweep."""
        return bool(self.rows) and not self.problem and not self.different

    @property
    def num_taken(self) -> int:
        """How many nodes were taken away."""
        return self.counts.get(Change.PREEMPTED, 0) + self.counts.get(Change.KILLED, 0)


def run_trace(arguments: argparse.Namespace) -> Exit:
    """Runs the sweep twice, prints the table, and removes the temporary folder where all trials have the same bits.

    Raises:
        ConfigError: an address was given: the cluster is the trace's own.
        StorageError: the folder for the runs, or for the table, can't be written.
        ResourceError: the undisturbed sweep failed.
        NotTried: a node can't be started on this machine.
    """
    if arguments.address is not None:
        raise ConfigError("--address: a trace has a cluster of its own on this machine; leave it out.")
    began = time.monotonic()
    console = Console()
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(10**6)
    table_folder = open_table_folder(arguments.json)
    folder = new_folder(arguments.storage)
    console.print(f"spot trace of {arguments.minutes:g} minutes in {folder.root}, --seed {seed}")

    result = TraceResult()
    interrupted = False
    with unwound_on_sigterm():
        try:
            _run_sweeps(folder, console, seed, arguments.minutes, began, result)
        except KeyboardInterrupt:
            interrupted = True
    if table_folder is not None:
        table_folder.write(Path(arguments.json).name, _to_json(result, seed, time.monotonic() - began))
    _print_result(console, result, time.monotonic() - began)

    if result.survived and not arguments.storage:
        shutil.rmtree(folder.local_path, ignore_errors=True)
    else:
        console.print(f"the runs are in {folder.root}")
    if interrupted:
        return Exit.INTERRUPTED
    return Exit.FINISHED if result.survived else Exit.TRIAL_FAILED


def _run_sweeps(folder: Folder, console: Console, seed: int, minutes: float, began: float, result: TraceResult) -> None:
    """The undisturbed sweep, and that under the trace; fills in what came of them."""
    num_trials = max(round(_TRIALS_A_MINUTE * minutes), _MIN_TRIALS)
    sweep = {"seed": list(range(num_trials))}
    content = EXPERIMENT | {"name": _NAME, "sweep": sweep, "training": EXPERIMENT["training"] | {"epochs": _EPOCHS}}
    folder.write(EXPERIMENT_FILE, yaml.safe_dump(content, sort_keys=False).encode())

    console.print(f"undisturbed sweep, {num_trials} trials of {_EPOCHS} epochs")
    with _command(folder, "undisturbed", LOCAL) as command:
        code = command.wait(time.monotonic() + _WITHIN_S)
    if code != Exit.FINISHED:
        raise ResourceError(f"the undisturbed sweep failed: exit code {code}\n{command.last_lines()}")
    undisturbed_s = time.monotonic() - began
    reference = _rows(folder, "undisturbed")
    result.undisturbed = total_goodput(reference)
    console.print(f"undisturbed sweep: {undisturbed_s:.0f} s, goodput {significant_or_dash(result.undisturbed)}")

    # The undisturbed sweep may have taken most of the time: half of it is the trace's in any case.
    trace_s = max(60 * minutes - undisturbed_s, 60 * minutes / 2)
    result.problem = "the trace was interrupted"
    result.problem = _run_under_trace(folder, console, seed, trace_s, _PATIENCE * undisturbed_s, result)
    result.rows = _rows(folder, "results")
    _compare(folder, result)


def _run_under_trace(
    folder: Folder, console: Console, seed: int, trace_s: float, patience_s: float, result: TraceResult
) -> str:
    """Runs the sweep while nodes come and go; why it did not end, empty where it did."""
    events = draw_trace(seed, trace_s / 60, _NODES)
    experiment = folder.at(f"results/{_NAME}")
    with local_cluster(folder.local_path / "cluster") as cluster:
        replay = Replay(cluster, console.print)
        result.counts = replay.counts
        replay.begin(events)
        shutil.copytree(folder.local_path / "undisturbed/patches", folder.local_path / "results/patches")

        with _command(folder, "results", cluster.address) as command:
            deadline = time.monotonic() + trace_s + patience_s
            # Before the first worker begins nothing could be lost.
            while not _has_begun(experiment) and command.exit_code is None and time.monotonic() < deadline:
                time.sleep(POLL_S)
            result.trace_s = replay.run(events, lambda: command.exit_code is not None)
            if command.exit_code is None:
                replay.await_nodes()
            code = command.wait(deadline)

    if code == Exit.FINISHED:
        return ""
    return (
        f"{'it did not end in time' if code is None else f'exit code {code}'}\n{command.line}\n{command.last_lines()}"
    )


@contextlib.contextmanager
def _command(folder: Folder, storage: str, address: str) -> Any:
    """The sweep's command, which ends with the block."""
    path = str(folder.local_path / EXPERIMENT_FILE)
    options = ["--storage", folder.at(storage).root, "--no-dashboard", "--address", address]
    command = CommandRun([path, *options], folder, f"{storage}.txt", None, module="runner.tune")
    try:
        yield command
    finally:
        command.kill_all()


def _has_begun(experiment: Folder) -> bool:
    """Whether a worker of any trial has begun."""
    return any(experiment.exists(f"{trial_path(name)}/{STARTS}") for name in experiment.names(TRIALS))


def _rows(folder: Folder, storage: str) -> list[Mapping[str, Any]]:
    """The results of one of the sweeps, read from its folder."""
    _, results = read_results(folder.at(f"{storage}/{_NAME}").root)
    return [result.row for result in results]


def _compare(folder: Folder, result: TraceResult) -> None:
    """Compares each trial with the undisturbed one, byte by byte."""
    for row in result.rows:
        path = f"{_NAME}/{trial_path(row['trial'])}"
        trial, reference = folder.at(f"results/{path}"), folder.at(f"undisturbed/{path}")
        if found := differences(trial, reference):
            result.different[row["trial"]] = found
        if trial.exists(WEIGHTS):
            result.digests[row["trial"]] = hashlib.sha256(trial.read(WEIGHTS)).hexdigest()


def _print_result(console: Console, result: TraceResult, took_s: float) -> None:
    """Prints a row for each trial, and a line with the totals."""
    table = Table(box=None, pad_edge=False)
    for column in ("trial", "status", "same bits", "SHA-256", "restarts", "steps lost", "goodput"):
        is_text = column in ("trial", "status", "same bits", "SHA-256")
        table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
    for row in result.rows:
        same = "no" if row["trial"] in result.different else "yes"
        figures = (row["restarts"], row["steps_lost"], row["goodput"])
        digest = result.digests.get(row["trial"], "-")[:12]
        table.add_row(row["trial"], row["status"], same, digest, *map(significant_or_dash, figures))
    console.rich.print(table)

    for trial, found in result.different.items():
        console.print(f"{trial}: {'; '.join(found)}")
    if result.problem:
        console.print(result.problem)
    if not result.rows:
        return
    counts = result.counts
    console.print(
        f"{counts.get(Change.ADDED, 0)} nodes added, {counts.get(Change.PREEMPTED, 0)} preempted with notice, "
        f"{counts.get(Change.KILLED, 0)} killed without: as {per_day(result.num_taken, result.trace_s):.0f} in a day"
    )
    console.print(
        f"{sum(row['steps_lost'] for row in result.rows)} steps done again; goodput "
        f"{significant_or_dash(total_goodput(result.rows))}, undisturbed {significant_or_dash(result.undisturbed)}"
    )
    num_same = len(result.rows) - len(result.different)
    console.print(f"{num_same} of {len(result.rows)} trials with the undisturbed bits, {took_s / 60:.1f} minutes")


def _to_json(result: TraceResult, seed: int, took_s: float) -> bytes:
    """The table as JSON, for programs."""
    columns = ("trial", "status", "restarts", "steps_lost", "seconds", "held_seconds", "goodput")
    content = {
        "survived": result.survived,
        "seed": seed,
        "seconds": round(took_s, 1),
        "problem": result.problem,
        "nodes": {change.value: result.counts.get(change, 0) for change in Change},
        "taken_a_day": round(per_day(result.num_taken, result.trace_s), 1) if result.trace_s else None,
        "goodput": total_goodput(result.rows),
        "goodput_undisturbed": result.undisturbed,
        "trials": [
            {column: row[column] for column in columns}
            | {"sha256": result.digests.get(row["trial"]), "differences": result.different.get(row["trial"], [])}
            for row in result.rows
        ],
    }
    return json.dumps(content, indent=1).encode()
