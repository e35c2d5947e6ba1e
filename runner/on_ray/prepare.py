"""Ray Data hands the shards of a patch store to all cores of the cluster; patches do not pass through Ray."""

import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pyarrow as pa
import ray.data

from runner.config.schema import Data
from runner.data.shards import Shard, ShardReport, shards_of, write_shard
from runner.data.sources import Picture, Source
from runner.errors import DataError
from runner.on_ray.connection.cluster import silence_ray
from runner.on_ray.private import remembered_execution
from runner.storage.storage import Storage

_TASKS_A_CORE = 4  # so that no core is idle for long at the end
_MAX_SHARDS_A_TASK = 8  # whoever watches sees the progress of each task


def cut_with_ray(
    source: Source, data: Data, folder: Storage, on_begin: Callable[[Callable[[], None]], object] = lambda end: None
) -> Iterator[ShardReport]:
    """Writes the source's shards into a folder that all machines of the cluster see; reports in order.

    Args:
        on_begin: called with what ends the work, in any thread; the thread that waits for it then gets an error.

    Raises:
        DataError: a picture can't be read any more.
        OSError: a shard can't be written.
    """
    silence_ray()  # Ray Data sets up its logging when it is imported
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True

    try:
        shards = shards_of(source)
        for shard, row in zip(shards, _reported_rows(shards, source.seed, data, folder, on_begin), strict=True):
            # What a machine of the cluster could not read or write, the command's own can or names.
            written = row["report"]
            report = ShardReport(**json.loads(written)) if written else write_shard(shard, source.seed, data, folder)
            if report.name != shard.name:
                raise RuntimeError(f"Ray Data reported {report.name} where {shard.name} was due")
            yield report
    finally:
        # Ray Data leaves cycles that hold objects of Ray's store. A process that has some when Ray is killed tries
        # to make them again, fails to reach the store, and is ended by Ray in its native code: exit code 1, no message.
        gc.collect()


def _reported_rows(
    shards: list[Shard],
    seed: int | None,
    data: Data,
    folder: Storage,
    on_begin: Callable[[Callable[[], None]], object],
) -> Iterator[dict[str, str]]:
    """The reports of Ray Data's tasks, one row a shard."""
    # As JSON, which holds file names too that are no UTF-8 and could not stand in a table.
    rows = [{"shard": json.dumps(asdict(shard))} for shard in shards]
    dataset = ray.data.from_items(rows, override_num_blocks=_num_tasks(len(shards))).map_batches(
        _write_shards,
        batch_format="pyarrow",
        batch_size=None,
        fn_kwargs={"seed": seed, "data": data, "folder": folder},
    )
    on_begin(remembered_execution(dataset))
    for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from table.to_pylist()


def _num_tasks(num_shards: int) -> int:
    """How many tasks share the shards: a task costs as much as three pictures, and each core is to have some."""
    cores = int(ray.cluster_resources().get("CPU", 0)) or num_shards
    shards_a_task = min(max(num_shards // (_TASKS_A_CORE * cores), 1), _MAX_SHARDS_A_TASK)
    return -(-num_shards // shards_a_task)


def _write_shards(table: pa.Table, seed: int | None, data: Data, folder: Storage) -> pa.Table:
    """A task of Ray Data's: each row is a shard, and becomes its report."""
    return pa.Table.from_pylist(
        [_write_and_report(_shard_of(row["shard"]), seed, data, folder) for row in table.to_pylist()]
    )


def _shard_of(text: str) -> Shard:
    """The shard that a row was made of."""
    fields = json.loads(text)
    pictures = [Picture(**{**picture, "paths": tuple(picture["paths"])}) for picture in fields["pictures"]]
    return Shard(fields["split"], fields["number"], pictures)


def _write_and_report(shard: Shard, seed: int | None, data: Data, folder: Storage) -> dict[str, str]:
    """Writes a shard. An error becomes an empty report, for Ray would end all other tasks."""
    try:
        return {"report": json.dumps(write_shard(shard, seed, data, folder)._asdict())}
    except (OSError, DataError):
        return {"report": ""}
