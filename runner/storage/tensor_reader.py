"""Tensors from a file of unknown origin. Nothing in it is executed."""

import io
import zipfile

import safetensors
import safetensors.torch
import torch
from torch import Tensor

HEADER_PLACE = slice(8, 9)  # of a safetensors file, after eight bytes of length; in no file that torch.save writes
ZIP = b"PK"


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """The named tensors of a safetensors file, or of a state that torch.save has written, on the processor.

    Raises:
        ValueError: the file is damaged, of another kind, or holds anything but named, plain tensors.
    """
    if content[HEADER_PLACE] == b"{":
        try:
            return safetensors.torch.load(content)
        except safetensors.SafetensorError as error:
            raise ValueError(f"it is a damaged safetensors file ({error})") from error
    try:
        if content.startswith(ZIP):
            check_sums(content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # there is no end to the ways in which a damaged or hostile pickle can fail
        raise ValueError("it holds more than tensors, or is damaged; nothing of it was executed") from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) and is_plain(tensor) for name, tensor in state.items()
    ):
        raise ValueError("it holds something else than named, plain tensors: save the generator's state_dict alone")
    return dict(state)


def is_plain(tensor: Tensor) -> bool:
    """True where a tensor has all its numbers: it is not sparse, of tensors itself, or a shape without any."""
    return tensor.layout == torch.strided and not tensor.is_nested and tensor.device.type == "cpu"


def check_sums(content: bytes) -> None:
    """Raises ValueError where a part of a zip file is not what it was, which torch does not look at."""
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        if part := parts.testzip():
            raise ValueError(f"{part} does not match its checksum")
