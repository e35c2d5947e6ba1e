"""Pictures to look at: rows of source | target | generated."""

import io
from collections.abc import Iterable

import torch
from PIL import Image
from torch import Tensor


def to_pixels(image: Tensor) -> Tensor:
    """[-1, 1] as uint8, rounded to the nearest."""
    return ((image.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def comparison_png(rows: Iterable[tuple[Tensor, Tensor, Tensor]], padding: int = 4) -> bytes:
    """A PNG of one row a patch: source, target, generated, with white between them.

    Args:
        rows: (generated, source, target) as `evaluation.generate` yields them, each (1, 3, S, S).
    """
    from torchvision.utils import make_grid  # takes seconds to import: not before the first picture

    pictures = [picture for generated, source, target in rows for picture in (source, target, generated)]
    grid = make_grid(to_pixels(torch.cat(pictures).cpu()), nrow=3, padding=padding, pad_value=255)
    stream = io.BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(stream, "PNG")
    return stream.getvalue()
