import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import runner
import runner.records.metrics_log
from runner.errors import StorageError
from runner.records.metrics_log import MetricsReader, read_last_row, read_rows
from runner.storage.folder import open_folder
from runner.storage.storage import Storage
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


def test_the_last_row_is_found_from_the_end_of_a_log_of_any_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Storage.open(tmp_path)
    assert read_last_row(trial) is None
    for tail_bytes in (1, 30, 100_000):
        monkeypatch.setattr(runner.records.metrics_log, "_TAIL_BYTES", tail_bytes)
        for num_rows in (0, 1, 50):
            rows = b"".join(b'{"step": %d, "epoch": 1}\n' % step for step in range(num_rows))
            for torn in (b"", b'{"step": 99, "ep'):
                trial.write("metrics.jsonl", rows + torn)
                assert read_last_row(trial) == ({"step": num_rows - 1, "epoch": 1} if num_rows else None)


def test_what_does_not_fit_on_the_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """In a process of its own, which may not write files of more than 150 bytes."""
    program = (
        "import resource, sys\n"
        "from runner.storage.storage import Storage, is_full\n"
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


def test_what_is_missing_or_of_another_kind_is_an_error_of_the_system_or_nothing(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    storage.write("file", b"1234")
    storage.make_folder("folder/inner")
    assert (storage.exists("file"), storage.exists("folder"), storage.exists("nothing")) == (True, True, False)
    assert storage.names() == ["file", "folder"]
    assert storage.names("nothing") == storage.names("file/nothing") == storage.names("folder/inner") == []
    with pytest.raises(NotADirectoryError):
        storage.names("file")
    for read in (storage.read, storage.size, lambda name: storage.read_from(name, 0)):
        with pytest.raises(FileNotFoundError, match="No such file or directory"):
            read("nothing")
    with pytest.raises(FileNotFoundError):
        storage.size("folder")
    with pytest.raises(IsADirectoryError):
        storage.read("folder")
    with pytest.raises(FileExistsError):
        storage.make_folder("file")
    with pytest.raises(FileNotFoundError):
        storage.write("nothing/file", b"")
    storage.remove("nothing")
    storage.remove("file/nothing")
    assert storage.total_bytes() == 4
    assert storage.at("nothing").total_bytes() == 0


def test_removing_takes_a_folder_with_all_in_it_and_of_a_link_only_the_link(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    storage.make_folder("kept")
    storage.write("kept/file", b"1")
    storage.make_folder("folder/inner")
    storage.write("folder/inner/file", b"1")
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("folder", "link", "dangling"):
        storage.remove(name)
    assert storage.names() == ["kept"]
    assert storage.read("kept/file") == b"1"


def test_a_file_is_told_from_the_one_that_replaced_it(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    storage.append("log", b"one")
    _, first = storage.read_from("log", 0)
    storage.append("log", b"two")
    assert storage.read_from("log", 3) == (b"two", first)
    storage.write("log", b"other")
    assert storage.read_from("log", 0)[1] != first


def test_a_large_file_is_in_memory_once_while_it_is_read(tmp_path: Path) -> None:
    size_mb = 128
    with open(tmp_path / "file", "wb") as stream:
        stream.truncate(size_mb << 20)
    program = (
        "import resource, sys\n"
        "from runner.storage.storage import Storage\n"
        "peak_kb = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak_kb()\n"
        "content = Storage.open(sys.argv[1]).read('file')\n"
        "print(len(content) >> 20, (peak_kb() - before) >> 10)\n"
    )
    result = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    read_mb, more_mb = map(int, result.stdout.split())
    assert read_mb == size_mb
    assert more_mb < 1.5 * size_mb


def test_what_reads_and_writes_a_run_needs_no_folder_of_this_machine() -> None:
    # Another kind of storage has no `local_path`. The drill, `--out` and what is fetched are about folders.
    program = Path(runner.__file__).parent
    folders_only = [program / name for name in ("storage", "drill", "data/fetching", "models/picture_files.py")]
    users = [path for path in program.rglob("*.py") if "local_path" in path.read_text()]
    assert [path.name for path in users if not any(path.is_relative_to(place) for place in folders_only)] == []


def test_the_storage_of_a_linked_folder_is_where_the_folder_lies(tmp_path: Path) -> None:
    (tmp_path / "results/experiment/trials/trial").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "results/experiment/trials/trial")
    assert Storage.open(tmp_path / "link").above(3).local_path == (tmp_path / "results").resolve()


def test_a_folder_is_shown_as_one_would_type_it_even_where_the_working_folder_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", Storage.open(tmp_path / "there")
    here.mkdir()
    monkeypatch.chdir(tmp_path)
    assert (there.shown, Storage.open("here").shown) == ("there", "here")
    monkeypatch.chdir(here)
    assert there.shown == str(tmp_path / "there")
    here.rmdir()
    assert there.shown == str(tmp_path / "there")
    monkeypatch.chdir(tmp_path)


def test_a_uri_is_refused_where_only_a_folder_will_do() -> None:
    with pytest.raises(StorageError, match="--out is s3://bucket/run: it must be a folder of this machine"):
        open_folder("s3://bucket/run", "--out")


@pytest.mark.parametrize("has_files_without_names", [True, False])
def test_a_check_writes_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_files_without_names: bool
) -> None:
    if not has_files_without_names:
        monkeypatch.delattr(os, "O_TMPFILE")
    Storage.open(tmp_path / "new" / "results").check_writable()
    assert list(tmp_path.iterdir()) == []
    # Rights say nothing against it, not to the superuser.
    with pytest.raises(StorageError, match="/proc can't be written to"):
        Storage.open("/proc/results").check_writable()


def test_a_disk_without_room_for_a_byte_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(path: str, flags: int, mode: int = 0o777) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    monkeypatch.setattr(os, "open", is_full)
    with pytest.raises(StorageError, match="No space left on device"):
        Storage.open(tmp_path).check_writable()
