"""What this process has used of its machine: processor time and memory.

Not known is how busy a GPU was: torch can tell that only with another package.
"""

import contextlib
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

_PROC = Path("/proc/self")


class Usage(NamedTuple):
    """What was used so far.

    Attributes:
        cpu_s: processor seconds of all threads.
        peak_bytes: the most memory that the process had at once, without what was swapped out.
        peak_gpu_bytes: the most that torch had allocated on the GPU at once; 0 where none is used.
    """

    cpu_s: float = 0.0
    peak_bytes: int = 0
    peak_gpu_bytes: int = 0


class UsageMeter:
    """Measures from its beginning on, after what earlier processes have used: time is summed up, of peaks the largest.

    `now` may be called in any thread. It waits for nothing: not for a GPU either.
    """

    def __init__(self, before: Usage, gpu: "torch.device | None" = None) -> None:
        """Begins.

        Args:
            gpu: that this process trains on; None for none.
        """
        self._before, self._gpu = before, gpu
        # A process may have done something else before: then its peak was not this one.
        _forget_peaks(gpu)
        self._began_s = time.process_time()

    def now(self) -> Usage:
        """What was used up to this moment."""
        before = self._before
        return Usage(
            before.cpu_s + time.process_time() - self._began_s,
            max(before.peak_bytes, _peak_bytes()),
            max(before.peak_gpu_bytes, _peak_gpu_bytes(self._gpu)),
        )


def _forget_peaks(gpu: "torch.device | None") -> None:
    """Lets the peaks begin anew with what is used now; not all sandboxes can do that."""
    with contextlib.suppress(OSError):
        (_PROC / "clear_refs").write_text("5")  # see proc_pid_clear_refs(5): VmHWM, and nothing else
    if gpu is not None:
        import torch

        torch.cuda.reset_peak_memory_stats(gpu)


def _peak_bytes() -> int:
    with contextlib.suppress(OSError):
        for line in (_PROC / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # Some sandboxes do not show it. This one may be that of the process that has started this one.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _peak_gpu_bytes(gpu: "torch.device | None") -> int:
    if gpu is None:
        return 0
    import torch

    return torch.cuda.max_memory_allocated(gpu)
