"""`python -m runner.report EXPERIMENT_DIR...`: a page that compares trials."""

import argparse
import sys
from collections.abc import Sequence

from runner.command import add_traceback, machine_path, new_parser, run_command, user_path
from runner.errors import Exit


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = new_parser(
        "runner.report",
        "Writes report.html, one self-contained page that compares the trials of an experiment, from the files in\n"
        "its folder, and results.csv and results.json with it. Several experiments are compared in one page.",
        "python -m runner.report results/batch_sweep results/resize --out comparison.html",
    )

    parser.add_argument(
        "folders",
        metavar="EXPERIMENT_DIR",
        type=user_path,
        nargs="+",
        help="an experiment's folder or URI, STORAGE/EXPERIMENT",
    )
    parser.add_argument(
        "--out", metavar="FILE", type=machine_path,
        help="where the page goes (default: report.html in the experiment's folder, or in the current one for several)",
    )  # fmt: skip
    add_traceback(parser)
    return run_command(parser, _run_report, argv)


def _run_report(arguments: argparse.Namespace) -> Exit:
    """Writes the page, and prints which files were written."""
    # Loads pydantic and Jinja, which --help must not wait for.
    from runner.report.command import write_report

    for line in write_report(arguments.folders, arguments.out):
        print(line)
    return Exit.FINISHED


if __name__ == "__main__":
    sys.exit(main())
