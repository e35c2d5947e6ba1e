"""results.csv and results.json, and over_seeds.csv where trials differ in their seed alone."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from runner.records.metrics_log import only_finite
from runner.records.results import TrialResult
from runner.records.seeds import RepeatedCell, repeated_cells
from runner.storage.run_folder import OVER_SEEDS, RESULTS_CSV, RESULTS_JSON
from runner.storage.storage import Storage


def write_results(experiment: Storage, results: Sequence[TrialResult]) -> None:
    """Writes the results of an experiment's trials into its folder."""
    rows = [result.row for result in results]
    experiment.write(RESULTS_CSV, _csv_of(rows))
    rows_as_json = json.dumps([only_finite(row) for row in rows], indent=1, allow_nan=False)
    experiment.write(RESULTS_JSON, rows_as_json.encode())

    if cells := repeated_cells(results):
        experiment.write(OVER_SEEDS, _csv_of(list(map(cell_row, cells))))
    else:
        # An earlier run may have had several seeds.
        experiment.remove(OVER_SEEDS)


def cell_row(cell: RepeatedCell) -> dict[str, Any]:
    """A cell's parameters, name, number of seeds, and each metric's mean, standard deviation and extremes."""
    metrics = {f"{key}_{part}": value for key, found in cell.metrics.items() for part, value in found._asdict().items()}
    return {**cell.params, "cell": cell.name, "seeds": cell.num_seeds, "seeds_counted": cell.num_counted, **metrics}


def _csv_of(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The rows, under the columns that any of them has; None and a missing value leave their field empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
