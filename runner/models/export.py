"""A trained generator, written to a file for other programs."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from gan.networks.generator import Generator
from gan.networks.reference import NAMED_SIZES, to_reference
from runner.console import Console
from runner.errors import DataError, FullError, StorageError
from runner.models.trained import TrainedModel, open_trained_model
from runner.number_format import byte_size
from runner.storage.run_folder import TRIAL_FILE
from runner.storage.storage import Storage, is_full
from runner.storage.tensor_writer import write_tensors

_EXTRA = "pip install 'pix2pix-runner[export]'"
_FORMAT_VERSION = "1"
LARGEST_ONNX_BYTES = 2**31 - 2**20  # protobuf's limit, less what is not weights


class _Exported(NamedTuple):
    """The content of a file, and lines for the person who will use it."""

    content: bytes
    notes: list[str]


def export_trial(trial: str, checkpoint: str, form: str, out: str, console: Console) -> None:
    """Writes the generator of a trial to a file, whole or not at all.

    Args:
        checkpoint: as `open_trained_model` takes it.
        form: one of WRITERS.
        out: the file; its folder is created, and an existing file is replaced.

    Raises:
        DataError: the trial can't be used, or not in this format.
        StorageError: the file can't be written, or is part of a trial.
        FullError: the disk is full.
    """
    path = Path(out).absolute()
    _check_target(path, out)
    if form == "onnx":
        _check_onnx_is_installed()

    # Reading, computing and writing: each may take seconds.
    with console.progress(f"exporting as {form}", 3) as bar:
        trained = open_trained_model(trial, checkpoint)
        bar.advance()
        exported = WRITERS[form](trained)
        bar.advance()
        # This must be asked before the write: after it there is always a file.
        is_replaced = path.exists()
        _write_file(path, out, exported.content)

    size = byte_size(len(exported.content))
    console.print(f"{trained.trial.name} after {trained.epochs} epochs ({trained.step} steps): {out}, {form}, {size}")
    if is_replaced:
        console.print("the file that was there has been replaced")
    for note in exported.notes:
        # Among the notes are commands, which a person may copy.
        console.print(note, wrap=False)


def _check_target(path: Path, out: str) -> None:
    """Raises StorageError where the file can't or must not be written; called before the work."""
    if path.is_dir():
        raise StorageError(f"--out is {out!r}: that is a folder; give the name of a file")
    # For example a device or a pipe. The write ends with a rename, which would remove it.
    if path.exists() and not path.is_file():
        raise StorageError(
            f"--out is {out!r}: that is not an ordinary file, so it can't be replaced; give another name"
        )
    # Symbolic links are resolved for the folder, so that a trial can't be reached by another name.
    if path.exists() and any((folder / TRIAL_FILE).is_file() for folder in (path.parent / "_").resolve().parents):
        raise StorageError(
            f"--out is {out!r}: that file is in a trial's folder, which may need it; give the name of a file elsewhere"
        )


def _write_file(path: Path, out: str, content: bytes) -> None:
    """Writes the file; raises StorageError or FullError where that fails."""
    try:
        folder = Storage.open(path.parent)
        folder.make_folder()
        folder.write(path.name, content)
    except OSError as error:
        if is_full(error):
            raise FullError(f"--out is {out!r}: the disk is full ({error}); make room, or give another path") from error
        raise StorageError(
            f"--out is {out!r}: it can't be written ({error.strerror or error}); give another path"
        ) from error


def _describe_generator(trained: TrainedModel) -> dict[str, str]:
    """What a program must know to build and to use the generator."""
    # All values are texts: neither safetensors nor ONNX allows other types in its metadata.
    return {
        "model": "pix2pix U-Net generator",
        "channels": str(trained.config.model.channels),
        "patch_size": str(trained.config.data.patch_size),
        "norm": trained.config.model.norm,
        "upsampling": trained.config.model.upsampling,
        "direction": trained.config.data.direction,
        "range": "[-1, 1]",
        "layout": "NCHW, RGB",
    }


