"""Experiments from Python: runs them as the commands do, and reads their results as pyarrow tables."""

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import rich.console

from runner.comparison.equal_losses import equal_losses
from runner.config.loading import ExperimentSource, load_experiment
from runner.console import Console
from runner.errors import DataError, Exit
from runner.on_ray.connection.address import cluster_address
from runner.process.output import lasting_output
from runner.records.metrics_log import read_rows
from runner.records.results import ENDED_WELL, TrialResult
from runner.records.results_files import cell_row
from runner.records.seeds import repeated_cells
from runner.records.trial_file import read_outcome
from runner.report.reading import read_results
from runner.storage.run_folder import IMAGES, image_name, trial_path
from runner.storage.storage import Storage
from runner.sweep.check import Options
from runner.sweep.run import run_experiment as run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from gan.networks.generator import Generator


def run_experiment(
    experiment: ExperimentSource,
    *,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    storage: str | Path = "results",
    cache: str | Path | None = None,
    in_process: bool = False,
    address: str | None = None,
    time_limit_s: float | None = None,
    wait_s: float | None = None,
    take_over: bool = False,
    retry_diverged: bool = False,
    dashboard: bool = True,
    quiet: bool = False,
) -> "Results":
    """Runs the trials of an experiment that are not finished, as `python -m runner.tune` does, and reads the results.

    A trial that fails, diverges or is stopped (by the time limit, by SIGTERM or by a full disk) is a result with that
    status. The same call goes on with the trials that can go on.

    Args:
        experiment: the path or URI of an experiment file, or the mapping that such a file holds.
        overrides: fields to set, as {"training.epochs": 2} or as ["training.epochs=2"].
        storage: the folder below which results go, or the URI of a bucket or of a prefix in it, as a text.
        cache: the folder for local copies of what is in a bucket; by default PIX2PIX_CACHE, else your cache folder.
        in_process: trains one trial after the other in this process, without Ray. Errors in the code are raised.
        address: an existing Ray cluster; by default RAY_ADDRESS, else a new local one, as with "local".
        time_limit_s: stops cleanly before this many seconds have passed.
        wait_s: how long to wait for machines that may still join the cluster; by default a quarter of an hour where it
            has an autoscaler, or no machine with cores yet.
        take_over, retry_diverged, dashboard: as the options of the command.
        quiet: prints nothing.

    Raises:
        ConfigError, DataError, StorageError, ResourceError: something is wrong with the experiment, the data, the
            storage or the machine; nothing was run. All are UserErrors, whose texts say what to do.
        KeyboardInterrupt: after Ctrl-C, once all work is saved.
    """
    source = _plain(experiment) if isinstance(experiment, Mapping) else experiment
    # JSON is YAML, which is what `--set` takes.
    if isinstance(overrides, Mapping):
        overrides = [f"{key}={json.dumps(_plain(value))}" for key, value in overrides.items()]

    options = Options(
        overrides=tuple(overrides),
        storage=str(storage),
        cache=None if cache is None else str(cache),
        address=None if in_process else cluster_address(address),
        time_limit_s=time_limit_s,
        wait_s=wait_s,
        take_over=take_over,
        retry_diverged=retry_diverged,
        dashboard=dashboard,
        in_process=in_process,
    )
    # The results lie in a folder of this name, which an override may have set.
    name = load_experiment(source, options.overrides).name

    with lasting_output(), contextlib.ExitStack() as stack:
        # A notebook has torch settings of its own, which the training would change.
        if in_process:
            from runner.trial.runtime import torch_settings_kept

            stack.enter_context(torch_settings_kept())
        code = run(source, options, Console(rich.console.Console(quiet=True)) if quiet else Console())

    if code == Exit.INTERRUPTED:
        raise KeyboardInterrupt("interrupted; the same call goes on from the last checkpoint")
    return load_results(Storage.open(storage, options.cache).at(name).root, cache=cache)


def load_results(folder: str | Path, *, cache: str | Path | None = None) -> "Results":
    """Reads the results of an experiment, STORAGE/EXPERIMENT, whether it is finished or not.

    Args:
        folder: the experiment's folder, or its URI as a text.
        cache: as `run_experiment` takes it.

    Raises:
        DataError: it is not an experiment's folder.
        ConfigError: the files in it are not those of a run.
        StorageError: the URI is none, or its bucket can't be read.
    """
    experiment, results = read_results(str(folder), None if cache is None else str(cache))
    trials = []
    for params, row in results:
        trial = experiment.at(trial_path(row["trial"]))
        trials.append(TrialResults(trial.root, trial, params, row))
    return Results(experiment.root, experiment, trials)


@dataclass(frozen=True)
class _Located:
    """What lies in a folder, or in a bucket.

    Attributes:
        location: the folder's absolute path, or the URI.
    """

    location: str
    _storage: Storage = field(repr=False)

    @functools.cached_property
    def folder(self) -> Path:
        """The folder; of a bucket a copy of all of its files on this machine, made when this is asked for first.

        Raises:
            OSError: the bucket can't be read, or the disk has no room.
        """
        return self._storage.local_copy()


