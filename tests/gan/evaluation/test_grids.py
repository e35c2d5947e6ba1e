import pytest
import torch
from torchvision.utils import make_grid as torchvision_grid

from gan.evaluation.grids import make_grid


@pytest.mark.parametrize("padding", [0, 4])
def test_pictures_are_laid_out_as_torchvision_does(padding: int) -> None:
    pictures = torch.randint(256, (6, 3, 5, 7), dtype=torch.uint8)
    expected = torchvision_grid(pictures, nrow=3, padding=padding, pad_value=255)
    assert torch.equal(make_grid(pictures, 3, padding), expected)
