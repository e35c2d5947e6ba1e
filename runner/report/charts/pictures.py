"""The same validation tiles under all trials, at a few epochs, as small JPEGs cut from the trials' grids.

A trial's images/epoch_0010.png has rows of source | target | generated. Source and target are the same in all epochs,
so the page has them once. The generated tiles of an epoch become one strip, one tile below the other.
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

from runner.report.trials import PageTrial
from runner.storage.run_folder import IMAGES, image_name
from runner.storage.storage import Storage

# All strips of a page, as text in it; the lines of 24 trials take another megabyte.
BUDGET_BYTES = 4_400_000

_PADDING = 4  # white pixels between tiles, as comparison_png lays them
_COLUMNS = 3  # source, target, generated
_MAX_EPOCHS = 12
# Side in pixels and JPEG quality, the best first; the last one is taken however large the page gets.
_SIZES = ((256, 85), (256, 78), (224, 75), (192, 75), (192, 65), (192, 50), (160, 50), (128, 50), (96, 40))
_NUM_SAMPLES = 3


class Cut(NamedTuple):
    """What the page takes from one grid.

    Attributes:
        generated: the generated tiles, one below the other, as the data URI of a JPEG.
        digest: of the pixels of source and target.
    """

    generated: str
    num_tiles: int
    digest: str


class Frames(NamedTuple):
    """A trial's strips.

    Attributes:
        trial: the index of the trial among the page's trials.
        strips: in the order of their epochs.
        epochs: the epoch of each strip.
        places: for each epoch of the gallery, the index of the strip to show; None where the trial has no picture yet.
    """

    trial: int
    strips: Sequence[str]
    epochs: Sequence[int]
    places: Sequence[int | None]


class Gallery(NamedTuple):
    """Trials that show the same tiles, with their source and target."""

    num_tiles: int
    source: str
    target: str
    epochs: Sequence[int]
    frames: Sequence[Frames]


@dataclass
class PictureCache:
    """Strips by file, size and quality, so that a page that is written again cuts only the new ones."""

    cuts: dict[tuple[str, int, int, int], Cut | None] = field(default_factory=dict)
    used: set[tuple[str, int, int, int]] = field(default_factory=set)

    def cut(self, folder: Storage, epoch: int, size: int, quality: int) -> Cut | None:
        """What the page takes from a trial's picture after an epoch; None where it can't be read."""
        key = (folder.root, epoch, size, quality)
        # None is kept, too: a grid that can't be read is not read again.
        if key not in self.cuts:
            self.cuts[key] = _read_cut(folder, epoch, size, quality)
        self.used.add(key)
        return self.cuts[key]

    def forget_unused(self) -> None:
        """Drops the strips that were not asked for since the last call."""
        self.cuts = {key: cut for key, cut in self.cuts.items() if key in self.used}
        self.used = set()


def hang_galleries(trials: Sequence[PageTrial], cache: PictureCache) -> list[Gallery]:
    """A gallery for each set of tiles, in the order of the trials; none where there are no pictures yet."""
    available = {i: epochs for i, trial in enumerate(trials) if (epochs := picture_epochs(trial.folder))}
    if not available:
        return []

    # A trial without a picture of an epoch shows the one before it.
    shown = spaced(sorted({epoch for epochs in available.values() for epoch in epochs}))
    wanted = {i: [latest(epochs, epoch) for epoch in shown] for i, epochs in available.items()}
    size, quality, cuts = _cut_to_budget(trials, wanted, cache)
    cache.forget_unused()

    # Trials with other data or patches show other tiles.
    groups: dict[str, list[int]] = {}
    for index, cuts_of_trial in cuts.items():
        groups.setdefault(cuts_of_trial[max(cuts_of_trial)].digest, []).append(index)

    galleries = []
    for members in groups.values():
        # All grids of a group have the same source and target, so one grid is enough for both.
        first, last_epoch = members[0], max(cuts[members[0]])
        source, target = _read_pair(trials[first].folder, last_epoch, size, quality)
        frames = [_frames(index, cuts[index], wanted[index]) for index in members]
        galleries.append(Gallery(cuts[first][last_epoch].num_tiles, source, target, shown, frames))
    return galleries


def picture_epochs(folder: Storage) -> list[int]:
    """The epochs that a trial has a picture of."""
    matches = (re.fullmatch(r"epoch_(\d+)\.png", name) for name in folder.names(IMAGES))
    return sorted(int(match[1]) for match in matches if match)


def latest(epochs: Sequence[int], epoch: int) -> int | None:
    """The last of the epochs that is not after this one."""
    return max((known for known in epochs if known <= epoch), default=None)


def spaced(epochs: Sequence[int]) -> list[int]:
    """At most twelve of the epochs, the first and the last among them, about evenly spaced by their logarithm."""
    if len(epochs) <= _MAX_EPOCHS:
        return list(epochs)
    # By the logarithm, because pictures change most in the first epochs.
    logarithms = np.log(np.array(epochs, dtype=float))
    positions = np.linspace(logarithms[0], logarithms[-1], _MAX_EPOCHS)
    return sorted({epochs[int(np.abs(logarithms - position).argmin())] for position in positions})


def read_strips(folder: Storage, epoch: int) -> list[np.ndarray]:
    """Source, target and generated tiles of one grid, each (tiles * S, S, 3) uint8.

    Empty where the file is gone, or is not such a grid.
    """
    try:
        with Image.open(io.BytesIO(folder.read(image_name(epoch)))) as image:
            grid = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError):  # what Pillow raises on files that are no pictures
        return []

    # A row of the grid is three tiles with padding on both sides of each: three tiles and four gaps.
    tile = (grid.shape[1] - _PADDING) // _COLUMNS - _PADDING
    num_tiles = (grid.shape[0] - _PADDING) // (tile + _PADDING) if tile > 0 else 0
    if num_tiles < 1:
        return []
    return [np.concatenate([_tile(grid, row, column, tile) for row in range(num_tiles)]) for column in range(_COLUMNS)]


def _cut_to_budget(
    trials: Sequence[PageTrial], wanted: Mapping[int, Sequence[int | None]], cache: PictureCache
) -> tuple[int, int, dict[int, dict[int, Cut]]]:
    """The best size and quality at which the strips fit the budget, and the strips of all trials by epoch."""
    num_strips = sum(len(set(epochs)) for epochs in wanted.values())
    samples = {index: epochs[-1:] for index, epochs in list(wanted.items())[:_NUM_SAMPLES]}

    cuts: dict[int, dict[int, Cut]] = {}
    size, quality = _SIZES[-1]
    for size, quality in _SIZES:
        # Cutting all strips takes seconds: a size at which three samples are far too large is not tried.
        tried = _cut_all(trials, samples, cache, size, quality)
        bytes_per_strip = _num_bytes(tried) / max(sum(map(len, tried.values())), 1)
        # 20 % of tolerance, because the samples give only an estimate.
        if bytes_per_strip * num_strips > 1.2 * BUDGET_BYTES and (size, quality) != _SIZES[-1]:
            continue

        cuts = _cut_all(trials, wanted, cache, size, quality)
        if _num_bytes(cuts) <= BUDGET_BYTES:
            break
    return size, quality, cuts


def _num_bytes(cuts: Mapping[int, Mapping[int, Cut]]) -> int:
    """Bytes of the strips in the page."""
    return sum(len(cut.generated) for found in cuts.values() for cut in found.values())


def _cut_all(
    trials: Sequence[PageTrial],
    wanted: Mapping[int, Sequence[int | None]],
    cache: PictureCache,
    size: int,
    quality: int,
) -> dict[int, dict[int, Cut]]:
    """The strips of these trials by epoch, without those that can't be read."""
    cuts: dict[int, dict[int, Cut]] = {}
    for index, epochs in wanted.items():
        for epoch in sorted({epoch for epoch in epochs if epoch is not None}):
            if (cut := cache.cut(trials[index].folder, epoch, size, quality)) is not None:
                cuts.setdefault(index, {})[epoch] = cut
    return cuts


