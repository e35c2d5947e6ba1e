"""Experiments from Python: the same as by the commands, with results for exit codes."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import runner.translate
from runner import ConfigError, DataError, load_results, run_experiment
from tests.support.commands import ROOT, TINY, read_metrics, read_starts, weights_digest
from tests.support.experiment_folder import write_experiment_folder
from tests.support.pictures import TRANSPOSED, as_stored

QUICK = {
    **TINY,
    "training": {**TINY["training"], "epochs": 1},
    "data": {**TINY["data"], "synthetic": {"train": 2, "val": 1}},
}


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("torch", "ray", "numpy", "pyarrow", "pydantic", "yaml", "rich", "wandb")
    code = f"import sys, runner; runner.ConfigError; print([name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_name_that_the_package_has_not_got_is_an_attribute_error() -> None:
    import runner

    with pytest.raises(AttributeError, match="module 'runner' has no attribute 'run_experiments'"):
        runner.run_experiments  # noqa: B018


def test_a_random_search_that_grows_runs_only_what_is_new(tmp_path: Path) -> None:
    experiment = {**QUICK, "sweep": {"lambda_l1": {"log_uniform": (10, np.float64(1000))}, "samples": 1}}
    first = run_experiment(experiment, storage=tmp_path, in_process=True, quiet=True)
    (before,) = first
    assert first.is_finished
    digest = weights_digest(before.folder)
    grown = run_experiment(
        experiment, overrides={"sweep.samples": 2, "sweep.seeds": 2}, storage=tmp_path, in_process=True, quiet=True
    )
    assert [trial.status for trial in grown] == ["finished"] * 4
    assert grown[0].folder == before.folder  # which has the name from before there were seeds
    assert grown[0].parameters == {**before.parameters, "seed": 0}
    assert (weights_digest(before.folder), len(read_starts(before.folder))) == (digest, 1)
    assert len({weights_digest(trial.folder) for trial in grown}) == 4
    assert grown.over_seeds.column("seeds").to_pylist() == [2, 2]
    assert (tmp_path / "tiny" / "over_seeds.csv").exists()


def test_a_single_trial_has_its_log_as_a_table_and_its_pictures(tmp_path: Path) -> None:
    results = run_experiment(QUICK, storage=tmp_path, in_process=True, quiet=True)
    (trial,) = results
    assert (len(results), trial.name, trial.parameters, trial.reason) == (1, "trial", {}, "")
    rows = read_metrics(trial.folder)
    assert trial.metrics.column("l1_loss").to_pylist() == [row["l1_loss"] for row in rows]
    assert trial.metrics.schema.field("step").type == pa.int64()
    assert np.asarray(Image.open(trial.images[1])).ndim == 3
    assert results.table.column("ssim").to_pylist() == [trial.row["ssim"]]


def test_torch_is_left_as_it_was(tmp_path: Path) -> None:
    torch.set_num_threads(3)
    torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        run_experiment(QUICK, storage=tmp_path, in_process=True, quiet=True)
        assert torch.get_num_threads() == 3
        assert torch.get_deterministic_debug_mode() == 1
        assert torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.set_deterministic_debug_mode("default")


def test_the_screen_shows_what_the_command_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_experiment(QUICK, storage=tmp_path, in_process=True)
    assert "results: " in capsys.readouterr().out
    run_experiment(QUICK, storage=tmp_path, in_process=True, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_saves_first_and_is_then_raised(tmp_path: Path) -> None:
    trial = tmp_path / "tiny" / "trials" / "trial"
    handler = signal.getsignal(signal.SIGINT)

    def interrupt() -> None:
        while not read_metrics(trial):
            if over.wait(0.05):  # a poll
                return
        os.kill(os.getpid(), signal.SIGINT)

    over = threading.Event()
    threading.Thread(target=interrupt, daemon=True).start()
    experiment = {**QUICK, "training": {**QUICK["training"], "epochs": 5000}}
    try:
        with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
            run_experiment(experiment, storage=tmp_path, in_process=True, quiet=True)
    finally:
        over.set()
    (stopped,) = load_results(tmp_path / "tiny")
    assert (stopped.status, stopped.reason) == ("stopped", "Ctrl-C")
    assert list((trial / "checkpoints").glob("step_*"))
    assert signal.getsignal(signal.SIGINT) is handler


def test_bad_input_is_raised_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^the experiment: training\.batch_size is 0: it must be 1 or more"):
        run_experiment({**TINY, "training": {"batch_size": 0}}, storage=tmp_path / "results")
    with pytest.raises(ConfigError, match=r"^--set training\.epochs: write it as KEY=VALUE"):
        run_experiment(TINY, overrides=["training.epochs"], storage=tmp_path / "results")
    with pytest.raises(DataError, match=r"data\.source is 'no/such/place'"):
        run_experiment({**TINY, "data": {"source": Path("no/such/place")}}, storage=tmp_path / "results")
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        load_results(tmp_path / "nowhere")
    assert not (tmp_path / "results").exists()


def test_results_are_read_as_they_stand(tmp_path: Path) -> None:
    outcomes = {"batch_size=2": ("diverged", "the losses at step 7 are not finite"), "batch_size=8": ("waiting", "")}
    results = load_results(write_experiment_folder(tmp_path, sweep={"batch_size": [2, 4, 8]}, outcomes=outcomes))
    assert results.name == "sweep"
    assert [trial.status for trial in results] == ["diverged", "finished", "stopped"]
    assert results["batch_size=2"].reason == "the losses at step 7 are not finite"
    assert not results.is_finished
    assert results.table.column("swd").null_count == 3
    assert results.table.schema.field("swd").type == pa.float64()
    assert results["batch_size=8"].metrics.num_rows == 0
    assert results["batch_size=8"].images == {}
    assert results.over_seeds.num_rows == 0
    with pytest.raises(KeyError, match="sweep has no trial 'batch_size=3'; it has batch_size=2, batch_size=4"):
        results["batch_size=3"]


def test_a_trial_translates_pictures_with_the_bits_of_the_command(tmp_path: Path) -> None:
    (trial,) = run_experiment(QUICK, storage=tmp_path, in_process=True, quiet=True)
    image = np.random.default_rng(0).integers(0, 256, (70, 101, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "source.png")
    torch.set_num_threads(1)
    fake = trial.translate(image)
    assert (fake.shape, fake.dtype) == (image.shape, np.uint8)
    assert torch.get_num_threads() == 1
    assert runner.translate.main([str(trial.folder), str(tmp_path / "source.png"), "--out", str(tmp_path / "out")]) == 0
    assert np.array_equal(fake, np.asarray(Image.open(tmp_path / "out" / "source.png")))
    for form, orientation in itertools.product(("PNG", "TIFF"), TRANSPOSED):
        picture, exif = as_stored(Image.fromarray(image).convert("RGBA"), orientation)
        picture.save(tmp_path / "lying", form, exif=exif)
        assert np.array_equal(trial.translate(tmp_path / "lying"), fake)
        with Image.open(tmp_path / "lying") as opened:
            before = opened.mode, opened.size
            assert np.array_equal(trial.translate(opened), fake), (form, orientation)
            assert (opened.mode, opened.size) == before
    assert not np.array_equal(trial.translate(image, mode="study"), fake)
    with pytest.raises(ValueError, match="must be uint8"):
        trial.translate(image[..., 0])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text.png: it is not a JPEG, PNG, TIFF or WebP picture"):
        trial.translate(str(tmp_path / "text.png"))
    for path, problem in ((tmp_path / "gone.png", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(DataError, match=f"{path}: {problem}: give the path of a JPEG"):
            trial.translate(path)


def test_a_trial_without_weights_translates_nothing(tmp_path: Path) -> None:
    trial = load_results(write_experiment_folder(tmp_path, epochs=1, outcomes={"trial": ("stopped", "")}))[0]
    with pytest.raises(DataError, match="no weights and no checkpoint"):
        trial.translate(np.zeros((64, 64, 3), np.uint8))
