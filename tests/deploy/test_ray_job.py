"""A cluster of `ray start`, with a token, runs the command as a job: what docs/clusters.md says of `ray job submit`."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.commands import ROOT, STARTED, TINY, Command, kill_family, read_until, write_experiment

RAY = str(Path(sys.executable).with_name("ray"))


class Head(NamedTuple):
    """A cluster of one machine.

    Attributes:
        environment: of whoever has its token.
        dashboard: where jobs are submitted.
    """

    environment: dict[str, str]
    dashboard: str


@pytest.fixture
def head() -> Iterator[Head]:
    """A head on loopback, in a short folder: a socket's path has few bytes."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text("0" * 64)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "WANDB_"))}
    programs = f"{Path(RAY).parent}:{os.environ['PATH']}"
    environment = kept | {
        "HOME": str(folder),
        "PATH": programs,
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
    }

    port, dashboard, agent = _free_ports(3)
    process: Command = subprocess.Popen(
        [
            *(RAY, "start", "--head", "--block", "--num-cpus=1", "--node-ip-address=127.0.0.1", f"--port={port}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
            f"--temp-dir={folder}/t",
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    try:
        read_until(process, "Ray runtime started")
        yield Head(environment, f"http://127.0.0.1:{dashboard}")
    finally:
        kill_family(process)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    """Ports on which nobody listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_that_is_submitted_with_the_cluster_s_token_succeeds(head: Head, tmp_path: Path) -> None:
    file = write_experiment(tmp_path, **TINY)
    submit = [RAY, "job", "submit", "--address", head.dashboard, "--working-dir", str(ROOT / "experiments")]
    variables = f'{{"env_vars": {{"PYTHONPATH": "{ROOT}", "RAY_JOB_STOP_WAIT_TIME_S": "120"}}}}'
    command = ["python", "-m", "runner.tune", str(file), "--storage", str(tmp_path / "results"), "--dry-run"]
    job = subprocess.run(
        [*submit, "--runtime-env-json", variables, "--", *command],
        env=head.environment,
        capture_output=True,
        text=True,
    )
    assert job.returncode == 0, job.stdout + job.stderr
    assert "dry run: nothing was run" in job.stdout
    assert "succeeded" in job.stdout + job.stderr
