"""Grids of pictures: rows of source | target | generated."""

import io
from collections.abc import Iterable

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

_WHITE = 255


def to_pixels(image: Tensor) -> Tensor:
    """[-1, 1] as uint8, rounded to the nearest."""
    return ((image.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def comparison_png(rows: Iterable[tuple[Tensor, Tensor, Tensor]], padding: int = 4) -> bytes:
    """A PNG with one row for each patch: source, target, generated, with white between them.

    Args:
        rows: (generated, source, target) as `gan.evaluation.evaluate.generate` yields them, each (n, 3, S, S).
    """
    pictures = [torch.stack([source, target, generated], dim=1) for generated, source, target in rows]
    grid = make_grid(to_pixels(torch.cat(pictures).flatten(0, 1).cpu()), 3, padding)
    stream = io.BytesIO()
    Image.fromarray(grid.permute(1, 2, 0).numpy()).save(stream, "PNG")
    return stream.getvalue()


def make_grid(pictures: Tensor, columns: int, padding: int) -> Tensor:
    """Many pictures as one, (C, H, W) uint8, row by row, with white around each.

    Gives the same pixels as torchvision's make_grid, but torchvision takes seconds to import.

    Args:
        pictures: (N, C, h, w) uint8; N a multiple of `columns`.
    """
    cells = pad(pictures, (padding, 0, padding, 0), value=_WHITE)
    # (rows, columns, C, h, w) becomes (C, rows, h, columns, w).
    rows = cells.reshape(-1, columns, *cells.shape[1:]).permute(2, 0, 3, 1, 4)
    return pad(rows.flatten(3, 4).flatten(1, 2), (0, padding, 0, padding), value=_WHITE)
