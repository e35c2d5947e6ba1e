"""The metrics of each validation patch, as a trial's evaluation.csv has them."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gan.data.selection import selection_half
from runner.errors import DataError
from runner.number_format import finite
from runner.storage.run_folder import EVALUATION_CSV
from runner.storage.storage import Storage, raise_unreachable

_TOLERANCE = 1e-6  # the file has nine digits of each value
_ORIGIN = ("picture", "row", "column", "mode")


class PatchValues(NamedTuple):
    """Of p patches, in the study's mode.

    Attributes:
        origins: the picture of each patch, and the patch's row and column in it.
        metrics: under the key of each metric, (p,).
    """

    origins: Sequence[tuple[str, str, str]]
    metrics: Mapping[str, NDArray[np.float64]]

    @property
    def pictures(self) -> list[str]:
        """Of each patch the name of its picture."""
        return [origin[0] for origin in self.origins]

    def report_half(self) -> "PatchValues":
        """The patches of those pictures by which nothing was chosen."""
        names = self.pictures
        selection = selection_half(names)
        kept = [index for index, name in enumerate(names) if name not in selection]
        return PatchValues([self.origins[i] for i in kept], {key: found[kept] for key, found in self.metrics.items()})


def read_patch_values(trial: Storage, row: Mapping[str, Any]) -> PatchValues:
    """The values of each patch at the end of a trial.

    Args:
        row: the trial's row of results. Each of its means must be the mean of the file's values: a file that was
            changed, or is of another training, is not.

    Raises:
        DataError: the file is missing or damaged, or is at odds with the row.
    """
    path = f"{trial.shown}/{EVALUATION_CSV}"
    try:
        text = trial.read(EVALUATION_CSV).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise_unreachable(error)
        raise DataError(f"{path} can't be read") from error

    try:
        head, *rows = [*csv.reader(io.StringIO(text, newline=""))] or [[]]
    except csv.Error:
        raise DataError(f"{path} is damaged") from None
    keys = head[len(_ORIGIN) :]
    if tuple(head[: len(_ORIGIN)]) != _ORIGIN or any(len(found) != len(head) for found in rows):
        raise DataError(f"{path} is damaged")
    study = [found for found in rows if found[3] == "study"]
    try:
        values = np.array([found[len(_ORIGIN) :] for found in study], dtype=float).reshape(len(study), len(keys))
    except ValueError:
        raise DataError(f"{path} is damaged") from None

    for key, column in zip(keys, values.T, strict=True):
        mean = finite(row.get(key))
        # A mean that is not finite is not in the row.
        if mean is not None and not (
            len(column) and math.isclose(column.mean(), mean, rel_tol=_TOLERANCE, abs_tol=1e-9)
        ):
            raise DataError(f"{path} is at odds with the trial's results: its mean of {key} is another")
    return PatchValues([(name, y, x) for name, y, x, *_ in study], dict(zip(keys, values.T, strict=True)))
