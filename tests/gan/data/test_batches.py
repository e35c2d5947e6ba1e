"""Batches come to the device as the plan says, from the store or from the device itself."""

import numpy as np
import pytest
import torch

import gan.data.batches
from gan.data.batches import BatchLoader, bytes_of_pair, resident_limit
from gan.data.patches import Patches
from gan.data.randomness import plan_epoch

CPU = torch.device("cpu")


def test_patches_that_stay_on_the_device_give_the_same_batches(
    patches: Patches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gan.data.batches, "LOADED_AT_ONCE", 5)
    plan = plan_epoch(0, 1, len(patches), 7)
    fits = len(patches) * bytes_of_pair(patches.patch_size)
    reading, resident = (BatchLoader(patches, CPU, limit) for limit in (0, fits))
    monkeypatch.setattr(Patches, "__getitem__", None)
    dropout = np.arange(3 * 4, dtype=np.uint8).reshape(3, 4)
    batch = resident.batch(plan, slice(4, 7), dropout)
    monkeypatch.undo()
    other = reading.batch(plan, slice(4, 7), dropout)
    assert (len(batch.source), len(other.source), batch.size, other.size) == (len(patches), 3, 3, 3)
    for mine, theirs in ((batch.source, other.source), (batch.target, other.target)):
        assert torch.equal(mine[batch.places[0]], theirs[other.places[0]])
    assert torch.equal(other.source, patches[plan.indices[4:7]][0])
    for one in (batch, other):
        assert one.places[1:].tolist() == [draws[4:7].tolist() for draws in (plan.tops, plan.lefts, plan.flips)]
        assert torch.equal(one.dropout, torch.from_numpy(dropout))
    monkeypatch.setattr(gan.data.batches, "resident", None)
    BatchLoader(patches, CPU, fits - 1).batch(plan, slice(4, 7), dropout)
    with pytest.raises(TypeError):
        BatchLoader(patches, CPU, fits)


def test_nothing_stays_on_a_processor() -> None:
    assert resident_limit(CPU, 1.0) == 0
