"""A trained generator as a file for other programs: each is opened as its reader opens it."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

import runner.export
import runner.models.export
from gan.data.randomness import draw_weights
from gan.networks.generator import Generator
from gan.networks.model import ModelSettings
from gan.networks.pretrained import fitted
from gan.networks.reference import to_reference
from runner.config.fingerprint import fingerprint_trial
from runner.config.loading import plan_trials, validate
from runner.models.trained import open_trained_model
from runner.records.trial_file import write_trial_file
from runner.records.weights import write_weights
from runner.storage.folder import TEMPORARY
from runner.storage.storage import Storage
from runner.storage.tensor_reader import read_tensors
from tests.support.commands import ROOT, run
from tests.support.kill_points import tiny_trial

Capture = pytest.CaptureFixture[str]
PEER_SIZES = {128: 4, 256: 2}  # channels of each


@pytest.fixture(scope="module")
def trained(undisturbed: Path) -> Path:
    """A trained trial, its patches beside it; not to be changed."""
    return tiny_trial(undisturbed)


def export(trial: Path, form: str, out: Path, *arguments: object) -> int:
    return runner.export.main([str(trial), "--format", form, "--out", str(out), *map(str, arguments)])


def refused(code: int, capture: Capture) -> str:
    error = capture.readouterr().err
    assert code == 2
    assert error.startswith("error: ") and "Traceback" not in error and len(error.splitlines()) <= 25
    return error


def lived_in(channels: int, patch_size: int) -> Generator:
    """A generator whose statistics, gains and offsets are none of those that it starts with."""
    generator = Generator(channels, patch_size)
    draw_weights(generator, 0, 0)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in generator.state_dict().items():
            if name.endswith((".running_mean", "norm.bias", "last.bias")):
                tensor.copy_(torch.randn(tensor.shape, generator=random) * 0.1)
            elif name.endswith((".running_var", "norm.weight")):
                tensor.copy_(torch.rand(tensor.shape, generator=random) + 0.5)
    return generator.eval()


def lay_trial(folder: Path, generator: Generator, **model: str) -> Path:
    """A finished trial with a generator of our making, and without patches."""
    sizes = {"channels": generator.widths[0]}, {"patch_size": generator.patch_size}
    values = {"name": "laid", "model": sizes[0] | model, "data": sizes[1]}
    (planned,) = plan_trials(validate(values, ""), "")
    trial = Storage.open(folder / "laid" / "trials" / "trial")
    trial.make_folder()
    fingerprints = fingerprint_trial(planned.config, "data")
    write_trial_file(trial, planned.config, fingerprints, {}, {"threads": 1, "precision": "fp32", "kernels": ""})
    write_weights(trial, generator.state_dict(), 1, 1, fingerprints)
    return trial.local_path


@torch.no_grad()
def in_eval_mode(generator: Generator, pictures: np.ndarray) -> np.ndarray:
    return np.asarray(generator.eval()(torch.from_numpy(pictures)))


# safetensors


def test_a_safetensors_file_is_enough_to_build_the_generator_again(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "generator.safetensors"
    assert export(trained, "safetensors", out) == 0
    with safetensors.safe_open(out, "pt") as opened:
        metadata = opened.metadata()
    assert metadata["direction"] == "map_to_satellite" and metadata["format_version"] == "1"
    again = Generator(int(metadata["channels"]), int(metadata["patch_size"]))
    again.load_state_dict(safetensors.torch.load_file(out))
    expected = open_trained_model(trained).generator.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_its_bytes_are_the_same_from_weights_and_from_the_last_checkpoint(trained: Path, tmp_path: Path) -> None:
    copy = tmp_path / "trial"
    shutil.copytree(trained, copy)
    assert export(trained, "safetensors", tmp_path / "a") == 0
    shutil.rmtree(copy / "weights")
    assert export(copy, "safetensors", tmp_path / "b", "--checkpoint", 6) == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# onnx


def onnx_session(path: Path) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def test_an_onnx_model_gives_the_generators_pictures_at_any_batch_size(
    trained: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "generator.onnx"
    assert export(trained, "onnx", out) == 0
    assert "on validation patches" in capsys.readouterr().out
    session = onnx_session(out)
    ((source,), (fake,)) = session.get_inputs(), session.get_outputs()
    assert (source.name, source.shape[1:]) == ("source", [3, 64, 64])
    assert (fake.name, fake.shape[1:]) == ("fake", [3, 64, 64])
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["mode"].startswith("eval: running statistics") and metadata["direction"] == "map_to_satellite"
    assert (metadata["range"], metadata["layout"]) == ("[-1, 1]", "NCHW, RGB")
    generator = open_trained_model(trained).generator
    random = np.random.default_rng(0)
    for batch_size in (1, 2, 5):
        pictures = random.uniform(-1, 1, (batch_size, 3, 64, 64)).astype(np.float32)
        (found,) = session.run(["fake"], {"source": pictures})
        np.testing.assert_allclose(found, in_eval_mode(generator, pictures), atol=1e-4, rtol=0)


def test_onnx_bytes_are_the_same_twice_and_need_no_patches(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("onnxruntime")
    trial = lay_trial(tmp_path, lived_in(2, 128))
    for name in ("a", "b"):
        assert export(trial, "onnx", tmp_path / name) == 0
    assert "on drawn pictures (the trial's patches are gone)" in capsys.readouterr().out
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def by_the_pictures_own_statistics(graph: Any, name: str, x: str, norm: torch.nn.Module) -> str:
    """Normalises by the statistics of each picture, as batch norm in training does at batch 1."""
    if not isinstance(norm, torch.nn.BatchNorm2d):
        return x
    weights = [graph.weight(f"{name}.{part}", getattr(norm, part)) for part in ("weight", "bias")]
    return str(graph.add("InstanceNormalization", name, x, *weights, epsilon=norm.eps))


def test_a_model_that_normalises_as_in_training_is_refused_and_leaves_nothing(
    trained: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_graph = pytest.importorskip("runner.models.onnx_graph")
    monkeypatch.setattr(onnx_graph.Graph, "add_norm", by_the_pictures_own_statistics)
    (tmp_path / "out").mkdir()
    error = refused(export(trained, "onnx", tmp_path / "out" / "generator.onnx"), capsys)
    assert "gives other pictures than torch" in error
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("norm", "upsampling", "reason"),
    [("instance", "transposed", "a learned scale and shift"), ("batch", "resize", "by transposed convolutions")],
)
def test_what_the_other_project_lacks_is_refused_for_it_and_written_to_onnx(
    tmp_path: Path, capsys: Capture, norm: str, upsampling: str, reason: str
) -> None:
    pytest.importorskip("onnxruntime")
    generator = Generator(2, 64, norm, upsampling)
    draw_weights(generator, 0, 0)
    trial = lay_trial(tmp_path, generator, norm=norm, upsampling=upsampling)
    error = refused(export(trial, "pytorch-cyclegan", tmp_path / "out"), capsys)
    assert reason in error
    assert not (tmp_path / "out").exists()
    # The export itself compares what onnxruntime makes of pictures with what torch does.
    assert export(trial, "onnx", tmp_path / "out") == 0


def test_a_model_that_onnxruntime_cannot_run_is_refused(
    trained: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx_graph = pytest.importorskip("runner.models.onnx_graph")
    monkeypatch.setattr(onnx_graph, "onnx_model", lambda generator, metadata: b"no model")
    assert "can't run the model" in refused(export(trained, "onnx", tmp_path / "generator.onnx"), capsys)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("onnxruntime")
    generator = lived_in(2, 64)
    generator.last.bias.data[0] = torch.nan
    error = refused(export(lay_trial(tmp_path, generator), "onnx", tmp_path / "generator.onnx"), capsys)
    assert "differ by up to nan" in error and not (tmp_path / "generator.onnx").exists()


def test_more_weights_than_an_onnx_file_can_hold_are_refused(
    trained: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.models.export, "LARGEST_ONNX_BYTES", 1000)
    assert "use --format safetensors" in refused(export(trained, "onnx", tmp_path / "generator.onnx"), capsys)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command_that_brings_it(
    trained: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    error = refused(export(trained, "onnx", tmp_path / "generator.onnx"), capsys)
    assert f"not installed ({package})" in error and "pip install 'pix2pix-runner[export]'" in error


# pytorch-CycleGAN-and-pix2pix


@pytest.fixture(scope="module")
def exchanged(peer: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Files that have been carried to that project and back; see tests.support.peer."""
    folder = tmp_path_factory.mktemp("exchanged")
    for size, channels in PEER_SIZES.items():
        trial = lay_trial(folder / f"storage-{size}", lived_in(channels, size))
        assert export(trial, "pytorch-cyclegan", folder / str(size) / "exported" / "latest_net_G.pth") == 0
        pictures = np.random.default_rng(size).uniform(-1, 1, (2, 3, size, size)).astype(np.float32)
        np.save(folder / str(size) / "pictures.npy", pictures)
    numbers = [str(number) for pair in PEER_SIZES.items() for number in pair]
    script = ROOT / "tests" / "support" / "peer.py"
    process = subprocess.run(
        [sys.executable, script, peer, folder, *numbers], capture_output=True, text=True, cwd=folder
    )
    assert process.returncode == 0, process.stderr
    yield folder


