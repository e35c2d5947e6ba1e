"""Ray Data reads the pictures and cuts them into patches, a picture a row, in order."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray.data

from gan.patches import PatchRows
from runner.cluster import quieten
from runner.config import Data
from runner.preparation import CutPicture, read_and_cut
from runner.sources import Picture, Source

PICTURES_A_TASK = 4

CUT_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("rows", pa.list_(pa.int32())),
        ("columns", pa.list_(pa.int32())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("error", pa.string()),
        ("satellite", pa.binary()),
        ("map", pa.binary()),
    ]
)


class CutRow(NamedTuple):
    """One picture on its way from a worker to the store; pixels are raw bytes of (n, 3, S, S)."""

    name: str
    origins: list[tuple[int, int]]
    size: tuple[int, int]
    error: str
    satellite: Any
    map: Any


def cut_with_ray(source: Source, data: Data) -> Iterator[CutPicture]:
    """The source's pictures, read, decoded and cut on all cores of the cluster, in the source's order."""
    for row in cut_pictures(source, data):
        if row.error:
            yield CutPicture(None, (0, 0), row.error)
            continue
        shape = (len(row.origins), 3, data.patch_size, data.patch_size)
        halves = (np.frombuffer(pixels, np.uint8).reshape(shape) for pixels in (row.satellite, row.map))
        yield CutPicture(PatchRows(row.name, row.origins, *halves), row.size, "")


def cut_pictures(source: Source, data: Data) -> Iterator[CutRow]:
    """The rows that Ray Data gives, one a picture, checked to come in the source's order."""
    quieten()  # Ray Data sets up its logging when it is imported
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    for split in ("train", "val"):
        pictures = [picture for picture in source.pictures if picture.split == split]
        dataset = ray.data.from_items(list(range(len(pictures)))).map_batches(
            cut_table,
            batch_format="pyarrow",
            batch_size=PICTURES_A_TASK,
            fn_kwargs={"pictures": pictures, "seed": source.seed, "data": data},
        )
        tables = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
        rows = itertools.chain.from_iterable(map(table_rows, tables))
        for picture, row in zip(pictures, rows, strict=True):
            if row.name != picture.name:
                raise RuntimeError(f"Ray Data gave {row.name} where {picture.name} was due")
            yield row


def cut_table(table: pa.Table, pictures: list[Picture], seed: int | None, data: Data) -> pa.Table:
    """Places in the list of pictures become their patches, or the reason why a picture is left out."""
    records = []
    for index in table["item"].to_pylist():
        rows, (width, height), error = read_and_cut(pictures[index], seed, data)
        records.append(
            {
                "name": pictures[index].name,
                "rows": [row for row, _ in rows.origins] if rows else [],
                "columns": [column for _, column in rows.origins] if rows else [],
                "width": width,
                "height": height,
                "error": error,
                "satellite": rows.satellite.tobytes() if rows else b"",
                "map": rows.map.tobytes() if rows else b"",
            }
        )
    return pa.Table.from_pylist(records, schema=CUT_SCHEMA)


def table_rows(table: pa.Table) -> Iterator[CutRow]:
    """The rows of a table, their pixels not copied."""
    for index in range(table.num_rows):
        row = {name: table[name][index] for name in table.column_names}
        yield CutRow(
            name=row["name"].as_py(),
            origins=list(zip(row["rows"].as_py(), row["columns"].as_py(), strict=True)),
            size=(row["width"].as_py(), row["height"].as_py()),
            error=row["error"].as_py(),
            satellite=row["satellite"].as_buffer(),
            map=row["map"].as_buffer(),
        )
