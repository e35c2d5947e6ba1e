"""What a trial's bits depend on besides its config: resolved at its first start, recorded, and kept."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from gan.networks.precision import has_native_bf16, resolve_precision
from gan.training.computation import describe_computation
from gan.training.process_group import WORKER_SEMANTICS, ProcessGroup
from runner.errors import ResourceError
from runner.number_format import counted
from runner.process.allocator import keep_freed_memory
from runner.process.processes import num_cores
from runner.records.checkpoints import checkpoint_steps, runtime_in_checkpoints
from runner.records.trial_file import machine_differences, read_trial_file, workers_change, write_trial_file
from runner.trial.job import TrialJob


class RuntimeSettings(NamedTuple):
    """What a trial's bits depend on besides its config; recorded at its first start.

    `threads` and `precision` are kept from then on. `kernels` is how this program computes on this kind of device; a
    trial that goes on with others is told so. `worker_semantics` is how several workers compute a step.
    """

    threads: int
    precision: str
    kernels: str
    worker_semantics: int = WORKER_SEMANTICS


def resolve_runtime(job: TrialJob, group: ProcessGroup, device: torch.device) -> RuntimeSettings:
    """What the trial recorded at its first start; at the first start what this machine has, then recorded.

    Raises:
        ResourceError: the trial was begun in a precision that this machine can only emulate.
    """
    if group.is_rank_zero:
        _record_runtime(job, group, device)
    group.broadcast(1)  # the file is written before the other workers read it
    recorded = read_trial_file(job.trial) or {}
    return RuntimeSettings(int(recorded["threads"]), str(recorded["precision"]), str(recorded["kernels"]))


def _record_runtime(job: TrialJob, group: ProcessGroup, device: torch.device) -> None:
    """Writes trial.yaml; log.txt says what differs from the start before this one."""
    # If trial.yaml is lost or damaged, the manifests of checkpoints still have what was recorded.
    recorded = read_trial_file(job.trial) or runtime_in_checkpoints(job.trial, job.fingerprints)
    wanted = job.config.training.precision
    refuse_emulation(job.name, recorded, wanted, device)
    refuse_earlier_workers(job.name, recorded, has_steps=bool(checkpoint_steps(job.trial)))
    precision = str(recorded.get("precision") or resolve_precision(wanted, device))
    # What Ray counts may be more than the container of this node lets its processes use.
    threads = int(recorded.get("threads") or min(job.threads, num_cores()))
    if threads > num_cores():
        job.log_line(
            f"it keeps the {threads} threads that it was begun with, for the same bits, and is slowed down by them: "
            f"this machine's processes may use {counted(num_cores(), 'core')}"
        )

    # The same state on other kernels gives other last bits, which is no reason not to go on.
    job.check_current()
    config = job.config
    kernels = describe_computation(device, precision, group, config.networks, config.training.gan_loss)
    for difference in machine_differences(recorded, kernels):
        job.log_line(f"{difference}: the bits of what follows may differ")
    if change := workers_change(recorded, group.world_size):
        job.log_line(change)

    runtime = RuntimeSettings(threads, precision, kernels)
    write_trial_file(job.trial, job.config, job.fingerprints, job.params, runtime._asdict())


def refuse_emulation(name: str, recorded: Mapping[str, Any], wanted: str, device: torch.device) -> None:
    """Raises ResourceError where a trial was begun in a precision that was chosen for another machine."""
    if wanted == "auto" and recorded.get("precision") == "bf16" and not has_native_bf16(device):
        raise ResourceError(
            f"{name}: it was begun in bf16, which this machine only emulates. Resume it where bf16 is "
            "native, or start a new experiment name."
        )


def refuse_earlier_workers(name: str, recorded: Mapping[str, Any], *, has_steps: bool) -> None:
    """Raises ResourceError where several workers have trained a trial in another way than they would now.

    Args:
        recorded: the content of its trial.yaml.
        has_steps: whether there is anything of it to go on from.
    """
    workers = recorded.get("config", {}).get("resources", {}).get("workers", 1)
    if has_steps and workers > 1 and recorded.get("worker_semantics") != WORKER_SEMANTICS:
        raise ResourceError(
            f"{name}: resources.workers was {workers} when another release trained it, in which each worker normalised "
            "its own pictures alone; now they learn what one worker would. Going on would mix the two: use that "
            "release, or start a new experiment name."
        )


def set_up_torch(runtime: RuntimeSettings, *, deterministic: bool) -> None:
    """Threads, memory and kernel choices: a function of what the trial recorded, never of a timing."""
    keep_freed_memory()
    torch.set_num_threads(runtime.threads)

    if deterministic:
        # Without this setting torch's deterministic mode refuses matrix products on CUDA.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # As use_deterministic_algorithms, which loads torch's compiler for it: two seconds of a trial's start.
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs a pass over every new tensor

    # The benchmark chooses kernels by their measured times, which differ from run to run.
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = runtime.precision != "fp32"


@contextlib.contextmanager
def torch_settings_kept() -> Iterator[None]:
    """Restores after the block what set_up_torch sets inside: for a process that uses torch for other work, too."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    benchmark = torch.backends.cudnn.benchmark
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = benchmark
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32
