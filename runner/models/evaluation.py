"""A trained generator measured on all validation patches, outside of any training."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gan.data.patches import Patches
from gan.evaluation.evaluate import METRIC_FUNCTIONS, MetricFunction, Scores, score
from gan.evaluation.metrics import METRICS, MODES, Metric
from runner.config.schema import Data
from runner.console import Console
from runner.data.changes import changes_since
from runner.data.checking.plausibility import check_plausible
from runner.data.patch_store import (
    PatchStore,
    check_bad_fraction,
    describe_bad_files,
    find_store,
    first_bad_files,
    local_patches,
)
from runner.data.preparation import prepare_patches
from runner.data.shards import cut_in_this_process
from runner.data.sources import Source, find_source, store_fingerprint, validation_source
from runner.errors import DataError, StorageError
from runner.models.learned_metrics import FID, KID, LPIPS, inception_features, lpips_metric, set_distances
from runner.models.trained import TrainedModel, open_trained_model
from runner.number_format import counted, significant_or_dash
from runner.process.processes import num_cores
from runner.records.evaluation_csv import bootstrap_record, record
from runner.records.metrics_log import only_finite
from runner.screen.cutting import with_bar
from runner.screen.fitting_table import FittingTable
from runner.storage.storage import Storage
from runner.trial.runtime import RuntimeSettings, set_up_torch

_METRICS_BY_KEY = {metric.key: metric for metric in (*METRICS, LPIPS)}
_PRECISION = "fp32"  # of any trial, so that trials of different precisions can be compared


class Request(NamedTuple):
    """The options of the command; see runner.evaluate."""

    trial: str
    checkpoint: str = "latest"
    data: str | None = None
    inception_weights: str | None = None
    lpips_weights: str | None = None


class Evaluation(NamedTuple):
    """The scores of a trained generator.

    Attributes:
        data: the folder of pairs that was given, or else the fingerprint of the trial's own patches.
        device: cpu or cuda.
        distances: FID and KID in each mode; empty where they were not asked for.
    """

    trained: TrainedModel
    data: str
    device: str
    scores: Scores
    distances: Mapping[str, Mapping[str, float]]


def evaluate_trial(request: Request, console: Console) -> Evaluation:
    """Measures the trial's generator.

    Raises:
        DataError: the trial, its weights, its patches or a file of weights can't be used.
        StorageError: patches must be made again, and can't be.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # Files that can't be used are refused before the minutes of work.
    metrics: dict[str, MetricFunction] = dict(METRIC_FUNCTIONS)
    if request.lpips_weights:
        metrics[LPIPS.key] = lpips_metric(request.lpips_weights, device)
    inception = inception_features(request.inception_weights, device) if request.inception_weights else None
    trained = open_trained_model(request.trial, request.checkpoint)

    # With the trial's number of threads, where there are as many cores, the last bits are those of its own evaluation.
    set_up_torch(RuntimeSettings(min(trained.threads, num_cores()), _PRECISION, ""), deterministic=True)
    generator = trained.generator.to(device)

    with _validation_patches(trained, request.data, console) as patches:
        # FID needs a covariance and KID compares pairs of pictures: a single patch gives neither.
        if inception is not None and len(patches) < 2:
            raise DataError("--inception-weights: FID and KID need two validation patches or more")
        num_patches = counted(len(patches), "validation patch", "validation patches")
        console.print(
            f"{trained.trial.name} after {counted(trained.epochs, 'epoch')} ({counted(trained.step, 'step')}): "
            f"{num_patches}, in {_PRECISION} on {_device_name(device)}"
        )
        num_steps = len(MODES) * len(patches)
        with console.progress("evaluating", num_steps) as bar:
            scores = score(generator, patches, device, bar.advance, metrics)
        distances: Mapping[str, Mapping[str, float]] = {}
        if inception is not None:
            with console.progress("features for FID and KID", num_steps) as bar:
                distances = set_distances(inception, generator, patches, device, bar.advance)
    return Evaluation(trained, request.data or trained.fingerprints.data, device.type, scores, distances)


def results_table(evaluation: Evaluation) -> FittingTable:
    """One row for each metric and mode."""
    # `drop`: on a narrow screen these columns are left out, the least important first.
    columns = ("metric", "better", "mode", "mean", "95 % interval", "min", "max", "std")
    table = FittingTable(columns, left=("metric", "better", "mode"), drop=("std", "max", "min", "better"))

    records = {mode: record(evaluation.scores, mode) for mode in MODES}
    for metric in (_METRICS_BY_KEY[key] for key in evaluation.scores.metrics):
        for mode in MODES:
            parts = {part: significant_or_dash(value) for part, value in records[mode][metric.key].items()}
            # The interval of a single picture is unknown.
            interval = f"{parts['low']} to {parts['high']}" if parts["low"] != "nan" else "-"
            extremes = (parts[part] for part in ("min", "max", "std"))
            table.add_row(metric.title, _direction(metric), mode, parts["mean"], interval, *extremes)

    # A distance of two sets of pictures is one number, without an interval.
    for metric in (FID, KID) if evaluation.distances else ():
        for mode in MODES:
            value = significant_or_dash(evaluation.distances[mode][metric.key])
            table.add_row(metric.title, _direction(metric), mode, value)
    return table


