"""The work of `python -m runner.report`: results and page of experiments, from their folders."""

from collections.abc import Sequence
from pathlib import Path

from runner.errors import DataError, StorageError
from runner.number_format import byte_size, counted
from runner.records.results_files import write_results
from runner.report.reading import read_results
from runner.report.writer import Report
from runner.storage.folder import why_no_file
from runner.storage.run_folder import REPORT, RESULTS_CSV, RESULTS_JSON
from runner.storage.storage import Storage


def write_report(folders: Sequence[str], out: str | None) -> list[str]:
    """Writes the page, and for a single experiment its results.csv and results.json; returns lines for the screen.

    Raises:
        UserError: a folder is no experiment's, or the page can't be written.
    """
    # One folder can be written in two ways.
    places = [_place(folder) for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise DataError(f"{folder} is given twice: give each experiment once")
    experiments, results = zip(*(read_results(folder) for folder in folders), strict=True)
    page = Report(experiments).render(results)

    target, name = experiments[0], REPORT
    shown = f"{target.root}/{REPORT}"
    if out or len(folders) > 1:
        file = Path(out or REPORT)
        # Checked before anything is written.
        if problem := why_no_file(file):
            raise StorageError(f"--out: {file} {problem}: give a file's name, such as comparison.html")
        target, name, shown = Storage.open(file.parent), file.name, str(file)

    lines = []
    try:
        # The results of several experiments are in their own folders already.
        if len(folders) == 1:
            write_results(experiments[0], results[0])
            lines.append(f"{experiments[0].shown}/{RESULTS_CSV} and {RESULTS_JSON}")
        target.write(name, page)
    except OSError as error:
        raise StorageError(f"{shown} can't be written ({error.strerror or error}): give another with --out") from error
    lines.append(f"{shown}: {counted(sum(map(len, results)), 'trial')}, {byte_size(len(page))}")
    return lines


def _place(folder: str) -> str:
    """A folder's or a bucket's one name: without links, and without a slash at its end."""
    storage = Storage.open(folder)
    return storage.root if storage.is_remote else str(Path(storage.root).resolve())
