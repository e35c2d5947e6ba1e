"""Several patches at once have the values that each has by itself."""

import copy
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor

from gan.data.jitter import rescale
from gan.data.patches import Patches, PatchOrigin
from gan.data.randomness import Purpose, draw_weights, dropout_bits, dropout_masks
from gan.evaluation import evaluate as evaluation
from gan.evaluation.evaluate import METRIC_FUNCTIONS, generate, patches_at_once, score
from gan.networks.generator import Generator
from gan.networks.precision import low_precision_copy
from tests.support.pictures import smooth_picture

CPU = torch.device("cpu")
SIZE, NUM_PATCHES = 64, 11


class SomePatches:
    """Patches in memory."""

    patch_size = SIZE

    def __init__(self) -> None:
        pictures = [smooth_picture(SIZE, SIZE, seed).transpose(2, 0, 1) for seed in range(2 * NUM_PATCHES)]
        self._pairs = torch.from_numpy(np.stack(pictures)).view(2, NUM_PATCHES, 3, SIZE, SIZE)

    def __len__(self) -> int:
        return NUM_PATCHES

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        source, target = self._pairs[:, list(indices)]
        return source, target

    def origin(self, index: int) -> PatchOrigin:
        return PatchOrigin(str(index), 0, 0)


@pytest.fixture(scope="module")
def patches() -> Patches:
    return cast(Patches, SomePatches())


def new_generator(norm: str, upsampling: str = "transposed") -> Generator:
    generator = Generator(2, SIZE, norm, upsampling)
    draw_weights(generator, 0, 0)
    with torch.no_grad():
        generator.last.weight.mul_(15)
        for module in generator.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return generator


def alone(generator: Generator, patches: Patches, index: int, mode: str) -> Tensor:
    """What a patch becomes as a batch of one, by PyTorch's own norms."""
    network = copy.deepcopy(generator)
    network.train(mode == "study")
    shapes = network.dropout_shapes
    bits = dropout_bits(shapes, 1, slice(0, 1), 0, index, Purpose.EVALUATION)
    masks = dropout_masks(torch.from_numpy(bits), shapes) if mode == "study" else []
    with torch.no_grad():
        return network(rescale(patches[[index]][0]), masks).float()


@pytest.mark.parametrize("mode", ["study", "eval"])
@pytest.mark.parametrize(("norm", "upsampling"), [("batch", "transposed"), ("batch", "resize"), ("instance", "resize")])
def test_a_patch_among_others_becomes_what_it_becomes_alone(
    patches: Patches, monkeypatch: pytest.MonkeyPatch, mode: str, norm: str, upsampling: str
) -> None:
    monkeypatch.setattr(evaluation, "_PIXELS_AT_ONCE", 4 * SIZE**2)
    generator, indices = new_generator(norm, upsampling), [7, 0, 3, 10, 1, 2]
    batches = list(generate(generator, patches, indices, mode, CPU))
    assert [len(generated) for generated, _, _ in batches] == [4, 2]
    generated, source, target = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
    for row, index in enumerate(indices):
        expected = alone(generator, patches, index, mode)
        assert expected.std() > 0.01, "a picture of some contrast"
        torch.testing.assert_close(generated[row : row + 1], expected, atol=1e-4, rtol=1e-4)
        for given, pictures in zip((source, target), patches[[index]], strict=True):
            assert torch.equal(given[row : row + 1], rescale(pictures))


def test_in_a_lower_precision_too(patches: Patches) -> None:
    generator = low_precision_copy(new_generator("batch").to(memory_format=torch.channels_last), "bf16")
    ((generated, _, _),) = generate(generator, patches, [4, 5], "study", CPU)
    for row, index in enumerate([4, 5]):
        expected = alone(generator, patches, index, "study")
        assert (generated[row] - expected[0]).abs().mean() < 0.02


@pytest.mark.parametrize("mode", ["study", "eval"])
def test_a_patch_has_the_same_values_in_any_company(
    patches: Patches, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    generator = new_generator("batch")
    together = score(generator, patches, CPU, modes=(mode,)).values[mode]
    assert together.shape == (NUM_PATCHES, len(METRIC_FUNCTIONS))
    monkeypatch.setattr(evaluation, "_PIXELS_AT_ONCE", SIZE**2)
    one_by_one = score(generator, patches, CPU, modes=(mode,), indices=[9, 2]).values[mode]
    np.testing.assert_allclose(one_by_one, together[[9, 2]], rtol=2e-3, atol=1e-5)


def test_each_picture_is_counted_and_whoever_counts_may_end_it(patches: Patches) -> None:
    class Enough(Exception):
        pass

    counted: list[int] = []

    def count() -> None:
        counted.append(1)
        if len(counted) == NUM_PATCHES + 2:
            raise Enough

    with pytest.raises(Enough):
        score(new_generator("batch"), patches, CPU, count)


def test_so_many_are_computed_at_once_as_eight_of_256_pixels() -> None:
    assert [patches_at_once(size) for size in (64, 256, 512, 1024)] == [128, 8, 2, 1]
