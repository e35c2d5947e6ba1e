"""Numeric precision of the training step: what was asked for, resolved for a device."""

import contextlib

import torch

AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


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


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context in which forward passes run: automatic casts for bf16 and fp16, nothing for fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST_TYPES[precision])
