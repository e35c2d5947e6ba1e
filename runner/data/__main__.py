"""`python -m runner.data VERB`: the commands that make, examine and fetch data sets of pairs."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runner.command import add_traceback, new_parser, run_command, unwound_on_sigterm, user_path
from runner.config.schema import Synthetic
from runner.data.fetching.known_sets import KNOWN_SETS
from runner.errors import DataError, Exit


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns its exit code."""
    parser = new_parser(
        "runner.data",
        "Makes, examines and fetches data sets of pairs.",
        "python -m runner.data synthesize data/drawn --train 200 --val 50 --seed 0",
    )

    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    synthesize = _add_verb(
        verbs,
        "synthesize",
        _synthesize,
        help="draw pairs into DIR/train and DIR/val",
        description="Draws pairs (1200x600 JPEG, left satellite, right map); the same bytes for the same seed.",
        example="python -m runner.data synthesize data/drawn --train 200 --val 50 --seed 0",
    )

    defaults = Synthetic()
    synthesize.add_argument(
        "directory", metavar="DIR", type=user_path, help="a folder that is new, empty, or holds only drawn pairs"
    )
    synthesize.add_argument("--train", metavar="N", type=_count, default=defaults.train, help="pictures to train on")
    synthesize.add_argument("--val", metavar="M", type=_count, default=defaults.val, help="pictures to validate with")
    synthesize.add_argument(
        "--seed", metavar="S", type=_seed, default=defaults.seed, help="what the scenes are drawn from"
    )

    check = _add_verb(
        verbs,
        "check",
        _check,
        help="examine the pictures of DIR",
        description="Reads all pictures and says what needs attention: what can't be used, what is no pair, swapped\n"
        "sides, one colour, mixed shapes, and what is in train and in val. Exit code 1 where there is something.",
        example="python -m runner.data check data/maps --sheet maps.jpg",
    )
    check.add_argument("directory", metavar="DIR", type=user_path, help="what data.source would name")
    check.add_argument("--json", metavar="FILE", type=user_path, help="write all that was found, too")
    check.add_argument(
        "--sheet", metavar="FILE.jpg", type=user_path, help="write small pictures to look at, the troubled ones first"
    )

    fetch = _add_verb(
        verbs,
        "fetch",
        _fetch,
        help="download or unpack a data set into DIR",
        description="Downloads an archive, checks it, unpacks it safely and puts it in place as a whole. A broken\n"
        "download goes on by the same command. Proxies are taken from http_proxy, https_proxy and no_proxy.",
        example="python -m runner.data fetch maps data/maps",
    )
    fetch.add_argument(
        "source", metavar="NAME|URL|ARCHIVE", type=user_path,
        help=f"{', '.join(KNOWN_SETS)} of the original pix2pix page; an http(s) address; or a tar (gz, bz2, xz) or zip",
    )  # fmt: skip
    fetch.add_argument("directory", metavar="DIR", type=user_path, help="a folder that is new or empty")
    fetch.add_argument("--sha256", metavar="HEX", type=_sha256, help="refuse an archive with another SHA-256")
    return run_command(parser, lambda arguments: arguments.work(arguments), argv)


def _add_verb(
    verbs: Any, name: str, work: Callable[[argparse.Namespace], Exit], *, help: str, description: str, example: str
) -> argparse.ArgumentParser:
    """Adds what stands behind `runner.data`, with what all of them share; `work` runs it."""
    verb: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=help,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_traceback(verb)
    verb.set_defaults(work=work)
    return verb


def _count(text: str) -> int:
    """Parses a number of pictures, 1 or more."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of pictures: give 1 or more")
    return int(text)


def _seed(text: str) -> int:
    """Parses a seed, 0 or more."""
    if not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed: give a whole number from 0 to 2**63 - 1")
    return int(text)


def _sha256(text: str) -> str:
    """Parses a SHA-256. Returns it in lower case."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no SHA-256: give 64 hexadecimal digits")
    return text.lower()


def _synthesize(arguments: argparse.Namespace) -> Exit:
    """Draws all pairs into the folder. Raises DataError where the folder can't be used."""
    # Imported here, so that `--help` does not wait for them.
    from rich.progress import track

    from runner.data.sources import read_picture, synthetic_source
    from runner.storage.storage import Storage

    folder = Path(arguments.directory)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: give a folder")

    # Other files would be trained on too. Pairs of an earlier run are only written again, with the same bytes.
    source = synthetic_source(Synthetic(train=arguments.train, val=arguments.val, seed=arguments.seed))
    wanted = {f"{picture.split}/{picture.name}" for picture in source.pictures}
    strangers = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).as_posix() not in wanted
    )  # fmt: skip
    if strangers:
        raise DataError(f"{folder} holds other files ({', '.join(strangers[:3])}): give a new or an empty folder")

    storage = Storage.open(folder)
    try:
        for split in ("train", "val"):
            storage.make_folder(split)
        for picture in track(source.pictures, description="drawing", disable=not sys.stdout.isatty()):
            (content,) = read_picture(picture, source.seed)
            storage.write(f"{picture.split}/{picture.name}", content)
    except OSError as error:
        raise DataError(f"{folder} can't be written ({error.strerror}): give a folder that can") from error

    print(f"{arguments.train} + {arguments.val} pairs in {folder}; use them with --set data.source={folder}")
    return Exit.FINISHED


def _check(arguments: argparse.Namespace) -> Exit:
    """Examines a data set. Raises UserError where it is none."""
    from runner.data.checking.command import check_data

    return check_data(arguments.directory, arguments.json, arguments.sheet)


def _fetch(arguments: argparse.Namespace) -> Exit:
    """Fetches a data set. Raises UserError where it can't be had."""
    from runner.data.fetching.fetch import fetch

    with unwound_on_sigterm():
        fetch(arguments.source, arguments.directory, arguments.sha256)
    return Exit.FINISHED


if __name__ == "__main__":
    sys.exit(main())
