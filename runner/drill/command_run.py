"""One start of the training command, as a user would type it, in a session of its own."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from runner.drill.processes import kill_session, session_processes
from runner.storage.folder import Storage

LAST_LINES = 12


class CommandRun:
    """A started `python -m runner.train`.

    Attributes:
        line: the command as one would type it.
    """

    def __init__(self, arguments: Sequence[str], folder: Storage, output: str, max_file_bytes: int | None) -> None:
        """Starts it; its output goes to the file `output` in `folder`."""
        command = ["-m", "runner.train", *arguments]
        self.line = " ".join(["python", *command])
        self._folder, self._output = folder, output
        with open(folder.local_path / output, "wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        if max_file_bytes is not None:
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))

    @property
    def session(self) -> int:
        """The session of all its processes, whose number is also the main process's."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative where a signal ended it."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """All that it has printed."""
        return self._folder.read(self._output).decode(errors="replace")

    def last_lines(self) -> str:
        """The end of its output."""
        return "\n".join(self.output.splitlines()[-LAST_LINES:])

    def processes(self) -> dict[int, str]:
        """All its living processes with their titles."""
        return session_processes(self.session)

    def signal(self, number: int) -> None:
        """To the main process alone."""
        self._process.send_signal(number)

    def signal_group(self, number: int) -> None:
        """To the main process's group, as a terminal does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def kill_main(self) -> None:
        """Ends the main process; its workers live on for some seconds."""
        self._process.kill()
        self._process.wait()

    def kill_all(self) -> None:
        """Ends everything that it started, and itself."""
        self._process.send_signal(signal.SIGKILL)
        kill_session(self.session)
        self._process.wait()

    def wait(self, deadline: float) -> int | None:
        """The exit code, or None where it still runs at the deadline (by time.monotonic())."""
        try:
            return self._process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            return None
