"""Runs a drill from the parsed options to the exit code."""

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
from runner.drill.table import NO, NOT_TRIED, FaultResult, print_results, to_json
from runner.drill.workers import ClusterWorkers, LocalWorkers, Workers
from runner.errors import Exit, ResourceError, StorageError
from runner.on_ray.connection.address import check_reachable, cluster_address
from runner.storage.folder import Folder, open_folder
from runner.storage.storage import Storage, open_storage


def run(arguments: argparse.Namespace, faults: Sequence[Fault] = FAULTS) -> Exit:
    """Runs the drill, prints the table, and removes the temporary folder if all faults were survived.

    Raises:
        StorageError: the folder for the runs, or for the table, can't be written.
        ResourceError: the undisturbed run failed, or there was no time for any fault.
    """
    began = time.monotonic()
    console = Console()
    seed = arguments.seed if arguments.seed is not None else secrets.randbelow(10**6)
    # Before the drill: a wrong --json should be an error now, not after all the minutes.
    table_folder = open_table_folder(arguments.json)

    interrupted = False
    with contextlib.ExitStack() as stack:
        stack.enter_context(unwound_on_sigterm())
        address = cluster_address(arguments.address)
        workers = _reach_workers(stack, address, arguments.storage)
        place = new_place(arguments.storage)
        # What commands print goes into a folder of this machine in any case.
        folder = place if isinstance(place, Folder) else new_folder(None)
        console.print(f"drill of {arguments.minutes:g} minutes in {place.root}, --seed {seed}")
        drill = Drill(
            folder=folder,
            place=place,
            console=console,
            seed=seed,
            deadline=began + 60 * arguments.minutes,
            short=arguments.minutes < SHORT_MINUTES,
            address=address,
            workers=workers,
        )
        try:
            drill.run(faults)
        except KeyboardInterrupt:
            interrupted = True  # what was found so far is printed all the same

    took_s = time.monotonic() - began
    if table_folder is not None:
        table_folder.write(Path(arguments.json).name, to_json(drill.results, seed, took_s))
    _print_summary(console, drill.results, took_s)

    # The temporary folder is removed only where nobody will want to look into it.
    failed = any(result.survived == NO for result in drill.results)
    if arguments.storage or interrupted or failed:
        console.print(f"the runs are in {' and '.join(dict.fromkeys((place.root, folder.root)))}")
    else:
        shutil.rmtree(folder.local_path, ignore_errors=True)

    if interrupted:
        return Exit.INTERRUPTED
    if all(result.survived == NOT_TRIED for result in drill.results):
        raise ResourceError("no fault was tried; where the time did not allow it, give more --minutes.")
    return Exit.TRIAL_FAILED if failed else Exit.FINISHED


def _reach_workers(stack: contextlib.ExitStack, address: str | None, storage: str | None) -> Workers:
    """Connects to the cluster at an address, if there is one, until the stack is closed."""
    if address is None:
        return LocalWorkers()
    check_reachable(address)
    workers = stack.enter_context(contextlib.closing(ClusterWorkers(address)))
    num_nodes = workers.num_nodes()
    # The default is a temporary folder of this machine, which other nodes do not see.
    if num_nodes > 1 and not storage:
        raise StorageError(f"--storage: the cluster has {num_nodes} nodes; give a folder that all of them see.")
    return workers


def open_table_folder(path: str | None) -> Folder | None:
    """The folder of the file that --json names. Raises StorageError where it can't be written."""
    return None if path is None else open_folder(str(Path(path).absolute().parent))


def new_place(storage: str | None) -> Storage:
    """Where the results of this drill's runs go; see new_folder for one that is no bucket."""
    if storage is None or "://" not in storage:
        return new_folder(storage)
    bucket = open_storage(storage)
    return bucket.at(f"drill_{secrets.token_hex(4)}")


def new_folder(storage: str | None) -> Folder:
    """Creates a folder for the runs of this drill. Raises StorageError where it can't be created."""
    if storage is None:
        return Folder.at_path(tempfile.mkdtemp(prefix="pix2pix-drill-"))

    parent = open_folder(storage)
    number = 1
    while parent.exists(f"drill_{number}"):
        number += 1
    folder = parent.at(f"drill_{number}")
    try:
        folder.make_folder()
    except OSError as error:
        raise StorageError(f"--storage: {folder.root} can't be made ({error.strerror or error}).") from error
    return folder


def _print_summary(console: Console, results: Sequence[FaultResult], took_s: float) -> None:
    """Prints the table, and a line with the totals."""
    print_results(console, results)
    tried = [result for result in results if result.survived != NOT_TRIED]
    survived = [result for result in tried if result.survived != NO]
    kills = sum(result.kills for result in results)
    console.print(
        f"{len(survived)} of {len(tried)} faults survived, {kills} {'kill' if kills == 1 else 'kills'}, "
        f"{took_s / 60:.1f} minutes"
    )
