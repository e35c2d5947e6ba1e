"""rungs.json of a halved sweep: how cells were ranked at each rung, and which of them went on.

It follows from the logs and outcomes of the trials alone, and says so to whoever asks why a trial was halted.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gan.evaluation.metrics import METRICS
from runner.config.halving import Halving
from runner.errors import StorageError
from runner.records.trial_file import record_digest
from runner.storage.run_folder import RUNGS
from runner.storage.storage import Storage


class TrialValue(NamedTuple):
    """A trial at a rung.

    Attributes:
        value: its metric; None where it has none, or where that is not finite.
        ended: why it has none: diverged or out_of_memory; "" otherwise.
    """

    value: float | None
    ended: str = ""


class RankedCell(NamedTuple):
    """A cell at a rung.

    Attributes:
        trials: its trials under their names.
        mean: over its seeds; None where one of them has no finite value. Such a cell ranks last.
    """

    name: str
    trials: Mapping[str, TrialValue]
    mean: float | None


class Rung(NamedTuple):
    """The decision at a rung.

    Attributes:
        epochs: at whose end the cells were measured.
        cells: the best first.
        num_kept: how many of them go on.
    """

    epochs: int
    cells: Sequence[RankedCell]
    num_kept: int

    @property
    def kept(self) -> Sequence[RankedCell]:
        """The cells that go on."""
        return self.cells[: self.num_kept]

    @property
    def halted(self) -> Sequence[RankedCell]:
        """The cells that do not."""
        return self.cells[self.num_kept :]


def decide_rung(epochs: int, cells: Mapping[str, Mapping[str, TrialValue]], halving: Halving) -> Rung:
    """Ranks the cells of a rung: by the mean over their seeds, then by name; cells without a mean come last.

    Args:
        cells: the trials of each cell, by name.
    """
    (metric,) = (metric for metric in METRICS if metric.key == halving.metric)

    ranked = []
    for name, trials in cells.items():
        values = [trial.value for trial in trials.values() if trial.value is not None and math.isfinite(trial.value)]
        # fsum has one result, in whatever order the seeds stand in the file.
        mean = math.fsum(values) / len(values) if len(values) == len(trials) else None
        ranked.append(RankedCell(name, trials, mean))
    ranked.sort(key=lambda cell: (cell.mean is None, -metric.goodness(cell.mean or 0.0), cell.name))
    return Rung(epochs, ranked, halving.num_kept(len(ranked)))


def encode_rungs(halving: Halving, rungs: Sequence[Rung]) -> bytes:
    """The content of rungs.json."""
    record: dict[str, Any] = {
        **halving._asdict(),
        "rungs": [
            {
                "epochs": rung.epochs,
                "cells": [
                    {
                        "cell": cell.name,
                        "rank": rank,
                        "kept": rank <= rung.num_kept,
                        "mean": cell.mean,
                        "trials": {name: trial._asdict() for name, trial in cell.trials.items()},
                    }
                    for rank, cell in enumerate(rung.cells, start=1)
                ],
            }
            for rung in rungs
        ],
    }
    return json.dumps(record | {"digest": record_digest(record)}, indent=1).encode()


def write_rungs(experiment: Storage, halving: Halving, rungs: Sequence[Rung]) -> None:
    """Writes rungs.json."""
    experiment.write(RUNGS, encode_rungs(halving, rungs))


def read_rungs(experiment: Storage) -> tuple[Halving, list[Rung]] | None:
    """The halving and the rungs that are recorded; None where nothing has been decided yet.

    Raises:
        StorageError: the file is not as it was written.
    """
    try:
        record = json.loads(experiment.read(RUNGS))
        if record.pop("digest") != record_digest(record):
            raise ValueError("its digest is another")
        rungs = [_rung(entry) for entry in record.pop("rungs")]
        return Halving(**record), rungs
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{experiment.shown}/{RUNGS}: it is not as it was written ({type(error).__name__}: {error}). Move it away: "
            "the same decisions follow from the trials' logs, and it is written again."
        ) from None


def _rung(entry: Mapping[str, Any]) -> Rung:
    cells = [
        RankedCell(cell["cell"], {name: TrialValue(**trial) for name, trial in cell["trials"].items()}, cell["mean"])
        for cell in entry["cells"]
    ]
    return Rung(entry["epochs"], cells, sum(cell["kept"] for cell in entry["cells"]))
