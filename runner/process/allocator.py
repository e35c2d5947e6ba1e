"""The C allocator of a process that trains on a processor."""

import ctypes
import sys

# mallopt's names for them, from malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
_MIB = 2**20

# As an environment has them, for processes to come; the C library reads them when a process starts.
KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
    "MALLOC_TOP_PAD_": str(64 * _MIB),
}


def keep_freed_memory() -> None:
    """Lets this process keep the memory that it frees, for its next allocations; on Linux with glibc.

    By default blocks of 32 MiB and more, the size of the deepest layers' gradients, go back to the system when
    they are freed, and each step has the pages mapped and cleared again: up to a third of a step at batch 1. Threads
    that have an arena of their own by now keep it: where training runs in such a thread, the environment has to
    say it beforehand (KEEP_FREED_MEMORY).
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 64 * _MIB)):
        mallopt(parameter, value)
