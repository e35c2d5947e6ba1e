import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.storage import Storage
from tests.runner.crashing import train_tiny
from tests.runner.wandb_log import LocalServer


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of a TINY run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = train_tiny(folder)
    assert ended.code == 0, ended.output
    return folder


@pytest.fixture
def wandb_unconfigured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, no settings of the person who runs the tests, and a working folder of our own."""
    for name in os.environ:
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def trial(tmp_path: Path) -> Storage:
    """The folder of a trial that is to be tracked."""
    storage = Storage.open(tmp_path / "results/sweep/trials/batch_size=1,lambda_l1=0.5")
    storage.make_folder()
    return storage


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalServer]:
    """A W&B server, which wandb is told to use."""
    with LocalServer() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        yield running
