"""A trained generator as a file for other programs."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from gan.networks.generator import Generator
from gan.networks.reference import NAMED_SIZES, to_reference
from runner.errors import DataError, FullError, StorageError
from runner.models.trained import TrainedModel, open_trained_model
from runner.number_format import byte_size
from runner.storage.folder import Storage, is_full
from runner.storage.run_folder import TRIAL_FILE
from runner.storage.tensor_writer import write_tensors

EXTRA = "pip install 'pix2pix-runner[export]'"
FORMAT_VERSION = "1"
LARGEST_ONNX_BYTES = 2**31 - 2**20  # protobuf's limit, less what is not weights
Say = Callable[[str], None]


class Exported(NamedTuple):
    """A file's content, and what there is to know of it, line by line."""

    content: bytes
    notes: list[str]


def export_trial(trial: str, checkpoint: str, form: str, out: str, notify: Say) -> None:
    """Writes the generator of a trial's folder to a file, whole or not at all.

    Args:
        checkpoint: as `open_trained_model` takes it.
        form: one of WRITERS.
        out: the file; its folder is made, and a file that stands there is replaced.

    Raises:
        DataError: the trial can't be used, or not in this format.
        StorageError: the file can't be written, or is part of a trial.
        FullError: the disk is full.
    """
    place = Path(out).absolute()
    check_place(place, out)
    if form == "onnx":
        check_onnx_is_installed()
    trained = open_trained_model(trial, checkpoint)
    exported = WRITERS[form](trained)
    replaced = place.exists()
    write_file(place, out, exported.content)
    size = byte_size(len(exported.content))
    notify(f"{trained.trial.name} after {trained.epochs} epochs ({trained.step} steps): {out}, {form}, {size}")
    if replaced:
        notify("the file that stood there was replaced")
    for note in exported.notes:
        notify(note)


def check_place(place: Path, out: str) -> None:
    """Raises StorageError where no file may be put; before the work."""
    if place.is_dir():
        raise StorageError(f"--out is {out!r}: that is a folder; give the name of a file")
    if place.exists() and not place.is_file():
        raise StorageError(
            f"--out is {out!r}: that is no ordinary file, so that it can't be replaced; give another name"
        )
    if place.exists() and any((folder / TRIAL_FILE).is_file() for folder in (place.parent / "_").resolve().parents):
        raise StorageError(
            f"--out is {out!r}: that file is in a trial's folder, which may need it; give the name of a file elsewhere"
        )


def write_file(place: Path, out: str, content: bytes) -> None:
    """Writes the file whole, in its folder or a new one."""
    try:
        folder = Storage.open(place.parent)
        folder.make_folder()
        folder.write(place.name, content)
    except OSError as error:
        if is_full(error):
            raise FullError(
                f"--out is {out!r}: there is no room ({error}); make some, or give another place"
            ) from error
        raise StorageError(
            f"--out is {out!r}: it can't be written ({error.strerror or error}); give another"
        ) from error


def describe_generator(trained: TrainedModel) -> dict[str, str]:
    """What anybody must know to build and to use the generator."""
    return {
        "model": "pix2pix U-Net generator",
        "channels": str(trained.config.model.channels),
        "patch_size": str(trained.config.data.patch_size),
        "direction": trained.config.data.direction,
        "range": "[-1, 1]",
        "layout": "NCHW, RGB",
    }


def safetensors_file(trained: TrainedModel) -> Exported:
    """The generator's state under our names; the bytes depend on it and on what the generator is."""
    stream = io.BytesIO()
    metadata = {"format": "pt", "format_version": FORMAT_VERSION, **describe_generator(trained)}
    write_tensors(stream, trained.generator.state_dict(), metadata=metadata)
    return Exported(stream.getvalue(), ["its metadata has channels, patch_size and direction"])


def onnx_file(trained: TrainedModel) -> Exported:
    """A graph in eval mode, which onnxruntime has been seen to compute as torch does."""
    from runner.models.onnx_check import check_agreement
    from runner.models.onnx_graph import FAKE, OPSET, SOURCE, onnx_model

    if (size := num_bytes(trained.generator)) > LARGEST_ONNX_BYTES:
        raise DataError(
            f"--format onnx: the generator has {byte_size(size)} of weights, and an ONNX file can hold 2.1 GB; "
            "use --format safetensors"
        )
    mode = "eval: running statistics of batch norm, no dropout"
    model = onnx_model(trained.generator, {"mode": mode, **describe_generator(trained)})
    agreement = check_agreement(model, trained)
    patch = trained.config.data.patch_size
    return Exported(
        model,
        [
            f"opset {OPSET}; `{SOURCE}` to `{FAKE}`, (batch, 3, {patch}, {patch}) RGB in [-1, 1]; {mode}",
            agreement,
        ],
    )


def cyclegan_file(trained: TrainedModel) -> Exported:
    """latest_net_G.pth of pytorch-CycleGAN-and-pix2pix: a plain state under its names."""
    config = trained.config
    size, channels = config.data.patch_size, config.model.channels
    levels = len(trained.generator.down)
    stream = io.BytesIO()
    torch.save(to_reference(plain_state(trained.generator), levels), stream)
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
    return Exported(stream.getvalue(), [*notes, "without --eval that project takes batch statistics, and dropout"])


WRITERS: Mapping[str, Callable[[TrainedModel], Exported]] = {
    "safetensors": safetensors_file,
    "onnx": onnx_file,
    "pytorch-cyclegan": cyclegan_file,
}


def plain_state(generator: Generator) -> dict[str, torch.Tensor]:
    """The state's tensors, each with memory of its own, of which torch.save writes all."""
    return {name: tensor.detach().clone() for name, tensor in generator.state_dict().items()}


def num_bytes(generator: Generator) -> int:
    """Of all that the state holds."""
    return sum(tensor.nbytes for tensor in generator.state_dict().values())


def check_onnx_is_installed() -> None:
    """Raises DataError where a package is missing, before anything is read."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise DataError(f"--format onnx needs packages that are not installed ({error.name}): {EXTRA}") from error
