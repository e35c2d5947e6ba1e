"""A trial trained again: the same bits are the same, and what was changed is found at its step and in its field."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import yaml

import runner.export
import runner.reproduce
from runner.records.trial_file import record_digest
from runner.storage.run_folder import METRICS_LOG
from runner.storage.storage import Storage
from tests.support.commands import read_metrics, weights_digest
from tests.support.kill_points import SAVE_ALWAYS, KillPoint, tiny_trial, train_tiny
from tests.support.sharing import made_once

Capture = pytest.CaptureFixture[str]
RECORDS = {"generator": "manifest.json", "best": "best.json"}
LAST_STEP = 18  # of the TINY experiment: 6 epochs of 3 steps

# Rungs at epochs 1, 2 and 4 of three cells: two, one and one go on.
HALVED: dict[str, Any] = {
    "sweep": {"lambda_l1": [1, 10, 100], "halving": {"metric": "swd", "first_epochs": 1, "reduction_factor": 2}}
}


@pytest.fixture
def trial(tmp_path: Path, undisturbed: Path) -> Path:
    """A finished trial of its own to each test."""
    shutil.copytree(undisturbed / "results", tmp_path / "results")
    return tiny_trial(tmp_path)


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory, undisturbed: Path) -> Path:
    """The results of a halved sweep; not to be changed."""

    def make(folder: Path) -> None:
        shutil.copytree(undisturbed / "results" / "patches", folder / "results" / "patches")
        ended = train_tiny(folder, changes=HALVED, module="tests.support.inline_sweep")
        assert ended.code == 0, ended.output

    return made_once(tmp_path_factory, "reproduced_sweep", make) / "results"


@pytest.fixture(params=[1, 2], ids=["halted at epoch 1", "halted at epoch 2"])
def halted(request: pytest.FixtureRequest, tmp_path: Path, halved: Path) -> Path:
    """A trial that was halted at a rung, to each test its own."""
    shutil.copytree(halved, tmp_path / "results")
    rows = json.loads((halved / "tiny" / "results.json").read_text())
    (name,) = [row["trial"] for row in rows if row["status"] == "halted" and row["epochs"] == request.param]
    return tmp_path / "results" / "tiny" / "trials" / str(name)


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory, undisturbed: Path) -> Path:
    """The results of a trial that started from another one's weights, whose file is gone; not to be changed."""

    def make(folder: Path) -> None:
        shutil.copytree(undisturbed / "results" / "patches", folder / "results" / "patches")
        path = folder / "file.safetensors"
        assert runner.export.main([str(tiny_trial(undisturbed)), "--format", "safetensors", "--out", str(path)]) == 0
        model = {"channels": 2, "receptive_field": 16, "initial_weights": str(path)}
        ended = train_tiny(folder, "--set", "training.epochs=2", changes={"model": model})
        assert ended.code == 0, ended.output
        path.unlink()

    return made_once(tmp_path_factory, "reproduced_start", make) / "results"


