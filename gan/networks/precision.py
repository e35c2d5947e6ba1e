"""Numeric precision of the training step: what was asked for, resolved for a device, and networks in it."""

import copy
from typing import Any, TypeVar

import torch
from torch import nn

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
LOWER_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Network = TypeVar("Network", bound=nn.Module)


def has_native_bf16(device: torch.device) -> bool:
    """True where the processor multiplies bf16 in hardware; emulation doesn't count."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
    return False


def resolve_precision(precision: str, device: torch.device) -> str:
    """`fp32`, `bf16` or `fp16`: what was asked for, or for `auto` bf16 where it is native and fp32 elsewhere."""
    if precision != "auto":
        return precision
    return "bf16" if has_native_bf16(device) else "fp32"


def memory_format_of(device: torch.device, precision: str) -> torch.memory_format:
    """How weights and pictures lie in memory: channels last where kernels are made for it."""
    # In fp32 a processor's convolutions are up to 2.4 times slower so, in bf16 up to 1.6 times faster.
    return torch.channels_last if device.type == "cuda" or precision != "fp32" else torch.contiguous_format


def low_precision_copy(network: Network, precision: str) -> Network:
    """The network as it computes in a precision: its convolutions hold low-precision copies of the master weights.

    Everything else is shared with the network given, which keeps the weights in fp32: norms with their
    running statistics above all. In fp32 it is the network itself. Held from step to step, the copies
    cost no cast in any forward or backward pass; `gan.training.optimizer.Adam` keeps them up to date.

    Args:
        precision: fp32, bf16 or fp16.
    """
    if precision == "fp32":
        return network
    layers = [part for part in network.modules() if not list(part.children())]
    # deepcopy does not copy objects that its second argument names by their id: it shares them.
    shared: dict[int, Any] = {id(layer): layer for layer in layers if not isinstance(layer, _CONVOLUTIONS)}
    compute_network = copy.deepcopy(network, shared)
    for part in compute_network.modules():
        if isinstance(part, _CONVOLUTIONS):
            part.to(LOWER_TYPES[precision])
    return compute_network
