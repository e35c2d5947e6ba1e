"""A sweep of two hundred trials: what is read of it, and how much of it is shown."""

import functools
import io
import itertools
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import rich.console

import runner.tune
from gan.evaluation.metrics import METRICS, MODES
from runner.config.fingerprint import fingerprint_trial
from runner.config.loading import load_experiment, plan_trials
from runner.console import Console
from runner.process.lease import Lease
from runner.process.stop_request import StopRequest
from runner.records.goodput import goodput, newest_hold, usage_columns
from runner.records.metrics_log import LogSummary, log_column, read_rows
from runner.records.results import TrialResult, best_by_turns, read_trial_row, result_column, trial_row
from runner.records.starts import count_faults, read_starts, record_start
from runner.records.trial_file import write_outcome
from runner.report.figures import MAX_IN_FULL
from runner.report.reading import read_results
from runner.report.writer import Report
from runner.status.reading import StatusReader
from runner.storage.folder import Folder
from runner.storage.run_folder import METRICS_LOG, TRIALS, trial_path
from runner.storage.storage import Storage
from runner.sweep.backends import InProcess
from runner.sweep.monitor import Monitor, MonitoredTrial
from runner.sweep.session import Session
from runner.tracking.tracker import Tracker
from runner.trial.job import TrialJob
from runner.trial.progress import next_ones
from tests.support.commands import SMALL, write_experiment
from tests.support.experiment_folder import grid_png, write_experiment_folder

NUM_TRIALS = 200


