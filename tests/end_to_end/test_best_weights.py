"""The best weights, and trials that end by their patience: the same after any history of kills."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from gan.data.selection import selection_half
from runner.errors import DataError, Exit
from runner.models.trained import open_trained_model
from runner.records.weights import Choice
from tests.support.commands import assert_same_end, read_metrics, read_starts
from tests.support.kill_points import KillPoint, Run, tiny_trial, train_tiny
from tests.support.sharing import made_once

VALUES = "val_selection/l1"
# An L1 that is best at epoch 3: found by looking.
CHOSEN: dict[str, Any] = {
    "training": {"epochs": 6, "batch_size": 4, "precision": "fp32", "learning_rate": 5e-2},
    "evaluation": {"select": "l1", "num_patches": 2},
}
PATIENT = CHOSEN | {
    "evaluation": {"select": "l1", "num_patches": 2, "patience": 2},
    "training": CHOSEN["training"] | {"epochs": 12},
}


def train(folder: Path, *kill_points: KillPoint, **changes: Any) -> Run:
    return train_tiny(folder, changes=CHOSEN | changes, kill_points=kill_points)


def best_of(folder: Path) -> tuple[dict[str, Any], bytes]:
    weights = tiny_trial(folder) / "weights"
    return json.loads((weights / "best.json").read_text()), (weights / "best.safetensors").read_bytes()


def row_of(folder: Path) -> dict[str, Any]:
    (row,) = json.loads((folder / "results/tiny/results.json").read_text())
    return dict(row)


@pytest.fixture
def folder(tmp_path: Path, undisturbed: Path) -> Path:
    shutil.copytree(undisturbed / "results" / "patches", tmp_path / "results" / "patches")
    return tmp_path


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trial that nothing happened to, whose best epoch is not the last."""

    def make(folder: Path) -> None:
        ended = train(folder)
        assert ended.code == 0, ended.output

    return made_once(tmp_path_factory, "chosen", make)


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trial that its patience has ended."""

    def make(folder: Path) -> None:
        ended = train(folder, **PATIENT)
        assert ended.code == 0, ended.output

    return made_once(tmp_path_factory, "patient", make)


@pytest.mark.slow
def test_the_weights_of_the_epoch_with_the_best_value_are_kept(chosen: Path, folder: Path) -> None:
    values = {row["epoch"]: row[VALUES] for row in read_metrics(tiny_trial(chosen)) if VALUES in row}
    best = min(values, key=lambda epoch: values[epoch])
    assert 1 < best < 6, "the trial must get worse in the end"
    record, content = best_of(chosen)
    assert (record["epoch"], record["metric"], record["value"]) == (best, "l1", values[best])

    # As a trial of so many epochs leaves them.
    shorter = CHOSEN["training"] | {"epochs": best}
    assert train(folder, training=shorter).code == 0
    assert content == (tiny_trial(folder) / "weights/generator.safetensors").read_bytes()
    assert sorted(path.name for path in (tiny_trial(chosen) / "weights").iterdir()) == [
        "best.json", "best.safetensors", "generator.safetensors", "manifest.json",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_results_have_the_best_epoch_with_its_metrics_on_the_report_half(chosen: Path, folder: Path) -> None:
    row = row_of(chosen)
    best = row["best_epoch"]
    assert best == best_of(chosen)[0]["epoch"]
    shorter = CHOSEN["training"] | {"epochs": best}
    assert train(folder, training=shorter).code == 0
    # evaluation.csv of the trial that ends at this epoch has the value of each picture.
    lines = [line.split(",") for line in (tiny_trial(folder) / "evaluation.csv").read_text().splitlines()]
    header, study = lines[0], [line for line in lines[1:] if line[3] == "study"]
    report = {line[0] for line in study} - selection_half(line[0] for line in study)
    for metric in ("ssim", "l1", "swd"):
        values = [float(line[header.index(metric)]) for line in study if line[0] in report]
        assert row[f"best_{metric}"] == pytest.approx(np.mean(values), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kill_points",
    [
        pytest.param([KillPoint("runner.trial.recorder.write_interim", 2)], id="before they are written"),
        pytest.param([KillPoint("runner.trial.recorder.write_interim", 2, "after")], id="before their checkpoint"),
        pytest.param([KillPoint("runner.trial.async_checkpointer.remove_interim", 4)], id="before older ones go"),
        pytest.param([KillPoint("runner.trial.recorder.write_best", 1)], id="before the end"),
        pytest.param([KillPoint("runner.trial.recorder.write_best", 1, "after")], id="before the last weights"),
        pytest.param([KillPoint("runner.trial.loop.write_weights", 1)], id="before the trial is finished"),
        pytest.param([KillPoint("gan.training.loop._take_step", n) for n in (8, 5, 5, 2)], id="again and again"),
    ],
)
def test_killed_anywhere_the_best_weights_are_the_same(
    folder: Path, chosen: Path, kill_points: list[KillPoint]
) -> None:
    for kill_point in kill_points:
        assert train(folder, kill_point).code == -signal.SIGKILL
    ended = train(folder)
    assert ended.code == 0, ended.output
    assert best_of(folder) == best_of(chosen)
    assert_same_end(tiny_trial(folder), tiny_trial(chosen))


@pytest.mark.slow
def test_best_opens_their_generator_of_an_ended_and_of_a_stopped_trial(chosen: Path, folder: Path) -> None:
    trained = open_trained_model(tiny_trial(chosen), "best")
    record, content = best_of(chosen)
    assert (trained.epochs, trained.step) == (record["epoch"], record["step"])
    stored = safetensors.numpy.load(content)
    assert all((trained.generator.state_dict()[name].numpy() == stored[name]).all() for name in stored)

    assert train(folder, KillPoint("gan.training.loop._take_step", 17, "stop")).code == Exit.STOPPED
    assert open_trained_model(tiny_trial(folder), "best").epochs == record["epoch"]


@pytest.mark.slow
def test_a_trial_that_gets_no_better_ends_early_and_is_not_run_again(patient: Path, folder: Path) -> None:
    best = best_of(patient)[0]["epoch"]
    row = row_of(patient)
    assert (row["status"], row["epochs"], row["best_epoch"]) == ("early_stopped", best + 2, best)
    assert row["ssim_low"] is not None
    outcome = json.loads((tiny_trial(patient) / "outcome.json").read_text())
    assert outcome["reason"] == f"no better l1 in 2 evaluations since epoch {best}"

    shutil.copytree(patient / "results/tiny", folder / "results/tiny")
    again = train(folder, **PATIENT)
    assert again.code == 0, again.output
    assert len(read_starts(tiny_trial(folder))) == 1
    assert row_of(folder)["status"] == "early_stopped"


@pytest.mark.slow
@pytest.mark.parametrize(
    "kill_point",
    [
        pytest.param(KillPoint("runner.trial.loop.write_weights", 1), id="before its weights are written"),
        pytest.param(KillPoint("runner.trial.loop.record_outcome", 1), id="before its end is recorded"),
        pytest.param(KillPoint("runner.trial.recorder.csv_of", 1), id="in its last evaluation"),
    ],
)
def test_killed_at_its_end_it_ends_at_the_same_epoch(folder: Path, patient: Path, kill_point: KillPoint) -> None:
    assert train(folder, kill_point, **PATIENT).code == -signal.SIGKILL
    ended = train(folder, **PATIENT)
    assert ended.code == 0, ended.output
    assert row_of(folder)["status"] == "early_stopped"
    assert best_of(folder) == best_of(patient)
    assert_same_end(tiny_trial(folder), tiny_trial(patient))


@pytest.mark.slow
def test_with_more_patience_it_goes_on_to_the_bits_of_a_trial_that_always_had_it(
    folder: Path, patient: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shutil.copytree(patient / "results/tiny", folder / "results/tiny")
    none = {"evaluation": CHOSEN["evaluation"], "training": PATIENT["training"]}
    ended = train(folder, **none)
    assert ended.code == 0, ended.output
    assert row_of(folder)["status"] == "finished"
    assert not any(start["fault"] for start in read_starts(tiny_trial(folder)))

    fresh = tmp_path_factory.mktemp("always")
    shutil.copytree(folder / "results/patches", fresh / "results/patches")
    assert train(fresh, **none).code == 0
    weights = "weights/generator.safetensors"
    assert (tiny_trial(folder) / weights).read_bytes() == (tiny_trial(fresh) / weights).read_bytes()
    assert best_of(folder) == best_of(fresh)


@pytest.mark.slow
def test_with_one_validation_picture_none_are_kept_and_what_was_asked_for_is_refused(tmp_path: Path) -> None:
    one = {"patch_size": 64, "patching": "resize", "synthetic": {"train": 12, "val": 1, "seed": 3}}
    refused = train(tmp_path, data=one)
    assert refused.code == Exit.BAD_INPUT, refused.output
    assert "evaluation.select: one half of the validation pictures chooses and the other half reports" in refused.output
    assert not (tmp_path / "results").exists()

    ended = train_tiny(tmp_path, changes={"data": one})
    assert ended.code == 0, ended.output
    assert "one validation picture: no best weights are kept" in ended.output
    assert not (tiny_trial(tmp_path) / "weights/best.safetensors").exists()
    with pytest.raises(DataError, match=r"has no best weights: .* use `latest`"):
        open_trained_model(tiny_trial(tmp_path), "best")


def test_on_noise_what_is_reported_of_the_best_epoch_is_no_better_than_that_of_any() -> None:
    """All epochs are equally good. What chose the best one flatters it; the other half does not."""
    rng = np.random.default_rng(0)
    names = [f"{number}.jpg" for number in range(20)]
    chosen = selection_half(names)
    selects = np.array([name in chosen for name in names])

    flattered, reported = [], []
    for _ in range(2000):
        values = rng.normal(size=(30, len(names)))  # epochs, pictures
        choice = Choice()
        for epoch, value in enumerate(values[:, selects].mean(axis=1), start=1):
            choice = choice.after(epoch, float(value), "ssim")
        flattered.append(values[choice.epoch - 1, selects].mean())
        reported.append(values[choice.epoch - 1, ~selects].mean())
    standard_error = np.sqrt(1 / 10 / 2000)
    assert abs(np.mean(reported)) < 4 * standard_error
    assert np.mean(flattered) > 50 * standard_error


def test_of_equal_evaluations_the_first_is_the_best_and_one_that_is_not_finite_is_none() -> None:
    choice = Choice()
    for epoch, value in enumerate([None, 0.5, 0.4, 0.4, 0.6, None], start=1):
        choice = choice.after(epoch, value, "l1")
    assert choice == Choice(3, 0.4, 3)
