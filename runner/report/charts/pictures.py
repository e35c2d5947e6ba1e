"""The same validation tiles under all trials, at a few epochs, as small JPEGs cut from the trials' grids.

A trial's images/epoch_0010.png has rows of source | target | generated. Source and target are the same in all of
them, and are kept once; of each epoch the generated tiles become one strip, a tile below the other.
"""

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image

from runner.report.records import TrialRecord
from runner.storage.folder import Storage
from runner.storage.run_folder import IMAGES, image_name

PADDING = 4
COLUMNS = 3
MAX_EPOCHS = 12
# All pictures of a page, as text in it; the rest of it is small.
BUDGET_BYTES = 4_800_000
# Side in pixels and JPEG quality, the best first; the last one is taken however large the page gets.
SIZES = ((256, 85), (256, 78), (224, 75), (192, 75), (192, 65), (192, 50), (160, 50), (128, 50), (96, 40))


class Cut(NamedTuple):
    """What the page takes of one grid.

    Attributes:
        generated: the generated tiles, one below the other, as the data URI of a JPEG.
        digest: names the pixels of source and target.
    """

    generated: str
    num_tiles: int
    digest: str


class Frames(NamedTuple):
    """A trial's strips: for each of the gallery's epochs the place of its strip in `strips`, None where the trial
    has no picture so early; `epochs` says which epochs the strips are of."""

    trial: int
    strips: Sequence[str]
    epochs: Sequence[int]
    places: Sequence[int | None]


class Gallery(NamedTuple):
    """Trials that show the same tiles, beside source and target."""

    num_tiles: int
    source: str
    target: str
    epochs: Sequence[int]
    frames: Sequence[Frames]


@dataclass
class PictureCache:
    """Strips by file and by size and quality, so that a page that is written again cuts only what is new."""

    cuts: dict[tuple[str, int, int, int], Cut | None] = field(default_factory=dict)
    used: set[tuple[str, int, int, int]] = field(default_factory=set)

    def cut(self, folder: Storage, epoch: int, size: int, quality: int) -> Cut | None:
        """What the page takes of a trial's picture after an epoch; None where it can't be read."""
        key = (folder.root, epoch, size, quality)
        if key not in self.cuts:
            self.cuts[key] = read_cut(folder, epoch, size, quality)
        self.used.add(key)
        return self.cuts[key]

    def forget_unused(self) -> None:
        """Drops what no page has asked for since the last time."""
        self.cuts = {key: cut for key, cut in self.cuts.items() if key in self.used}
        self.used = set()


def hang_galleries(trials: Sequence[TrialRecord], cache: PictureCache) -> list[Gallery]:
    """A gallery for each set of tiles, in the order of the trials; none where there are no pictures yet."""
    available = {i: found for i, trial in enumerate(trials) if (found := picture_epochs(trial.folder))}
    if not available:
        return []
    shown = spaced(sorted({epoch for found in available.values() for epoch in found}))
    wanted = {i: [latest(found, epoch) for epoch in shown] for i, found in available.items()}
    size, quality, cuts = cut_to_budget(trials, wanted, cache)
    cache.forget_unused()
    groups: dict[str, list[int]] = {}
    for index, its_cuts in cuts.items():
        groups.setdefault(max(its_cuts.items())[1].digest, []).append(index)
    galleries = []
    for members in groups.values():
        first = members[0]
        source, target = read_pair(trials[first].folder, max(cuts[first]), size, quality)
        frames = [frame(index, cuts[index], wanted[index]) for index in members]
        galleries.append(Gallery(max(cuts[first].items())[1].num_tiles, source, target, shown, frames))
    return galleries


def cut_to_budget(
    trials: Sequence[TrialRecord], wanted: Mapping[int, Sequence[int | None]], cache: PictureCache
) -> tuple[int, int, dict[int, dict[int, Cut]]]:
    """The strips of all trials by epoch, at the best size and quality that fit the budget."""
    count = sum(len(set(epochs)) for epochs in wanted.values())
    samples = {index: epochs[-1:] for index, epochs in list(wanted.items())[:3]}
    cuts: dict[int, dict[int, Cut]] = {}
    size, quality = SIZES[-1]
    for size, quality in SIZES:
        tried = cut_all(trials, samples, cache, size, quality)
        of_one = num_bytes(tried) / max(sum(map(len, tried.values())), 1)
        if of_one * count > 1.2 * BUDGET_BYTES and (size, quality) != SIZES[-1]:
            continue
        cuts = cut_all(trials, wanted, cache, size, quality)
        if num_bytes(cuts) <= BUDGET_BYTES:
            break
    return size, quality, cuts


