"""A data set larger than memory: preparing and reading keep to a limit far below the store's size."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.support.pictures import gradient_png

NUM_PICTURES = 160
LIMITED = """
import resource, sys
from runner.data import checksums, patch_store, preparation, shards
from runner.config.schema import Data
from runner.data.sources import find_source, store_fingerprint
from runner.storage.storage import Storage
from gan.data.patches import Patches

def private_bytes():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))

import torch
pairs, folder, room = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = Data(source=pairs)
source, patches = find_source(data), Storage.open(folder)
checksums.num_cores = shards.num_cores = lambda: 2
limit = private_bytes() + room
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
store = preparation.prepare_patches(
    data, source, store_fingerprint(source, data), patches, shards.cut_in_this_process, lambda text: None
)
found, problem = patch_store.find_store(patches, store.fingerprint)
assert found == store, problem
train = Patches.open(store.folder.local_path, "train")
sums = [train[[index]][0].sum().item() for index in range(len(train))]
print(sum(path.stat().st_size for path in store.paths("train")), len(set(sums)))
"""


def run_limited(tmp_path: Path, room: int) -> subprocess.CompletedProcess[str]:
    """Prepares, verifies and reads in a process that may take `room` bytes more than its libraries did.

    The limit is on memory of its own; pages of a mapped file, which the system can drop at any time, are free.
    Arrow's own allocator is left out: it reserves a gigabyte before it is asked for any.
    """
    pairs = tmp_path / "pairs"
    for split, count in (("train", NUM_PICTURES), ("val", 1)):
        (pairs / split).mkdir(parents=True)
        for number in range(count):
            (pairs / split / f"{number:03d}.png").write_bytes(gradient_png(number, 1024, 512))
    arguments = [str(pairs), str(tmp_path / "patches"), str(room)]
    environment = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2"}
    return subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_store_larger_than_memory_is_prepared_verified_and_read(tmp_path: Path) -> None:
    room = 128 * 2**20
    ended = run_limited(tmp_path, room)
    assert ended.returncode == 0, ended.stderr[-2000:]
    size, num_different = map(int, ended.stdout.split())
    assert size > 1.8 * room
    assert num_different >= NUM_PICTURES
