"""`python -m runner.translate TRIAL_DIR INPUT... --out DIR`: translates pictures with a trained generator."""

import argparse
import sys
from collections.abc import Sequence

from runner.command import (
    add_traceback,
    machine_path,
    new_parser,
    run_command,
    show_error,
    unwound_on_sigterm,
    user_path,
)
from runner.errors import Exit

_EPILOG = "python -m runner.translate results/baseline/trials/trial data/city.tif data/maps --out translated"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = new_parser(
        "runner.translate",
        "Translates pictures of any size: in overlapping tiles, blended so that no seam shows.\n\n"
        "Each input gives DIR/STEM.png, RGB and of the same size. JPEG, PNG and TIFF, of 8 and 16 bits, grey, palette\n"
        "and CMYK, are read; they are turned upright, and what is transparent is laid on white, as in training.",
        _EPILOG,
    )

    parser.add_argument(
        "trial", metavar="TRIAL_DIR", type=user_path, help="a trial's folder or URI, STORAGE/EXPERIMENT/trials/TRIAL"
    )
    parser.add_argument(
        "inputs", metavar="INPUT", type=machine_path, nargs="+", help="pictures, or folders of pictures"
    )
    parser.add_argument("--out", metavar="DIR", type=machine_path, required=True, help="the folder for the results")
    parser.add_argument(
        "--checkpoint", metavar="latest|best|EPOCH", default="latest", help="which weights (default: the latest)"
    )
    parser.add_argument(
        "--mode", choices=("eval", "study"), default="eval",
        help="eval: running statistics, no dropout (default); study: each tile's own statistics, dropout by its place",
    )  # fmt: skip
    parser.add_argument(
        "--pairs", action="store_true", help="inputs are pairs as in a data set: their source half is translated"
    )
    parser.add_argument(
        "--overlap", metavar="PIXELS", type=_pixels,
        help="how much neighbouring tiles share, at most half a tile (default: a quarter; more is smoother and slower)",
    )  # fmt: skip
    add_traceback(parser)
    return run_command(parser, _run_translate, argv)


def _pixels(text: str) -> int:
    """Parses a number of pixels, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pixels: give 0 or more")
    return int(text)


def _run_translate(arguments: argparse.Namespace) -> Exit:
    """Checks all options, then translates the pictures one after another."""
    from runner.console import Console
    from runner.errors import DataError
    from runner.models.picture_files import find_pictures
    from runner.storage.folder import open_folder

    out = open_folder(arguments.out, "--out")
    pictures = find_pictures(arguments.inputs, out)

    # These load torch, which takes seconds: not before the inputs are found.
    from gan.evaluation.translate import Tiling
    from runner.models.trained import open_trained_model
    from runner.models.translation import TranslationJob, set_up_translation, translate_files, translating_generator

    trained = open_trained_model(arguments.trial, arguments.checkpoint)
    size = trained.config.data.patch_size
    if arguments.overlap is not None and arguments.overlap > size // 2:
        raise DataError(
            f"--overlap is {arguments.overlap}: tiles of this trial have {size} pixels and can share at most half of "
            f"them, {size // 2}"
        )

    generator = translating_generator(trained)
    set_up_translation(generator)
    job = TranslationJob(
        generator=generator,
        direction=trained.config.data.direction if arguments.pairs else None,
        tiling=Tiling(arguments.mode, arguments.overlap),
    )
    console = Console()
    console.print(f"{trained.trial.shown}: {trained.epochs} epochs, tiles of {size} pixels, {arguments.mode} mode")
    if trained.config.data.patching == "resize":
        console.print(f"note: this trial saw pictures shrunk to {size} pixels: give pictures of that scale")

    try:
        with unwound_on_sigterm():
            num_done = translate_files(job, pictures, out, console)
    except KeyboardInterrupt:
        show_error(f"interrupted; the pictures in {out.shown} are complete, and the same command starts over")
        return Exit.INTERRUPTED

    if num_done == len(pictures):
        return Exit.FINISHED
    return Exit.TRIAL_FAILED if num_done else Exit.BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