@pytest.fixture
def from_weights(tmp_path: Path, continued: Path) -> Path:
    """Such a trial, to each test its own."""
    shutil.copytree(continued, tmp_path / "results")
    return tiny_trial(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def reproduce(trial: Path, *arguments: object) -> int:
    """The command's exit code; the results must stay as they are."""
    results = trial.parents[2]
    before = contents(results)
    code = runner.reproduce.main([str(trial), *map(str, arguments)])
    assert contents(results) == before
    return code


def change_row(trial: Path, step: int, changes: Mapping[str, Any]) -> None:
    rows = [row | changes if row["step"] == step else row for row in read_metrics(trial)]
    (trial / METRICS_LOG).write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def change_record(trial: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes trial.yaml, and leaves no other trace than what it says."""
    content = yaml.safe_load((trial / "trial.yaml").read_text())
    del content["digest"]
    change(content)
    content["digest"] = record_digest(content)
    (trial / "trial.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def change_weights(trial: Path, kind: str, *, also_record: bool) -> str:
    """Changes one number of the last tensor; its name."""
    path = trial / "weights" / f"{kind}.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    name = sorted(name for name in tensors if tensors[name].is_floating_point())[-1]
    tensors[name].view(-1)[0] += 1
    path.write_bytes(safetensors.torch.save(tensors))
    if also_record:
        manifest = trial / "weights" / RECORDS[kind]
        record = json.loads(manifest.read_text()) | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        manifest.write_text(json.dumps(record))
    return name


@pytest.mark.slow
def test_a_trial_that_was_killed_and_resumed_has_the_bits_of_a_new_training(tmp_path: Path, capsys: Capture) -> None:
    killed = [
        KillPoint("gan.training.loop._take_step", 5),
        KillPoint("runner.records.checkpoints.write_tensors", 7),
        KillPoint("runner.trial.recorder.comparison_png", 2, "after"),
    ]
    for kill_point in killed:
        assert train_tiny(tmp_path, kill_points=[kill_point], settings=SAVE_ALWAYS).code < 0
    assert train_tiny(tmp_path).code == 0
    trial = tiny_trial(tmp_path)
    assert len(Storage.open(trial).read_text("starts.jsonl").splitlines()) == len(killed) + 1

    assert reproduce(trial) == 0
    printed = capsys.readouterr().out
    assert f"the same bits up to step {LAST_STEP}: {LAST_STEP} rows of metrics.jsonl and 3 saved states" in printed
    assert weights_digest(trial) in printed


@pytest.mark.slow
def test_a_trial_that_was_stopped_half_way_is_compared_as_far_as_it_got(
    tmp_path: Path, undisturbed: Path, capsys: Capture
) -> None:
    stop = KillPoint("runner.trial.recorder.summarise", 5 * 8 + 3, "stop")  # in the last evaluation
    assert train_tiny(tmp_path, kill_points=[stop]).code == 75
    trial = tiny_trial(tmp_path)
    assert read_metrics(trial)[-1]["step"] == LAST_STEP - 1
    assert reproduce(trial) == 0
    printed = capsys.readouterr().out
    assert f"{LAST_STEP - 1} rows of metrics.jsonl and 2 saved states" in printed
    assert weights_digest(tiny_trial(undisturbed)) in printed  # the weights that it stands at


def test_a_halted_trial_is_compared_up_to_its_rung(halted: Path, capsys: Capture) -> None:
    last = read_metrics(halted)[-1]["step"]
    assert reproduce(halted) == 0
    printed = capsys.readouterr().out
    assert f"the same bits up to step {last}: {last} rows of metrics.jsonl and 3 saved states" in printed
    assert f"SHA-256 of the generator at step {last}: {weights_digest(halted)}" in printed


@pytest.mark.parametrize("field", ["selection/swd", "val/ssim", "total_gen_loss", "epoch_mean/real_d_loss"])
def test_a_number_of_a_halted_trials_rung_that_was_changed_is_found(halted: Path, capsys: Capture, field: str) -> None:
    row = read_metrics(halted)[-1]
    changed = row[field] * (1 + 2**-50)
    change_row(halted, row["step"], {field: changed})
    assert reproduce(halted) == 1
    expected = f"the first difference is at step {row['step']}, {field}: recorded {changed!r}, now {row[field]!r}"
    assert expected in capsys.readouterr().out


def test_a_weight_of_a_halted_trial_that_was_changed_is_found(halted: Path, capsys: Capture) -> None:
    name = change_weights(halted, "generator", also_record=True)
    assert reproduce(halted) == 1
    step = read_metrics(halted)[-1]["step"]
    assert f"at step {step}, weights/generator.safetensors: {name}: recorded" in capsys.readouterr().out


def test_a_trial_that_started_from_a_file_of_weights_is_trained_from_their_copy(
    from_weights: Path, capsys: Capture
) -> None:
    assert reproduce(from_weights) == 0
    printed = capsys.readouterr().out
    assert "the same bits up to step 6: 6 rows of metrics.jsonl" in printed
    assert f"SHA-256 of the generator at step 6: {weights_digest(from_weights)}" in printed


def test_a_number_that_was_changed_is_found_after_a_start_from_weights(from_weights: Path, capsys: Capture) -> None:
    (was,) = [row["l1_loss"] for row in read_metrics(from_weights) if row["step"] == 1]
    change_row(from_weights, 1, {"l1_loss": was / 2})
    assert reproduce(from_weights) == 1
    assert f"at step 1, l1_loss: recorded {was / 2!r}, now {was!r}" in capsys.readouterr().out


def test_a_weight_that_was_changed_is_found_after_a_start_from_weights(from_weights: Path, capsys: Capture) -> None:
    name = change_weights(from_weights, "generator", also_record=True)
    assert reproduce(from_weights) == 1
    assert f"at step 6, weights/generator.safetensors: {name}: recorded" in capsys.readouterr().out


@pytest.mark.parametrize(("damage", "problem"), [(b"!", "are damaged"), (None, "can't be read (No such file")])
def test_initial_weights_that_are_gone_or_damaged_are_refused(
    from_weights: Path, capsys: Capture, damage: bytes | None, problem: str
) -> None:
    (copy,) = (from_weights.parents[1] / "initial_weights").iterdir()
    if damage is None:
        copy.unlink()
    else:
        copy.write_bytes(copy.read_bytes() + damage)
    assert reproduce(from_weights) == 2
    error = capsys.readouterr().err
    assert problem in error and f"{copy.name}: the initial" in error and "Copy the file" in error


@pytest.mark.parametrize(
    ("step", "field"),
    [
        (5, "fake_d_loss"),
        (12, "epoch_mean/l1_loss"),
        (9, "val/psnr"),
        (18, "final_eval/ssim_high"),
        (18, "best/psnr"),
        (7, "epoch"),
    ],
)
def test_a_number_of_the_log_that_was_changed_is_found(trial: Path, capsys: Capture, step: int, field: str) -> None:
    (was,) = [row[field] for row in read_metrics(trial) if row["step"] == step]
    changed = was + 1 if isinstance(was, int) else was * (1 + 2**-50)
    change_row(trial, step, {field: changed})
    assert reproduce(trial) == 1
    assert f"at step {step}, {field}: recorded {changed!r}, now {was!r}" in capsys.readouterr().out


def test_wall_times_are_not_compared(trial: Path) -> None:
    change_row(trial, 5, {"seconds": 1e6, "images_per_second": 0.5})
    assert reproduce(trial, "--epochs", 2) == 0


def test_the_row_of_an_epochs_end_that_is_gone_is_found(trial: Path, capsys: Capture) -> None:
    lines = (trial / METRICS_LOG).read_text().splitlines(keepends=True)
    (trial / METRICS_LOG).write_text("".join(line for line in lines if json.loads(line)["step"] != 6))
    assert reproduce(trial) == 1
    assert f"at step 6, {METRICS_LOG}: the row of the epoch's end is gone" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "also_record"), [("generator", True), ("generator", False), ("best", True)])
def test_a_weight_that_was_changed_is_found_in_its_tensor(
    trial: Path, capsys: Capture, kind: str, also_record: bool
) -> None:
    step = json.loads((trial / "weights" / RECORDS[kind]).read_text())["step"]
    name = change_weights(trial, kind, also_record=also_record)
    assert reproduce(trial) == 1
    printed = capsys.readouterr().out
    assert f"at step {step}, weights/{kind}.safetensors: {name}: recorded" in printed
    assert "(1 of " in printed


def test_weights_whose_record_has_another_digest_are_found(trial: Path, capsys: Capture) -> None:
    manifest = trial / "weights" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"sha256": "0" * 64}))
    assert reproduce(trial) == 1
    assert "weights/manifest.json: sha256" in capsys.readouterr().out


def test_a_checkpoint_that_was_damaged_is_found(trial: Path, capsys: Capture) -> None:
    path = trial / "checkpoints" / f"step_{LAST_STEP:08d}" / "discriminator.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert reproduce(trial) == 1
    printed = capsys.readouterr().out
    assert f"at step {LAST_STEP}, checkpoints/step_{LAST_STEP:08d}: it can't be compared: discriminator" in printed


def test_a_setting_that_was_changed_shows_in_the_first_loss_that_depends_on_it(trial: Path, capsys: Capture) -> None:
    change_record(trial, lambda content: content["config"]["training"].update(lambda_l1=99.0))
    assert reproduce(trial) == 1
    printed = capsys.readouterr().out
    assert "at step 1, total_gen_loss: recorded" in printed
    assert "before it 0 rows of metrics.jsonl and 0 saved states are the same" in printed
    assert "the settings in trial.yaml are not those that its fingerprint was made of" in printed


def test_another_release_and_another_processor_are_named_beside_the_difference(trial: Path, capsys: Capture) -> None:
    change_row(trial, 2, {"l1_loss": 0.5})
    change_record(trial, lambda content: content["versions"].update(torch="2.11.0"))
    change_record(trial, lambda content: content.update(processor="Another one"))
    assert reproduce(trial) == 1
    printed = capsys.readouterr().out
    assert "at step 2, l1_loss: recorded 0.5" in printed
    assert "torch was 2.11.0, now it is" in printed and "processor was Another one, now it is" in printed


def test_as_many_epochs_are_compared_as_were_asked_for(trial: Path, capsys: Capture) -> None:
    change_row(trial, 7, {"l1_loss": 0.5})
    assert reproduce(trial, "--epochs", 2) == 0
    assert "the same bits up to step 6: 6 rows of metrics.jsonl and 0 saved states" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epochs", 7), "--epochs is 7, but the trial got to epoch 6: give a number from 1 to 6"),
        (("--epochs", 0), "'0' is no number of epochs: give a whole number, 1 or more"),
    ],
)
def test_a_wrong_number_of_epochs_is_refused(
    trial: Path, capsys: Capture, arguments: tuple[object, ...], message: str
) -> None:
    try:
        assert reproduce(trial, *arguments) == 2
    except SystemExit as ended:  # by the parser
        assert ended.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_trial_is_refused(trial: Path, capsys: Capture) -> None:
    experiment = trial.parents[1]
    assert reproduce(experiment) == 2
    error = capsys.readouterr().err
    assert f"TRIAL_DIR is {str(experiment)!r}: it has no readable trial.yaml" in error
    assert "give a trial's folder" in error and len(error.splitlines()) <= 25


@pytest.mark.parametrize("content", [None, "", "config: [", "- 1", "config: {}"])
def test_a_folder_whose_record_is_gone_or_unreadable_is_refused_with_a_remedy(
    trial: Path, capsys: Capture, content: str | None
) -> None:
    if content is None:
        (trial / "trial.yaml").unlink()
    else:
        (trial / "trial.yaml").write_text(content)
    assert reproduce(trial) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"TRIAL_DIR is {str(trial)!r}: it has no readable trial.yaml" in captured.err
    assert "give a trial's folder, STORAGE/EXPERIMENT/trials/TRIAL" in captured.err


def test_a_folder_that_is_not_there_is_refused_and_not_made(trial: Path, capsys: Capture) -> None:
    nowhere = trial.parent / "nowhere"
    assert reproduce(nowhere) == 2
    assert f"TRIAL_DIR is {str(nowhere)!r}: there is no such folder: give a trial's folder" in capsys.readouterr().err
    assert not nowhere.exists()


def test_a_trial_with_nothing_recorded_is_refused(trial: Path, capsys: Capture) -> None:
    for name in (METRICS_LOG, "checkpoints", "weights"):
        Storage.open(trial).remove(name)
    assert reproduce(trial) == 2
    assert "there is nothing to compare" in capsys.readouterr().err


def test_a_trial_of_several_workers_is_refused(trial: Path, capsys: Capture) -> None:
    change_record(trial, lambda content: content["config"]["resources"].update(workers=2))
    assert reproduce(trial) == 2
    error = capsys.readouterr().err
    assert "it was trained with resources.workers 2, but this command trains with one worker" in error
    assert "workers add up their parts of each batch in another order than one worker does" in error
    assert "Run the experiment again under another name" in error


def test_patches_that_are_gone_are_made_again_elsewhere(trial: Path, capsys: Capture) -> None:
    shutil.rmtree(trial.parents[2] / "patches")
    assert reproduce(trial, "--epochs", 1) == 0
    assert "preparing 14 pictures" in capsys.readouterr().out


def test_data_that_has_changed_is_refused(trial: Path, capsys: Capture) -> None:
    shutil.rmtree(trial.parents[2] / "patches")
    change_record(trial, lambda content: content["config"]["data"]["synthetic"].update(seed=4))
    assert reproduce(trial, "--epochs", 1) == 2
    error = capsys.readouterr().err
    assert "data.source is 'synthetic': it is not the data that the trial was trained on" in error
    assert "the patches of then are gone" in error
