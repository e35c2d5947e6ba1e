"""What the plan checks: whatever a run would refuse is refused before anything is written, by --dry-run too."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import runner.drill.__main__
import runner.evaluate
import runner.export
import runner.report.__main__
import runner.train
import runner.translate
import runner.tune
from runner import ConfigError, DataError, load_results, run_experiment
from runner.config.schema import Data
from runner.data.sources import Source
from runner.records.trial_folders import least_epochs
from runner.storage.storage import Storage
from runner.sweep import disk
from tests.support.commands import SMALL, read_metrics, write_experiment
from tests.support.pictures import satellite_and_map

Capture = pytest.CaptureFixture[str]
SHORT: dict[str, Any] = {
    **SMALL,
    "data": {**SMALL["data"], "patching": "resize"},
    "training": {"epochs": 1, "batch_size": 2},
    "tracking": {"wandb": "off"},
}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def write_data(folder: Path, train: int = 6, val: int = 2, size: int = 64) -> Path:
    for split, count in (("train", train), ("val", val)):
        (folder / split).mkdir(parents=True)
        for number in range(count):
            pair = np.concatenate(satellite_and_map(number, size, size), axis=1)
            Image.fromarray(pair).save(folder / split / f"{number}.png")
    return folder


def dry_run(tmp_path: Path, capsys: Capture, *arguments: object, **changes: Any) -> tuple[int, str]:
    path = write_experiment(tmp_path, **changes)
    code = runner.tune.main([str(path), "--dry-run", "--storage", str(tmp_path / "results"), *map(str, arguments)])
    assert not (tmp_path / "results" / "small").exists()
    return code, capsys.readouterr().err


def refused_by_the_run(tmp_path: Path, **changes: Any) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        run_experiment(write_experiment(tmp_path, **changes), storage=tmp_path / "results", in_process=True, quiet=True)
    assert not (tmp_path / "results").exists()
    return str(caught.value)


def test_pictures_smaller_than_a_patch_are_refused_with_the_patch_size_that_fits(
    tmp_path: Path, capsys: Capture
) -> None:
    changes = {"data": {"source": str(write_data(tmp_path / "pairs", size=150)), "patch_size": 256}}
    code, said = dry_run(tmp_path, capsys, **changes)
    assert code == 2
    assert "line 4: data.patch_size is 256, but 8 of 8 pictures have smaller halves, the smallest of 150x150" in said
    assert "use a patch_size of 128 or less, or larger pictures" in said
    assert said.strip() == f"error: {refused_by_the_run(tmp_path, **changes)}"


def test_drawn_pictures_are_smaller_than_the_largest_patch(tmp_path: Path, capsys: Capture) -> None:
    code, said = dry_run(tmp_path, capsys, data={"patch_size": 1024})
    assert code == 2
    assert (
        "3 of 3 pictures have smaller halves, the smallest of 600x600 pixels: use a patch_size of 512 or less" in said
    )


def test_more_bad_files_than_allowed_are_refused_in_the_words_of_the_run(tmp_path: Path, capsys: Capture) -> None:
    pairs = write_data(tmp_path / "pairs")
    (pairs / "train" / "bad.png").write_bytes(b"no picture")
    changes = {"data": {"source": str(pairs), "patch_size": 64}}
    code, said = dry_run(tmp_path, capsys, **changes)
    assert code == 2
    assert "1 of 9 files is bad (11.1 %), more than data.max_bad_fraction allows (5 %)" in said
    assert "train/bad.png: " in said
    assert refused_by_the_run(tmp_path, **changes) in said
    assert dry_run(tmp_path, capsys, "--set", "data.max_bad_fraction=0.2", **changes)[0] == 0


def test_a_store_with_more_bad_files_than_are_allowed_now_is_refused_by_the_plan_too(
    tmp_path: Path, capsys: Capture
) -> None:
    pairs = write_data(tmp_path / "pairs")
    (pairs / "train" / "bad.png").write_bytes(b"no picture")
    values = {**SHORT, "data": {"source": str(pairs), "patch_size": 64, "max_bad_fraction": 0.2}}
    run_experiment(values, storage=tmp_path / "results", in_process=True, quiet=True)
    shutil.rmtree(tmp_path / "results" / "small")
    code, said = dry_run(tmp_path, capsys, data={**values["data"], "max_bad_fraction": 0.05})
    assert code == 2
    assert "1 of 9 files is bad" in said


def test_a_split_without_a_good_picture_is_refused(tmp_path: Path, capsys: Capture) -> None:
    pairs = write_data(tmp_path / "pairs", val=1)
    (pairs / "val" / "0.png").write_bytes(b"no picture")
    code, said = dry_run(tmp_path, capsys, data={"source": str(pairs), "max_bad_fraction": 1.0})
    assert code == 2
    assert "every picture of val/ is bad" in said


def test_fewer_patches_than_workers_are_refused_at_once(tmp_path: Path, capsys: Capture) -> None:
    changes = {
        "data": {"source": str(write_data(tmp_path / "pairs", train=1, val=1)), "patch_size": 64},
        "resources": {"workers": 2, "cpus_per_worker": 1},
    }
    code, said = dry_run(tmp_path, capsys, **changes)
    assert code == 2
    assert "resources.workers is 2, but there is only 1 patch to train on, and each worker needs one" in said
    # The run says it before it starts Ray.
    path = write_experiment(tmp_path, **changes)
    assert runner.tune.main([str(path), "--storage", str(tmp_path / "results")]) == 2
    assert capsys.readouterr().err == said
    assert not (tmp_path / "results").exists()


def test_a_batch_that_is_larger_than_the_data_is_said_by_the_plan_and_by_the_run(
    tmp_path: Path, capsys: Capture
) -> None:
    changes = {**SHORT, "data": {"source": str(write_data(tmp_path / "pairs", train=3)), "patch_size": 64}}
    changes |= {"sweep": {"batch_size": [2, 4, 8]}}
    note = (
        "note: training.batch_size is 4 and 8, but there are only 3 patches to train on: each step takes all of them, "
        "as with a batch_size of 3"
    )
    path = write_experiment(tmp_path, **changes)
    storage = tmp_path / "results"
    assert runner.tune.main([str(path), "--dry-run", "--storage", str(storage)]) == 0
    assert note in " ".join(capsys.readouterr().out.split())
    results = run_experiment(path, storage=storage, in_process=True)
    assert note in " ".join(capsys.readouterr().out.split())
    assert results.equal_losses == [["batch_size=4", "batch_size=8"]]
    # Once the patches are there, too; and not where no batch is too large.
    assert runner.tune.main([str(path), "--dry-run", "--storage", str(storage)]) == 0
    assert note in " ".join(capsys.readouterr().out.split())
    assert runner.tune.main([str(path), "--dry-run", "--storage", str(storage), "--set", "sweep.batch_size=[2,3]"]) == 0
    assert "training.batch_size is" not in capsys.readouterr().out


def test_the_plan_of_a_halved_sweep_says_in_words_what_each_rung_keeps(tmp_path: Path, capsys: Capture) -> None:
    halving = {"metric": "swd", "first_epochs": 1, "reduction_factor": 3}
    data = {**SHORT["data"], "synthetic": {"train": 2, "val": 2}}
    sweep = {"lambda_l1": list(range(1, 10)), "halving": halving}
    changes = {**SHORT, "data": data, "training": {"epochs": 10}, "sweep": sweep}
    path = write_experiment(tmp_path, **changes)
    assert runner.tune.main([str(path), "--dry-run", "--storage", str(tmp_path / "results")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (first,) = [number for number, line in enumerate(lines) if line.startswith("halving:")]
    assert lines[first : first + 4] == [
        "halving: 24 % of the steps of the whole grid",
        "  epoch 1: of 9 cells the best 3 by swd go on",
        "  epoch 3: of 3 cells the best by swd goes on",
        "  epoch 9: the last cell goes on",
    ]


@pytest.mark.parametrize("patchings", [["tiles"], ["tiles", "resize"]])
def test_the_plan_looks_at_the_pictures_once_for_each_patching(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, patchings: list[str]
) -> None:
    looked: list[str] = []
    expect_patches = disk.expect_patches

    def counting(source: Source, data: Data) -> disk.ExpectedPatches:
        looked.append(data.patching)
        return expect_patches(source, data)

    monkeypatch.setattr(disk, "expect_patches", counting)
    monkeypatch.setattr("runner.sweep.dry_run.expect_patches", counting)
    assert dry_run(tmp_path, capsys, sweep={"patching": patchings, "lambda_l1": [1, 10]})[0] == 0
    assert looked == patchings


def run(tmp_path: Path, **changes: Any) -> Any:
    values = {key: {**value} if isinstance(value, dict) else value for key, value in SHORT.items()}
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if key != "sweep" else value
    return run_experiment(values, storage=tmp_path / "results", in_process=True, quiet=True)


def test_fewer_epochs_than_a_trial_has_finished_are_refused_with_both_numbers(tmp_path: Path) -> None:
    run(tmp_path, training={"epochs": 3})
    weights = (tmp_path / "results/small/trials/trial/weights/generator.safetensors").read_bytes()
    with pytest.raises(
        ConfigError, match=r"training\.epochs is 2, but this trial has finished 3 epochs\n.*use 3 epochs"
    ):
        run(tmp_path, training={"epochs": 2})
    assert run(tmp_path, training={"epochs": 3}).is_finished
    assert (tmp_path / "results/small/trials/trial/weights/generator.safetensors").read_bytes() == weights


def test_a_trial_that_stopped_in_an_epoch_can_end_with_it_and_not_before(tmp_path: Path) -> None:
    run(tmp_path, training={"epochs": 3})
    trial = tmp_path / "results/small/trials/trial"
    rows = (trial / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    last = [json.loads(row) for row in rows]
    ends = [i for i, row in enumerate(last) if any(key.startswith("epoch_mean/") for key in row)]
    folder = Storage.open(trial)
    assert least_epochs(folder) == 3

    # In the middle of epoch 3; at the end of epoch 2, with the state in epoch 3; the same, with no checkpoint so far.
    middle = {**last[ends[1]], "step": last[ends[1]]["step"] + 1, "epoch": 3}
    middle = {key: value for key, value in middle.items() if not key.startswith(("epoch_mean/", "val"))}
    (trial / "metrics.jsonl").write_bytes(b"".join(rows[: ends[1] + 1]) + json.dumps(middle).encode() + b"\n")
    assert least_epochs(folder) == 3
    (trial / "metrics.jsonl").write_bytes(b"".join(rows[: ends[1] + 1]))
    assert least_epochs(folder) == 3
    shutil.rmtree(trial / "weights")
    with pytest.raises(ConfigError, match=r"training\.epochs is 2, but this trial is in epoch 3"):
        run(tmp_path, training={"epochs": 2})
    shutil.rmtree(trial / "checkpoints")
    assert least_epochs(folder) == 2

    # Ended there, it is evaluated as every finished trial is.
    assert run(tmp_path, training={"epochs": 2}).is_finished
    assert any(key.startswith("final/") for key in read_metrics(trial)[-1])


def test_a_sweep_over_epochs_leaves_a_trial_that_is_further_to_the_cell_it_belongs_to(tmp_path: Path) -> None:
    run(tmp_path, training={"epochs": 2})
    results = run(tmp_path, sweep={"epochs": [1, 2]})
    assert {trial.name: trial.row["epochs"] for trial in results} == {"epochs=1": 1, "trial": 2}


def test_trials_that_the_sweep_does_not_name_any_more_are_said_and_stay_in_the_results(
    tmp_path: Path, capsys: Capture
) -> None:
    run(tmp_path, sweep={"lambda_l1": [10, 100]})
    results = run(tmp_path, sweep={"lambda_l1": [100, 1000], "batch_size": [2]})
    names = ["lambda_l1=100", "batch_size=2,lambda_l1=1000", "lambda_l1=10"]
    experiment = tmp_path / "results" / "small"

    # In Python, in the files and on the page, with the field that tells them from the others.
    assert [trial.name for trial in results] == names
    assert results["lambda_l1=10"].parameters == {"lambda_l1": 10, "batch_size": 2}
    assert results.is_finished
    rows = list(csv.DictReader((experiment / "results.csv").read_text().splitlines()))
    assert [(row["trial"], row["status"], row["batch_size"]) for row in rows] == [(n, "finished", "2") for n in names]
    assert [row["trial"] for row in json.loads((experiment / "results.json").read_text())] == names
    assert (experiment / "report.html").read_text().count("lambda_l1=10<") > 0
    written = (experiment / "results.csv").read_bytes()
    assert runner.report.__main__.main([str(experiment)]) == 0
    assert (experiment / "results.csv").read_bytes() == written

    # The plan says it, and the exit code is of the sweep alone.
    sweep = {"lambda_l1": [100, 1000], "batch_size": [2]}
    path = write_experiment(tmp_path, **{**SHORT, "sweep": sweep})
    capsys.readouterr()
    assert runner.tune.main([str(path), "--dry-run", "--storage", str(tmp_path / "results")]) == 0
    note = "note: not in the sweep any more, left as before, and shown in the results: 1 trial of an earlier start ("
    assert f"{note}lambda_l1=10)" in capsys.readouterr().out.replace("\n", " ")


def test_a_field_that_was_changed_outside_of_the_sweep_is_shown_with_the_trials_that_are_left(tmp_path: Path) -> None:
    run(tmp_path, sweep={"lambda_l1": [10]})
    run(tmp_path, sweep={"lambda_l1": [20]}, training={"learning_rate": 1e-3})
    left = load_results(tmp_path / "results" / "small")["lambda_l1=10"]
    assert left.parameters == {"lambda_l1": 10, "learning_rate": 2e-4}


def test_a_learning_rate_of_0_and_kept_checkpoints_that_would_go_are_said(tmp_path: Path, capsys: Capture) -> None:
    keep = {"keep_epochs": True, "every_n_epochs": 1}
    run(tmp_path, checkpoint=keep, training={"decay_start_epoch": 1, "decay_end_epoch": 2})
    changes = {**SHORT, "training": {**SHORT["training"], "decay_start_epoch": 1, "decay_end_epoch": 2, "epochs": 3}}
    for checkpoint, is_said in (({"every_n_epochs": 2, "keep_epochs": True}, True), (keep, False)):
        path = write_experiment(tmp_path, **{**changes, "checkpoint": checkpoint})
        assert runner.train.main([str(path), "--dry-run", "--storage", str(tmp_path / "results")]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "training.epochs is 3, but the learning rate is 0 after epoch 2" in said
        assert ("checkpoint.keep_epochs was true with every_n_epochs 1, now it is true with 2" in said) == is_said


def test_other_data_is_refused_with_both_values_of_the_fields_that_give_it(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, data={**SHORT["data"], "synthetic": {"train": 3, "val": 1, "seed": 3}})
    assert "data.synthetic.train was 2, now it is 3" in str(caught.value)


def test_a_tilde_is_the_home_folder_in_every_path_of_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run(tmp_path)
    trial = "~/results/small/trials/trial"
    Image.fromarray(satellite_and_map(1)[1]).save(tmp_path / "map.png")

    shutil.copy(write_experiment(tmp_path, **SHORT), tmp_path / "small.yaml")
    assert runner.train.main(["~/small.yaml", "--in-process", "--storage=~/results"]) == 0
    assert "finished before, not run again: 1 of 1 trials" in capsys.readouterr().out
    assert runner.evaluate.main([trial, "--json=~/evaluation.json", "--csv=~/evaluation.csv"]) == 0
    assert runner.translate.main([trial, "~/map.png", "--out=~/translated"]) == 0
    assert runner.export.main([trial, "--format=safetensors", "--out=~/G.safetensors"]) == 0
    assert runner.report.__main__.main(["~/results/small", "--out=~/page.html"]) == 0
    made = ("evaluation.json", "evaluation.csv", "translated/map.png", "G.safetensors", "page.html")
    assert all((tmp_path / name).is_file() for name in made)
    assert load_results("~/results/small").is_finished
    assert not (tmp_path / "~").exists()

    with pytest.raises(SystemExit):
        runner.train.main(["~/small.yaml", "--storage=~nobody-of-that-name/results"])
    assert "begins with a home folder that is unknown" in capsys.readouterr().err
