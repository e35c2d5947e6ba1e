import os
import threading

import numpy as np
import pytest
import torch

import gan.data.patches
from gan.data.patches import Patches, second_reader


def test_reading_fills_the_memory_it_is_given_and_no_other(patches: Patches) -> None:
    room = torch.full((2, 5, 3, 64, 64), 7, dtype=torch.uint8)
    patches.read_into([3, 21, 3], room[0, 1:4], room[1, 1:4])
    for pictures, expected in zip(room, patches[[3, 21, 3]], strict=True):
        assert torch.equal(pictures[1:4], expected)
        assert (pictures[[0, 4]] == 7).all()


def test_places_and_patches_must_be_as_many(patches: Patches) -> None:
    room = torch.empty(2, 2, 3, 64, 64, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        patches.read_into([1], *room)
    with pytest.raises(ValueError, match=r"shorter|longer"):
        patches.read_into([1, 2, 3], *room)


@pytest.mark.parametrize("indices", [[-1], [0, 22], np.array([22])])
def test_an_index_outside_is_refused_before_anything_is_written(patches: Patches, indices: list[int]) -> None:
    room = torch.full((2, len(indices), 3, 64, 64), 7, dtype=torch.uint8)
    with pytest.raises(IndexError, match=r"0\.\.21"):
        patches.read_into(indices, *room)
    assert (room == 7).all()


@pytest.mark.parametrize("num", [0, 1, 2, 7, 22])
def test_two_readers_read_what_one_reads(patches: Patches, num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    indices = np.random.default_rng(0).permutation(22)[:num]
    alone = patches[indices]
    monkeypatch.setattr(gan.data.patches, "CACHED_BYTES", 0)
    together = patches[indices]
    assert all(torch.equal(*pictures) for pictures in zip(alone, together, strict=True))
    assert num < 2 or any(thread.name.startswith("patches") for thread in threading.enumerate())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_fork_of_a_process_that_has_read_reads_too(patches: Patches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gan.data.patches, "CACHED_BYTES", 0)
    assert len(patches[range(22)][0]) == 22
    child = os.fork()
    if not child:
        try:
            os._exit(second_reader().submit(lambda: 22).result(timeout=30))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 22
