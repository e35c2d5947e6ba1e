"""A shard of the patch store: some pictures of a split, decoded, cut and written in one go by one core."""

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
from runner.data.sources import SPLITS, Picture, Source, read_picture
from runner.storage.folder import Storage
from runner.storage.hashing import HashingStream
from runner.trial.resources import num_cores

# The same wherever a store is made, so that its files are the same. Enough that the start of a task costs little
# beside them, and few enough for a small set to be shared among cores.
PICTURES_A_SHARD = 16


@dataclass(frozen=True)
class Shard:
    """Pictures of a split that follow each other there, to become one file."""

    split: str
    number: int
    pictures: Sequence[Picture]

    @property
    def name(self) -> str:
        """The file's."""
        return shard_name(self.split, self.number)


class ShardReport(NamedTuple):
    """What became of a shard. Its patches are in its file; this is all that others are told.

    Attributes:
        checksum: XXH3 of the file, 16 hexadecimal digits.
        sizes: how many of its pictures have which size, under "1200x600" and the like.
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


class CutPicture(NamedTuple):
    """What one picture became; its size is (width, height)."""

    rows: PatchRows
    size: tuple[int, int]


def shards_of(source: Source) -> list[Shard]:
    """The source's pictures, split after split, a fixed number a shard."""
    shards = []
    for split in SPLITS:
        pictures = [picture for picture in source.pictures if picture.split == split]
        starts = range(0, len(pictures), PICTURES_A_SHARD)
        shards += [
            Shard(split, number, pictures[start : start + PICTURES_A_SHARD]) for number, start in enumerate(starts)
        ]
    return shards


def write_shard(shard: Shard, seed: int | None, data: Data, folder: Storage) -> ShardReport:
    """Writes a shard's file whole; memory holds one picture at a time.

    Args:
        seed: of the source, where its pictures are drawn.

    Raises:
        OSError: the file can't be written. What is wrong with a picture is reported, never raised.
    """
    sizes: Counter[str] = Counter()
    left_out = []
    num_patches = 0
    with folder.writing_unsynced(shard.name) as stream:
        hashing = HashingStream(stream, xxh3_64())
        with pa.ipc.new_file(pa.PythonFile(hashing, mode="w"), patch_schema(data.patch_size)) as writer:
            for picture in shard.pictures:
                try:
                    cut = cut_picture(picture, seed, data)
                except PictureError as error:
                    left_out.append({"file": f"{shard.split}/{picture.name}", "reason": str(error)})
                    continue
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


def cut_picture(picture: Picture, seed: int | None, data: Data) -> CutPicture:
    """One picture from its file, or drawn, to its patches; raises PictureError where it can't be used."""
    try:
        content = read_picture(picture, seed)
    except OSError as error:
        raise PictureError(f"it can't be read ({error.strerror})") from error
    pair = read_pair(content, data.patch_size)
    height, width = pair.map.shape[:2]
    rows = PatchRows(
        picture.name,
        patch_origins(height, width, data.patching, data.patch_size),
        cut_patches(pair.satellite, data.patching, data.patch_size),
        cut_patches(pair.map, data.patching, data.patch_size),
    )
    return CutPicture(rows, (2 * width, height))


def cut_in_this_process(source: Source, data: Data, folder: Storage) -> Iterator[ShardReport]:
    """Writes the source's shards into a folder, a thread a core, without Ray; reports in order."""
    with ThreadPoolExecutor(num_cores()) as pool:
        waiting: deque[Future[ShardReport]] = deque()
        try:
            for shard in shards_of(source):
                waiting.append(pool.submit(write_shard, shard, source.seed, data, folder))
                if len(waiting) == 2 * num_cores():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
