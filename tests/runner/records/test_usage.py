"""What the workers of a trial have used: summed up over its starts, after kills, too."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from runner.process.usage import Usage
from runner.records.goodput import Hold, cores_used, newest_hold, record_hold
from runner.records.results import read_trial_row
from runner.records.starts import read_starts, record_start
from runner.report.reading import read_results
from runner.storage.storage import Storage
from tests.support.commands import assert_same_end
from tests.support.experiment_folder import write_experiment_folder
from tests.support.kill_points import SAVE_ALWAYS, KillPoint, tiny_trial, train_tiny
from tests.support.report_pages import page_of

COLUMNS = ("cpu_seconds", "peak_memory_bytes", "peak_gpu_memory_bytes")


def used(trial: Storage) -> tuple[Any, ...]:
    row = read_trial_row(trial, "trial", {}, "running")
    return tuple(row[column] for column in COLUMNS)


def test_the_newest_record_of_the_newest_start_counts(tmp_path: Path) -> None:
    trial = Storage.open(tmp_path)
    assert used(trial) == (None, None, None)
    record_start(trial, 1, "a", 0, 0, hold=Hold(4.0, 0.0, Usage()))
    assert used(trial) == (0.0, 0, None)
    record_hold(trial, Hold(10.0, 5.0, Usage(7.5, 3_000, 0)))
    record_hold(trial, Hold(20.0, 12.0, Usage(17.5, 4_000, 900)))
    assert used(trial) == (17.5, 4_000, 900)
    # The next worker begins with what is known of the one before.
    record_start(trial, 1, "b", 2, 2, hold=Hold(25.0, 5.0, Usage(17.5, 4_000, 900)))
    assert used(trial) == (17.5, 4_000, 900)
    record_hold(trial, Hold(30.0, 9.0, Usage(21.0, 4_000, 900)))
    assert used(trial) == (21.0, 4_000, 900)


def test_of_a_start_that_did_not_record_it_on_nothing_is_known(tmp_path: Path) -> None:
    trial = Storage.open(tmp_path)
    record_start(trial, 1, "a", 0, 0, hold=Hold(4.0, 0.0, Usage()))
    record_hold(trial, Hold(9.0, 1.0, Usage(5.0, 3_000, 0)))
    # As a release that recorded how long workers were held, and no more.
    record_start(trial, 2, "b", 5, 0, hold=Hold(12.0, 1.0))
    assert used(trial) == (None, None, None)
    record_hold(trial, Hold(15.0, 2.0))
    assert newest_hold(trial, read_starts(trial)) == Hold(15.0, 2.0)
    assert used(trial) == (None, None, None)


@pytest.mark.parametrize("value", ['"x"', "null", "Infinity", "NaN", "[1]"])
def test_a_value_that_is_none_makes_it_unknown_and_the_time_stays(tmp_path: Path, value: str) -> None:
    trial = Storage.open(tmp_path)
    record_start(trial, 1, "a", 0, 0, hold=Hold(4.0, 0.0, Usage()))
    row = '{"held_s": 9.0, "trained_s": 1.0, "cpu_s": %s, "peak_bytes": 3000, "peak_gpu_bytes": 0}\n'
    trial.append("held.jsonl", (row % value).encode())
    assert newest_hold(trial, read_starts(trial)) == Hold(9.0, 1.0)


def test_cores_used_are_processor_seconds_over_seconds_held() -> None:
    assert cores_used({"cpu_seconds": 30.0, "held_seconds": 20.0}) == 1.5
    assert cores_used({"cpu_seconds": None, "held_seconds": 20.0}) is None
    assert cores_used({"cpu_seconds": 30.0, "held_seconds": 0.0}) is None
    assert cores_used({}) is None


def test_the_page_shows_it_and_a_dash_where_it_is_not_known(tmp_path: Path) -> None:
    folder = write_experiment_folder(tmp_path, sweep={"batch_size": [2, 8]})
    assert "peak GPU memory" not in page_of(folder)
    trial = Storage.open(folder / "trials" / "batch_size=2")
    # Longer than the training that the log tells of, so that it counts as it is.
    record_start(trial, 1, "a", 0, 0, hold=Hold(0.0, 0.0, Usage()))
    record_hold(trial, Hold(1000.0, 1000.0, Usage(1500.0, 1_400_000_000, 2_300_000_000)))
    rendered = page_of(folder)
    assert '<td class="number" data-sort="1.5">1.50</td>' in rendered
    assert '<td class="number" data-sort="1400000000.0">1.4 GB</td>' in rendered
    assert '<td class="number" data-sort="2300000000.0">2.3 GB</td>' in rendered
    assert rendered.count('<td class="number" data-sort="">–</td>') >= 3  # the other trial's


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_counting_and_ends_with_the_same_bits(tmp_path: Path, undisturbed: Path) -> None:
    ended = train_tiny(tmp_path, settings=SAVE_ALWAYS, kill_points=[KillPoint("gan.training.loop._take_step", 17)])
    assert ended.code == -signal.SIGKILL, ended.output
    folder = Storage.open(tiny_trial(tmp_path))
    cpu_s, peak, gpu = used(folder)
    assert cpu_s >= 0
    assert (peak > 100_000_000, gpu) == (True, None)  # torch alone takes more

    ended = train_tiny(tmp_path)
    assert ended.code == 0, ended.output
    assert_same_end(tiny_trial(tmp_path), tiny_trial(undisturbed))
    rows = [*read_starts(folder), *map(json.loads, folder.read("held.jsonl").splitlines())]
    known = [row["cpu_s"] for row in sorted(rows, key=lambda row: row["held_s"])]
    assert known == sorted(known)
    assert read_starts(folder)[0]["cpu_s"] == 0
    assert read_starts(folder)[1]["cpu_s"] == cpu_s

    _, (result,) = read_results(str(tmp_path / "results" / "tiny"))
    assert result.row["cpu_seconds"] == known[-1] > cpu_s
    assert result.row["peak_memory_bytes"] >= peak
    (written,) = json.loads((tmp_path / "results" / "tiny" / "results.json").read_text())
    assert [written[column] for column in COLUMNS] == [result.row[column] for column in COLUMNS]
    # One thread, and the command's own beside it.
    cores = cores_used(result.row)
    assert cores is not None and cores > 0
