"""Trains in sessions of a notebook host, each of which ends after some hours and keeps only one folder.

Kaggle, 12 hours: add the output of the session before as an input of this one, and run in a cell

    !python deploy/notebook.py experiments/baseline.yaml --time-limit 11.5h \
        --before /kaggle/input/pix2pix/results --storage /kaggle/working/results

Colab, which may end at any moment: legs of half an hour, each of which is brought to Drive before the next begins

    !python deploy/notebook.py experiments/baseline.yaml --time-limit 30m \
        --before /content/drive/MyDrive/results --storage /content/results --after /content/drive/MyDrive/results

Other options are those of runner.tune.
"""

import argparse
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_STOPPED = 75  # the exit code of a command that the same command goes on from
_LEFT_BEHIND = shutil.ignore_patterns("patches")  # they are made again


def main(argv: Sequence[str] | None = None) -> int:
    """Brings the results and trains one leg, or with --after leg by leg until all is done; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--before", type=Path, help="where the session before left its results; it may not be there yet"
    )
    parser.add_argument(
        "--storage", type=Path, required=True, help="where this session trains, on a disk of the machine"
    )
    parser.add_argument("--after", type=Path, help="where the results are brought after each leg")
    parser.add_argument("--time-limit", required=True, help="of a leg, for example 30m; saving takes some seconds more")
    arguments, of_tune = parser.parse_known_args(argv)

    # A session that goes on on the same machine has newer results than the one before.
    if not arguments.storage.exists() and arguments.before and (source := _whole_copy(arguments.before)):
        bring(source, arguments.storage)

    command = [sys.executable, "-m", "runner.tune", *of_tune]
    command += ["--storage", str(arguments.storage), "--time-limit", arguments.time_limit]
    while True:
        code, was_asked_to_stop = _run(command)
        if arguments.after and arguments.storage.is_dir():
            bring(arguments.storage, arguments.after)
        if code != _STOPPED or was_asked_to_stop or not arguments.after:
            return code


def bring(source: Path, target: Path) -> None:
    """Copies results. The old copy stays until the new one is whole, here or under the name that _whole_copy knows."""
    coming, old = _beside(target, "coming"), _beside(target, "old")
    shutil.rmtree(coming, ignore_errors=True)

    # Content without modes: the input of a notebook can't be written to, and its copy must be.
    shutil.copytree(
        source, coming, ignore=_LEFT_BEHIND, copy_function=shutil.copyfile, ignore_dangling_symlinks=True
    )  # fmt: skip
    for folder in (coming, *(path for path in coming.rglob("*") if path.is_dir())):
        folder.chmod(0o755)

    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    coming.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _whole_copy(place: Path) -> Path | None:
    """What `bring` left there, also where the machine went between its two renames. None where there is nothing."""
    return next((path for path in (place, _beside(place, "old")) if path.is_dir()), None)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}.{ending}")


def _run(command: Sequence[str]) -> tuple[int, bool]:
    """The command's exit code, and whether somebody wanted it to stop: it is waited for while it saves."""
    asked = []
    process = subprocess.Popen(command)

    def stop(number: int, frame: object) -> None:
        asked.append(number)
        if number == signal.SIGTERM:  # a cell that is interrupted sends Ctrl-C to the command, too
            process.terminate()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    return process.wait(), bool(asked)


if __name__ == "__main__":
    sys.exit(main())
