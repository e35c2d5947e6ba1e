"""Whether this package's kernels run on a device."""

import functools
import importlib.util

import torch

# NVIDIA's compute capability (major, minor): Ampere, the first generation with bf16 in hardware.
_OLDEST_CAPABILITY = (8, 0)


@functools.cache
def has_kernels(device: torch.device) -> bool:
    """True on an NVIDIA GPU of at least _OLDEST_CAPABILITY, with Triton and a C compiler for it.

    Elsewhere PyTorch's own operations are used: import the modules that hold kernels only where this is true.
    """
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    if torch.cuda.get_device_capability(device) < _OLDEST_CAPABILITY:
        return False

    # Triton compiles a kernel when it is first launched. Only a trial shows whether that works here.
    from gan.gpu import conv

    try:
        conv.gather(torch.zeros(1, 1, 2, 2, device=device))
    except Exception:  # whatever a compiler or a driver raises
        return False
    return True