def _safetensors_file(trained: TrainedModel) -> _Exported:
    """The generator's state under this project's names; the bytes depend on nothing but the generator."""
    stream = io.BytesIO()
    # Some loaders refuse a safetensors file without `format`. "pt" stands for PyTorch.
    metadata = {"format": "pt", "format_version": _FORMAT_VERSION, **_describe_generator(trained)}
    write_tensors(stream, trained.generator.state_dict(), metadata=metadata)
    return _Exported(stream.getvalue(), ["its metadata has channels, patch_size, norm, upsampling and direction"])


def _onnx_file(trained: TrainedModel) -> _Exported:
    """The generator in eval mode as an ONNX model, once onnxruntime has given the same pictures as torch."""
    # The ONNX packages are an optional extra, so they are loaded only for this format.
    from runner.models.onnx_check import check_agreement
    from runner.models.onnx_graph import FAKE, MODES, OPSET, SOURCE, onnx_model

    if (size := _num_bytes(trained.generator)) > LARGEST_ONNX_BYTES:
        raise DataError(
            f"--format onnx: the generator has {byte_size(size)} of weights, and an ONNX file can hold 2.1 GB; "
            "use --format safetensors"
        )

    mode = MODES[trained.config.model.norm]
    model = onnx_model(trained.generator, {"mode": mode, **_describe_generator(trained)})
    agreement = check_agreement(model, trained)
    patch = trained.config.data.patch_size
    return _Exported(
        model,
        [
            f"opset {OPSET}; `{SOURCE}` to `{FAKE}`, (batch, 3, {patch}, {patch}) RGB in [-1, 1]; {mode}",
            agreement,
        ],
    )


def _cyclegan_file(trained: TrainedModel) -> _Exported:
    """latest_net_G.pth of pytorch-CycleGAN-and-pix2pix: the generator's state under the names of that project."""
    config = trained.config
    size, channels = config.data.patch_size, config.model.channels
    levels = len(trained.generator.down)
    # The first level has no norm in any generator, so the second level shows which norm it has.
    if not isinstance(trained.generator.down[1].norm, torch.nn.BatchNorm2d):
        # Its generators with another norm have other layers: biases in each convolution.
        raise DataError(
            "--format pytorch-cyclegan: model.norm is instance, and this generator's has a learned scale and shift for "
            "each channel, which that project's instance norm lacks; use --format safetensors or onnx"
        )
    if config.model.upsampling != "transposed":
        raise DataError(
            f"--format pytorch-cyclegan: model.upsampling is {config.model.upsampling}, and that project's U-Net comes "
            "up by transposed convolutions; use --format safetensors or onnx"
        )

    stream = io.BytesIO()
    torch.save(to_reference(_plain_state(trained.generator), levels), stream)

    # That project calls the left half A, which is the satellite picture.
    direction = "BtoA" if config.data.direction == "map_to_satellite" else "AtoB"
    if size in NAMED_SIZES:
        notes = [
            "put it into checkpoints/NAME/latest_net_G.pth of pytorch-CycleGAN-and-pix2pix, and there",
            f"  python test.py --dataroot PAIRS --name NAME --model pix2pix --direction {direction} "
            f"--netG {NAMED_SIZES[size]} --ngf {channels} --norm batch --load_size {size} --crop_size {size} --eval",
        ]
    else:
        notes = [
            f"pytorch-CycleGAN-and-pix2pix has --netG unet_128 and unet_256 only; for {size} pixels build it in code:",
            f"  UnetGenerator(3, 3, num_downs={levels}, ngf={channels})",
        ]
    return _Exported(stream.getvalue(), [*notes, "without --eval that project uses batch statistics and dropout"])


WRITERS: Mapping[str, Callable[[TrainedModel], _Exported]] = {
    "safetensors": _safetensors_file,
    "onnx": _onnx_file,
    "pytorch-cyclegan": _cyclegan_file,
}


def _plain_state(generator: Generator) -> dict[str, torch.Tensor]:
    """The state with each tensor in memory of its own: torch.save writes the whole memory that a tensor lies in."""
    return {name: tensor.detach().clone() for name, tensor in generator.state_dict().items()}


def _num_bytes(generator: Generator) -> int:
    """The size of the generator's state."""
    return sum(tensor.nbytes for tensor in generator.state_dict().values())


def _check_onnx_is_installed() -> None:
    """Raises DataError where a package for ONNX is missing; called before the work."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise DataError(f"--format onnx needs packages that are not installed ({error.name}): {_EXTRA}") from error
