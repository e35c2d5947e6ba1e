"""How fast data is: `python -m benchmarks.data [--pairs DIR] [--json FILE]`.

Preparation, from files to a patch store on disk, against plain decoding of the same files from memory by the
same decoder in one process a core, turn by turn. Two sizes of the data set are prepared: the difference in
pictures over the difference in time is the steady rate, in which no start-up counts. Then random reads of the
warm store, against plain copies of as many bytes from places as random; and the jitter's share of a step.
Pictures are drawn, unless --pairs names a directory with train/ and val/.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.figures import Spread, benchmark_parser, publish, ratios, seconds, spread
from gan.data.jitter import jitter_margin, jitter_pair
from gan.data.patches import Patches
from gan.data.pictures import decode_picture
from gan.networks.model import ModelSettings
from gan.training.loop import BeforeStep, fit
from gan.training.settings import TrainingSettings
from gan.training.state import TrainState
from runner.config.schema import Data
from runner.data.patch_store import PatchStore
from runner.data.preparation import Cut, prepare_patches
from runner.data.shards import cut_in_this_process
from runner.data.sources import find_source, store_fingerprint
from runner.data.synthesis import draw_pair
from runner.process.processes import num_cores
from runner.storage.storage import Storage

NUM_DIFFERENT = 64
READ_BATCHES = (1, 4, 10, 64)
PATCHES_A_READING = 1280
READINGS = 9
PLACES_A_SHARD = 64
JITTER_BATCHES = (1, 4)
STEPS = 5


def main() -> None:
    """Prints the table; writes JSON where asked to."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--pairs", metavar="DIR", type=Path, help="a directory with train/ and val/ of pairs")
    parser.add_argument("--pictures", type=int, default=1200, help="in the larger of the two data sets")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--channels", type=int, default=64, help="of the networks whose step the jitter is part of")
    parser.add_argument("--no-ray", action="store_true", help="leave out the preparation by Ray Data")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".", prefix=".benchmark-") as folder:
        publish(measure(Path(folder), arguments), arguments.json)


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures, one part after the other."""
    with ProcessPoolExecutor(num_cores(), get_context("spawn")) as pool:
        contents = first_pictures(arguments.pairs, pool)
        sizes = (arguments.pictures // 4, arguments.pictures)
        sets = [lay_pictures(folder / f"pairs{size}", contents, size) for size in sizes]
        figures = measure_preparation(folder, sets, contents, pool, arguments)
    _, store = prepare(sets[0], Storage.open(folder / "patches"), cut_in_this_process)
    shards = store.paths("train")
    patches = Patches.open(store.folder.local_copy(), "train")
    return figures | measure_reads(shards, patches) | measure_jitter(patches, arguments.channels)


def first_pictures(pairs: Path | None, pool: ProcessPoolExecutor) -> list[bytes]:
    """The bytes of some pictures: drawn ones, or the first of the directory."""
    if pairs is None:
        return list(pool.map(partial(draw_pair, 0, "train"), range(NUM_DIFFERENT)))
    return [path.read_bytes() for path in sorted(pairs.glob("train/*"))[:NUM_DIFFERENT]]


def lay_pictures(folder: Path, contents: Sequence[bytes], count: int) -> Path:
    """A data set of that many files, a tenth of them for validation; after a while the same pictures again."""
    for split, numbers in (("train", range(count // 10, count)), ("val", range(count // 10))):
        (folder / split).mkdir(parents=True)
        for number in numbers:
            (folder / split / f"{number:06d}.jpg").write_bytes(contents[number % len(contents)])
    return folder


def measure_preparation(
    folder: Path, sets: Sequence[Path], contents: Sequence[bytes], pool: ProcessPoolExecutor, arguments: Any
) -> dict[str, Any]:
    """Pictures a second: plain decoding on one core and on all, preparation with and without Ray, plain writing."""
    rates: dict[str, list[float]] = {name: [] for name in ("one core", "decode", "in_process", "ray", "write")}
    start_up_s = []
    patches = Storage.open(folder / "patches")
    with ray_started(not arguments.no_ray) as cuts:
        for cut in cuts.values():
            prepare(sets[0], patches, cut)
        for _ in range(arguments.repeats):
            rates["one core"].append(decode_rate(contents))
            rates["decode"].append(sum(pool.map(decode_rate, [contents] * num_cores())))
            for name, cut in cuts.items():
                (small_s, _), (large_s, store) = (prepare(pairs, patches, cut) for pairs in sets)
                rates[name].append((arguments.pictures - arguments.pictures // 4) / (large_s - small_s))
            start_up_s.append(small_s - arguments.pictures // 4 / rates[name][-1])
            rates["write"].append(
                arguments.pictures
                / write_s(folder / "plain", sum(path.stat().st_size for path in store.paths("train")))
            )
    figures: dict[str, Any] = {
        "pictures": arguments.pictures,
        "decode_one_core_pictures_per_s": spread(rates["one core"]),
        "decode_all_cores_pictures_per_s": spread(rates["decode"]),
        "plain_write_pictures_per_s": spread(rates["write"]),
    }
    for name in cuts:
        figures[f"{name}_pictures_per_s"] = spread(rates[name])
        figures[f"{name}_to_decode_all_cores"] = ratios(rates[name], rates["decode"])
    return figures | ({"ray_start_up_s": spread(start_up_s)} if "ray" in cuts else {})


@contextmanager
def ray_started(with_ray: bool) -> Iterator[dict[str, Cut]]:
    """The ways to cut; Ray runs in the block."""
    if not with_ray:
        yield {"in_process": cut_in_this_process}
        return
    from runner.on_ray.connection.cluster import start_ray, stop_ray

    start_ray(None, "benchmark", dashboard=False)
    try:
        from runner.on_ray.prepare import cut_with_ray

        yield {"in_process": cut_in_this_process, "ray": cut_with_ray}
    finally:
        stop_ray()


def decode_rate(contents: Sequence[bytes]) -> float:
    """Pictures a second that this process decodes, for a second or more."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() < start + 1.0:
        for content in contents:
            decode_picture(content)
        count += len(contents)
    return count / (time.perf_counter() - start)


