"""A trained generator measured on all validation patches, outside of any training."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import Progress
from rich.table import Table

from gan.data.patches import Patches
from gan.evaluation.evaluate import ALL_METRICS, MODES, Metric, Scores, score
from runner.config.schema import Data
from runner.console import Console, number
from runner.data.patch_store import (
    PatchStore,
    check_bad_fraction,
    find_store,
    first_names,
    prepare_patches,
)
from runner.data.shards import cut_in_this_process
from runner.data.sources import Source, find_source, store_fingerprint, validation_source
from runner.errors import DataError, StorageError
from runner.models.learned_metrics import inception_features, lpips_metric, set_distances
from runner.models.trained import TrainedModel, open_trained_model
from runner.records.evaluation_csv import bootstrap_record, record
from runner.records.metrics_log import only_finite
from runner.storage.folder import Storage
from runner.trial.resources import num_cores
from runner.trial.runtime import RuntimeSettings, set_up_torch

PRECISION = "fp32"
TITLES = {"ssim": "SSIM", "psnr": "PSNR", "l1": "L1", "hp_l1": "HP-L1", "swd": "SWD", "lpips": "LPIPS"}
HIGHER_IS_BETTER = ("ssim", "psnr")


class Request(NamedTuple):
    """What to evaluate, as the command line says it; see runner.evaluate."""

    trial: str
    checkpoint: str = "latest"
    data: str | None = None
    inception_weights: str | None = None
    lpips_weights: str | None = None


class Evaluation(NamedTuple):
    """What came of it; `distances` has FID and KID of each mode, where they were asked for."""

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
    metrics: dict[str, Metric] = dict(ALL_METRICS)
    if request.lpips_weights:
        metrics["lpips"] = lpips_metric(request.lpips_weights, device)
    inception = inception_features(request.inception_weights, device) if request.inception_weights else None
    trained = open_trained_model(request.trial, request.checkpoint)
    # With the trial's threads, where there are as many cores: the last bits are the trial's own then.
    set_up_torch(RuntimeSettings(min(trained.threads, num_cores()), PRECISION, ""), deterministic=True)
    generator = trained.generator.to(device)
    with validation_patches(trained, request.data, console.print) as patches:
        if inception is not None and len(patches) < 2:
            raise DataError("--inception-weights: FID and KID need two validation patches or more")
        console.print(
            f"{trained.trial.name} after {trained.epochs} epochs ({trained.step} steps): "
            f"{len(patches)} validation patches, in {PRECISION} on {describe(device)}"
        )
        with Progress(console=console.rich, transient=True, disable=not console.rich.is_terminal) as progress:
            task = progress.add_task("evaluating", total=len(MODES) * len(patches))
            scores = score(generator, patches, device, lambda: progress.advance(task), metrics)
        distances = set_distances(inception, generator, patches, device) if inception is not None else {}
    return Evaluation(trained, request.data or trained.fingerprints.data, device.type, scores, distances)


def describe(device: torch.device) -> str:
    """The device as a person knows it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "processor cores"


@contextlib.contextmanager
def validation_patches(trained: TrainedModel, data: str | None, notify: Callable[[str], None]) -> Iterator[Patches]:
    """The patches of a directory of pairs, cut as the trial's are, or of the trial's own store."""
    config = trained.config.data
    if data is None:
        store = trial_store(trained, notify)
        yield Patches.open(store.folder.local_path, "val", config.direction)
        return
    with tempfile.TemporaryDirectory(prefix="evaluate-") as folder:
        cut_pairs(data, config, Storage.open(folder), notify)
        yield Patches.open(folder, "val", config.direction)


def cut_pairs(directory: str, config: Data, folder: Storage, notify: Callable[[str], None]) -> None:
    """Cuts a directory's pairs into a folder; what can't be used is named, and too much of it is an error."""
    source = validation_source(Path(directory))
    reports = list(cut_in_this_process(source, config, folder))
    left_out = [entry for report in reports for entry in report.left_out]
    check_bad_fraction(left_out, len(source.pictures), config.model_copy(update={"source": directory}))
    if not any(report.patches for report in reports):
        raise DataError(f"--data is {directory!r}: none of its pictures can be used.\n{first_names(left_out)}")
    if left_out:
        notify(f"left out: {len(left_out)} bad files\n{first_names(left_out)}")


def trial_store(trained: TrainedModel, notify: Callable[[str], None]) -> PatchStore:
    """The verified store that the trial was trained on, made again where it is gone and its source is not."""
    patches, fingerprint, config = trained.stores, trained.fingerprints.data, trained.config.data
    store, problem = find_store(patches, fingerprint)
    if store is not None:
        return store
    source, why_not = matching_source(config, fingerprint)
    if source is None:
        state = f"damaged ({problem})" if problem else "not there"
        raise DataError(
            f"{trained.trial.shown}: its patches, {patches.at(fingerprint).shown}, are {state}, and data.source, "
            f"{config.source!r}, {why_not}. Bring one of them back, or name a folder of pairs with --data DIR."
        )
    try:
        return prepare_patches(config, source, fingerprint, patches, cut_in_this_process, notify)
    except OSError as error:
        raise StorageError(
            f"{patches.shown}: the trial's patches are gone and can't be made again there ({error.strerror}); "
            "name a folder of pairs with --data DIR"
        ) from error


def matching_source(config: Data, fingerprint: str) -> tuple[Source | None, str]:
    """The trial's source where it still gives the patches of that fingerprint, else why there is none."""
    try:
        source = find_source(config)
    except DataError:
        return None, "can't be used from here"
    if store_fingerprint(source, config) != fingerprint:
        return None, "does not hold what it held"
    return source, ""


def results_table(evaluation: Evaluation) -> Table:
    """A row a metric and mode."""
    table = Table(box=None, pad_edge=False)
    for title in ("metric", "better", "mode", "mean", "95 % interval", "min", "max", "std"):
        table.add_column(title, justify="left" if title in ("metric", "better", "mode") else "right", no_wrap=True)
    records = {mode: record(evaluation.scores, mode) for mode in MODES}
    for name in evaluation.scores.metrics:
        for mode in MODES:
            parts = {part: number(value) for part, value in records[mode][name].items()}
            better = "higher" if name in HIGHER_IS_BETTER else "lower"
            interval = f"{parts['low']} to {parts['high']}" if parts["low"] != "nan" else "-"
            extremes = (parts[part] for part in ("min", "max", "std"))
            table.add_row(TITLES.get(name, name), better, mode, parts["mean"], interval, *extremes)
    for name in ("fid", "kid") if evaluation.distances else ():
        for mode in MODES:
            table.add_row(name.upper(), "lower", mode, number(evaluation.distances[mode][name]))
    return table


def json_of(evaluation: Evaluation) -> bytes:
    """All of it but the single patches, without times or machines: the same bytes for the same evaluation."""
    trained, scores = evaluation.trained, evaluation.scores
    content: dict[str, Any] = {
        "trial": trained.trial.name,
        "params": dict(trained.params),
        "epochs": trained.epochs,
        "step": trained.step,
        "data": evaluation.data,
        "device": evaluation.device,
        "precision": PRECISION,
        "patches": len(scores.places),
        "pictures": len({place.name for place in scores.places}),
        "intervals": bootstrap_record(),
        **{mode: {name: only_finite(parts) for name, parts in record(scores, mode).items()} for mode in MODES},
    }
    for mode, distances in evaluation.distances.items():
        content[mode] |= {name: {"mean": value} for name, value in distances.items()}
    return json.dumps(content, indent=1, allow_nan=False).encode() + b"\n"