@pytest.mark.parametrize("size", PEER_SIZES)
def test_the_other_project_makes_the_same_pictures_of_an_exported_generator(exchanged: Path, size: int) -> None:
    folder = exchanged / str(size)
    expected = in_eval_mode(lived_in(PEER_SIZES[size], size), np.load(folder / "pictures.npy"))
    np.testing.assert_allclose(np.load(folder / "exported.npy"), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", PEER_SIZES)
def test_a_generator_of_the_other_project_makes_the_same_pictures_here(exchanged: Path, size: int) -> None:
    folder = exchanged / str(size)
    generator = Generator(PEER_SIZES[size], size)
    tensors = read_tensors((folder / "own" / "latest_net_G.pth").read_bytes())
    generator.load_state_dict(fitted(tensors, ModelSettings(PEER_SIZES[size], patch_size=size)))
    assert float(generator.down[1].norm.running_var.sub(1).abs().max()) > 0.01
    np.testing.assert_allclose(
        np.load(folder / "own.npy"), in_eval_mode(generator, np.load(folder / "pictures.npy")), atol=1e-6, rtol=0
    )


def test_layers_of_all_sizes_are_the_other_projects_biases_included(exchanged: Path) -> None:
    for size, layers in json.loads((exchanged / "layers.json").read_text()).items():
        with torch.device("meta"):
            state = Generator(8, int(size)).state_dict()
        ours = to_reference(state, int(size).bit_length() - 1)
        assert {name: list(tensor.shape) for name, tensor in ours.items()} == layers


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (128, "--direction BtoA --netG unet_128 --ngf 2 --norm batch --load_size 128 --crop_size 128 --eval"),
        (64, "UnetGenerator(3, 3, num_downs=6, ngf=2)"),
    ],
)
def test_the_options_that_the_other_project_needs_are_printed(
    tmp_path: Path, capsys: Capture, size: int, options: str
) -> None:
    out = tmp_path / "latest_net_G.pth"
    assert export(lay_trial(tmp_path, lived_in(2, size)), "pytorch-cyclegan", out) == 0
    assert options in capsys.readouterr().out
    state = torch.load(io.BytesIO(out.read_bytes()), weights_only=True)
    assert type(state) is dict and all(type(tensor) is torch.Tensor for tensor in state.values())


