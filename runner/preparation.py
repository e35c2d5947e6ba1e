"""Pictures become the patch store: read, checked, decoded, split and cut, once for all trials.

The store is content-addressed: its name is the digest of what the source holds and of how it is cut. It
appears whole, by one rename, so that two runs which prepare it at once do not harm each other.
"""

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from gan.patches import PatchRows, patch_batch, patch_schema
from gan.patching import cut_patches, patch_origins
from gan.pictures import PictureError, read_pair
from runner.config import Data
from runner.errors import DataError
from runner.sources import SPLITS, STORE_FORMAT, Picture, Source, read_picture
from runner.storage import TEMPORARY, HashingStream, Storage

PATCHES = "patches"
META = "meta.json"
QUARANTINE = "quarantine.jsonl"
NAMES_SHOWN = 5
LEFTOVER_S = 3600.0


class PatchStore(NamedTuple):
    """A whole and verified store. `meta` is its meta.json."""

    fingerprint: str
    folder: Storage
    meta: dict[str, Any]

    def num_patches(self, split: str) -> int:
        """Patches of a split."""
        return int(self.meta["splits"][split]["patches"])

    def path(self, split: str) -> Path:
        """The split's Arrow file, to be memory-mapped."""
        return self.folder.local_path / f"{split}.arrow"


class CutPicture(NamedTuple):
    """What one picture became: its patches, or why it was left out."""

    rows: PatchRows | None
    size: tuple[int, int]
    error: str


def cut_picture(name: str, data: bytes, patching: str, patch_size: int) -> CutPicture:
    """Reads one picture and cuts it; what is wrong with it is returned, never raised."""
    try:
        pair = read_pair(data, patch_size)
    except PictureError as error:
        return CutPicture(None, (0, 0), str(error))
    height, width = pair.map.shape[:2]
    rows = PatchRows(
        name,
        patch_origins(height, width, patching, patch_size),
        cut_patches(pair.satellite, patching, patch_size),
        cut_patches(pair.map, patching, patch_size),
    )
    return CutPicture(rows, (2 * width, height), "")


def find_store(patches: Storage, fingerprint: str) -> tuple[PatchStore | None, str]:
    """The verified store, or None and what is wrong with the one that stands there ("" where none does)."""
    folder = patches.at(fingerprint)
    if not folder.exists():
        return None, ""
    try:
        meta = json.loads(folder.read(META))
        for split in SPLITS:
            entry = meta["splits"][split]
            if folder.size(f"{split}.arrow") != entry["bytes"]:
                return (
                    None,
                    f"{split}.arrow has {folder.size(f'{split}.arrow')} bytes instead of {entry['bytes']}",
                )
            if digest_of(folder.local_path / f"{split}.arrow") != entry["sha256"]:
                return None, f"{split}.arrow does not match its SHA-256"
        if meta["fingerprint"] != fingerprint:
            return None, f"{META} is of another store"
        store = PatchStore(fingerprint, folder, meta)
        if len(read_quarantine(store)) != meta["left_out"]:
            return None, f"{QUARANTINE} does not name the {meta['left_out']} files that were left out"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"it can't be read ({type(error).__name__}: {error})"
    return store, ""


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def set_aside(patches: Storage, fingerprint: str) -> str:
    """Moves a damaged store out of the way, never deleting it; its new name."""
    name = f"damaged-{fingerprint}-{secrets.token_hex(3)}"
    patches.rename(fingerprint, name)
    return name


def build_store(
    patches: Storage, fingerprint: str, data: Data, source: Source, cuts: Iterable[CutPicture]
) -> PatchStore:
    """Writes the store from the cut pictures, which come in the source's order, and puts it in place whole.

    Raises:
        DataError: too many pictures are bad, or a split has no good one; nothing is left behind.
    """
    remove_leftovers(patches)
    temporary = f"{TEMPORARY}{fingerprint}-{secrets.token_hex(4)}"
    patches.make_folder(temporary)
    building = StoreWriter(patches.at(temporary), data)
    try:
        with building.folder.locked():
            building.write(source, cuts)
            building.check(source, data)
            building.finish(fingerprint)
        try:
            patches.rename(temporary, fingerprint)
        except OSError:
            if not patches.exists(fingerprint):
                raise
            # Another run was quicker; what it made is the same, and is verified below.
    finally:
        patches.remove(temporary)
    store, problem = find_store(patches, fingerprint)
    if store is None:
        raise DataError(
            f"the patch store {patches.at(fingerprint).root} was written, but {problem}: is the disk sound?"
        )
    return store


def remove_leftovers(patches: Storage) -> None:
    """Deletes what preparations left that were killed: nobody holds it, and nobody has written there for an hour."""
    for name in patches.temporary_names():
        leftover = patches.at(name)
        if leftover.is_unlocked() and leftover.idle_s() > LEFTOVER_S:
            patches.remove(name)


