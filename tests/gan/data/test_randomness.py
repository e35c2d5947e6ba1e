import numpy as np
import torch

from gan.data.randomness import Purpose, dropout_bits, dropout_masks, plan_epoch, random_words

SHAPES = [(16, 2, 2), (16, 4, 4), (8, 8, 8)]


def test_an_epochs_order_is_a_permutation_that_depends_on_seed_and_epoch() -> None:
    plans = [plan_epoch(seed, epoch, 100, 30) for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1))]
    for plan in plans:
        assert sorted(plan.indices) == list(range(100))
    np.testing.assert_array_equal(plans[0].indices, plans[1].indices)
    assert not np.array_equal(plans[0].indices, plans[2].indices)
    assert not np.array_equal(plans[0].indices, plans[3].indices)
    assert not np.array_equal(plans[0].tops, plans[0].lefts)


def test_the_streams_of_two_purposes_differ() -> None:
    words = [tuple(random_words(4, 0, purpose, 1)) for purpose in Purpose]
    assert len(set(words)) == len(Purpose)


def test_the_words_are_the_same_on_every_machine() -> None:
    assert random_words(2, 0, Purpose.ORDER, 1).tolist() == [18077698173029956028, 1839950082925943030]


def masks_of(batch_size: int, part: slice, position: int) -> list[torch.Tensor]:
    return dropout_masks(torch.from_numpy(dropout_bits(SHAPES, batch_size, part, 0, position)), SHAPES)


def test_dropout_masks_of_workers_are_slices_of_the_batchs() -> None:
    whole = masks_of(6, slice(0, 6), 9)
    for start in (0, 2, 4):
        part = masks_of(6, slice(start, start + 2), 9)
        for mask, slice_ in zip(whole, part, strict=True):
            assert torch.equal(mask[start : start + 2], slice_)


def test_dropout_keeps_half_and_doubles_it() -> None:
    masks = masks_of(50, slice(0, 50), 3)
    assert [tuple(mask.shape) for mask in masks] == [(50, *shape) for shape in SHAPES]
    values = torch.cat([mask.flatten() for mask in masks])
    assert set(values.tolist()) == {0, 2}
    assert abs(float(values.float().mean()) - 1.0) < 0.02
    again = masks_of(50, slice(0, 50), 4)
    assert not torch.equal(masks[2], again[2])
