from pathlib import Path

import pytest

from benchmarks import checkpoint
from runner.storage.storage import Storage


def test_it_measures_writes_beside_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MIN_STEPS_S", 0.0)
    figures = checkpoint.measure(Storage.open(tmp_path), channels=1, repeats=1)
    assert figures["megabytes"] > 0
    assert figures["reckoned_cost_s"] > 0
