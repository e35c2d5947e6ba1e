"""What the tests of deploy/ share."""

from pathlib import Path

import pytest

from tests.deploy.desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "desk")