def _frames(index: int, cuts: Mapping[int, Cut], wanted: Sequence[int | None]) -> Frames:
    """One trial's strips."""
    epochs = sorted(cuts)
    places = [None if epoch is None or epoch not in cuts else epochs.index(epoch) for epoch in wanted]
    return Frames(index, [cuts[epoch].generated for epoch in epochs], epochs, places)


def _read_cut(folder: Storage, epoch: int, size: int, quality: int) -> Cut | None:
    """Reads and cuts one grid; None where it can't be read."""
    strips = read_strips(folder, epoch)
    if not strips:
        return None

    # Trials whose digests are equal share one source and one target on the page.
    source, target, generated = strips
    digest = hashlib.sha256(source.tobytes() + target.tobytes()).hexdigest()
    return Cut(_data_uri(generated, size, quality), len(generated) // generated.shape[1], digest)


def _read_pair(folder: Storage, epoch: int, size: int, quality: int) -> tuple[str, str]:
    """Source and target of one grid as data URIs; empty where the grid has gone."""
    strips = read_strips(folder, epoch)
    return (_data_uri(strips[0], size, quality), _data_uri(strips[1], size, quality)) if strips else ("", "")


def _tile(grid: np.ndarray, row: int, column: int, tile: int) -> np.ndarray:
    """One tile of a grid, (tile, tile, 3)."""
    top, left = (_PADDING + index * (tile + _PADDING) for index in (row, column))
    return grid[top : top + tile, left : left + tile]


def _data_uri(strip: np.ndarray, size: int, quality: int) -> str:
    """A strip as the data URI of a JPEG, at most `size` pixels wide."""
    image = Image.fromarray(strip)
    width = min(size, image.width)
    if image.width > width:
        # Each tile is resized alone: resizing the strip would mix the edges of neighbours.
        tiles = [image.crop((0, top, image.width, top + image.width)) for top in range(0, image.height, image.width)]
        image = Image.new("RGB", (width, width * len(tiles)))
        for row, tile in enumerate(tiles):
            image.paste(tile.resize((width, width), Image.Resampling.LANCZOS), (0, row * width))

    stream = io.BytesIO()
    # `optimize` takes a second pass for a smaller file. The pixels stay the same.
    image.save(stream, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
