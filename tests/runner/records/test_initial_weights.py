"""Trials that go on from a file of weights: which files are taken, what makes the trial, and when they are needed."""

import hashlib
import io
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import runner.export
import runner.train
import runner.trial.loop
import runner.tune
from gan.training.loop import Event
from gan.training.state import TrainState
from runner.config.fingerprint import fingerprint_trial
from runner.config.loading import load_experiment, plan_trials
from runner.report.command import write_report
from runner.storage.tensor_reader import read_tensors
from tests.support.commands import TINY, assert_same_end, weights_digest, write_experiment
from tests.support.kill_points import KillPoint, Run, tiny_trial, train_tiny

Capture = pytest.CaptureFixture[str]
STILL = 1e-30  # a learning rate that changes no weight
KILLED = -9


@pytest.fixture(scope="module")
def weights(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generator of a TINY trial in both formats; not to be changed."""
    folder = tmp_path_factory.mktemp("weights")
    for form, name in (("safetensors", "generator.safetensors"), ("pytorch-cyclegan", "latest_net_G.pth")):
        assert runner.export.main([str(tiny_trial(undisturbed)), "--format", form, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def starting_from(path: Path, **model: Any) -> dict[str, Any]:
    return {"model": {**TINY["model"], **model, "initial_weights": str(path)}}


def train(folder: Path, path: Path, *options: str, **how: Any) -> Run:
    return train_tiny(folder, *options, changes=starting_from(path), **how)


def check(folder: Path, path: Path, *options: str, **model: Any) -> int:
    """Exit code of the command's checks alone."""
    experiment = write_experiment(folder, **{**TINY, **starting_from(path, **model)})
    storage = folder / "results"
    return runner.train.main([str(experiment), "--in-process", "--dry-run", "--storage", str(storage), *options])


def refused(code: int, capture: Capture, folder: Path) -> str:
    error = capture.readouterr().err
    assert code == 2
    assert error.startswith("error: ") and "Traceback" not in error and len(error.splitlines()) <= 25
    assert "model.initial_weights is " in error
    assert not (folder / "results").exists()
    return error


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(tiny_trial(folder) / "weights" / "generator.safetensors")


def test_a_trial_starts_from_the_files_weights_whichever_format_they_have(weights: Path, tmp_path: Path) -> None:
    digests = []
    for name in ("generator.safetensors", "latest_net_G.pth"):
        (tmp_path / name).mkdir()
        ended = train(
            tmp_path / name, weights / name, "--set", f"training.learning_rate={STILL}", "--set", "training.epochs=1"
        )
        assert ended.code == 0, ended.output
        digests.append(weights_digest(tiny_trial(tmp_path / name)))
    assert digests[0] == digests[1]
    expected = safetensors.torch.load_file(weights / "generator.safetensors")
    for key, tensor in final_weights(tmp_path / "latest_net_G.pth").items():
        is_statistic = "running" in key or "tracked" in key
        assert torch.equal(tensor, expected[key]) != is_statistic, key


def test_statistics_go_on_from_the_files_and_its_digest_is_recorded(weights: Path, tmp_path: Path) -> None:
    path = weights / "latest_net_G.pth"
    ended = train(tmp_path, path, "--set", "training.epochs=1")
    assert ended.code == 0, ended.output
    updates = [int(tensor) for name, tensor in final_weights(tmp_path).items() if name.endswith("tracked")]
    assert updates == [18 + 3] * len(updates)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"initial_weights: {digest}" in (tiny_trial(tmp_path) / "trial.yaml").read_text()
    assert f"starts from the weights {digest[:8]}" in (tiny_trial(tmp_path) / "log.txt").read_text()


def test_a_run_killed_after_its_file_is_gone_ends_with_the_same_bits(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    assert train(tmp_path / "whole", weights / "latest_net_G.pth").code == 0
    path = tmp_path / "file.pth"
    shutil.copy(weights / "latest_net_G.pth", path)
    # Before the first checkpoint the copy is needed, after it not even that.
    assert train(tmp_path, path, kill_points=[KillPoint("runner.records.metrics_log.MetricsLog.add", 2)]).code == KILLED
    assert not list((tiny_trial(tmp_path) / "checkpoints").glob("step_*"))
    path.unlink()
    assert (
        train(tmp_path, path, kill_points=[KillPoint("runner.records.metrics_log.MetricsLog.add", 10)]).code == KILLED
    )
    assert list((tiny_trial(tmp_path) / "checkpoints").glob("step_*"))
    shutil.rmtree(tmp_path / "results" / "tiny" / "initial_weights")
    ended = train(tmp_path, path)
    assert ended.code == 0, ended.output
    assert "is gone: trials go on with what they were begun with" in ended.output
    assert_same_end(tiny_trial(tmp_path), tiny_trial(tmp_path / "whole"))


IN_BF16 = ("--set", "training.precision=bf16", "--set", "training.epochs=4")


def test_in_bf16_the_first_step_is_computed_with_the_files_weights_rounded(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: dict[str, torch.Tensor] = {}
    fit = runner.trial.loop.fit

    def watched_fit(state: TrainState, *args: Any, **kwargs: Any) -> Iterator[Event]:
        assert state.step == 0
        first.update({name: tensor.clone() for name, tensor in state.compute_generator.state_dict().items()})
        return fit(state, *args, **kwargs)

    monkeypatch.setattr(runner.trial.loop, "fit", watched_fit)
    path = weights / "latest_net_G.pth"
    experiment = write_experiment(tmp_path, **{**TINY, **starting_from(path)})
    storage = str(tmp_path / "results")
    assert runner.train.main([str(experiment), "--in-process", "--storage", storage, *IN_BF16]) == 0
    expected = safetensors.torch.load_file(weights / "generator.safetensors")
    assert first.keys() == expected.keys()
    for name, tensor in expected.items():
        is_rounded = ".conv." in name or name.startswith("last.")
        assert torch.equal(first[name], tensor.bfloat16() if is_rounded else tensor), name


def test_in_bf16_a_run_killed_before_and_after_its_first_checkpoint_ends_with_the_same_bits(
    weights: Path, tmp_path: Path
) -> None:
    path = weights / "latest_net_G.pth"
    (tmp_path / "whole").mkdir()
    assert train(tmp_path / "whole", path, *IN_BF16).code == 0
    for call in (2, 10):
        kill_point = KillPoint("runner.records.metrics_log.MetricsLog.add", call)
        assert train(tmp_path, path, *IN_BF16, kill_points=[kill_point]).code == KILLED
    assert list((tiny_trial(tmp_path) / "checkpoints").glob("step_*"))
    ended = train(tmp_path, path, *IN_BF16)
    assert ended.code == 0, ended.output
    assert_same_end(tiny_trial(tmp_path), tiny_trial(tmp_path / "whole"))


def test_a_moved_file_is_the_same_trial_and_other_bytes_are_another(weights: Path, tmp_path: Path) -> None:
    first, moved = tmp_path / "first.safetensors", tmp_path / "moved.safetensors"
    shutil.copy(weights / "generator.safetensors", first)
    assert train(tmp_path, first, "--set", "training.epochs=1").code == 0
    first.rename(moved)
    ended = train(tmp_path, moved, "--set", "training.epochs=1")
    assert ended.code == 0 and "finished before, not run again: 1 of 1" in ended.output, ended.output
    assert write_report([str(tmp_path / "results" / "tiny")], None)
    ended = train(tmp_path, moved, "--set", "training.epochs=2")
    assert ended.code == 0, ended.output
    other = train(tmp_path, weights / "latest_net_G.pth", "--set", "training.epochs=2")
    assert other.code == 2
    was, now = (hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in (moved, weights / "latest_net_G.pth"))
    assert "model.initial_weights was " in other.output and was in other.output and now in other.output
    none = train_tiny(tmp_path)
    assert none.code == 2 and "now it is null" in none.output, none.output


def test_a_file_that_is_gone_before_the_first_step_is_asked_for(weights: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "file.pth"
    assert "it can't be read (No such file" in refused(check(tmp_path, path), capsys, tmp_path)
    shutil.copy(weights / "latest_net_G.pth", path)
    assert train(tmp_path, path, kill_points=[KillPoint("runner.records.metrics_log.MetricsLog.add", 1)]).code == KILLED
    path.unlink()
    (copy,) = (tmp_path / "results" / "tiny" / "initial_weights").iterdir()
    copy.write_bytes(copy.read_bytes()[:-1])
    ended = train(tmp_path, path)
    assert ended.code == 2 and "is gone, and so is its copy" in ended.output
    shutil.copy(weights / "latest_net_G.pth", path)
    ended = train(tmp_path, path, "--set", "training.epochs=1")
    assert ended.code == 0, ended.output
    assert copy.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "first"), [("generator.safetensors", "down.0.conv.weight"), ("latest_net_G.pth", "model.model.0.weight")]
)
def test_weights_of_other_sizes_are_refused_with_the_layer_and_what_they_need(
    weights: Path, tmp_path: Path, capsys: Capture, name: str, first: str
) -> None:
    error = refused(check(tmp_path, weights / name, channels=8), capsys, tmp_path)
    assert f"its layer {first} is 2x3x4x4, not 8x3x4x4" in error
    assert "these weights need model.channels 2 and data.patch_size 64" in error


def test_a_swept_size_that_does_not_fit_is_refused_before_anything_runs(
    weights: Path, tmp_path: Path, capsys: Capture
) -> None:
    experiment = write_experiment(
        tmp_path, **{**TINY, **starting_from(weights / "latest_net_G.pth"), "sweep": {"channels": [2, 4]}}
    )
    code = runner.tune.main([str(experiment), "--dry-run", "--storage", str(tmp_path / "results")])
    assert "not 4x3x4x4 (model.channels 4" in refused(code, capsys, tmp_path)


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


def test_files_that_would_run_code_or_are_damaged_are_refused_unexecuted(
    weights: Path, tmp_path: Path, capsys: Capture
) -> None:
    executed = tmp_path / "executed"
    state = torch.load(weights / "latest_net_G.pth", weights_only=True)
    for name, content in {"plain": Harmful(executed), "among": {**state, "more": Harmful(executed)}}.items():
        torch.save(content, tmp_path / name)
        (tmp_path / f"{name}.pickle").write_bytes(pickle.dumps(content))
    safe, pth = ((weights / name).read_bytes() for name in ("generator.safetensors", "latest_net_G.pth"))
    altered = bytearray(pth)
    altered[len(pth) // 2] ^= 1
    broken = {"altered": bytes(altered), "short": pth[:-100], "torn": safe[:-1], "none": b"", "text": b"weights"}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module")
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert len(files) == 10
    for path in files:
        error = refused(check(tmp_path, path), capsys, tmp_path)
        assert "damaged" in error, path
        assert not executed.exists(), path
    first = next(iter(state))
    others = {
        "whole": {"epoch": 3, "generator": state},
        "empty": {**state, first: state[first].to("meta")},
    }
    for name, content in others.items():
        torch.save(content, tmp_path / name)
        assert "save the generator's state_dict alone" in refused(check(tmp_path, tmp_path / name), capsys, tmp_path)


@pytest.mark.filterwarnings("ignore")  # torch's own, of sparse tensors in files
def test_a_sparse_tensor_is_no_weight() -> None:
    stream = io.BytesIO()
    torch.save({"down.0.conv.weight": torch.eye(3).to_sparse()}, stream)
    with pytest.raises(ValueError, match="something else than named, plain tensors"):
        read_tensors(stream.getvalue())


def test_it_cannot_be_swept(weights: Path, tmp_path: Path, capsys: Capture) -> None:
    experiment = write_experiment(tmp_path, sweep={"initial_weights": [str(weights / "latest_net_G.pth")]})
    assert runner.tune.main([str(experiment), "--dry-run"]) == 2
    assert "give each file an experiment of its own" in capsys.readouterr().err


def test_trials_without_it_are_known_as_they_were_before_there_was_such_a_field(tmp_path: Path) -> None:
    (trial,) = plan_trials(load_experiment(write_experiment(tmp_path)), "")
    assert fingerprint_trial(trial.config, "data").config == "1f2a887fa25c36d5"
