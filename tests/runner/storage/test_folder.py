import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner.records.metrics_log import MetricsReader, read_rows
from runner.storage.folder import Storage
from tests.support.commands import reopen_log


def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    storage.write("file", b"old")

    def broken_write() -> None:
        with storage.writing("file") as stream:
            stream.write(b"half of the new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        broken_write()
    assert storage.read("file") == b"old"
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208 - hidden names too


def test_only_one_of_two_creates_a_file(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    assert storage.create("lock", b"first")
    assert not storage.create("lock", b"second")
    assert storage.read("lock") == b"first"
    assert storage.names() == ["lock"]


def test_what_is_added_waits_for_the_disk_where_it_is_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    storage = Storage.open(tmp_path)
    storage.append("file", b"one", synced=False)
    storage.append("file", b"two")
    storage.append("file", b"three", synced=False)
    assert synced == [6]
    assert storage.read("file") == b"onetwothree"


def test_rows_past_the_restored_step_are_cut_off_and_a_torn_row_too(tmp_path: Path) -> None:
    trial = Storage.open(tmp_path)
    log = reopen_log(trial, 0)
    for step in (5, 10, 15):
        log.add({"step": step, "loss": step / 3})
    with (tmp_path / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"step": 20, "lo')
    assert [row["step"] for row in read_rows(trial)] == [5, 10, 15]
    resumed = reopen_log(trial, 10)
    resumed.add({"step": 11, "loss": float("nan")})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10, 11]
    assert rows[-1]["loss"] is None
    with pytest.raises(ValueError, match="step 11 is logged already"):
        resumed.add({"step": 11})


def test_a_reader_hands_out_each_step_once_though_the_log_is_cut_back_and_redone(tmp_path: Path) -> None:
    trial = Storage.open(tmp_path)
    reader = MetricsReader(trial)
    assert reader.new_rows() == []
    log = reopen_log(trial, 0)
    for step in (5, 10, 15):
        log.add({"step": step})
    assert [row["step"] for row in reader.new_rows()] == [5, 10, 15]
    redone = reopen_log(trial, 5)
    redone.add({"step": 10})
    assert reader.new_rows() == []
    for step in (15, 20):
        redone.add({"step": step})
    assert [row["step"] for row in reader.new_rows()] == [20]


def test_what_does_not_fit_on_the_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """In a process of its own, which may not write files of more than 150 bytes."""
    program = (
        "import resource, sys\n"
        "from runner.storage.folder import Storage, is_full\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150, 150))\n"
        "folder = Storage.open(sys.argv[1])\n"
        "folder.append('log', bytes(100))\n"
        "for write in (folder.append, folder.write):\n"
        "    try:\n"
        "        write('log', bytes(200))\n"
        "    except OSError as error:\n"
        "        print(is_full(error), folder.size('log'), folder.temporary_names())\n"
    )
    result = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["True 100 []"] * 2
