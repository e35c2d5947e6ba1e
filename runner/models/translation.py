"""Translates picture files one after another. A file that can't be read is reported, and the others go on."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gan.data.halves import looks_like_pair
from gan.data.patches import MAP_TO_SATELLITE
from gan.data.pictures import PictureError, decode_picture, split_pair
from gan.evaluation.translate import Tiling, num_strips, translated_strips
from gan.networks.generator import Generator
from gan.networks.precision import has_native_bf16, low_precision_copy, memory_format_of
from runner.command import show_error
from runner.console import Console
from runner.errors import FullError, StorageError
from runner.models.picture_files import PictureFile
from runner.models.png import PngWriter
from runner.models.trained import TrainedModel
from runner.process.processes import num_cores
from runner.storage.folder import Folder
from runner.storage.storage import is_full
from runner.trial.runtime import RuntimeSettings, set_up_torch

_MAX_PIXELS = 2**30  # 3 GiB of RGB, and 7 GiB while Pillow decodes it


class TranslationJob(NamedTuple):
    """The generator and the settings for all pictures.

    Attributes:
        direction: of the trial, where inputs are pairs; None where whole pictures are translated.
    """

    generator: Generator
    direction: str | None
    tiling: Tiling


def translating_generator(trained: TrainedModel) -> Generator:
    """The trial's generator on the GPU if there is one, else on the CPU.

    One that was trained in bf16 computes in it, where that is native, in half the time of fp32.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = "bf16" if trained.precision == "bf16" and has_native_bf16(device) else "fp32"
    if precision == "fp32":
        return trained.generator.to(device)
    generator = trained.generator.to(device=device, memory_format=memory_format_of(device, precision))  # type: ignore[call-overload]
    return low_precision_copy(generator, precision)


def set_up_translation(generator: Generator) -> None:
    """Sets torch to all cores, and to the same bits each time."""
    precision = "fp32" if generator.last.weight.dtype == torch.float32 else "bf16"
    set_up_torch(RuntimeSettings(num_cores(), precision, ""), deterministic=True)


def translate_files(job: TranslationJob, pictures: Sequence[PictureFile], out: Folder, console: Console) -> int:
    """Translates each picture that can be read into a PNG.

    Returns:
        The number of pictures that were translated.

    Raises:
        StorageError, FullError: the folder can't be written to.
    """
    num_done = 0
    for number, picture in enumerate(pictures, 1):
        number_of_all = f" ({number} of {len(pictures)})" if len(pictures) > 1 else ""
        num_done += _translate_file(job, picture, out, console, f"{picture.path.name}{number_of_all}")
    return num_done


def _translate_file(job: TranslationJob, picture: PictureFile, out: Folder, console: Console, shown: str) -> bool:
    """Translates a picture; reports one that can't be read, and returns False. Raises as `translate_files`.

    Args:
        shown: what the bar calls the picture.
    """
    began = time.monotonic()
    try:
        image = read_source(picture, job.direction, console)
    except (OSError, PictureError) as error:
        show_error(f"{picture.path}: {error.strerror if isinstance(error, OSError) else error}")
        return False

    # A failed write ends the command: it would fail for the other pictures, too.
    try:
        _write_translation(job, picture, image, out, console, shown)
    except OSError as error:
        kind = FullError if is_full(error) else StorageError
        raise kind(f"--out: {out.shown}/{picture.output} can't be written ({error.strerror})") from error

    height, width = image.shape[:2]
    spent_s = time.monotonic() - began
    console.print(f"{picture.path} -> {out.shown}/{picture.output} ({width}x{height}, {spent_s:.1f} s)")
    return True


def read_picture(path: Path) -> NDArray[np.uint8]:
    """The pixels of a file, (H, W, 3); raises OSError or PictureError where it can't be read."""
    return decode_picture(path.read_bytes(), _MAX_PIXELS)


def read_source(picture: PictureFile, direction: str | None, console: Console) -> NDArray[np.uint8]:
    """The pixels to translate, (H, W, 3): a picture, or the source half of a pair. Raises as `read_picture`."""
    image = read_picture(picture.path)
    if direction is not None:
        pair = split_pair(image)
        return pair.map if direction == MAP_TO_SATELLITE else pair.satellite
    if looks_like_pair(image):
        console.print_once(
            f"note: {picture.path} looks like a pair, but is translated as a whole: --pairs takes its source",
            key="looks like a pair",
        )
    return image


def _write_translation(
    job: TranslationJob, picture: PictureFile, image: NDArray[np.uint8], out: Folder, console: Console, shown: str
) -> None:
    """Writes each strip as soon as it is translated; the file gets its name once it is complete."""
    height, width = image.shape[:2]
    total = num_strips(height, job.generator.patch_size, job.tiling.overlap)
    out.make_folder()
    with console.progress(shown, total) as bar, out.writing(picture.output) as stream:
        png = PngWriter(stream, width, height)
        for strip in translated_strips(job.generator, image, job.tiling):
            png.write_rows(strip)
            bar.advance()
        png.finish()