# the command


def test_an_earlier_checkpoint_is_exported_where_it_is_asked_for(
    trained: Path, tmp_path: Path, capsys: Capture
) -> None:
    error = refused(export(trained, "safetensors", tmp_path / "out", "--checkpoint", 3), capsys)
    assert "epochs with one: 6 (checkpoint.keep_epochs keeps more)" in error and not (tmp_path / "out").exists()


def test_a_file_is_replaced_whole_and_said_to_be(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "generator.safetensors"
    out.write_text("old")
    assert export(trained, "safetensors", out) == 0
    assert "the file that was there has been replaced" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert export(trained, "safetensors", tmp_path / "new") == 0
    assert "was replaced" not in capsys.readouterr().out


def test_what_cannot_be_a_file_or_belongs_to_a_trial_is_refused(trained: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    assert "is a folder" in refused(export(trained, "safetensors", tmp_path), capsys)
    assert "can't be written" in refused(export(trained, "safetensors", tmp_path / "file" / "below"), capsys)
    assert "not an ordinary file" in refused(export(trained, "safetensors", Path("/dev/null")), capsys)
    weights = trained / "weights" / "generator.safetensors"
    before = weights.read_bytes()
    (tmp_path / "link").symlink_to(weights.parent)
    for place in (weights, tmp_path / "link" / weights.name, tmp_path / "link" / ".." / "log.txt"):
        assert "in a trial's folder" in refused(export(trained, "safetensors", place), capsys)
    assert weights.read_bytes() == before


def test_a_write_that_fails_leaves_the_old_file(
    trained: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "generator.safetensors"
    out.write_text("old")

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", fail)
    assert "can't be written (Input/output error)" in refused(export(trained, "safetensors", out), capsys)
    assert out.read_text() == "old"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(TEMPORARY)]


def test_each_format_that_the_command_offers_has_a_writer() -> None:
    assert tuple(runner.models.export.WRITERS) == runner.export.FORMATS


def test_a_folder_that_is_no_trials_is_refused(tmp_path: Path, capsys: Capture) -> None:
    assert "give a trial's folder" in refused(export(tmp_path, "safetensors", tmp_path / "out"), capsys)


@pytest.mark.slow
def test_help_shows_an_example() -> None:
    code, output = run("runner.export", "--help")
    assert code == 0 and "python -m runner.export results/" in output
