"""`python -m runner.evaluate TRIAL_DIR`: all metrics of a trained generator on all validation patches."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from runner.command import add_traceback, machine_path, new_parser, run_command, user_path
from runner.errors import Exit, StorageError

_LATEST = "latest"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = new_parser(
        "runner.evaluate",
        "Measures a trial's generator on all validation patches, one at a time, in both modes: `study` (batch\n"
        "statistics and dropout on, as the study evaluates) and `eval`. Means come with 95 % bootstrap intervals over\n"
        "pictures. Computes in fp32, on a GPU where there is one.",
        "python -m runner.evaluate results/baseline/trials/trial --json evaluation.json --csv patches.csv",
    )

    # What to measure.
    parser.add_argument(
        "trial", metavar="TRIAL_DIR", type=user_path, help="a trial's folder or URI, STORAGE/EXPERIMENT/trials/TRIAL"
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=machine_path,
        help="pairs to use, in DIR/val or DIR (default: the validation patches of the trial)",
    )
    parser.add_argument(
        "--checkpoint", metavar="latest|best|EPOCH", default=_LATEST, help="which weights (default: the latest ones)"
    )

    # Files to write, and metrics that need files of the user.
    parser.add_argument(
        "--json", metavar="FILE", type=machine_path, help="write means, intervals and extremes to this file"
    )
    parser.add_argument("--csv", metavar="FILE", type=machine_path, help="write the values of every patch to this file")
    parser.add_argument(
        "--inception-weights", metavar="FILE", type=machine_path,
        help="also FID and KID: torch-fidelity's weights-inception-2015-12-05-6726825d.pth",
    )  # fmt: skip
    parser.add_argument(
        "--lpips-weights", metavar="FILE", type=machine_path,
        help="also LPIPS: torchvision's alexnet-owt-7be5be79.pth, vgg16-397923af.pth or squeezenet1_1-b8a52dc0.pth",
    )  # fmt: skip
    add_traceback(parser)
    return run_command(parser, _run_evaluate, argv)


def _run_evaluate(arguments: argparse.Namespace) -> Exit:
    """Evaluates, shows and writes what the options ask for."""
    # Before torch is loaded and minutes of work are done.
    for path in (arguments.json, arguments.csv):
        _check_target(path)

    from runner.console import Console
    from runner.models.evaluation import Request, evaluate_trial, json_of, results_table
    from runner.records.evaluation_csv import csv_of
    from runner.storage.folder import write_file

    console = Console()
    request = Request(
        arguments.trial, arguments.checkpoint, arguments.data, arguments.inception_weights, arguments.lpips_weights
    )
    evaluation = evaluate_trial(request, console)

    console.rich.print(results_table(evaluation))
    if arguments.json:
        write_file(arguments.json, json_of(evaluation))
    if arguments.csv:
        write_file(arguments.csv, csv_of(evaluation.scores))
    return Exit.FINISHED


def _check_target(path: str | None) -> None:
    """Raises StorageError where a file can't be written."""
    if path is not None and (Path(path).is_dir() or not Path(path).absolute().parent.is_dir()):
        problem = "is a folder" if Path(path).is_dir() else "its folder does not exist"
        raise StorageError(f"{path}: {problem}; give the name of a file in a folder that exists")


if __name__ == "__main__":
    sys.exit(main())
