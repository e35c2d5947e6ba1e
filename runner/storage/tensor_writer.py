"""Writes tensors in the safetensors format without copying them.

The library's writer copies each tensor while it holds the interpreter lock, and training has to wait for that.
"""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

_TYPE_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.int64: "I64"}
_ALIGNMENT = 8


def write_tensors(
    stream: Any,
    tensors: Mapping[str, Tensor],
    on_tensor: Callable[[], None] = lambda: None,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes named tensors to a stream. The bytes are those of `safetensors.torch.save`, and the same each time.

    Format: the header's length as 8 bytes, little-endian; the header, which is JSON padded with blanks to a multiple
    of 8 bytes; the tensors' bytes one after another, the widest types first, then by name
    (https://huggingface.co/docs/safetensors).

    Args:
        on_tensor: called after each tensor.
        metadata: further texts for the header. They are sorted by name, because the library's order is random.

    Raises:
        KeyError: a tensor's type is none of float64, float32, float16 and int64.
    """
    # Widest types first: then each tensor is aligned to its type.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}

    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _TYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }

    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    stream.write(len(text).to_bytes(8, "little") + text)

    for _, tensor in ordered:
        # `data` is a view of the tensor's memory: a contiguous tensor on the host is not copied.
        stream.write(tensor.detach().cpu().contiguous().reshape(-1).numpy().data.cast("B"))
        on_tensor()
