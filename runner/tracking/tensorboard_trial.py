"""A trial as an event file for TensorBoard, written from metrics.jsonl and images/ by the main process.

The file is in the trial's folder, so that `tensorboard --logdir STORAGE/EXPERIMENT/trials` shows the trials under their
names. It only grows, and each append is of whole rows: a TensorBoard that is open sees them come, after a restart, too.
What it holds is noted beside it. Where the file is not as noted, it is made again from the first row.
"""

import calendar
import io
import json
import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image

from runner.process.lease import Superseded
from runner.records.metrics_log import MetricsReader, read_last_row
from runner.records.starts import read_starts
from runner.storage.run_folder import TENSORBOARD_EVENTS, TENSORBOARD_NOTE
from runner.tracking.pictures import picture_name
from runner.trial.job import TrialJob, first_line

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

_FIRST = -1  # the step before the first row
_CHUNK_BYTES = 2**23  # of an append: some dozens of pictures
_TAIL_BYTES = 4096  # what is compared with the note: a power cut may leave a file of the right size without its end


class TensorBoardTrial:
    """The event file of a trial, over all starts of the command. No error of it may stop a training."""

    def __init__(self, job: TrialJob, notify: Callable[[str], None]) -> None:
        """Writes nothing yet; `notify` is called with a line where the file is given up."""
        self._job, self._notify = job, notify
        self._reader: MetricsReader | None = None
        self._wall_time = 0.0
        self._is_given_up = False

    def update(self) -> None:
        """Adds the new rows of metrics.jsonl. Raises Superseded where the trial is not this start's any more."""
        if self._is_given_up:
            return
        try:
            self._add_new_rows()
        except Superseded:
            raise
        except Exception as error:
            self._is_given_up = True
            self._notify(
                f"{self._job.name}: its TensorBoard file ends here ({first_line(error)}); the trial does not depend on "
                "it, and the next start of the command goes on with it"
            )

    def finish(self, result: Mapping[str, Any]) -> None:
        """As `update`; the row of results is in results.csv already."""
        self.update()

    def _add_new_rows(self) -> None:
        trial = self._job.trial
        if self._reader is None:
            noted_step = self._noted_step()
            # Most trials of a large sweep have been written to the end before: their logs are not read.
            last = read_last_row(trial)
            if last is None or last["step"] == noted_step:
                return
            self._reader = MetricsReader(trial, noted_step)
            self._wall_time = _first_start(trial)
            if noted_step == _FIRST:
                self._begin()

        for content, last_step in _chunks(self._encoded(row) for row in self._reader.new_rows()):
            # One process at a time, and only the one that owns the trial: no row can come twice.
            with self._job.committing():
                trial.append(TENSORBOARD_EVENTS, content, synced=False)
                self._note(last_step, content)

    def _begin(self) -> None:
        """Replaces what there may be by a file without rows."""
        from tensorboard.compat.proto.event_pb2 import Event

        header = _record(Event(wall_time=self._wall_time, file_version="brain.Event:2"))
        with self._job.committing():
            self._job.trial.write(TENSORBOARD_EVENTS, header)
            self._note(_FIRST, header)

    def _note(self, last_step: int, content: bytes) -> None:
        """Notes what the file holds now.

        Args:
            content: what was added last.
        """
        trial = self._job.trial
        tail = content[-_TAIL_BYTES:]
        note = {"last_step": last_step, "bytes": trial.size(TENSORBOARD_EVENTS), "tail": [len(tail), zlib.crc32(tail)]}
        with trial.writing(TENSORBOARD_NOTE, synced=False) as stream:
            stream.write(json.dumps(note).encode())

    def _noted_step(self) -> int:
        """The last step that the file holds; _FIRST where the file is not as noted."""
        trial = self._job.trial
        try:
            note = json.loads(trial.read(TENSORBOARD_NOTE))
            length, checksum = note["tail"]
            tail, _ = trial.read_from(TENSORBOARD_EVENTS, note["bytes"] - length)
            is_as_noted = len(tail) == length and zlib.crc32(tail) == checksum
            return int(note["last_step"]) if is_as_noted else _FIRST
        except (OSError, ValueError, KeyError, TypeError):
            return _FIRST

    def _encoded(self, row: Mapping[str, Any]) -> tuple[bytes, int]:
        """A row as a record of the file, and its step."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        # metrics.jsonl has null for numbers that are not finite.
        numbers = {name: math.nan if value is None else value for name, value in row.items() if name != "step"}
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        values += self._picture(row)
        # Time as the training counts it: without evaluation, and without what lies between two starts.
        wall_time = self._wall_time + row.get("seconds", 0.0)
        return _record(Event(wall_time=wall_time, step=row["step"], summary=Summary(value=values))), row["step"]

    def _picture(self, row: Mapping[str, Any]) -> "list[Summary.Value]":
        """The epoch's picture as it is in images/, at the last row of an epoch that has one."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        name = picture_name(self._job.trial, row)
        if name is None:
            return []
        content = self._job.trial.read(name)
        with Image.open(io.BytesIO(content)) as picture:
            width, height = picture.size
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=content)
        return [Summary.Value(tag="images", image=image)]


def _record(event: "Event") -> bytes:
    """An event as the file has it: with its length and its checksums."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    stream = io.BytesIO()
    RecordWriter(stream).write(event.SerializeToString())
    return stream.getvalue()


def _chunks(records: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
    """Records joined into pieces to be appended, each with its last step."""
    chunk, step = bytearray(), _FIRST
    for record, step in records:
        chunk += record
        if len(chunk) >= _CHUNK_BYTES:
            yield bytes(chunk), step
            chunk.clear()
    if chunk:
        yield bytes(chunk), step


def _first_start(trial: Any) -> float:
    """When the trial's first worker began, in seconds since 1970; 0 where that is not recorded."""
    try:
        return float(calendar.timegm(time.strptime(read_starts(trial)[0]["time"], "%Y-%m-%dT%H:%M:%SZ")))
    except (IndexError, KeyError, TypeError, ValueError):
        return 0.0
