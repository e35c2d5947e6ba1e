"""A shard is a file of the patch store: some pictures of one split, decoded, cut and written by one core."""

import platform
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
from xxhash import xxh3_64

from gan.data.patches import PatchRows, patch_batch, patch_schema, shard_name
from gan.data.patching import cut_patches, patch_origins
from gan.data.pictures import PictureError, read_pair
from runner.config.schema import Data
from runner.data.sources import SPLITS, Picture, Source, check_unchanged, read_picture
from runner.errors import DataError
from runner.process.processes import num_cores
from runner.storage.hashing import HashingStream
from runner.storage.storage import Storage

# The same everywhere, so that a store has the same files wherever it is built. Enough pictures that starting a task
# costs little, and few enough that several cores can share a small data set.
_PICTURES_PER_SHARD = 16


@dataclass(frozen=True)
class Shard:
    """Consecutive pictures of a split that become one file."""

    split: str
    number: int
    pictures: Sequence[Picture]

    @property
    def name(self) -> str:
        """The name of the file."""
        return shard_name(self.split, self.number)


class ShardReport(NamedTuple):
    """What a worker reports after it has written a shard.

    Attributes:
        name: the name of the shard's file.
        pictures, patches: how many are in the file.
        bytes: the size of the file.
        checksum: XXH3 of the file, 16 hexadecimal digits.
        sizes: the number of pictures of each size, which is written as "1200x600".
        left_out: the pictures that can't be used, each with `file` and `reason`.
    """

    split: str
    name: str
    pictures: int
    patches: int
    bytes: int
    checksum: str
    sizes: dict[str, int]
    left_out: list[dict[str, str]]


class _CutPicture(NamedTuple):
    """The patches of one picture, and the picture's (width, height)."""

    rows: PatchRows
    size: tuple[int, int]


def shards_of(source: Source) -> list[Shard]:
    """The source's pictures, split after split, in shards of a fixed number of pictures."""
    shards = []
    for split in SPLITS:
        pictures = [picture for picture in source.verifiable() if picture.split == split]
        starts = range(0, len(pictures), _PICTURES_PER_SHARD)
        shards += [
            Shard(split, number, pictures[start : start + _PICTURES_PER_SHARD]) for number, start in enumerate(starts)
        ]
    return shards


def write_shard(shard: Shard, seed: int | None, data: Data, folder: Storage) -> ShardReport:
    """Writes the file of a shard. Holds one picture in memory at a time.

    A picture that can't be used is reported in `left_out`. One that could be read when the source was looked through,
    and now can't, is no bad picture: without it, the store would not be what its name says.

    Args:
        seed: the seed of a synthetic source; None for any other.
        folder: the store.

    Raises:
        DataError: a picture can't be read any more, or not on this machine.
        OSError: the file can't be written.
    """
    sizes: Counter[str] = Counter()
    left_out = []
    num_patches = 0

    with folder.writing(shard.name, synced=False) as stream:
        # The checksum is taken on the way, so that the file need not be read again.
        hashing = HashingStream(stream, xxh3_64())
        with pa.ipc.new_file(pa.PythonFile(hashing, mode="w"), patch_schema(data.patch_size)) as writer:
            for picture in shard.pictures:
                try:
                    cut = _cut_picture(picture, seed, data)
                except PictureError as error:
                    left_out.append({"file": f"{shard.split}/{picture.name}", "reason": str(error)})
                    continue
                # One record batch for each picture, so that no other picture has to stay in memory.
                writer.write_batch(patch_batch(cut.rows))
                num_patches += len(cut.rows.origins)
                sizes["{}x{}".format(*cut.size)] += 1

    return ShardReport(
        split=shard.split,
        name=shard.name,
        pictures=sizes.total(),
        patches=num_patches,
        bytes=hashing.size,
        checksum=hashing.digest.hexdigest(),
        sizes=dict(sizes),
        left_out=left_out,
    )


def cut_in_this_process(source: Source, data: Data, folder: Storage) -> Iterator[ShardReport]:
    """Writes the source's shards into a folder without Ray, one thread per core. Yields their reports in order."""
    with ThreadPoolExecutor(num_cores()) as pool:
        waiting: deque[Future[ShardReport]] = deque()
        try:
            # Few shards wait at a time, so that a caller that gives up does not wait for all others.
            for shard in shards_of(source):
                waiting.append(pool.submit(write_shard, shard, source.seed, data, folder))
                if len(waiting) == 2 * num_cores():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # Some are left where the caller stopped early, or a shard failed.
            for future in waiting:
                future.cancel()


def _cut_picture(picture: Picture, seed: int | None, data: Data) -> _CutPicture:
    """Reads or draws one picture, and cuts it. Raises PictureError for a bad one, and DataError."""
    try:
        files = read_picture(picture, seed)
        check_unchanged(picture, files)
    except OSError as error:
        raise DataError(
            f"{picture.paths[0]}: it could be read when this command began, and now it can't on {platform.node()} "
            f"({error.strerror}). Check the disk and whether every machine has the same data there; then run the same "
            "command again."
        ) from error

    pair = read_pair(files, data.patch_size)
    height, width = pair.map.shape[:2]  # of one half
    rows = PatchRows(
        picture.name,
        patch_origins(height, width, data.patching, data.patch_size),
        cut_patches(pair.satellite, data.patching, data.patch_size),
        cut_patches(pair.map, data.patching, data.patch_size),
    )
    return _CutPicture(rows, (2 * width, height))
