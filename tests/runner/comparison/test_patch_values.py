"""evaluation.csv as comparisons read it: whole, of this training, or not at all."""

from pathlib import Path

import numpy as np
import pytest

from gan.data.patches import PatchOrigin
from gan.data.selection import selection_half
from gan.evaluation.evaluate import Scores
from runner.comparison.patch_values import read_patch_values
from runner.errors import DataError
from runner.records.evaluation_csv import csv_of
from runner.storage.storage import Storage

ORIGINS = [PatchOrigin(f"{index // 2}.jpg", 0, 64 * (index % 2)) for index in range(10)]


@pytest.fixture
def scores() -> Scores:
    """Of ten patches of five pictures."""
    values = np.random.default_rng(0).uniform(0, 1, (10, 2)).astype(np.float32).astype(float)
    return Scores(("ssim", "l1"), ORIGINS, {"study": values, "eval": values + 1})


@pytest.fixture
def trial(tmp_path: Path, scores: Scores) -> Storage:
    """A folder with the file."""
    folder = Storage.open(tmp_path)
    folder.write("evaluation.csv", csv_of(scores))
    return folder


def row_of(scores: Scores) -> dict[str, float]:
    """The means as results.csv has them."""
    return dict(zip(scores.metrics, scores.values["study"].mean(axis=0).tolist(), strict=True))


def test_the_values_of_the_studys_mode_are_read_as_they_were_written(trial: Storage, scores: Scores) -> None:
    found = read_patch_values(trial, row_of(scores))
    assert found.pictures == [origin.name for origin in ORIGINS]
    assert [tuple(map(int, origin[1:])) for origin in found.origins] == [origin[1:] for origin in ORIGINS]
    assert all(np.allclose(found.metrics[key], scores.values["study"][:, i]) for i, key in enumerate(scores.metrics))


def test_the_report_half_has_the_pictures_that_nothing_was_chosen_by(trial: Storage, scores: Scores) -> None:
    half = read_patch_values(trial, row_of(scores)).report_half()
    assert set(half.pictures) == {origin.name for origin in ORIGINS} - selection_half(o.name for o in ORIGINS)
    assert len(half.pictures) == len(half.metrics["l1"]) == 4


def test_a_file_that_is_missing_damaged_or_of_another_training_is_refused(trial: Storage, scores: Scores) -> None:
    row = row_of(scores)
    whole = trial.read("evaluation.csv")
    damaged = {
        b"": "is damaged",
        b"\xff\xfe": "can't be read",
        whole.replace(b"mode", b"mood"): "is damaged",
        whole[:-20]: "is damaged",
        b"\0" * 400_000: "is damaged",
        whole.replace(b"0.jpg", b'"0.jpg', 1) + b"x" * 200_000: "is damaged",
        whole.replace(b"study,0.", b"study,zero.", 1): "is damaged",
        whole[: len(whole) // 4].rpartition(b"\n")[0] + b"\n": "at odds",
        whole.replace(b"study,0.", b"study,1.", 1): "its mean of ssim is another",
    }
    for content, problem in damaged.items():
        trial.write("evaluation.csv", content)
        with pytest.raises(DataError, match=problem):
            read_patch_values(trial, row)
    trial.remove("evaluation.csv")
    with pytest.raises(DataError, match=r"evaluation.csv can't be read"):
        read_patch_values(trial, row)


def test_a_metric_whose_mean_is_not_finite_is_not_held_against_the_file(trial: Storage, scores: Scores) -> None:
    scores.values["study"][3, 0] = np.inf
    trial.write("evaluation.csv", csv_of(scores))
    row = {**row_of(scores), "ssim": None}
    assert np.isinf(read_patch_values(trial, row).metrics["ssim"]).any()
