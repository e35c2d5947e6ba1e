"""A patch store on disk: found, verified and described. `runner.data.preparation` builds it.

The store is content-addressed: its name is the digest of what the source holds and of how that is cut. All trials of
all experiments that use the same data share it.
"""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gan.data.patches import SHARD_SUFFIX
from runner.config.schema import Data
from runner.data.checksums import first_damaged
from runner.data.sources import SPLITS
from runner.errors import DataError
from runner.storage.run_folder import QUARANTINE
from runner.storage.storage import Storage, is_unreachable

META = "meta.json"
META_FORMAT = 3  # of meta.json, and of how it verifies the rest. STORE_FORMAT is for what changes the patches.

_NAMES_SHOWN = 5


class PatchStore(NamedTuple):
    """A complete and verified store.

    Attributes:
        meta: the content of its meta.json.
    """

    fingerprint: str
    folder: Storage
    meta: dict[str, Any]

    def num_patches(self, split: str) -> int:
        """The number of patches in a split."""
        return int(self.meta["splits"][split]["patches"])

    def num_pictures(self, split: str) -> int:
        """The number of pictures that gave these patches."""
        return int(self.meta["splits"][split]["pictures"])

    def paths(self, split: str) -> list[Path]:
        """The files of a split's shards, in order."""
        return [self.folder.local_copy(shard["name"]) for shard in self.meta["splits"][split]["shards"]]


def find_store(patches: Storage, fingerprint: str) -> tuple[PatchStore | None, str]:
    """Looks for a store, and verifies it.

    Args:
        patches: the folder of all stores.

    Returns:
        The store and "". Where it is damaged, None and the problem. Where there is none, None and "".
    """
    folder = patches.at(fingerprint)
    if not folder.exists() or patches.is_unfinished(fingerprint, META):
        return None, ""

    try:
        meta = json.loads(folder.read(META))
        if meta["format"] != META_FORMAT:
            return None, f"{META} is of format {meta['format']}, not {META_FORMAT}"

        shards = {shard["name"]: shard for split in SPLITS for shard in meta["splits"][split]["shards"]}
        if problem := _shards_problem(folder, shards):
            return None, problem

        # A store may have been copied under another name, or without all of its files.
        if meta["fingerprint"] != fingerprint:
            return None, f"{META} is of another store"
        store = PatchStore(fingerprint, folder, meta)
        if len(read_quarantine(store)) != meta["left_out"]:
            return None, f"{QUARANTINE} does not name the {meta['left_out']} files that were left out"
    except (OSError, ValueError, KeyError, TypeError) as error:
        if is_unreachable(error):
            raise
        return None, f"it can't be read ({type(error).__name__}: {error})"

    return store, ""


def _shards_problem(folder: Storage, shards: dict[str, dict[str, Any]]) -> str:
    """The first problem with a store's shards. "" where there is none."""
    # Readers open every file with this suffix, so an unknown one would add patches.
    sizes = folder.sizes()
    for name in sizes:
        if name.endswith(SHARD_SUFFIX) and name not in shards:
            return f"{name} is none of its shards"

    # Sizes first: that needs no reading, and finds a copy that broke off.
    for name, shard in shards.items():
        if name not in sizes:
            return f"{name} is gone"
        if sizes[name] != shard["bytes"]:
            return f"{name} has {sizes[name]} bytes instead of {shard['bytes']}"

    return _damage(folder.local_copy(), shards)


def _damage(copy: Path, shards: Mapping[str, Mapping[str, Any]]) -> str:
    damaged = first_damaged(copy, {name: shard["xxh3"] for name, shard in shards.items()})
    return f"{damaged} does not match its checksum" if damaged else ""


def local_patches(store: Storage) -> Path:
    """The folder of this machine from which patches are read: the store's own, or a verified copy.

    Raises:
        OSError: the copy is not what the store holds.
    """
    copy = store.local_copy()
    if store.is_remote:
        splits = json.loads((copy / META).read_bytes())["splits"]
        shards = {shard["name"]: shard for split in SPLITS for shard in splits[split]["shards"]}
        if problem := _damage(copy, shards):
            raise OSError(f"{store.root}: {problem}, in the copy on {platform.node()}")
    return copy


def read_quarantine(store: PatchStore) -> list[dict[str, str]]:
    """The files that the store leaves out, each with `file` and `reason`."""
    return [json.loads(line) for line in store.folder.read_text(QUARANTINE).splitlines()]


def describe_store(store: PatchStore) -> list[str]:
    """Lines for the screen: numbers of patches, files that were left out, unusual picture sizes."""
    meta = store.meta
    pictures = {split: meta["splits"][split]["pictures"] for split in SPLITS}
    lines = [
        f"patches: {store.num_patches('train')} to train on, {store.num_patches('val')} to validate with "
        f"({pictures['train']} + {pictures['val']} pictures, {meta['patching']} of {meta['patch_size']} pixels)"
    ]

    if meta["left_out"]:
        where = f", listed in patches/{store.fingerprint}/{QUARANTINE}"
        lines.append(describe_bad_files(read_quarantine(store), where))

    if len(meta["sizes"]) > 1:
        # meta.json has the sizes in the order of their counts, the most common one first.
        (common, _), *others = meta["sizes"].items()
        listed = ", ".join(f"{count} of {size}" for size, count in others[:_NAMES_SHOWN])
        lines.append(f"shapes: most pictures are {common}; also used: {listed}")
    return lines


def describe_bad_files(left_out: list[dict[str, str]], where: str = "") -> str:
    """The number of bad files, and the first of them with their reasons.

    Args:
        where: put behind the number, for example ", listed in FILE".
    """
    files = "file" if len(left_out) == 1 else "files"
    return f"left out: {len(left_out)} bad {files}{where}\n{first_bad_files(left_out)}"


def first_bad_files(left_out: list[dict[str, str]]) -> str:
    """The first bad files with their reasons, one per line."""
    lines = [f"  {entry['file']}: {entry['reason']}" for entry in left_out[:_NAMES_SHOWN]]
    if len(left_out) > _NAMES_SHOWN:
        lines.append(f"  and {len(left_out) - _NAMES_SHOWN} more")
    return "\n".join(lines)


def check_bad_fraction(left_out: list[dict[str, str]], num_pictures: int, data: Data) -> None:
    """Raises DataError where a larger part of the source is bad than `data.max_bad_fraction` allows."""
    if len(left_out) > data.max_bad_fraction * num_pictures:
        raise DataError(
            f"{data.source}: {len(left_out)} of {num_pictures} files {'is' if len(left_out) == 1 else 'are'} bad "
            f"({100 * len(left_out) / num_pictures:.1f} %), more than data.max_bad_fraction allows "
            f"({100 * data.max_bad_fraction:g} %).\n{first_bad_files(left_out)}\n"
            "Repair or remove them, or raise data.max_bad_fraction."
        )