def json_of(evaluation: Evaluation) -> bytes:
    """Everything except the values of single patches.

    Has no times and no names of machines, so that the same evaluation gives the same bytes.
    """
    trained, scores = evaluation.trained, evaluation.scores
    content: dict[str, Any] = {
        "trial": trained.trial.name,
        "params": dict(trained.params),
        "epochs": trained.epochs,
        "step": trained.step,
        "data": evaluation.data,
        "device": evaluation.device,
        "precision": _PRECISION,
        "patches": len(scores.origins),
        "pictures": len({origin.name for origin in scores.origins}),
        "intervals": bootstrap_record(),
        # NaN and infinity become null, because JSON has neither.
        **{mode: {name: only_finite(parts) for name, parts in record(scores, mode).items()} for mode in MODES},
    }

    # A distance has no interval and no extremes, so its record has a mean only.
    for mode, distances in evaluation.distances.items():
        content[mode] |= {name: {"mean": value} for name, value in distances.items()}
    return json.dumps(content, indent=1, allow_nan=False).encode() + b"\n"


def _direction(metric: Metric) -> str:
    return "higher" if metric.higher_is_better else "lower"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "processor cores"


@contextlib.contextmanager
def _validation_patches(trained: TrainedModel, data: str | None, console: Console) -> Iterator[Patches]:
    """The patches of a directory of pairs, cut as the trial's are, or those of the trial's own store."""
    config = trained.config.data
    if data is None:
        store = _trial_store(trained, console)
        yield Patches.open(local_patches(store.folder), "val", config.direction)
        return

    # The folder stays until the caller's block ends: its patches are mapped into memory and read on demand.
    with tempfile.TemporaryDirectory(prefix="evaluate-") as folder:
        _cut_pairs(data, config, Storage.open(folder), console)
        yield Patches.open(folder, "val", config.direction)


def _cut_pairs(directory: str, config: Data, folder: Storage, console: Console) -> None:
    """Cuts a directory's pairs into a folder, and names the files that can't be used.

    Raises:
        DataError: too many files can't be used, or all of them.
    """
    source = validation_source(Path(directory))
    for note in check_plausible(source, f"--data is {directory!r}"):
        console.print(f"note: {note}")
    reports = list(with_bar(cut_in_this_process, console)(source, config, folder))
    left_out = [entry for report in reports for entry in report.left_out]
    # The error names data.source: here that is the folder of --data, not the trial's own source.
    check_bad_fraction(left_out, len(source.pictures), config.model_copy(update={"source": directory}))
    if not any(report.patches for report in reports):
        raise DataError(f"--data is {directory!r}: none of its pictures can be used.\n{first_bad_files(left_out)}")
    if left_out:
        console.print(describe_bad_files(left_out))


def _trial_store(trained: TrainedModel, console: Console) -> PatchStore:
    """The verified store that the trial was trained on; it is made again where it is gone or damaged.

    Raises:
        DataError: it can't be made again, because the source is gone or has changed.
        StorageError: it can't be written.
    """
    stores, fingerprint, config = trained.stores, trained.fingerprints.data, trained.config.data
    store, problem = find_store(stores, fingerprint)
    if store is not None:
        return store

    # Only a source with the same content is used: other patches would give other scores.
    source, why_not = _matching_source(config, stores.at(fingerprint), fingerprint)
    if source is None:
        state = f"damaged ({problem})" if problem else "not there"
        raise DataError(
            f"{trained.trial.shown}: its patches, {stores.at(fingerprint).shown}, are {state}, and data.source, "
            f"{config.source!r}, {why_not}. Bring one of them back, or name a folder of pairs with --data DIR."
        )

    try:
        return prepare_patches(
            config, source, fingerprint, stores, with_bar(cut_in_this_process, console), console.print
        )
    except OSError as error:
        raise StorageError(
            f"{stores.shown}: the trial's patches are gone and can't be made again there ({error.strerror}); "
            "name a folder of pairs with --data DIR"
        ) from error


def _matching_source(config: Data, store: Storage, fingerprint: str) -> tuple[Source | None, str]:
    """The trial's source if it still gives the patches of that store, or else the reason why not."""
    try:
        source = find_source(config)
    except DataError:
        return None, "can't be used from here"
    # The fingerprint reads every file of the source, so a single changed picture is noticed.
    if store_fingerprint(source, config) != fingerprint:
        changes = changes_since(source, config, store, fingerprint)
        if changes != []:
            return None, f"has changed since the training{f' ({changes[0]})' if changes else ''}"
    return source, ""