def prepare(pairs: Path, patches: Storage, cut: Cut) -> tuple[float, PatchStore]:
    """Seconds that the store of a data set took, until the disk had it; and the store."""
    data = Data(source=str(pairs))
    source = find_source(data)
    fingerprint = store_fingerprint(source, data)
    patches.remove(fingerprint)
    stores: list[PatchStore] = []

    def work() -> None:
        stores.append(prepare_patches(data, source, fingerprint, patches, cut, lambda text: None))

    return seconds(work), stores[0]


def write_s(path: Path, num_bytes: int) -> float:
    """Seconds that a file takes, until the disk has it."""
    block = os.urandom(2**21)

    def work() -> None:
        with open(path, "wb") as stream:
            for _ in range(num_bytes // len(block)):
                stream.write(block)
            os.fsync(stream.fileno())

    taken = seconds(work)
    path.unlink()
    return taken


def measure_reads(shards: Sequence[Path], patches: Patches) -> dict[str, Any]:
    """Patches a second at random places of the warm store, new memory for each batch or always the same."""
    size = patches.patch_size
    random = np.random.default_rng(0)
    contents = [np.memmap(path, np.uint8, "r") for path in shards]
    for start in range(0, len(patches), 64):
        patches[range(start, min(start + 64, len(patches)))]
    figures: dict[str, Any] = {}
    for batch_size in READ_BATCHES:
        source, target = torch.zeros(2, batch_size, 3, size, size, dtype=torch.uint8)
        rates: dict[str, list[float]] = {"new": [], "into": [], "copy": []}
        for _ in range(READINGS):
            batches = random.integers(0, len(patches), (PATCHES_A_READING // batch_size, batch_size))
            ways: dict[str, Callable[[Any], object]] = {
                "new": patches.__getitem__,
                "into": partial(patches.read_into, source=source, target=target),
                "copy": partial(copy_plainly, contents, source=source, target=target, num_patches=len(patches)),
            }
            for name, read in ways.items():
                rates[name].append(batches.size / seconds(partial(each, read, batches)))
        figures[f"read_batch_{batch_size}_patches_per_s"] = spread(rates["new"])
        figures[f"read_into_batch_{batch_size}_patches_per_s"] = spread(rates["into"])
        figures[f"read_into_batch_{batch_size}_to_plain_copy"] = ratios(rates["into"], rates["copy"])
    return figures


def each(work: Callable[[Any], object], items: Iterable[Any]) -> None:
    """The work for every item."""
    for item in items:
        work(item)


def copy_plainly(
    contents: Sequence[Any], indices: Sequence[int], *, source: torch.Tensor, target: torch.Tensor, num_patches: int
) -> None:
    """As many bytes as the patches have, from as many places of the files, by one thread."""
    num_bytes = source[0].nbytes
    for position, index in enumerate(indices):
        content = contents[int(index) * len(contents) // num_patches]
        start = int(index) % PLACES_A_SHARD * (len(content) - 2 * num_bytes) // PLACES_A_SHARD
        source.numpy()[position].reshape(-1)[:] = content[start : start + num_bytes]
        target.numpy()[position].reshape(-1)[:] = content[start + num_bytes : start + 2 * num_bytes]


def measure_jitter(patches: Patches, channels: int) -> dict[str, Any]:
    """The jitter's share of a step of the training loop, at some batch sizes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shares: dict[str, Spread] = {}
    for batch_size in JITTER_BATCHES:
        step_s = step_seconds(patches, batch_size, channels, device)
        jitter_s = jitter_seconds(patches, batch_size, device)
        shares[f"jitter_batch_{batch_size}_share_of_step"] = ratios(jitter_s, step_s)
    return {"jitter_device": device.type, "jitter_channels": channels, **shares}


def step_seconds(patches: Patches, batch_size: int, channels: int, device: torch.device) -> list[float]:
    """Seconds of each of some steps, after two that warm up."""
    precision = "bf16" if device.type == "cuda" else "fp32"
    settings = TrainingSettings(1, batch_size, 100.0, 2e-4, 0, precision, log_every_n_steps=1)
    state = TrainState(ModelSettings(channels), settings, device)
    times: list[float] = []

    for event in fit(state, patches, settings):
        if not isinstance(event, BeforeStep):
            times.append(time.perf_counter())
        elif len(times) == STEPS + 2:
            break
    return [end - start for start, end in pairwise(times[1:])]


def jitter_seconds(patches: Patches, batch_size: int, device: torch.device) -> list[float]:
    """Seconds of each of as many jitters of a batch."""
    source, target = (pictures.to(device) for pictures in patches[range(batch_size)])
    tops = lefts = torch.full((batch_size,), jitter_margin(patches.patch_size) // 2, device=device)
    flips = tops % 2 == 0

    def work() -> None:
        jitter_pair(source, target, tops, lefts, flips)
        if device.type == "cuda":
            torch.cuda.synchronize()

    work()
    return [seconds(work) for _ in range(STEPS)]


if __name__ == "__main__":
    main()
