"""What a process has used: all threads count, earlier work does not, and what earlier processes used is added."""

import mmap
import resource
import threading
import time
from pathlib import Path

import pytest

from runner.process import usage
from runner.process.usage import Usage, UsageMeter

BLOCK = 200_000_000  # bytes, far more than a test allocates by the way


def work(seconds: float) -> None:
    """Keeps a core busy for so much processor time of its own."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def use(num_bytes: int) -> None:
    """Takes so much memory from the system, writes to it and gives it back; an allocator might keep it."""
    with mmap.mmap(-1, num_bytes) as memory:
        memory[::4096] = b"x" * len(range(0, num_bytes, 4096))


def test_processor_time_of_all_threads_counts_from_the_beginning_on() -> None:
    work(0.2)
    meter = UsageMeter(Usage())
    # Of this process, whatever else it does: what it used before is not in it.
    begun_s = time.process_time()
    before_s = meter.now().cpu_s
    threads = [threading.Thread(target=work, args=(0.05,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work(0.05)
    assert before_s < begun_s - 0.1
    assert meter.now().cpu_s - before_s >= 0.2


def test_what_earlier_processes_used_is_added_and_of_peaks_the_largest_counts() -> None:
    meter = UsageMeter(Usage(1000.0, 1, 7))
    work(0.01)
    used = meter.now()
    assert used.cpu_s >= 1000.01
    assert used.peak_bytes > 1_000_000
    assert used.peak_gpu_bytes == 7
    assert UsageMeter(Usage(0.0, 10**15, 0)).now().peak_bytes == 10**15


def test_the_peak_is_the_most_that_was_there_at_once_and_begins_anew() -> None:
    if "VmHWM:" not in Path("/proc/self/status").read_text():
        pytest.skip("this system shows no peak of a process")
    use(2 * BLOCK)
    meter = UsageMeter(Usage())
    lowest = meter.now().peak_bytes
    use(BLOCK)
    used = meter.now().peak_bytes
    assert lowest + 0.9 * BLOCK < used < lowest + 1.9 * BLOCK


def test_where_the_system_shows_no_peak_the_one_of_getrusage_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "_PROC", tmp_path / "none")
    assert UsageMeter(Usage()).now().peak_bytes == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
