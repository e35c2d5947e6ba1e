"""Reads tensors from files of unknown origin. Nothing in a file is executed."""

import io
import zipfile

import safetensors
import safetensors.torch
import torch
from torch import Tensor

# A safetensors file has a JSON header here, after eight bytes of length. No file of torch.save has a brace here.
_HEADER_START = slice(8, 9)
_ZIP = b"PK"  # how files of torch.save begin since version 1.6


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """Reads a safetensors file, or a state_dict that torch.save has written.

    Returns:
        The named tensors, on the CPU.

    Raises:
        ValueError: the file is damaged, of another format, or holds anything but named, plain tensors.
    """
    if content[_HEADER_START] == b"{":
        try:
            return safetensors.torch.load(content)
        except safetensors.SafetensorError as error:
            raise ValueError(f"it is a damaged safetensors file ({error})") from error

    try:
        if content.startswith(_ZIP):
            _check_sums(content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle may raise anything
        raise ValueError("it holds more than tensors, or is damaged; nothing of it was executed") from error

    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) and _is_plain(tensor) for name, tensor in state.items()
    ):
        raise ValueError("it holds something else than named, plain tensors: save the generator's state_dict alone")
    return dict(state)


def _is_plain(tensor: Tensor) -> bool:
    """True where a tensor has a value for each element: not a sparse, nested or meta tensor."""
    return tensor.layout == torch.strided and not tensor.is_nested and tensor.device.type == "cpu"


def _check_sums(content: bytes) -> None:
    """Raises ValueError where a part of a zip file has another checksum. torch.load does not look at checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        if part := parts.testzip():
            raise ValueError(f"{part} does not match its checksum")
