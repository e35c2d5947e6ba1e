"""A drill from its options to its exit code: reach, folder, faults, table."""

import argparse
import contextlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from runner.command import unwound_on_sigterm
from runner.console import Console
from runner.drill.drill import SHORT_MINUTES, Drill
from runner.drill.faults.catalogue import FAULTS, Fault
from runner.drill.reach import Cluster, Reach, ThisMachine
from runner.drill.table import NO, NOT_TRIED, Tally, print_tallies, to_json
from runner.errors import Exit, ResourceError, StorageError
from runner.storage.folder import Storage, open_storage


def run(arguments: argparse.Namespace, faults: Sequence[Fault] = FAULTS) -> Exit:
    """Drills, prints the table, and removes the temporary folder if all survived."""
    began = time.monotonic()
    console = Console()
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(10**6)
    report = open_report(arguments.json)
    with contextlib.ExitStack() as stack:
        stack.enter_context(unwound_on_sigterm())
        reach: Reach = ThisMachine()
        if arguments.address:
            cluster = stack.enter_context(contextlib.closing(Cluster(arguments.address)))
            reach, num_nodes = cluster, cluster.num_nodes()
            if num_nodes > 1 and not arguments.storage:
                raise StorageError(f"--storage: the cluster has {num_nodes} nodes; give a folder that all of them see.")
        folder = new_folder(arguments.storage)
        console.print(f"drill of {arguments.minutes:g} minutes in {folder.root}, --seed {seed}")
        drill = Drill(
            folder=folder,
            console=console,
            seed=seed,
            deadline=began + 60 * arguments.minutes,
            short=arguments.minutes < SHORT_MINUTES,
            address=arguments.address,
            reach=reach,
        )
        interrupted = False
        try:
            drill.run(faults)
        except KeyboardInterrupt:
            interrupted = True
    took_s = time.monotonic() - began
    if report is not None:
        report.write(Path(arguments.json).name, to_json(drill.tallies, seed, took_s))
    sum_up(console, drill.tallies, took_s)
    failed = any(tally.survived == NO for tally in drill.tallies)
    if arguments.storage or interrupted or failed:
        console.print(f"the runs are in {folder.root}")
    else:
        shutil.rmtree(folder.local_path, ignore_errors=True)
    if interrupted:
        return Exit.INTERRUPTED
    if all(tally.survived == NOT_TRIED for tally in drill.tallies):
        raise ResourceError("no fault was tried; where the time did not allow it, give more --minutes.")
    return Exit.TRIAL_FAILED if failed else Exit.FINISHED


def sum_up(console: Console, tallies: Sequence[Tally], took_s: float) -> None:
    """Prints the table, and one line about all of it."""
    print_tallies(console, tallies)
    tried = [tally for tally in tallies if tally.survived != NOT_TRIED]
    survived = [tally for tally in tried if tally.survived != NO]
    kills = sum(tally.kills for tally in tallies)
    console.print(f"{len(survived)} of {len(tried)} faults survived, {kills} kills, {took_s / 60:.1f} minutes")


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
