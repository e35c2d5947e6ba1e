"""One start of the training command, in a new session of processes."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from runner.drill.processes import kill_session, session_processes
from runner.storage.folder import Folder

_LAST_LINES = 12


class CommandRun:
    """A started `python -m runner.train`, or another command.

    Attributes:
        line: the command as a user would type it.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Folder,
        output: str,
        max_file_bytes: int | None,
        cwd: Path | None = None,
        module: str = "runner.train",
    ) -> None:
        """Starts the command.

        Args:
            arguments: what follows `python -m runner.train`.
            output: the name of a file in `folder` for what the command prints.
            max_file_bytes: the command can't write longer files; None for no limit.
            cwd: where it runs; None for where this process does.
            module: the command's, in place of `runner.train`.
        """
        command = ["-m", module, *arguments]
        self.line = " ".join(["python", *command])
        self._folder, self._output = folder, output

        # Into a file, because a pipe that nobody reads would stop the command when it is full.
        with open(folder.local_path / output, "wb") as stream:
            # In a new session, by which the drill finds all processes of the command.
            self._process = subprocess.Popen(
                [sys.executable, *command],
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=cwd,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )

        # Set from outside at once. The command writes nothing that long before it has loaded its libraries.
        if max_file_bytes is not None:
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))

    @property
    def session(self) -> int:
        """The session of all its processes. Its number is that of the main process."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code. None while the command runs; negative where a signal ended it."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """All that the command has printed."""
        # The command may be in the middle of a character, so a broken one is no error.
        return self._folder.read(self._output).decode(errors="replace")

    def last_lines(self) -> str:
        """The last lines of its output."""
        return "\n".join(self.output.splitlines()[-_LAST_LINES:])

    def processes(self) -> dict[int, str]:
        """All living processes of the command, with their titles."""
        return session_processes(self.session)

    def signal(self, number: int) -> None:
        """Sends a signal to the main process alone."""
        self._process.send_signal(number)

    def signal_group(self, number: int) -> None:
        """Sends a signal to the main process's group, as a terminal does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def kill_main(self) -> None:
        """Kills the main process. Its workers go on for some seconds."""
        self._process.kill()
        self._process.wait()

    def kill_all(self) -> None:
        """Kills the main process and everything that it started."""
        self._process.send_signal(signal.SIGKILL)
        # The other processes are in its session, even where the main process has ended before.
        kill_session(self.session)
        self._process.wait()

    def wait(self, deadline: float) -> int | None:
        """Waits for the end. Returns the exit code, or None where it still runs at the time.monotonic() `deadline`."""
        try:
            return self._process.wait(max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            return None
