"""Evaluation of a trained trial: the command, and what stands at a trial's end."""

import csv
import hashlib
import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torchvision

import runner.evaluate
from gan.evaluation.metrics import METRICS
from runner.data.sources import picture_name
from runner.data.synthesis import draw_pair
from runner.errors import DataError
from runner.models.learned_metrics import BACKBONES, feature_distances, lpips_network, missing_extra, read_weights
from tests.support.commands import TINY, read_metrics, run
from tests.support.kill_points import tiny_trial

Capture = pytest.CaptureFixture[str]
NAMES = [metric.key for metric in METRICS]


@pytest.fixture
def trial(tmp_path: Path, undisturbed: Path) -> Path:
    """A finished trial of its own to each test."""
    shutil.copytree(undisturbed / "results", tmp_path / "results")
    return tiny_trial(tmp_path)


def evaluate(trial: Path, *arguments: object) -> int:
    return runner.evaluate.main([str(trial), *map(str, arguments)])


def refused(code: int, capture: Capture) -> str:
    error = capture.readouterr().err
    assert code == 2
    assert error.startswith("error: ") and "Traceback" not in error and len(error.splitlines()) <= 25
    return error


def test_a_trial_ends_with_all_metrics_of_all_patches_and_their_intervals(undisturbed: Path) -> None:
    trial = tiny_trial(undisturbed)
    *earlier, last = read_metrics(trial)
    # Before the end it is measured of the half of the sample that the best weights are chosen by.
    assert {key for row in earlier for key in row if "swd" in key} == {"val_selection/swd"}
    (result,) = json.loads((undisturbed / "results" / "tiny" / "results.json").read_text())
    with open(trial / "evaluation.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["picture"], row["row"], row["column"], row["mode"]) for row in rows] == [
        (picture_name(index), "0", "0", mode) for mode in ("study", "eval") for index in range(2)
    ]
    for mode, prefix, column in (("study", "final/", ""), ("eval", "final_eval/", "eval_")):
        for name in NAMES:
            values = [float(row[name]) for row in rows if row["mode"] == mode]
            assert last[prefix + name] == pytest.approx(sum(values) / 2)
            assert last[f"{prefix}{name}_low"] == pytest.approx(min(values))  # of two pictures
            assert last[f"{prefix}{name}_high"] == pytest.approx(max(values))
            for part in ("", "_low", "_high"):
                assert result[f"{column}{name}{part}"] == last[f"{prefix}{name}{part}"]


def test_the_command_finds_what_the_trial_found_and_writes_the_same_bytes_twice(trial: Path, capsys: Capture) -> None:
    written = []
    for folder in (trial / "first", trial / "second"):
        folder.mkdir()
        assert evaluate(trial, "--json", folder / "e.json", "--csv", folder / "e.csv") == 0
        written.append([(folder / name).read_bytes() for name in ("e.json", "e.csv")])
    assert written[0] == written[1]
    assert written[0][1] == (trial / "evaluation.csv").read_bytes()
    content, last = json.loads(written[0][0]), read_metrics(trial)[-1]
    assert (content["epochs"], content["patches"], content["pictures"]) == (6, 2, 2)
    for mode, prefix in (("study", "final/"), ("eval", "final_eval/")):
        for name in NAMES:
            assert content[mode][name]["mean"] == last[prefix + name]
            assert content[mode][name]["high"] == last[f"{prefix}{name}_high"]
    output = capsys.readouterr().out
    assert "95 % interval" in output and "Spectrum" in output


def test_an_earlier_checkpoint_is_measured_where_it_is_asked_for(trial: Path, capsys: Capture, tmp_path: Path) -> None:
    error = refused(evaluate(trial, "--checkpoint", 3), capsys)
    assert "epochs with one: 6 (checkpoint.keep_epochs keeps more)" in error
    shutil.rmtree(trial / "weights")
    assert evaluate(trial, "--checkpoint", 6, "--csv", tmp_path / "e.csv") == 0
    assert (tmp_path / "e.csv").read_bytes() == (trial / "evaluation.csv").read_bytes()


@pytest.mark.parametrize("place", ["val", "."])
def test_a_directory_of_the_same_pairs_gives_the_same_values(trial: Path, tmp_path: Path, place: str) -> None:
    pairs = tmp_path / "pairs" / place
    pairs.mkdir(parents=True)
    for index in range(2):
        (pairs / picture_name(index)).write_bytes(draw_pair(3, "val", index))
    shutil.rmtree(tmp_path / "results" / "patches")
    assert evaluate(trial, "--data", tmp_path / "pairs", "--csv", tmp_path / "e.csv") == 0
    assert (tmp_path / "e.csv").read_bytes() == (trial / "evaluation.csv").read_bytes()
    assert not (tmp_path / "results" / "patches").exists()


