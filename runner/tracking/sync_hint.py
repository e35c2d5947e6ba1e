"""Which of an experiment's W&B runs have been kept offline and are still to be uploaded."""

import shlex

from runner.storage.folder import Storage
from runner.storage.run_folder import TRIALS, WANDB_FOLDER


def sync_hint(experiment: Storage) -> str:
    """The command that uploads an experiment's offline runs; "" where there are none, or all have been."""
    patterns = []
    if any(has_offline_run(experiment.at(f"{TRIALS}/{name}/{WANDB_FOLDER}")) for name in experiment.names(TRIALS)):
        patterns.append(f"{TRIALS}/*/{WANDB_FOLDER}/offline-run-*")
    if has_offline_run(experiment.at(WANDB_FOLDER)):
        patterns.append(f"{WANDB_FOLDER}/offline-run-*")
    place = shlex.quote(experiment.shown)
    return " ".join(["wandb sync", *(f"{place}/{pattern}" for pattern in patterns)]) if patterns else ""


def has_offline_run(folder: Storage) -> bool:
    """True where a run lies in the folder that `wandb sync` has not marked as uploaded."""
    for run in folder.names():
        names = folder.names(run) if run.startswith("offline-run-") else []
        if any(name.endswith(".wandb") and f"{name}.synced" not in names for name in names):
            return True
    return False
