"""Batches come to the device as the plan says, from the store or from the device itself."""

import numpy as np
import pytest
import torch

import gan.feeding
from gan.feeding import Feed, bytes_of_pair, resident_limit
from gan.patches import Patches
from gan.randomness import plan_epoch

CPU = torch.device("cpu")


def test_patches_that_stay_on_the_device_give_the_same_batches(
    patches: Patches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gan.feeding, "LOADED_AT_ONCE", 5)
    plan = plan_epoch(0, 1, len(patches), 7)
    fits = len(patches) * bytes_of_pair(patches.patch_size)
    reading, resident = (Feed(patches, CPU, limit) for limit in (0, fits))
    monkeypatch.setattr(Patches, "__getitem__", None)
    dropout = np.arange(3 * 4, dtype=np.uint8).reshape(3, 4)
    batch = resident.batch(plan, slice(4, 7), dropout)
    monkeypatch.undo()
    for mine, other in zip(batch, reading.batch(plan, slice(4, 7), dropout), strict=True):
        assert torch.equal(mine, other)
    assert torch.equal(batch.source, patches[plan.indices[4:7]][0])
    assert batch.jitter.tolist() == [plan.tops[4:7].tolist(), plan.lefts[4:7].tolist(), plan.flips[4:7].tolist()]
    monkeypatch.setattr(gan.feeding, "Resident", None)
    Feed(patches, CPU, fits - 1).batch(plan, slice(4, 7), dropout)
    with pytest.raises(TypeError):
        Feed(patches, CPU, fits)


def test_nothing_stays_on_a_processor() -> None:
    assert resident_limit(CPU, 1.0) == 0
