"""Patches on disk: one Arrow file a split, memory-mapped, so that all trials of a machine share one copy."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

MAP_TO_SATELLITE = "map_to_satellite"


class PatchRows(NamedTuple):
    """The patches of one picture: n of them, cut from both halves at the same origins."""

    name: str
    origins: Sequence[tuple[int, int]]
    satellite: NDArray[np.uint8]  # (n, 3, S, S)
    map: NDArray[np.uint8]  # (n, 3, S, S)


def patch_schema(patch_size: int) -> pa.Schema:
    """One row a patch: its picture's name, its origin there, and both halves as (3, S, S) uint8."""
    pixels = pa.fixed_shape_tensor(pa.uint8(), (3, patch_size, patch_size))
    return pa.schema(
        [
            ("name", pa.string()),
            ("row", pa.int32()),
            ("column", pa.int32()),
            ("satellite", pixels),
            ("map", pixels),
        ]
    )


def patch_batch(rows: PatchRows) -> pa.RecordBatch:
    """The rows of one picture as Arrow holds them."""
    return pa.RecordBatch.from_arrays(
        [
            pa.array([rows.name] * len(rows.origins), pa.string()),
            pa.array([row for row, _ in rows.origins], pa.int32()),
            pa.array([column for _, column in rows.origins], pa.int32()),
            pa.FixedShapeTensorArray.from_numpy_ndarray(rows.satellite),
            pa.FixedShapeTensorArray.from_numpy_ndarray(rows.map),
        ],
        schema=patch_schema(rows.satellite.shape[-1]),
    )


class Patches:
    """The patches of one split. `patches[indices]` gives (source, target), each (n, 3, S, S) uint8."""

    def __init__(self, table: pa.Table, direction: str) -> None:
        batches = [batch for batch in table.to_batches() if batch.num_rows]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        names = ("map", "satellite") if direction == MAP_TO_SATELLITE else ("satellite", "map")
        self._columns = [tuple(batch.column(name).to_numpy_ndarray() for name in names) for batch in batches]
        self.patch_size = int(table.schema.field("map").type.shape[-1])

    @classmethod
    def open(cls, path: str | Path, direction: str = MAP_TO_SATELLITE) -> "Patches":
        """Maps an Arrow file of `patch_schema`; nothing is read before it is asked for.

        Raises:
            FileNotFoundError, pyarrow.ArrowInvalid: there is no such file, or it is none of ours.
        """
        return cls(pa.ipc.open_file(pa.memory_map(str(path))).read_all(), direction)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, indices: Sequence[int] | NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Copies the patches out; indices from 0 to len - 1, in any order."""
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"patch indices must lie in 0..{len(self) - 1}")
        pair = np.empty((2, len(indices), 3, self.patch_size, self.patch_size), np.uint8)
        batches = np.searchsorted(self._starts, indices, side="right") - 1
        for position, (batch, index) in enumerate(zip(batches, indices, strict=True)):
            source, target = self._columns[batch]
            pair[0, position] = source[index - self._starts[batch]]
            pair[1, position] = target[index - self._starts[batch]]
        source, target = torch.from_numpy(pair)
        return source, target