@dataclass
class StoreWriter:
    """A store that is being written into a temporary folder."""

    folder: Storage
    data: Data
    left_out: list[dict[str, str]] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self, source: Source, cuts: Iterable[CutPicture]) -> None:
        """Streams every picture's patches into its split's file; memory holds one picture at a time."""
        iterator = zip(source.pictures, cuts, strict=True)
        by_split: dict[str, int] = Counter(picture.split for picture in source.pictures)
        for split in SPLITS:
            with self.folder.writing(f"{split}.arrow") as stream:
                self.splits[split] = self._write_split(split, stream, iterator, by_split[split])

    def _write_split(
        self, split: str, stream: Any, iterator: Iterator[tuple[Picture, CutPicture]], count: int
    ) -> dict[str, Any]:
        hashing = HashingStream(stream)
        num_pictures = num_patches = 0
        with pa.ipc.new_file(pa.PythonFile(hashing, mode="w"), patch_schema(self.data.patch_size)) as writer:
            for _ in range(count):
                picture, cut = next(iterator)
                if cut.rows is None:
                    self.left_out.append({"file": f"{split}/{picture.name}", "reason": cut.error})
                    continue
                writer.write_batch(patch_batch(cut.rows))
                self.sizes[cut.size] += 1
                num_pictures += 1
                num_patches += len(cut.rows.origins)
        return {
            "pictures": num_pictures,
            "patches": num_patches,
            "bytes": hashing.size,
            "sha256": hashing.digest.hexdigest(),
        }

    def check(self, source: Source, data: Data) -> None:
        """Raises DataError where too little is left."""
        check_bad_fraction(self.left_out, len(source.pictures), data)
        for split, entry in self.splits.items():
            if not entry["pictures"]:
                raise DataError(f"{data.source}: every picture of {split}/ is bad.\n{first_names(self.left_out)}")

    def finish(self, fingerprint: str) -> None:
        """Writes the list of what was left out, then the description that makes the store whole."""
        lines = "".join(json.dumps(entry) + "\n" for entry in self.left_out)
        self.folder.write(QUARANTINE, lines.encode())
        meta = {
            "format": STORE_FORMAT,
            "fingerprint": fingerprint,
            "patching": self.data.patching,
            "patch_size": self.data.patch_size,
            "splits": self.splits,
            "left_out": len(self.left_out),
            "sizes": {f"{width}x{height}": count for (width, height), count in self.sizes.most_common()},
        }
        self.folder.write(META, json.dumps(meta, indent=1).encode())


def check_bad_fraction(left_out: list[dict[str, str]], num_pictures: int, data: Data) -> None:
    """Raises DataError where more of the source is bad than `data.max_bad_fraction` allows."""
    if len(left_out) > data.max_bad_fraction * num_pictures:
        raise DataError(
            f"{data.source}: {len(left_out)} of {num_pictures} files are bad "
            f"({100 * len(left_out) / num_pictures:.1f} %), more than data.max_bad_fraction allows "
            f"({100 * data.max_bad_fraction:g} %).\n{first_names(left_out)}\n"
            "Mend or remove them, or raise data.max_bad_fraction."
        )


def first_names(left_out: list[dict[str, str]]) -> str:
    """The first few bad files with their reasons, a line each."""
    lines = [f"  {entry['file']}: {entry['reason']}" for entry in left_out[:NAMES_SHOWN]]
    if len(left_out) > NAMES_SHOWN:
        lines.append(f"  and {len(left_out) - NAMES_SHOWN} more")
    return "\n".join(lines)


def cut_in_this_process(source: Source, data: Data) -> Iterator[CutPicture]:
    """The source's pictures one after another, without Ray."""
    return (read_and_cut(picture, source.seed, data) for picture in source.pictures)


def read_and_cut(picture: Picture, seed: int | None, data: Data) -> CutPicture:
    """One picture from its file, or drawn, to its patches; what is wrong with it is returned, never raised."""
    try:
        content = read_picture(picture, seed)
    except OSError as error:
        return CutPicture(None, (0, 0), f"it can't be read ({error.strerror})")
    return cut_picture(picture.name, content, data.patching, data.patch_size)


def describe_store(store: PatchStore) -> list[str]:
    """What the screen says of a store: counts, what was left out, shapes that are not the common one."""
    meta = store.meta
    pictures = {split: meta["splits"][split]["pictures"] for split in SPLITS}
    lines = [
        f"patches: {store.num_patches('train')} to train on, {store.num_patches('val')} to validate with "
        f"({pictures['train']} + {pictures['val']} pictures, {meta['patching']} of {meta['patch_size']} pixels)"
    ]
    if meta["left_out"]:
        where = f"patches/{store.fingerprint}/{QUARANTINE}"
        lines.append(
            f"left out: {meta['left_out']} bad files, listed in {where}\n{first_names(read_quarantine(store))}"
        )
    if len(meta["sizes"]) > 1:
        (common, _), *others = meta["sizes"].items()
        listed = ", ".join(f"{count} of {size}" for size, count in others[:NAMES_SHOWN])
        lines.append(f"shapes: most pictures are {common}; also used: {listed}")
    return lines


def prepare_patches(
    data: Data,
    source: Source | None,
    fingerprint: str,
    patches: Storage,
    cut: Callable[[Source, Data], Iterable[CutPicture]],
    say: Callable[[str], None],
) -> PatchStore:
    """The verified store of that fingerprint: found, or built; a damaged one is set aside and built again.

    Args:
        source: None where it is gone; then the store must stand.
        patches: the folder of all stores.
        cut: gives the source's pictures, cut, in the source's order.
        say: told what happens, a line at a time.

    Raises:
        DataError: the source can't be used, or is gone and the store with it.
    """
    store, problem = find_store(patches, fingerprint)
    if problem:
        say(
            f"patch store {fingerprint}: {problem}; set aside as patches/{set_aside(patches, fingerprint)}, built again"
        )
    if store is None:
        if source is None:
            raise DataError(
                f"data.source is {data.source!r}: it does not exist, and the patch store {fingerprint} that this "
                f"experiment was trained on is {'damaged' if problem else 'gone'} too. Bring one of them back."
            )
        say(f"preparing {len(source.pictures)} pictures ({data.patching} of {data.patch_size} pixels)")
        store = build_store(patches, fingerprint, data, source, cut(source, data))
    elif source is not None:
        check_bad_fraction(read_quarantine(store), len(source.pictures), data)
    return store


def read_quarantine(store: PatchStore) -> list[dict[str, str]]:
    """The files that were left out of a store, with their reasons."""
    return [json.loads(line) for line in store.folder.read_text(QUARANTINE).splitlines()]
