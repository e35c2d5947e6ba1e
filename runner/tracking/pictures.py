"""Which row of a log a picture belongs to."""

from collections.abc import Mapping
from typing import Any

from runner.storage.run_folder import image_name
from runner.storage.storage import Storage


def picture_name(trial: Storage, row: Mapping[str, Any]) -> str | None:
    """The epoch's picture, for the last row of an epoch that has one; else None."""
    if not any(name.startswith("epoch_mean/") for name in row):
        return None
    name = image_name(row["epoch"])
    return name if trial.exists(name) else None