def num_bytes(cuts: Mapping[int, Mapping[int, Cut]]) -> int:
    """What the strips take in the page."""
    return sum(len(cut.generated) for found in cuts.values() for cut in found.values())


def cut_all(
    trials: Sequence[TrialRecord],
    wanted: Mapping[int, Sequence[int | None]],
    cache: PictureCache,
    size: int,
    quality: int,
) -> dict[int, dict[int, Cut]]:
    """The strips of these trials by epoch; what can't be read is left out."""
    cuts: dict[int, dict[int, Cut]] = {}
    for index, epochs in wanted.items():
        for epoch in sorted({epoch for epoch in epochs if epoch is not None}):
            if (cut := cache.cut(trials[index].folder, epoch, size, quality)) is not None:
                cuts.setdefault(index, {})[epoch] = cut
    return cuts


def frame(index: int, cuts: Mapping[int, Cut], wanted: Sequence[int | None]) -> Frames:
    """One trial's strips, in order of epoch."""
    epochs = sorted(cuts)
    places = [None if epoch is None or epoch not in cuts else epochs.index(epoch) for epoch in wanted]
    return Frames(index, [cuts[epoch].generated for epoch in epochs], epochs, places)


def picture_epochs(folder: Storage) -> list[int]:
    """The epochs after which a trial has left a picture."""
    matches = (re.fullmatch(r"epoch_(\d+)\.png", name) for name in folder.names(IMAGES))
    return sorted(int(match[1]) for match in matches if match)


def latest(epochs: Sequence[int], epoch: int) -> int | None:
    """The last of the epochs that is not after this one."""
    return max((known for known in epochs if known <= epoch), default=None)


def spaced(epochs: Sequence[int]) -> list[int]:
    """At most MAX_EPOCHS of the epochs, the first and the last among them, about evenly spaced by their logarithm."""
    if len(epochs) <= MAX_EPOCHS:
        return list(epochs)
    known = np.log(np.array(epochs, dtype=float))
    places = np.linspace(known[0], known[-1], MAX_EPOCHS)
    return sorted({epochs[int(np.abs(known - place).argmin())] for place in places})


def read_strips(folder: Storage, epoch: int) -> list[np.ndarray]:
    """Source, target and generated tiles of one grid, each (tiles * S, S, 3) uint8; empty where the file is gone or
    no such grid."""
    try:
        with Image.open(io.BytesIO(folder.read(image_name(epoch)))) as image:
            grid = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError):  # what Pillow raises on files that are no pictures
        return []
    tile = (grid.shape[1] - PADDING) // COLUMNS - PADDING
    num_tiles = (grid.shape[0] - PADDING) // (tile + PADDING) if tile > 0 else 0
    if num_tiles < 1:
        return []
    return [np.concatenate([cell(grid, row, column, tile) for row in range(num_tiles)]) for column in range(COLUMNS)]


def read_cut(folder: Storage, epoch: int, size: int, quality: int) -> Cut | None:
    """Reads and cuts one grid; None where it can't be."""
    strips = read_strips(folder, epoch)
    if not strips:
        return None
    source, target, generated = strips
    digest = hashlib.sha256(source.tobytes() + target.tobytes()).hexdigest()
    return Cut(encode(generated, size, quality), len(generated) // generated.shape[1], digest)


def read_pair(folder: Storage, epoch: int, size: int, quality: int) -> tuple[str, str]:
    """Source and target of one grid as data URIs; empty where the grid has gone."""
    strips = read_strips(folder, epoch)
    return (encode(strips[0], size, quality), encode(strips[1], size, quality)) if strips else ("", "")


def cell(grid: np.ndarray, row: int, column: int, tile: int) -> np.ndarray:
    """One tile of a grid, (tile, tile, 3)."""
    top, left = (PADDING + place * (tile + PADDING) for place in (row, column))
    return grid[top : top + tile, left : left + tile]


def encode(strip: np.ndarray, size: int, quality: int) -> str:
    """A strip as the data URI of a JPEG, at most `size` wide."""
    image = Image.fromarray(strip)
    width = min(size, image.width)
    if image.width > width:
        # Each tile by itself, so that none shines into the next at its edge.
        tiles = [image.crop((0, top, image.width, top + image.width)) for top in range(0, image.height, image.width)]
        image = Image.new("RGB", (width, width * len(tiles)))
        for row, tile in enumerate(tiles):
            image.paste(tile.resize((width, width), Image.Resampling.LANCZOS), (0, row * width))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
