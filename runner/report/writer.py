"""A page that is written again and again at little cost: what was read or cut once is kept."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from runner.comparison.patch_values import PatchValues, read_patch_values
from runner.errors import DataError
from runner.records.metrics_log import MetricsReader
from runner.records.results import TrialResult
from runner.records.trial_file import read_trial_file
from runner.report.charts.curves import COLUMNS
from runner.report.charts.pictures import PictureCache
from runner.report.details import find_origin
from runner.report.figures import choose
from runner.report.page import render
from runner.report.reading import in_full, page_trial, read_drawn
from runner.report.rungs import VALIDATION_COLUMNS, read_bracket
from runner.report.seeds import over_seeds
from runner.report.trials import PageTrial
from runner.report.verdict.compared import MAX_CELLS
from runner.storage.storage import Storage


class Report:
    """The page of some experiments, as often as it is asked for."""

    def __init__(self, experiments: Sequence[Storage]) -> None:
        self._experiments = experiments
        self._drawn = {name: found for experiment in experiments for name, found in read_drawn(experiment).items()}
        # Reading logs and cutting pictures takes most of the time, and both only grow while an experiment runs.
        self._pictures = PictureCache()
        self._logs: dict[str, _CurveLog] = {}
        # What does not change any more: of trials that have begun, and of those that are done.
        self._data: dict[str, str] = {}
        self._values: dict[str, PatchValues | None] = {}

    def render(self, results: Sequence[Sequence[TrialResult]], written_at: datetime | None = None) -> bytes:
        """The page for the experiments' results, in the order of the experiments.

        Args:
            written_at: the time that the page says, with its time zone; None for now. Pages of the same files at the
                same time are the same to the byte.
        """
        names = _distinct_names(self._experiments)
        trials = [
            page_trial(experiment, result, name if len(names) > 1 else "")
            for experiment, name, results_of_one in zip(self._experiments, names, results, strict=True)
            for result in results_of_one
        ]
        trials = [replace(trial, data=self._data_of(trial)) for trial in trials]

        # Of many trials only some are shown in full: no more logs are read and kept, however many trials there are.
        chosen = choose(trials)
        # The key is the path: two experiments may have trials of the same name.
        folders = {trial.folder.root: trial.folder for trial in chosen}
        self._logs = {path: self._logs.get(path) or _CurveLog(folder) for path, folder in folders.items()}
        full = {id(trial): in_full(trial, self._logs[trial.folder.root].rows()) for trial in chosen}
        trials = [full.get(id(trial), trial) for trial in trials]

        brackets = [found for experiment in self._experiments if (found := read_bracket(experiment)) is not None]
        logs = {trial.folder.root: trial.log for trial in full.values()}
        values = self._patch_values(trials)
        in_order = list(full.values())
        origins = [
            find_origin(experiment, name, in_order) for experiment, name in zip(self._experiments, names, strict=True)
        ]

        written_at = written_at or datetime.now().astimezone()
        return render(
            names,
            trials,
            in_order,
            self._drawn,
            self._pictures,
            brackets,
            logs,
            values,
            origins=origins,
            written_at=written_at,
            command=self._command(),
        )

    def _command(self) -> str:
        """The command that writes the page again. A page may lie anywhere: the path of a folder says little in it."""
        is_in_bucket = all(experiment.is_remote for experiment in self._experiments)
        places = [shlex.quote(experiment.root) for experiment in self._experiments] if is_in_bucket else []
        return " ".join(["python -m runner.report", *places])

    def _data_of(self, trial: PageTrial) -> str:
        """What a trial was validated on: its data's fingerprint and the direction; empty before it has begun."""
        path = trial.folder.root
        if path not in self._data and (record := read_trial_file(trial.folder)) is not None:
            self._data[path] = f"{record['data_fingerprint']} {record['config']['data']['direction']}"
        return self._data.get(path, "")

    def _patch_values(self, trials: Sequence[PageTrial]) -> dict[str, PatchValues]:
        """The values of each patch of the trials that are compared, under their folders' paths."""
        # Nothing is compared before all are done. Seeds are compared by their means, but for those of a halved sweep.
        is_halved = any(trial.status == "halted" for trial in trials)
        done = [trial for trial in trials if trial.is_done and trial.in_sweep]
        is_by_pictures = len(over_seeds(done)) == len(done) <= MAX_CELLS
        if not (is_halved or is_by_pictures) or any(trial.may_win for trial in trials):
            return {}

        for trial in done:
            if trial.folder.root not in self._values:
                self._values[trial.folder.root] = _sound_values(trial)
        return {path: found for path, found in self._values.items() if found is not None}


def _sound_values(trial: PageTrial) -> PatchValues | None:
    """The values of each patch; None where the trial has no sound file of them."""
    try:
        return read_patch_values(trial.folder, trial.row)
    except DataError:
        return None


class _CurveLog:
    """The columns of a trial's log that the page needs; each row is read once."""

    def __init__(self, trial: Storage) -> None:
        self._reader = MetricsReader(trial)
        self._rows: list[dict[str, Any]] = []

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """All rows so far."""
        self._rows += [
            {key: row[key] for key in (*COLUMNS, *VALIDATION_COLUMNS) if key in row} for row in self._reader.new_rows()
        ]
        return self._rows


def _distinct_names(experiments: Sequence[Storage]) -> list[str]:
    """The experiments' names, each with as many folders of its path before it as make all of them different."""
    paths = [experiment.root.split("/") for experiment in experiments]
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names
