import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from runner.process.processes import MARK, children, end_marked, is_alive, is_running, marked, process_start

TOKEN = "of-this-test"
SLEEP = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start_marked(token: str, command: list[str]) -> "subprocess.Popen[bytes]":
    with marked(token):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # its program runs now, and has its environment
    return process


def test_marked_processes_and_what_they_started_are_killed_and_no_others() -> None:
    parent = start_marked(TOKEN, ["sh", "-c", "sleep 600 & echo $!; wait"])
    other = start_marked(f"{TOKEN}-2", SLEEP)
    assert len(psutil.Process(parent.pid).children()) == 1
    assert end_marked(TOKEN) == 2
    assert not is_alive(parent.pid)
    assert parent.wait() == -signal.SIGKILL
    assert is_alive(other.pid)
    assert end_marked(f"{TOKEN}-2") == 1
    assert other.wait() == -signal.SIGKILL
    assert end_marked(TOKEN) == 0
    for process in (parent, other):
        process.communicate()


def test_the_mark_is_gone_after_the_block_and_this_process_is_never_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MARK, raising=False)
    with marked(TOKEN):
        assert os.environ[MARK] == TOKEN
    assert MARK not in os.environ
    own_mark = psutil.Process().environ().get(MARK, "")
    assert end_marked(own_mark or TOKEN) == 0


def test_a_zombie_is_neither_alive_nor_running() -> None:
    process = start_marked(TOKEN, SLEEP)
    name = psutil.Process(process.pid).name()
    assert is_alive(process.pid)
    assert is_running(name, TOKEN)
    assert not is_running(name, f"{TOKEN}-2")
    assert not is_running("no such name", TOKEN)
    process.kill()
    wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert not is_alive(process.pid)
    assert not is_running(name, TOKEN)
    assert process_start(process.pid) is None
    process.communicate()


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**70])
def test_a_number_of_no_process_is_not_alive(pid: int) -> None:
    assert not is_alive(pid)
    assert process_start(pid) is None


def test_processes_that_hide_their_environment_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    process = start_marked(TOKEN, SLEEP)

    def denied(self: psutil.Process) -> dict[str, str]:
        raise psutil.AccessDenied(self.pid)

    with monkeypatch.context() as patched:
        patched.setattr(psutil.Process, "environ", denied)
        assert end_marked(TOKEN) == 0
        assert not is_running(psutil.Process(process.pid).name(), TOKEN)
    assert is_alive(process.pid)
    assert end_marked(TOKEN) == 1
    process.communicate()


def test_only_own_children_of_a_name_are_listed() -> None:
    process = start_marked(TOKEN, ["sh", "-c", "sleep 600 & echo; wait"])
    assert process.pid in children("sh")
    assert process.pid not in children("sleep")
    assert not set(children("sleep")) & {child.pid for child in psutil.Process(process.pid).children()}
    end_marked(TOKEN)
    process.communicate()


def test_a_process_start_is_what_locks_of_earlier_versions_hold() -> None:
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert process_start(os.getpid()) == fields[19]
