"""Patches on disk, in Arrow files. They are memory-mapped, so that all trials on a machine share one copy."""

import functools
import itertools
import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

MAP_TO_SATELLITE = "map_to_satellite"
SHARD_SUFFIX = ".arrow"

# A larger batch does not fit into the processor's cache. Then a core waits for memory, and two read faster than one.
CACHED_BYTES = 12 * 2**20


def shard_name(split: str, number: int) -> str:
    """The file name of a split's shard, counted from 0. Names and numbers have the same order."""
    return f"{split}-{number:06d}{SHARD_SUFFIX}"


class PatchRows(NamedTuple):
    """The n patches of one picture, cut from both halves at the same origins."""

    name: str
    origins: Sequence[tuple[int, int]]
    satellite: NDArray[np.uint8]  # (n, 3, S, S)
    map: NDArray[np.uint8]  # (n, 3, S, S)


class PatchOrigin(NamedTuple):
    """The picture that a patch was cut from, and the patch's upper left corner in a half of it, in pixels."""

    name: str
    row: int
    column: int


def patch_schema(patch_size: int) -> pa.Schema:
    """The columns of a shard, which has one row per patch: name, origin, and both halves as (3, S, S) uint8."""
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
    """The rows of one picture in Arrow's format."""
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
    """The patches of one split. `patches[indices]` is (source, target), each (n, 3, S, S) uint8.

    Attributes:
        patch_size: S, the width and height of a patch in pixels.
    """

    def __init__(self, tables: Iterable[pa.Table], direction: str) -> None:
        tables = list(tables)
        # A shard has one batch per picture. `_starts[i]` is the index of the first patch in batch i.
        batches = [batch for table in tables for batch in table.to_batches() if batch.num_rows]
        self._starts = list(itertools.accumulate((batch.num_rows for batch in batches), initial=0))
        self._batches = batches

        # Views of the mapped file: no pixel is copied here.
        names = ("map", "satellite") if direction == MAP_TO_SATELLITE else ("satellite", "map")
        self._columns = [tuple(batch.column(name).to_numpy_ndarray() for name in names) for batch in batches]
        self.patch_size = int(tables[0].schema.field("map").type.shape[-1])

    @classmethod
    def open(cls, folder: str | Path, split: str, direction: str = MAP_TO_SATELLITE) -> "Patches":
        """Maps all shards of a split into memory. Reads no pixels yet.

        Args:
            folder: a patch store.
            direction: "map_to_satellite" or "satellite_to_map".

        Raises:
            FileNotFoundError: the folder has no shard of this split.
            pyarrow.ArrowInvalid: a shard is damaged.
        """
        paths = sorted(Path(folder).glob(f"{split}-*{SHARD_SUFFIX}"))
        if not paths:
            raise FileNotFoundError(f"{folder} has no shard of {split}")
        return cls(map(_map_shard, paths), direction)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, indices: Sequence[int] | NDArray[np.int64]) -> "tuple[Tensor, Tensor]":
        """Copies patches. Indices are from 0 to len - 1, in any order. Raises IndexError for any other."""
        import torch  # here, because processes that only write patches do not need it

        source, target = torch.empty((2, len(indices), 3, self.patch_size, self.patch_size), dtype=torch.uint8)
        self.read_into(indices, source, target)
        return source, target

    def read_into(self, indices: Sequence[int] | NDArray[np.int64], source: "Tensor", target: "Tensor") -> None:
        """Copies patches into tensors of the caller, which can be pinned, and used for many batches.

        Args:
            indices: n indices from 0 to len - 1, in any order.
            source, target: (n, 3, S, S) uint8 on the CPU.

        Raises:
            IndexError: an index is out of range. Nothing has been written.
            ValueError: the tensors do not have n rows.
        """
        # Checked before anything is written, so that an error leaves no half-filled batch.
        wanted = np.asarray(indices, dtype=np.int64).tolist()
        if wanted and not (min(wanted) >= 0 and max(wanted) < len(self)):
            raise IndexError(f"patch indices must lie in 0..{len(self) - 1}")
        copies = list(zip(wanted, source.numpy(), target.numpy(), strict=True))

        # numpy copies without the interpreter lock, so two threads read at the same time.
        half = len(copies) // 2 if 2 * source.nbytes > CACHED_BYTES else 0
        other_half = second_reader().submit(self._copy, copies[:half]) if half else None
        self._copy(copies[half:])
        if other_half:
            other_half.result()

    def origin(self, index: int) -> PatchOrigin:
        """Where a patch was cut from. The index is from 0 to len - 1."""
        batch, row = self._locate(index)
        return PatchOrigin(*(self._batches[batch].column(name)[row].as_py() for name in PatchOrigin._fields))

    def _copy(self, copies: Sequence[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
        for index, source_patch, target_patch in copies:
            batch, row = self._locate(index)
            sources, targets = self._columns[batch]
            source_patch[...] = sources[row]
            target_patch[...] = targets[row]

    def _locate(self, index: int) -> tuple[int, int]:
        """The batch that holds a patch, and its row there."""
        batch = bisect_right(self._starts, index) - 1
        return batch, index - self._starts[batch]


def _map_shard(path: Path) -> pa.Table:
    """The rows of a shard, left in the file."""
    # The mapping outlives the open file. A process may have only so many files open.
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


@functools.cache
def second_reader() -> ThreadPoolExecutor:
    """A thread that reads one half of a large batch. It starts when it is first used."""
    return ThreadPoolExecutor(1, thread_name_prefix="patches")


os.register_at_fork(after_in_child=second_reader.cache_clear)  # a forked process has no such thread
