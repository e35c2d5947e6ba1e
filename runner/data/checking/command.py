"""The work of `python -m runner.data check`: examines a data set, prints a table, writes JSON and a contact sheet."""

import json
import sys
from pathlib import Path

import rich.box
import rich.console
import rich.table
from rich.progress import Progress

from runner.config.schema import Data
from runner.console import Console
from runner.data.checking.findings import Report, describe_bytes, describe_size, examine, patch_size_note
from runner.data.checking.sheet import draw_sheet
from runner.data.sources import describe_passed_over, find_source
from runner.errors import DataError, Exit, StorageError
from runner.storage.folder import why_no_file, write_file

_FILES_SHOWN = 5


def check_data(directory: str, json_file: str | None, sheet_file: str | None) -> Exit:
    """Examines all pictures of a directory.

    Returns:
        FINISHED, or TRIAL_FAILED where something needs attention.

    Raises:
        DataError: the directory has no layout that is known, or no pictures.
        StorageError: a file can't be written.
    """
    for file in filter(None, (json_file, sheet_file)):
        if problem := why_no_file(Path(file)):
            raise StorageError(f"{file} {problem}: give a file's name")

    if directory == "synthetic":
        raise DataError("synthetic is no directory: drawn pictures need no check")
    source = find_source(Data(source=directory))
    with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task("reading", total=len(source.pictures))
        report = examine(source, lambda: progress.advance(task))

    console = Console()
    _print_report(report, directory, console)
    if json_file:
        write_file(json_file, json.dumps(report.content(directory), indent=1).encode() + b"\n")
        console.print(f"wrote {json_file}")
    if sheet_file:
        write_file(sheet_file, draw_sheet(report))
        console.print(f"wrote {sheet_file}")
    return Exit.TRIAL_FAILED if report.findings else Exit.FINISHED


def _print_report(report: Report, directory: str, console: Console) -> None:
    console.print(f"{directory}: {report.source.description}")
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for title in ("split", "pictures", "usable", "size", "pixels of A and B together"):
        table.add_column(title, justify="left" if title in ("split", "pixels of A and B together") else "right")
    for row in report.rows():
        table.add_row(row["split"], str(row["pictures"]), str(row["usable"]), describe_bytes(row), describe_size(row))
    console.rich.print(table)

    if report.source.passed_over:
        console.print(describe_passed_over(report.source))
    if note := patch_size_note(report):
        console.print(note)
    for finding in report.findings:
        console.print(f"{finding.kind}: {finding.text}")
        for name, note in list(finding.files.items())[:_FILES_SHOWN]:
            console.print(f"  {name}{': ' if note else ''}{note}")
        if len(finding.files) > _FILES_SHOWN:
            console.print(f"  and {len(finding.files) - _FILES_SHOWN} more (--json FILE has all)")
    if not report.findings:
        console.print("nothing needs attention")
