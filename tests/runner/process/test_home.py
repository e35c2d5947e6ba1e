"""Users without a home folder that can be written, as in containers, and what libraries look for there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT

SHOWS = """
import os
from pathlib import Path
from runner.process.home import ensure_home, shown_below_home
ensure_home()
home = Path.home()
Path(os.environ.get("XDG_CACHE_HOME", home / ".cache")).mkdir(parents=True)
print(home, oct(home.stat().st_mode & 0o777), shown_below_home(f"{home}/file"), os.environ.get("TRITON_CACHE_DIR", "-"))
"""


def shown(tmp_path: Path, *launcher: str, **environment: str) -> list[str]:
    """The home folder that a process finds, its rights, how a file in it is shown, and Triton's caches."""
    env = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), **environment}
    command = [*launcher, sys.executable, "-c", SHOWS]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout.split()


def test_a_home_that_can_be_written_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o700)
    assert shown(tmp_path, HOME=str(tmp_path / "home")) == [str(tmp_path / "home"), "0o700", "~/file", "-"]


def test_a_home_that_cannot_be_written_keeps_its_name_and_caches_go_elsewhere(tmp_path: Path) -> None:
    home, _, file, triton = shown(tmp_path, HOME="/proc/1")
    assert (home, file) == ("/proc/1", "~/file")
    assert triton.startswith(f"{tmp_path}/pix2pix-runner-")
    assert list(tmp_path.iterdir()) == [], "it has ended with the process"


@pytest.mark.skipif(os.getuid() != 0, reason="only the superuser can be another user")
def test_a_user_whom_the_system_does_not_know_gets_a_home_that_ends_with_the_process(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    # The interpreter may lie in the superuser's home: this user may read it all the same.
    reading = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    home, mode, file, _ = shown(tmp_path, "setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", *reading)
    assert home.startswith(f"{tmp_path}/pix2pix-runner-")
    assert mode == "0o700"
    assert file == f"{home}/file", "nobody else would know what ~ means"
    assert list(tmp_path.iterdir()) == []
