"""A folder from which batch scripts are submitted, with programs that stand for Slurm's and Ray's."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.commands import ROOT, STARTED, Command

DEPLOY = ROOT / "deploy"

# Takes the options that the batch scripts use, and starts the rest of its words once.
_SRUN = """
import argparse, os, sys
parser = argparse.ArgumentParser(allow_abbrev=False)
for option in ("--nodes", "--ntasks", "--cpus-per-task"):
    parser.add_argument(option, type=int, required=True)
where = parser.add_mutually_exclusive_group(required=True)
where.add_argument("--nodelist")
where.add_argument("--exclude")
options, command = parser.parse_known_args()
assert options.nodes == options.ntasks, "srun takes what is missing from the whole job"
told(f"srun nodes={options.nodes} at={options.nodelist} but={options.exclude} {' '.join(command)}")
os.execvp(command[0], command)
"""
# A head is healthy once it was started; a node stays until it is ended.
_RAY = """
import os, pathlib, signal, sys
words = sys.argv[1:]
up = pathlib.Path(os.environ["DESK"], "head_is_up")
if words[0] == "health-check":
    sys.exit(0 if up.exists() else 1)
if words == ["get-auth-token", "--generate"]:
    folder = pathlib.Path.home() / ".ray"
    folder.mkdir(parents=True)
    (folder / "auth_token").write_text("secret")
if words[0] == "start":
    assert os.environ["RAY_AUTH_MODE"] == "token"
    if "HEAD_FAILS" in os.environ:
        sys.exit("no head")
    if "--head" in words:
        up.touch()
    signal.pause()
"""
_RECORD = """
import os, sys
told(os.path.basename(sys.argv[0]) + " " + " ".join(sys.argv[1:]))
"""
_AWAIT = """
import pathlib, time
while {text!r} not in pathlib.Path(os.environ["DESK"], "told.txt").read_text():
    time.sleep(0.01)  # a poll
"""
_TOLD = """#!{python}
def told(line):
    import os, pathlib
    with open(pathlib.Path(os.environ["DESK"], "told.txt"), "a") as file:
        file.write(line + "\\n")
"""


class Desk:
    """The folder.

    Attributes:
        folder: where the scripts are submitted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (folder / "deploy").symlink_to(DEPLOY)
        (folder / "experiments").symlink_to(ROOT / "experiments")
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "activate").write_text(f'export PATH="{self.bin}:$PATH"\n')
        self.program("scontrol", _RECORD)
        self.program("srun", _SRUN)
        self.program("ray", _RAY)
        # A link would not find what is installed beside the interpreter.
        python = self.bin / "python"
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        python.chmod(0o755)

    def program(self, name: str, code: str) -> Path:
        """Puts a program on the scripts' PATH; `told(line)` in its code is read by `told`."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(_TOLD.format(python=sys.executable) + code)
        path.chmod(0o755)
        return path

    def record_python(self, code: int = 0, after: str = "") -> None:
        """Has the scripts' `python` only tell its arguments and end with an exit code.

        Args:
            after: a text that another program, which a script has started in the background, tells before.
        """
        self.program("python", f"{_RECORD}{_AWAIT.format(text=after)}sys.exit({code})")

    def told(self) -> list[str]:
        """What the programs have told, a line each."""
        path = self.folder / "told.txt"
        return path.read_text().splitlines() if path.exists() else []

    def start(self, *command: str | Path, **variables: str) -> Command:
        """Starts bash on a script in a process group of its own."""
        process = subprocess.Popen(
            ["bash", *map(str, command)],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "HOME": str(self.folder / "home"),
                "WANDB_MODE": "offline",
                "DESK": str(self.folder),
                "SLURM_SUBMIT_DIR": str(self.folder),
                "SLURM_JOB_ID": "7",
                **variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        STARTED.append(process)
        return process

    def run(self, *command: str | Path, **variables: str) -> tuple[int, str]:
        """Exit code and output of a script. What it leaves behind is ended, as Slurm does at the end of a job."""
        process = self.start(*command, **variables)
        code = process.wait(timeout=120)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return code, process.communicate()[0]
