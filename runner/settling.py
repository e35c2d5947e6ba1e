"""What a trial's bits depend on beside its config: settled at its first start, recorded, and kept."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from gan.precision import has_native_bf16, resolve_precision
from gan.team import Team
from runner.checkpoints import settled_in_checkpoints
from runner.errors import ResourceError
from runner.job import TrialJob
from runner.records import machine_differences, read_trial_file, write_trial_file


class Settled(NamedTuple):
    """What a trial's bits depend on beside its config; recorded at its first start and kept."""

    threads: int
    precision: str


def settle(job: TrialJob, team: Team, device: torch.device) -> Settled:
    """The recorded threads and precision, or at the first start those of this machine, then recorded.

    Raises:
        ResourceError: the trial was begun in a precision that this machine can only emulate.
    """
    if team.is_first:
        recorded = read_trial_file(job.trial) or settled_in_checkpoints(job.trial, job.ids)
        wanted = job.config.training.precision
        refuse_emulation(job.name, recorded, wanted, device)
        precision = str(recorded.get("precision") or resolve_precision(wanted, device))
        threads = int(recorded.get("threads") or job.threads)
        job.check_current()
        for difference in machine_differences(recorded):
            job.say(f"{difference}: the bits of what follows may differ")
        write_trial_file(job.trial, job.config, job.ids, job.params, threads, precision)
    team.agree(1)  # the file stands before the others read it
    settled = read_trial_file(job.trial) or {}
    return Settled(int(settled["threads"]), str(settled["precision"]))


def refuse_emulation(name: str, recorded: Mapping[str, Any], wanted: str, device: torch.device) -> None:
    """Raises ResourceError where a trial was begun in a precision that was chosen for another machine."""
    if wanted == "auto" and recorded.get("precision") == "bf16" and not has_native_bf16(device):
        raise ResourceError(
            f"{name}: it was begun in bf16, which this machine only emulates. Resume it where bf16 is "
            "native, or start a new experiment name."
        )


def set_up_torch(settled: Settled, *, deterministic: bool) -> None:
    """Threads and kernel choices: a function of what the trial recorded, never of a timing."""
    torch.set_num_threads(settled.threads)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs a pass over every new tensor
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = settled.precision != "fp32"