@functools.cache
def _picture() -> bytes:
    return grid_png({}, 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of finished trials, of which few are written and the others copied."""
    storage = tmp_path_factory.mktemp("many")
    sweep = {"lambda_l1": list(range(1, NUM_TRIALS + 1))}
    few = {"sweep": {"lambda_l1": [1, 2, 3]}, "epochs": 2, "grid": lambda params, epoch: _picture()}
    folder = write_experiment_folder(storage, **few)
    config = folder / "experiment.yaml"
    config.write_text(
        config.read_text().replace("lambda_l1:\n  - 1\n  - 2\n  - 3\n", f"lambda_l1: {sweep['lambda_l1']}\n")
    )
    planned = plan_trials(load_experiment(config), "many")
    assert len(planned) == NUM_TRIALS

    trials = folder / TRIALS
    for number, trial in enumerate(planned[3:]):
        shutil.copytree(trials / planned[number % 3].name, trials / trial.name)
        make_another_trial(Storage.open(trials / trial.name), planned[number % 3], trial)
    return folder


def make_another_trial(folder: Storage, was: Any, now: Any) -> None:
    """Turns the copy of a trial's folder into that of another trial, with other figures."""
    from runner.records.trial_file import read_trial_file, record_digest

    content = read_trial_file(folder)
    assert content is not None
    content |= {"config": now.config.model_dump(), "params": dict(now.params)}
    content["fingerprint"] = fingerprint_trial(now.config, content["data_fingerprint"]).config
    content["digest"] = record_digest(content)
    path = folder.local_path
    (path / "trial.yaml").write_text(json.dumps(content))  # JSON is YAML, too

    record = json.loads((path / "weights" / "manifest.json").read_text())
    record["config_fingerprint"] = content["fingerprint"]
    (path / "weights" / "manifest.json").write_text(json.dumps(record))
    factor = random.Random(now.name).uniform(0.5, 1.5)
    rows = [{k: v * factor if "/" in k else v for k, v in row.items()} for row in read_rows(folder)]
    (path / METRICS_LOG).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are opened through Storage from now on."""
    paths: list[str] = []
    for method in ("read", "read_from"):
        original = getattr(Folder, method)

        def counting(self: Folder, name: str, *rest: Any, original: Any = original) -> Any:
            content = original(self, name, *rest)
            paths.append(f"{self.root}/{name}")  # not where there is no such file
            return content

        monkeypatch.setattr(Folder, method, counting)
    return paths


def naive_row(trial: Storage, name: str, params: Mapping[str, Any], status: str) -> dict[str, Any]:
    """A row of results by its definition, from the whole log."""
    rows = read_rows(trial)
    starts = read_starts(trial)
    hold = newest_hold(trial, starts)
    held_s = hold and round(hold.held_until(rows[-1]["seconds"]), 3)
    evaluated = [row for row in rows if any(key.startswith(("final/", "val/")) for key in row)]
    split = "final" if evaluated and any(key.startswith("final/") for key in evaluated[-1]) else "val"
    ended = [row["epoch"] for row in rows if any(key.startswith("epoch_mean/") for key in row)]
    pictures = previous = 0.0
    for row in rows:
        pictures += row["images_per_second"] * (row["seconds"] - previous)
        previous = row["seconds"]
    metrics = {
        f"{result_column(mode, metric.key)}{end}": evaluated[-1].get(f"{log_column(split, mode, metric.key)}{end}")
        if evaluated
        else None
        for mode, metric, end in itertools.product(MODES, METRICS, ("", "_low", "_high"))
    }
    of_best = ("epoch", *(metric.key for metric in METRICS))
    metrics |= {f"best_{key}": evaluated[-1].get(f"best/{key}") if evaluated else None for key in of_best}
    return {
        **params,
        "trial": name,
        "status": status,
        "epochs": ended[-1] if ended else 0,
        "steps": rows[-1]["step"] if rows else 0,
        **metrics,
        "seconds": previous,
        "images_per_second": round(pictures / previous, 3) if previous else None,
        "restarts": count_faults(starts),
        "steps_lost": sum(start["lost_steps"] for start in starts),
        "held_seconds": held_s,
        "goodput": goodput(previous, held_s),
        "in_sweep": True,
        **usage_columns(hold),
    }


def test_a_log_that_grows_tears_and_is_cut_back_gives_at_each_moment_what_reading_it_whole_gives(
    tmp_path: Path, finished: Path
) -> None:
    trial, chance = Storage.open(tmp_path), random.Random(0)
    lines = (finished / TRIALS / "lambda_l1=1" / METRICS_LOG).read_bytes().splitlines(keepends=True)
    lines[1] = json.dumps({**json.loads(lines[1]), "val/ssim": None, "val/l1": 0.25}).encode() + b"\n"
    summary = LogSummary(trial)
    for attempt in range(20):
        # A worker opens the log with the rows of its checkpoint; its seconds differ from those of the one before.
        kept = chance.randrange(len(lines) + 1)
        content = b"".join(lines[:kept]).replace(b'"seconds": ', b'"seconds": %d' % (attempt + 1))
        trial.write(METRICS_LOG, content + (b"rubbish\n" if attempt % 5 == 4 else b""))
        rest = b"".join(lines[kept:])
        while True:
            summary.read()
            assert trial_row("t", {}, "running", summary, [], None) == naive_row(trial, "t", {}, "running")
            assert summary.row == ([{}, *read_rows(trial)][-1])
            if not rest:
                break
            size = chance.randrange(1, 400)  # bytes: a row is torn wherever a write was when it was read
            trial.append(METRICS_LOG, rest[:size])
            rest = rest[size:]


def watch(folder: Path, lease: Lease, num_settled: int, at_once: int) -> tuple[Monitor, list[MonitoredTrial]]:
    """A monitor of the experiment, most of whose trials are finished and the others are yet to run."""
    experiment = Storage.open(folder)
    trials = []
    for index, planned in enumerate(plan_trials(load_experiment(folder / "experiment.yaml"), "many")):
        prints = fingerprint_trial(planned.config, "data-tiles")
        job = TrialJob(
            experiment, planned.name, planned.config, planned.params, prints, experiment, 1, lease.token, lease.attempt
        )
        trials.append(MonitoredTrial(job, 40, index < num_settled, index >= num_settled))
    tracker = Tracker({}, None, lambda: None, pytest.fail)
    console = Console(rich.console.Console(file=io.StringIO()))
    session = Session(lease, InProcess(), StopRequest(), console)
    return Monitor(experiment, session, trials, tracker, at_once), trials


def begin_again(trial: MonitoredTrial) -> None:
    """The trial's folder before its turn."""
    folder = trial.job.trial
    shutil.rmtree(folder.local_path)
    folder.make_folder()


def test_a_watch_opens_the_files_of_trials_that_run_or_are_next_and_results_are_what_the_files_say(
    finished: Path, tmp_path: Path, opened: list[str]
) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(finished, folder)
    lease = Lease.acquire(Storage.open(folder))
    try:
        following, trials = watch(folder, lease, num_settled=100, at_once=2)
        model = trials[0].job.trial.read(METRICS_LOG)
        for trial in trials[100:]:
            begin_again(trial)
        following._look()
        assert {trial.job.name for trial in trials if trial.is_settled} == {t.job.name for t in trials[:100]}

        # Two run: theirs are opened, and one file or two of those whose turn is next, and of a few others.
        for trial in trials[100:102]:
            write_outcome(trial.job.trial, "running")
            record_start(trial.job.trial, lease.attempt, "token", 0, 0)
            trial.job.trial.write(METRICS_LOG, model)
        following._look()
        opened.clear()
        following._look()
        assert not [path for path in opened for trial in trials[:100] if f"/{trial.job.name}/" in path]
        assert len(opened) <= 2 * 3 + (2 + 20) * 2

        # One that begins out of order is found, and one that has ended is read no more.
        write_outcome(trials[101].job.trial, "finished")
        write_outcome(trials[190].job.trial, "running")
        for _ in range(6):
            following._look()
        assert trials[190].has_begun and trials[101].is_settled
        opened.clear()
        following._look()
        assert not [path for path in opened if f"/{trials[101].job.name}/" in path]

        found = following._results(over=False)
        statuses = [str(result.row["status"]) for result in found]
        assert (
            statuses == ["finished"] * 100 + ["running", "finished"] + ["waiting"] * 88 + ["running"] + ["waiting"] * 9
        )
        assert found == [
            TrialResult(t.job.params, naive_row(t.job.trial, t.job.name, t.job.params, status))
            for t, status in zip(trials, statuses, strict=True)
        ]
        # A finished trial's row is made once.
        assert all(a is b for a, b in zip(found[:100], following._results(over=False)[:100], strict=True))
    finally:
        lease.release()


def test_all_that_wait_are_looked_at_by_turns_and_the_next_ones_each_time() -> None:
    looks = [next_ones(range(105), 5, look) for look in range(5)]
    assert all(look[:5] == list(range(5)) for look in looks)
    assert {index for look in looks for index in look} == set(range(105))
    assert next_ones([], 5, 3) == []


def test_only_trials_at_work_are_looked_at_for_weights_and_biases() -> None:
    class Tracking:
        def __init__(self) -> None:
            self.num_updates = 0

        def update(self) -> None:
            self.num_updates += 1

    trackings: dict[str, Any] = {name: [Tracking()] for name in "abc"}
    checks: list[int] = []
    tracker = Tracker(trackings, None, lambda: checks.append(1), pytest.fail)
    tracker.look_at(["b"])
    tracker._pass_on(is_last=False)
    assert [tracking.num_updates for (tracking,) in trackings.values()] == [0, 1, 0] and len(checks) == 1


def test_a_status_that_is_watched_opens_no_file_of_finished_trials_again(finished: Path, opened: list[str]) -> None:
    reader = StatusReader(str(finished))
    first = reader.read()
    assert len(first.trials) == NUM_TRIALS
    opened.clear()
    assert reader.read() == first
    assert not [path for path in opened if f"/{TRIALS}/" in path]
    rows = {result.row["trial"]: dict(result.row) for result in reader.results(first)}
    for name in ("lambda_l1=1", "lambda_l1=77"):
        trial = Storage.open(finished).at(trial_path(name))
        assert rows[name] == naive_row(trial, name, {"lambda_l1": int(name[10:])}, "finished")
        assert rows[name] == read_trial_row(trial, name, {"lambda_l1": int(name[10:])}, "finished")


def test_a_page_of_many_trials_shows_the_best_and_the_running_in_full_and_has_all_in_a_table(
    finished: Path, opened: list[str]
) -> None:
    experiment, results = read_results(str(finished))
    running = {"lambda_l1=5", "lambda_l1=6"}
    results = [
        TrialResult(params, {**row, "status": "running"} if row["trial"] in running else row) for params, row in results
    ]
    opened.clear()
    page = Report([experiment]).render([results]).decode()
    assert len([path for path in opened if path.endswith(METRICS_LOG)]) == MAX_IN_FULL

    top, _, all_of_them = page.partition(f"<summary>All {NUM_TRIALS} trials</summary>")
    in_full = {str(row["trial"]) for _, row in results if f'<th scope="row" data-sort="{row["trial"]}">' in top}
    leaders = {
        min(results, key=lambda result, m=metric: -m.goodness(result.row[metric.key])).row["trial"]  # type: ignore[misc]
        for metric in METRICS
        if results[0].row[metric.key] is not None
    }
    assert len(in_full) == MAX_IN_FULL and running <= in_full and leaders <= in_full
    assert all(f'data-sort="{row["trial"]}"' in all_of_them for _, row in results)
    assert page.count('<img class="generated"') == page.count('type="checkbox"') == MAX_IN_FULL
    assert len(page) < 4_000_000


def test_a_page_of_as_many_as_can_be_compared_shows_all_in_full_in_their_order(finished: Path) -> None:
    experiment, results = read_results(str(finished))
    page = Report([experiment]).render([results[:MAX_IN_FULL]]).decode()
    names = [
        line.partition('data-sort="')[2].partition('"')[0] for line in page.splitlines() if 'row" data-sort' in line
    ]
    assert names == [result.row["trial"] for result in results[:MAX_IN_FULL]]
    assert "<summary>All" not in page and "by turns" not in page


def test_the_best_come_by_turns_over_the_metrics_without_those_that_ended_badly() -> None:
    rows: list[dict[str, Any]] = [
        {"ssim": 0.5, "l1": 0.3},
        {"ssim": 0.9, "l1": 0.9, "status": "diverged"},
        {"ssim": 0.4, "l1": 0.1},
        {"ssim": 0.6, "l1": 0.2},
        {"ssim": float("nan"), "l1": None},
    ]
    assert best_by_turns(rows, 5) == [3, 2, 0]
    assert best_by_turns(rows, 1) == [3]


def test_tables_of_many_trials_show_the_best_and_say_where_all_are(finished: Path) -> None:
    screen = io.StringIO()
    results = read_results(str(finished))[1]
    Console(rich.console.Console(file=screen, width=80)).results(results, [])
    assert screen.getvalue().count("lambda_l1=") == 40
    assert "40 of 200 trials, the best on each metric by turns (results.csv has all)" in screen.getvalue()


def test_a_plan_of_many_trials_shows_fifty_counts_the_others_and_shares_what_they_have_in_common(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_experiment(tmp_path, **{**SMALL, "sweep": {"lambda_l1": list(range(1, 61))}})
    assert runner.tune.main([str(path), "--dry-run", "--storage", str(tmp_path / "results")]) == 0
    said = capsys.readouterr().out
    assert said.count("lambda_l1=") == 50 and "and 10 more trials; " in said

    first, second = plan_trials(load_experiment(path), "many")[:2]
    assert first.config.data is second.config.data and first.config.training is not second.config.training
