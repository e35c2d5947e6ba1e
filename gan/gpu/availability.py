"""What a device can run."""

import functools
import importlib.util

import torch


@functools.cache
def has_kernels(device: torch.device) -> bool:
    """True on a GPU that runs `gan.gpu.kernels`; that takes Triton and a C compiler beside it."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    from gan.gpu import kernels

    return kernels.run_on(device)
