"""The command's work: results and page of experiments that stand in folders."""

from collections.abc import Sequence
from pathlib import Path

from runner.errors import DataError, StorageError
from runner.records.results_files import write_results
from runner.report.reading import read_results
from runner.report.writer import Report
from runner.storage.folder import Storage
from runner.storage.run_folder import REPORT


def write_report(folders: Sequence[str], out: str | None) -> list[str]:
    """Writes the page, and for a single experiment its results.csv and results.json; what to tell the person.

    Raises:
        UserError: a folder is no experiment's, or the page can't be written.
    """
    places = [Path(folder).resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise DataError(f"{folder} is given twice: give each experiment once")
    experiments, results = zip(*(read_results(folder) for folder in folders), strict=True)
    page = Report(experiments).render(results)
    file = Path(out) if out else Path(REPORT) if len(folders) > 1 else experiments[0].local_path / REPORT
    if file.is_dir() or not file.parent.is_dir():
        problem = "is a folder" if file.is_dir() else "lies in no folder that exists"
        raise StorageError(f"--out: {file} {problem}: give a file's name, such as comparison.html")
    said = []
    try:
        if len(folders) == 1:
            write_results(experiments[0], results[0])
            said.append(f"{experiments[0].shown}/results.csv and results.json")
        Storage.open(file.parent).write(file.name, page)
    except OSError as error:
        raise StorageError(f"{file} can't be written ({error.strerror or error}): give another with --out") from error
    num_trials = sum(map(len, results))
    said.append(f"{file}: {num_trials} trial{'s' if num_trials != 1 else ''}, {len(page) / 1e6:.1f} MB")
    return said
