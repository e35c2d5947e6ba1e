"""The data sets of the original pix2pix page, by name.

Addresses, layouts and sides are those of the page and of the scripts of its two reference implementations
(phillipi/pix2pix, junyanz/pytorch-CycleGAN-and-pix2pix). They publish no sizes and no checksums.
"""

from dataclasses import dataclass

_PAGE = "https://efrosgans.eecs.berkeley.edu/pix2pix/datasets"


@dataclass(frozen=True)
class KnownSet:
    """A data set of pairs, each one picture of two halves.

    Attributes:
        splits: its folders.
        left, right: what the halves show.
        direction: the value of `data.direction` that trains what the set is mostly used for; `map_to_satellite`
            makes the left half from the right one, `satellite_to_map` the right half from the left one.
        note: what else to know before fetching it, or nothing.
    """

    name: str
    splits: tuple[str, ...]
    left: str
    right: str
    direction: str
    note: str = ""

    @property
    def url(self) -> str:
        """Where its archive lies."""
        return f"{_PAGE}/{self.name}.tar.gz"


_CITYSCAPES_NOTE = (
    "its licence asks each user to register at https://www.cityscapes-dataset.com; where the archive is not offered "
    "any more, get the pictures there"
)

KNOWN_SETS = {
    known.name: known
    for known in (
        KnownSet("maps", ("train", "val"), "satellite", "map", "map_to_satellite"),
        KnownSet("facades", ("train", "val", "test"), "photo", "labels", "map_to_satellite"),
        KnownSet("cityscapes", ("train", "val"), "photo", "labels", "map_to_satellite", _CITYSCAPES_NOTE),
        KnownSet("edges2shoes", ("train", "val"), "edges", "photo", "satellite_to_map"),
        KnownSet("edges2handbags", ("train", "val"), "edges", "photo", "satellite_to_map"),
        KnownSet("night2day", ("train", "val", "test"), "night", "day", "satellite_to_map"),
    )
}