@dataclass(frozen=True)
class TrialResults(_Located):
    """A trial's folder, its swept parameters and its row of results.csv."""

    parameters: Mapping[str, Any]
    row: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """The name of the trial and of its folder: `batch_size=4,lambda_l1=100`."""
        return self._storage.name

    @property
    def status(self) -> str:
        """finished, halted, early_stopped, stopped, failed, diverged or out_of_memory; running or waiting while a
        command is at work."""
        return str(self.row["status"])

    @property
    def in_sweep(self) -> bool:
        """False for a trial of an earlier start that the experiment's file does not name any more."""
        return bool(self.row["in_sweep"])

    @property
    def reason(self) -> str:
        """Why its last run ended; empty for a trial that has finished."""
        return read_outcome(self._storage)["reason"]

    @property
    def metrics(self) -> pa.Table:
        """The present rows of metrics.jsonl, null where a row does not have a column."""
        return _as_table(read_rows(self._storage))

    @property
    def images(self) -> dict[int, Path]:
        """The pictures by their epoch: PNGs with a row source | target | generated for each tile.

        Of a bucket they are copies on this machine, of which those that are missing are fetched.
        """
        from runner.report.charts.pictures import picture_epochs

        epochs = picture_epochs(self._storage)
        folder = self._storage.local_copy(IMAGES) if epochs else Path()
        return {epoch: folder / Path(image_name(epoch)).name for epoch in epochs}

    def translate(
        self,
        image: "NDArray[np.uint8] | Image.Image | str | os.PathLike[str]",
        *,
        mode: str = "eval",
        overlap: int | None = None,
    ) -> "NDArray[np.uint8]":
        """Translates a picture of any size, with the same bits as `python -m runner.translate`.

        Args:
            image: (H, W, 3) uint8, or a Pillow picture of any mode, or the path of a JPEG, PNG, TIFF or WebP
                file. Pillow's pictures and files are turned upright.
            mode, overlap: as in gan.evaluation.translate.Tiling.

        Returns:
            The fake target, (H, W, 3) uint8.

        Raises:
            DataError: the trial has no weights yet (they are read at the first call, and kept), or the file can't be
                read.
            ValueError: an array or Pillow's picture has another shape or type or can't be read, the overlap is out of
                range, or the mode is unknown.
        """
        from PIL import Image

        from gan.data.pictures import load_pixels, rgb_pixels
        from gan.evaluation.translate import Tiling, translate
        from runner.models.translation import set_up_translation
        from runner.trial.runtime import torch_settings_kept

        if isinstance(image, str | os.PathLike):
            image = _read_picture_file(Path(image))
        elif isinstance(image, Image.Image):
            load_pixels(image)
            image = rgb_pixels(image.copy())  # a copy, because it turns the picture upright in place
        with torch_settings_kept():
            set_up_translation(self._generator)
            return translate(self._generator, image, Tiling(mode, overlap))

    @functools.cached_property
    def _generator(self) -> "Generator":
        from runner.models.trained import read_trained_model
        from runner.models.translation import translating_generator

        return translating_generator(read_trained_model(self._storage, self.location))


@dataclass(frozen=True)
class Results(_Located):
    """An experiment's trials, in the order of its sweep."""

    trials: Sequence[TrialResults]

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._storage.name

    @property
    def is_finished(self) -> bool:
        """True where no trial of the sweep is to be trained any further: all are finished, halted or early_stopped."""
        return all(trial.status in ENDED_WELL for trial in self.trials if trial.in_sweep)

    @property
    def table(self) -> pa.Table:
        """results.csv: a row for each trial."""
        return _as_table([trial.row for trial in self.trials])

    @property
    def over_seeds(self) -> pa.Table:
        """over_seeds.csv: a row for each cell of the sweep, means and spreads over its seeds; empty without seeds."""
        cells = repeated_cells([TrialResult(trial.parameters, trial.row) for trial in self.trials])
        return _as_table(list(map(cell_row, cells)))

    @property
    def equal_losses(self) -> list[list[str]]:
        """Names of trials that have ended with losses equal to the bit: what is swept between them has no effect."""
        return equal_losses((trial.name, trial._storage, trial.status) for trial in self.trials)

    def __len__(self) -> int:
        return len(self.trials)

    def __iter__(self) -> Iterator[TrialResults]:
        return iter(self.trials)

    def __getitem__(self, trial: str | int) -> TrialResults:
        """A trial by its name or its index."""
        if isinstance(trial, int):
            return self.trials[trial]
        by_name = {found.name: found for found in self.trials}
        if trial not in by_name:
            raise KeyError(f"{self.name} has no trial {trial!r}; it has {', '.join(by_name)}")
        return by_name[trial]


def _read_picture_file(path: Path) -> "NDArray[np.uint8]":
    """The pixels of a file; raises DataError where it can't be read."""
    from gan.data.pictures import PictureError
    from runner.models.translation import read_picture

    try:
        return read_picture(path)
    except (OSError, PictureError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: {problem}: give the path of a JPEG, PNG, TIFF or WebP file") from error


def _as_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A table with the columns of all rows. A column without any value is of floats."""
    # Rows differ: evaluations come at the ends of epochs only.
    names = list(dict.fromkeys(name for row in rows for name in row))
    arrays = [pa.array([row.get(name) for row in rows]) for name in names]
    return pa.table([a.cast(pa.float64()) if pa.types.is_null(a.type) else a for a in arrays], names=names)


def _plain(value: Any) -> Any:
    """The value as YAML would give it: in dicts and lists, paths as texts, numpy's values as Python's."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return list(map(_plain, value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if hasattr(value, "tolist") else value
