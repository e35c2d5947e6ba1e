"""How to upload the W&B runs of an experiment that are kept offline."""

import shlex

from runner.storage.run_folder import TRIALS, WANDB_FOLDER
from runner.storage.storage import Storage


def sync_hint(experiment: Storage) -> str:
    """The command that uploads an experiment's offline runs; "" where there is nothing left to upload."""
    patterns = []
    if any(_has_offline_run(experiment.at(f"{TRIALS}/{name}/{WANDB_FOLDER}")) for name in experiment.names(TRIALS)):
        patterns.append(f"{TRIALS}/*/{WANDB_FOLDER}/offline-run-*")
    if _has_offline_run(experiment.at(WANDB_FOLDER)):
        patterns.append(f"{WANDB_FOLDER}/offline-run-*")
    if not patterns:
        return ""

    # wandb reads folders of this machine alone.
    folder = shlex.quote(f"COPY_OF_{experiment.name}" if experiment.is_remote else experiment.shown)
    upload = " ".join(["wandb sync", *(f"{folder}/{pattern}" for pattern in patterns)])
    if not experiment.root.startswith("s3://"):
        return upload
    chosen = "--exclude '*' --include '*/offline-run-*'"
    return f"aws s3 cp --recursive {shlex.quote(experiment.root)} {folder} {chosen} && {upload}"


def _has_offline_run(folder: Storage) -> bool:
    """True where a folder holds a run that `wandb sync` has not marked as uploaded."""
    for run in folder.names():
        names = folder.names(run) if run.startswith("offline-run-") else []
        if any(name.endswith(".wandb") and f"{name}.synced" not in names for name in names):
            return True
    return False
