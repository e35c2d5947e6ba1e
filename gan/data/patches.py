"""Patches on disk: Arrow files, memory-mapped, so that all trials of a machine share one copy."""

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
CACHED_BYTES = 12 * 2**20  # what is larger leaves the cache: one core waits for memory, and two read faster


def shard_name(split: str, number: int) -> str:
    """The file of a split's nth part, counted from 0; names sort as the numbers do."""
    return f"{split}-{number:06d}{SHARD_SUFFIX}"


class PatchRows(NamedTuple):
    """The patches of one picture: n of them, cut from both halves at the same origins."""

    name: str
    origins: Sequence[tuple[int, int]]
    satellite: NDArray[np.uint8]  # (n, 3, S, S)
    map: NDArray[np.uint8]  # (n, 3, S, S)


class PatchOrigin(NamedTuple):
    """Which picture a patch was cut from, and where its upper left corner lies in a half of it."""

    name: str
    row: int
    column: int


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

    def __init__(self, tables: Iterable[pa.Table], direction: str) -> None:
        tables = list(tables)
        batches = [batch for table in tables for batch in table.to_batches() if batch.num_rows]
        self._starts = list(itertools.accumulate((batch.num_rows for batch in batches), initial=0))
        self._batches = batches
        names = ("map", "satellite") if direction == MAP_TO_SATELLITE else ("satellite", "map")
        self._columns = [tuple(batch.column(name).to_numpy_ndarray() for name in names) for batch in batches]
        self.patch_size = int(tables[0].schema.field("map").type.shape[-1])

    @classmethod
    def open(cls, folder: str | Path, split: str, direction: str = MAP_TO_SATELLITE) -> "Patches":
        """Maps all shards that a split has in a folder; no pixel is read before it is asked for.

        Raises:
            FileNotFoundError, pyarrow.ArrowInvalid: there is no shard, or one is none of ours.
        """
        paths = sorted(Path(folder).glob(f"{split}-*{SHARD_SUFFIX}"))
        if not paths:
            raise FileNotFoundError(f"{folder} has no shard of {split}")
        return cls(map(map_shard, paths), direction)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, indices: Sequence[int] | NDArray[np.int64]) -> "tuple[Tensor, Tensor]":
        """Copies the patches out; indices from 0 to len - 1, in any order."""
        import torch  # whoever makes patches does without

        source, target = torch.empty((2, len(indices), 3, self.patch_size, self.patch_size), dtype=torch.uint8)
        self.read_into(indices, source, target)
        return source, target

    def read_into(self, indices: Sequence[int] | NDArray[np.int64], source: "Tensor", target: "Tensor") -> None:
        """Copies the patches into memory that the caller has, pinned perhaps, and may use again and again.

        Args:
            indices: n places from 0 to len - 1, in any order.
            source, target: (n, 3, S, S) uint8 on the processor.

        Raises:
            IndexError: an index lies outside; nothing has been written then.
            ValueError: there is not one place for each patch.
        """
        places = np.asarray(indices, dtype=np.int64).tolist()
        if places and not (min(places) >= 0 and max(places) < len(self)):
            raise IndexError(f"patch indices must lie in 0..{len(self) - 1}")
        copies = list(zip(places, source.numpy(), target.numpy(), strict=True))
        half = len(copies) // 2 if 2 * source.nbytes > CACHED_BYTES else 0
        other_half = second_reader().submit(self._copy, copies[:half]) if half else None
        self._copy(copies[half:])
        if other_half:
            other_half.result()

    def place(self, index: int) -> PatchOrigin:
        """Where one patch comes from; index from 0 to len - 1."""
        batch = bisect_right(self._starts, index) - 1
        row = index - self._starts[batch]
        return PatchOrigin(*(self._batches[batch].column(name)[row].as_py() for name in PatchOrigin._fields))

    def _copy(self, copies: Sequence[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
        """Fills each source and target patch from its place."""
        for place, source_patch, target_patch in copies:
            batch = bisect_right(self._starts, place) - 1
            sources, targets = self._columns[batch]
            row = place - self._starts[batch]
            source_patch[...] = sources[row]
            target_patch[...] = targets[row]


def map_shard(path: Path) -> pa.Table:
    """A shard's rows, left in the file; only the mapping stays open, for a process may have few files open."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


@functools.cache
def second_reader() -> ThreadPoolExecutor:
    """A thread that reads beside the one that asks; started when it is first needed."""
    return ThreadPoolExecutor(1, thread_name_prefix="patches")


os.register_at_fork(after_in_child=second_reader.cache_clear)  # a thread does not come along into a fork
