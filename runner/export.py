"""`python -m runner.export TRIAL_DIR`: writes a trained generator to a file for other programs."""

import argparse
import sys
from collections.abc import Sequence

from runner.command import add_traceback, machine_path, new_parser, run_command, user_path
from runner.errors import Exit

_LATEST = "latest"
FORMATS = ("safetensors", "onnx", "pytorch-cyclegan")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = new_parser(
        "runner.export",
        "Writes a trial's generator to one file.\n"
        "  safetensors       weights under this project's names, with what is needed to build the generator\n"
        "  onnx              a model for onnxruntime and others, in eval mode; written once onnxruntime has\n"
        "                    given the same pictures as torch on validation patches of the trial\n"
        "  pytorch-cyclegan  latest_net_G.pth of pytorch-CycleGAN-and-pix2pix\n"
        "safetensors and pytorch-cyclegan files are also what model.initial_weights takes.",
        "python -m runner.export results/baseline/trials/trial --format onnx --out generator.onnx",
    )

    parser.add_argument(
        "trial", metavar="TRIAL_DIR", type=user_path, help="a trial's folder or URI, STORAGE/EXPERIMENT/trials/TRIAL"
    )
    parser.add_argument("--format", required=True, choices=FORMATS, help="for which program")
    parser.add_argument(
        "--out", required=True, metavar="FILE", type=machine_path, help="the file to write; an existing one is replaced"
    )
    parser.add_argument(
        "--checkpoint", metavar="latest|best|EPOCH", default=_LATEST, help="which weights (default: the latest ones)"
    )
    add_traceback(parser)
    return run_command(parser, _run_export, argv)


def _run_export(arguments: argparse.Namespace) -> Exit:
    """Writes the file that the options ask for."""
    from runner.console import Console
    from runner.models.export import export_trial

    export_trial(arguments.trial, arguments.checkpoint, arguments.format, arguments.out, Console())
    return Exit.FINISHED


if __name__ == "__main__":
    sys.exit(main())
