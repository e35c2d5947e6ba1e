"""What an earlier run left, and the room there is: looked at before anything is started."""

from collections.abc import Sequence

import torch

from runner.checking import CheckedRun
from runner.checkpoints import CHECKPOINTS, NoGoodCheckpoint, newest_checkpoint
from runner.errors import StorageError
from runner.placing import PlacedTrial
from runner.plan import count_patches, disk_needed, size
from runner.preparation import PATCHES
from runner.records import TRIALS, read_trial_file
from runner.resources import Allotment
from runner.screen import Screen
from runner.settling import refuse_emulation
from runner.sources import SPLITS


def check_checkpoints(run: CheckedRun, pending: Sequence[PlacedTrial], screen: Screen) -> None:
    """Sets damaged checkpoints aside; raises StorageError where a trial has no other."""
    refused = []
    for place in pending:
        try:
            newest_checkpoint(run.folder.at(f"{TRIALS}/{place.folder}"), place.ids, screen.say)
        except NoGoodCheckpoint as error:
            refused.append(f"{run.folder.shown}/{TRIALS}/{place.folder}/{CHECKPOINTS}: {error}")
    if refused:
        raise StorageError(
            "\n".join(refused) + "\nNothing was changed. Bring a good checkpoint back, or move the folder "
            "`checkpoints` away to train the trial from its first step."
        )


def check_room(run: CheckedRun, pending: Sequence[PlacedTrial], allotment: Allotment | None) -> None:
    """Raises StorageError where the disk has not the room that the run will need."""
    if not pending:
        return
    to_make: dict[str, int] = {}
    for place in pending:
        data = place.trial.config.data
        located = run.sources[data.patching]
        if located.source is not None and not run.storage.at(PATCHES).exists(located.fingerprint):
            to_make[data.patching] = sum(count_patches(located.source, data, split) for split in SPLITS)
    stand = sum(run.folder.at(f"{TRIALS}/{place.folder}/{CHECKPOINTS}").total_bytes() for place in pending)
    at_once = allotment.max_concurrent if allotment else 1
    needed = disk_needed([place.trial.config for place in pending], at_once, to_make) - stand
    free = run.storage.free_bytes()
    if free < needed:
        raise StorageError(
            f"--storage: {run.storage.shown} needs room for {size(needed)}, but only {size(free)} are free there. Make "
            "room, use another --storage, or lower checkpoint.keep or checkpoint.keep_finished (--dry-run shows what "
            "takes how much)."
        )


def check_precision(run: CheckedRun, pending: Sequence[PlacedTrial], device: str) -> None:
    """Raises ResourceError where a trial was begun in a precision that this machine only emulates."""
    for place in pending:
        recorded = read_trial_file(run.folder.at(f"{TRIALS}/{place.folder}")) or {}
        refuse_emulation(place.folder, recorded, place.trial.config.training.precision, torch.device(device))
