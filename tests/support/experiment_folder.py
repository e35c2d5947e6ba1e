"""An experiment's folder as a run leaves it, laid by the writers of a run, without the training."""

import functools
import io
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from gan.evaluation.grids import comparison_png
from gan.training.losses import LOSS_NAMES
from runner.config.fingerprint import fingerprint_trial
from runner.config.loading import plan_trials, to_yaml, validate
from runner.config.schema import Training
from runner.data.synthesis import draw_pair
from runner.records.metrics_log import encode_row
from runner.records.results import TrialResult
from runner.records.starts import record_start
from runner.records.trial_file import write_outcome, write_trial_file
from runner.records.weights import write_weights
from runner.report.reading import read_results
from runner.storage.run_folder import METRICS_LOG, TRIALS
from runner.storage.storage import Storage

Grid = Callable[[Mapping[str, Any], int], bytes]
NUM_PATCHES = 40


@functools.cache
def drawn_tiles(size: int, index: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four tiles of a drawn map and of its satellite picture, (4, size, size, 3) uint8 each."""
    picture = np.asarray(Image.open(io.BytesIO(draw_pair(0, "val", index))))
    origins = [(top, left) for top in (0, size) for left in (0, size)]
    satellite, drawn_map = (
        np.stack([picture[top : top + size, side + left : side + left + size] for top, left in origins])
        for side in (0, 600)
    )
    return drawn_map, satellite


def grid_png(params: Mapping[str, Any], epoch: int, size: int = 64, epochs: int = 6, index: int = 0) -> bytes:
    """A grid whose generated tiles are the target blurred, less at later epochs and larger lambda."""
    drawn_map, satellite = drawn_tiles(size, index)
    blur = 6.0 / (1 + 4 * epoch / epochs * math.log10(10 + params.get("lambda_l1", 1)))
    generated = [np.asarray(Image.fromarray(tile).filter(ImageFilter.GaussianBlur(blur))) for tile in satellite]
    rows = zip(np.stack(generated), drawn_map, satellite, strict=True)
    return comparison_png(tuple(map(as_image, row)) for row in rows)


def as_image(tile: np.ndarray) -> torch.Tensor:
    """(1, 3, S, S) in [-1, 1] of (S, S, 3) uint8."""
    return torch.from_numpy(tile.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def log_rows(training: Training, epochs: int, rows_per_epoch: int, seed: int) -> list[dict[str, Any]]:
    """The log of a made-up training, whose losses come down noisily."""
    random = np.random.default_rng(seed)
    batch_size, lambda_l1 = training.batch_size, training.lambda_l1
    steps = -(-NUM_PATCHES // batch_size)
    rows: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        for part in range(1, rows_per_epoch + 1):
            step = (epoch - 1) * steps + max(part * steps // rows_per_epoch, 1)
            if rows and step <= rows[-1]["step"]:
                continue
            l1 = 0.2 + 0.3 / (1 + epoch / epochs * 5) + 0.03 * random.normal()
            fooled, real = 1 + epoch / epochs + 0.3 * random.normal(), abs(0.5 + 0.2 * random.normal())
            fake = real * 0.8
            generator = {
                "total_gen_loss": fooled + lambda_l1 * l1,
                "fake_d_real_class_loss": fooled,
                "l1_loss": l1,
            }
            discriminator = {"total_disc_loss": real + fake, "real_d_loss": real, "fake_d_loss": fake}
            row = {
                "step": step,
                "epoch": epoch,
                "seconds": round(step * 0.1, 3),
                "images_per_second": 10.0 * batch_size,
            }
            # A loss that is new has a value, too: no test of the page asks which.
            rows.append(row | dict.fromkeys(LOSS_NAMES, fake) | generator | discriminator)
        quality = 0.1 + 0.1 * epoch / epochs + 0.01 * math.log10(1 + lambda_l1) - 0.002 * batch_size
        quality += 0.003 * training.seed
        figures = {"ssim": quality, "psnr": 14 + 10 * quality, "l1": 0.4 - quality, "hp_l1": 0.1 + quality / 10}
        rows[-1] |= {f"epoch_mean/{n}": float(np.mean([r[n] for r in rows[-rows_per_epoch:]])) for n in LOSS_NAMES}
        rows[-1] |= {f"val{mode}/{name}": float(value) for mode in ("", "_eval") for name, value in figures.items()}
    return rows


def write_experiment_folder(
    storage: Path,
    name: str = "sweep",
    *,
    sweep: Mapping[str, Any] | None = None,
    epochs: int = 6,
    rows_per_epoch: int = 4,
    patching: str = "tiles",
    source: str = "synthetic",
    direction: str = "map_to_satellite",
    outcomes: Mapping[str, tuple[str, str]] | None = None,
    grid: Grid = grid_png,
) -> Path:
    """An experiment of finished trials.

    Args:
        outcomes: status and reason of those that are to be otherwise, by name; `waiting` for one that never began.
        grid: the picture of a trial's epoch; equal bytes are written once.
    """
    experiment = Storage.open(storage / name)
    experiment.make_folder()
    values = {
        "name": name,
        "data": {"source": source, "patching": patching, "patch_size": 64, "direction": direction},
        "model": {"channels": 4, "receptive_field": 16},
        "training": {"epochs": epochs},
        "sweep": dict(sweep or {}),
    }
    config = validate(values, "experiment.yaml")
    experiment.write("experiment.yaml", to_yaml(config))
    for seed, trial in enumerate(plan_trials(config, "experiment.yaml")):
        status, reason = (outcomes or {}).get(trial.name, ("finished", ""))
        if status == "waiting":
            continue
        folder = experiment.at(f"{TRIALS}/{trial.name}")
        folder.make_folder("images")
        fingerprints = fingerprint_trial(trial.config, f"data-{patching}")
        runtime = {"threads": 1, "precision": "fp32", "kernels": "plain"}
        write_trial_file(folder, trial.config, fingerprints, trial.params, runtime)
        record_start(folder, 1, "token", 0, 0)
        done = epochs if status == "finished" else epochs // 2
        rows = log_rows(trial.config.training, done, rows_per_epoch, seed)
        folder.write(METRICS_LOG, b"".join(map(encode_row, rows)))
        write_pictures(folder, trial.params, done, grid)
        write_outcome(folder, status, reason)
        if status == "finished":
            write_weights(folder, {"layer": torch.zeros(1)}, epochs, rows[-1]["step"], fingerprints)
    return storage / name


def write_pictures(folder: Storage, params: Mapping[str, Any], epochs: int, grid: Grid) -> None:
    """images/epoch_0001.png and so on; a second name for what has been written already."""
    written: dict[bytes, Path] = {}
    for epoch in range(1, epochs + 1):
        content, name = grid(params, epoch), f"images/epoch_{epoch:04d}.png"
        if content in written:
            os.link(written[content], folder.local_path / name)
        else:
            folder.write(name, content)
            written[content] = folder.local_path / name


def with_intervals(folder: Path, half_width: float = 0.05) -> list[TrialResult]:
    """An experiment's results with an interval around each metric, a share of its value to each side."""
    results = []
    for params, row in read_results(str(folder))[1]:
        metrics = {key: row[key] for key in row if key.removeprefix("eval_") in ("ssim", "psnr", "l1", "hp_l1")}
        known = {key: value for key, value in metrics.items() if value is not None}
        bounds = {f"{key}_low": value * (1 - half_width) for key, value in known.items()}
        bounds |= {f"{key}_high": value * (1 + half_width) for key, value in known.items()}
        results.append(TrialResult(params, {**row, **bounds}))
    return results
