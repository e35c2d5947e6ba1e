"""`python -m runner.drill`: the command."""

import argparse
import math
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from runner.checking import open_storage
from runner.command import add_traceback, new_parser, run_command
from runner.errors import Exit, ResourceError, StorageError
from runner.storage import Storage


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; its exit code."""
    parser = new_parser(
        "runner.drill",
        "Breaks small runs in many ways and prints which of the faults they survived: the same command again, and\n"
        "every byte as in a run that nothing happened to. Only processes that it started are ended.\n"
        "Exit code 0: all that were tried survived; 1: some did not.",
        "python -m runner.drill --minutes 20",
    )
    parser.add_argument("--minutes", metavar="N", type=minutes, default=20.0, help="about how long (default: 20)")
    parser.add_argument(
        "--address", default=os.environ.get("RAY_ADDRESS"),
        help="an existing Ray cluster (default: RAY_ADDRESS, else local ones of its own)",
    )  # fmt: skip
    parser.add_argument(
        "--storage", metavar="DIR",
        help="where the runs go, for a cluster a folder that all nodes see "
        "(default: a temporary folder, removed if all survived)",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="write the table as JSON, too")
    parser.add_argument("--seed", type=int, help="draws the random moments (default: a new one, which is printed)")
    add_traceback(parser)
    return run_command(parser, run_drill, argv)


def minutes(text: str) -> float:
    """A number of minutes above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes: give one above 0, for example 20")
    return value


def run_drill(arguments: argparse.Namespace) -> Exit:
    """Drills, prints the table, and removes the temporary folder if all survived."""
    from runner.drill.drill import SHORT_MINUTES, Drill
    from runner.drill.reach import Cluster, ThisMachine
    from runner.drill.table import NOT_TRIED, print_tallies, to_json
    from runner.screen import Screen

    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(Exit.STOPPED)))
    screen = Screen()
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(10**6)
    report = open_report(arguments.json)
    cluster = Cluster(arguments.address) if arguments.address else None
    if cluster and cluster.num_nodes() > 1 and not arguments.storage:
        raise StorageError(
            f"--storage: the cluster has {cluster.num_nodes()} nodes; give a folder that all of them see."
        )
    folder = new_folder(arguments.storage)
    screen.say(f"drill of {arguments.minutes:g} minutes in {folder.root}, --seed {seed}")
    drill = Drill(
        folder=folder,
        screen=screen,
        seed=seed,
        deadline=began + 60 * arguments.minutes,
        short=arguments.minutes < SHORT_MINUTES,
        address=arguments.address,
        reach=cluster or ThisMachine(),
    )
    try:
        drill.run()
    finally:
        if cluster:
            cluster.close()
        if drill.tallies:
            print_tallies(screen, drill.tallies)
    took_s = time.monotonic() - began
    if report is not None:
        report.write(Path(arguments.json).name, to_json(drill.tallies, seed, took_s))
    kills = sum(tally.kills for tally in drill.tallies)
    tried = [tally for tally in drill.tallies if tally.survived != NOT_TRIED]
    failed = [tally for tally in tried if tally.survived == "no"]
    screen.say(f"{len(tried) - len(failed)} of {len(tried)} faults survived, {kills} kills, {took_s / 60:.1f} minutes")
    if failed or arguments.storage:
        screen.say(f"the runs are in {folder.root}")
    else:
        shutil.rmtree(folder.local_path, ignore_errors=True)
    if not tried:
        raise ResourceError(f"--minutes is {arguments.minutes:g}: too short for any fault here; give more.")
    return Exit.TRIAL_FAILED if failed else Exit.FINISHED


def open_report(path: str | None) -> Storage | None:
    """The folder that --json names a file in; raises StorageError where it can't be written."""
    return None if path is None else open_storage(str(Path(path).absolute().parent))


def new_folder(storage: str | None) -> Storage:
    """A folder that no other drill has used; raises StorageError where it can't be made."""
    if storage is None:
        return Storage.open(tempfile.mkdtemp(prefix="pix2pix-drill-"))
    place = open_storage(storage)
    number = 1
    while place.exists(f"drill_{number}"):
        number += 1
    folder = place.at(f"drill_{number}")
    try:
        folder.make_folder()
    except OSError as error:
        raise StorageError(f"--storage: {folder.root} can't be made ({error.strerror or error}).") from error
    return folder


if __name__ == "__main__":
    sys.exit(main())
