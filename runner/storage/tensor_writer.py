"""Tensors into a stream in the safetensors format, without a copy: the library's own writer makes one of
each tensor while it holds the interpreter, which is training time."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

TYPE_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
ALIGNMENT = 8


def write_tensors(
    stream: Any,
    tensors: Mapping[str, Tensor],
    on_tensor: Callable[[], None] = lambda: None,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes named host tensors; the bytes depend on these alone, and are those of `safetensors.torch.save`.

    Format: the header's length as 8 bytes, little-endian; the header, JSON padded with blanks to a multiple
    of 8; the tensors' bytes one after another, the widest types first, then by name
    (https://huggingface.co/docs/safetensors).

    Args:
        on_tensor: called after each tensor.
        metadata: texts that the file is to hold beside; sorted by name, which the library leaves to chance.

    Raises:
        KeyError: a tensor's type is none of TYPE_NAMES.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": TYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    stream.write(len(text).to_bytes(8, "little") + text)
    for _, tensor in ordered:
        stream.write(tensor.detach().cpu().contiguous().reshape(-1).numpy().data.cast("B"))
        on_tensor()
