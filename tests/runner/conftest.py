from pathlib import Path

import pytest

from tests.runner.crashing import train_tiny


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of a TINY run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = train_tiny(folder)
    assert ended.code == 0, ended.output
    return folder
