"""The cutting of pictures into patches, with a bar."""

from collections.abc import Iterator

from runner.config.schema import Data
from runner.console import Console
from runner.data.preparation import Cut
from runner.data.shards import ShardReport
from runner.data.sources import Source
from runner.storage.storage import Storage


def with_bar(cut: Cut, console: Console) -> Cut:
    """The same cut, which shows how far it is."""

    def shown(source: Source, data: Data, folder: Storage) -> Iterator[ShardReport]:
        with console.progress("cutting pictures", len(source.pictures)) as bar:
            for report in cut(source, data, folder):
                bar.advance(report.pictures + len(report.left_out))
                yield report

    return shown
