"""What an earlier run left, and the room there is: looked at before anything is started."""

from collections.abc import Sequence
from pathlib import Path

from runner.console import Console
from runner.data.sources import SPLITS
from runner.errors import StorageError
from runner.number_format import byte_size
from runner.records.trial_file import read_trial_file
from runner.records.trial_folders import Trial
from runner.storage.run_folder import CHECKPOINTS, INITIAL_WEIGHTS, PATCHES, TRIALS, trial_path
from runner.sweep.check import CheckedRun
from runner.sweep.dry_run import count_patches, disk_needed
from runner.trial.resources import TrialResources


def check_checkpoints(run: CheckedRun, pending: Sequence[Trial], console: Console) -> None:
    """Sets damaged checkpoints aside; raises StorageError where a trial has no other."""
    folders = {trial.name: run.folder.at(trial_path(trial.name)) for trial in pending}
    begun = [trial for trial in pending if folders[trial.name].exists(CHECKPOINTS)]
    if not begun:
        return
    from runner.records.checkpoints import NoGoodCheckpoint, newest_checkpoint  # torch comes with it

    refused = []
    for trial in begun:
        try:
            newest_checkpoint(folders[trial.name], trial.fingerprints, console.print)
        except NoGoodCheckpoint as error:
            refused.append(f"{run.folder.shown}/{TRIALS}/{trial.name}/{CHECKPOINTS}: {error}")
    if refused:
        raise StorageError(
            "\n".join(refused) + "\nNothing was changed. Bring a good checkpoint back, or move the folder "
            "`checkpoints` away to train the trial from its first step."
        )


def keep_initial_weights(run: CheckedRun, pending: Sequence[Trial]) -> None:
    """Brings what trials start from to where their workers find it; raises DataError where it is gone."""
    if any(trial.fingerprints.initial_weights for trial in pending):
        from runner.records.initial_weights import keep_copies  # torch comes with it

        keep_copies(run.folder, pending)


def check_room(run: CheckedRun, pending: Sequence[Trial], trial_resources: TrialResources | None) -> None:
    """Raises StorageError where the disk has not the room that the run will need."""
    if not pending:
        return
    to_make: dict[str, int] = {}
    for trial in pending:
        data = trial.config.data
        located = run.sources[data.patching]
        if located.source is not None and not run.storage.at(PATCHES).exists(located.fingerprint):
            to_make[data.patching] = sum(count_patches(located.source, data, split) for split in SPLITS)
    stand = sum(run.folder.at(f"{TRIALS}/{trial.name}/{CHECKPOINTS}").total_bytes() for trial in pending)
    at_once = trial_resources.max_concurrent if trial_resources else 1
    needed = disk_needed([trial.config for trial in pending], at_once, to_make) + bytes_to_copy(run, pending) - stand
    free = run.storage.free_bytes()
    if free < needed:
        raise StorageError(
            f"--storage: {run.storage.shown} needs room for {byte_size(needed)}, but only {byte_size(free)} are free "
            "there. Make room, use another --storage, or lower checkpoint.keep or checkpoint.keep_finished (--dry-run "
            "shows what takes how much)."
        )


def bytes_to_copy(run: CheckedRun, pending: Sequence[Trial]) -> int:
    """Of the files that trials start from, where the experiment has no copy of them yet."""
    files = {trial.fingerprints.initial_weights: trial.config.model.initial_weights for trial in pending}
    copies = run.folder.at(INITIAL_WEIGHTS)
    paths = [Path(path) for digest, path in files.items() if path and not copies.exists(digest)]
    return sum(path.stat().st_size for path in paths if path.is_file())


def check_precision(run: CheckedRun, pending: Sequence[Trial], device: str) -> None:
    """Raises ResourceError where a trial was begun in a precision that this machine only emulates."""
    for trial in pending:
        recorded = read_trial_file(run.folder.at(trial_path(trial.name))) or {}
        if not recorded:
            continue
        import torch

        from runner.trial.runtime import refuse_emulation

        refuse_emulation(trial.name, recorded, trial.config.training.precision, torch.device(device))