def test_real_pairs_can_be_measured_too(trial: Path, maps: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    for path in sorted((maps / "val").iterdir())[:2]:
        shutil.copy(path, pairs)
    assert evaluate(trial, "--data", pairs, "--json", tmp_path / "e.json") == 0
    content = json.loads((tmp_path / "e.json").read_text())
    assert content["pictures"] == 2 and content["study"]["swd"]["mean"] > 0.1


def test_a_directory_that_holds_no_pairs_is_refused(trial: Path, capsys: Capture, tmp_path: Path) -> None:
    assert "no such directory" in refused(evaluate(trial, "--data", tmp_path / "no"), capsys)
    (tmp_path / "half" / "train").mkdir(parents=True)
    assert "train/ but no val/" in refused(evaluate(trial, "--data", tmp_path / "half"), capsys)
    (tmp_path / "text").mkdir()
    assert "holds no pictures" in refused(evaluate(trial, "--data", tmp_path / "text"), capsys)
    (tmp_path / "text" / "a.jpg").write_text("no picture")
    assert "1 of 1 files is bad" in refused(evaluate(trial, "--data", tmp_path / "text"), capsys)


def test_lost_patches_are_made_again_from_the_source(trial: Path, capsys: Capture, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "results" / "patches")
    assert evaluate(trial, "--csv", tmp_path / "e.csv") == 0
    assert "preparing 14 pictures" in capsys.readouterr().out
    assert (tmp_path / "e.csv").read_bytes() == (trial / "evaluation.csv").read_bytes()


def test_without_patches_and_source_it_says_what_to_do(trial: Path, capsys: Capture, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "a" / "trials" / "trial"
    shutil.copytree(trial, moved)
    yaml = (moved / "trial.yaml").read_text()
    assert f"seed: {TINY['data']['synthetic']['seed']}" in yaml
    from runner.records.trial_file import read_trial_file, record_digest
    from runner.storage.storage import Storage

    content = read_trial_file(Storage.open(moved))
    assert content is not None
    content["config"]["data"]["source"] = "gone/maps"
    content["digest"] = record_digest(content)
    (moved / "trial.yaml").write_text(json.dumps(content))
    error = refused(evaluate(moved), capsys)
    assert "'gone/maps', can't be used from here" in error and "--data DIR" in error


def test_what_is_no_trial_or_no_place_to_write_is_refused_at_once(trial: Path, capsys: Capture, tmp_path: Path) -> None:
    assert "STORAGE/EXPERIMENT/trials/TRIAL" in refused(evaluate(tmp_path), capsys)
    assert "its folder does not exist" in refused(evaluate(trial, "--json", tmp_path / "no" / "e.json"), capsys)
    assert "is a folder" in refused(evaluate(trial, "--csv", tmp_path), capsys)


def test_weights_that_are_not_the_published_ones_are_refused(trial: Path, capsys: Capture, tmp_path: Path) -> None:
    wrong = tmp_path / "weights.pth"
    torch.save({"a": torch.ones(1)}, wrong)
    digits = hashlib.sha256(wrong.read_bytes()).hexdigest()[:8]
    for option, name in (("--inception-weights", "6726825d.pth"), ("--lpips-weights", "alexnet-owt-7be5be79.pth")):
        error = refused(evaluate(trial, option, wrong), capsys)
        assert digits in error and name in error
        assert "can't be read" in refused(evaluate(trial, option, tmp_path / "no.pth"), capsys)


def test_nothing_in_a_file_of_weights_is_executed(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "executed",)  # type: ignore[return-value]

    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"a": Harmful()}, protocol=2))
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    with pytest.raises(DataError, match="more than tensors"):
        read_weights(path, "--lpips-weights", {digits: "w.pth"})
    torch.save(torch.nn.Linear(1, 1), path)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    with pytest.raises(DataError, match="more than tensors"):
        read_weights(path, "--lpips-weights", {digits: "w.pth"})
    assert not (tmp_path / "executed").exists()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image.lpips", None)
    with pytest.raises(ImportError) as missing:
        lpips_network("squeeze", {})
    assert "pip install 'pix2pix-runner[metrics]'" in str(missing_extra("--lpips-weights", missing.value))


def test_lpips_is_on_the_backbone_that_it_is_given() -> None:
    pytest.importorskip("torchmetrics")
    assert "squeezenet1_1" in BACKBONES["b8a52dc0"]
    backbone = torchvision.models.squeezenet1_1(weights=None)
    network = lpips_network("squeeze", backbone.state_dict())
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert float(network(pictures[:1], pictures[:1])) == 0.0
    assert float(network(pictures[:1], pictures[1:])) > 0.0
    shift, scale = network.scaling_layer.shift, network.scaling_layer.scale
    torch.testing.assert_close(
        network.net((pictures - shift) / scale)[-1], backbone.features((pictures - shift) / scale)
    )


def test_distances_of_features_are_zero_for_equal_sets_and_the_same_twice() -> None:
    pytest.importorskip("torchmetrics")
    features = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    before = torch.random.get_rng_state()
    assert feature_distances(features, features)["fid"] == pytest.approx(0.0, abs=1e-3)
    further, again = (feature_distances(features + 2, features) for _ in range(2))
    assert further == again
    assert further["fid"] == pytest.approx(8 * 2**2, rel=1e-3) and further["kid"] > 0
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
def test_help_shows_an_example() -> None:
    code, output = run("runner.evaluate", "--help")
    assert code == 0 and "python -m runner.evaluate results/" in output
