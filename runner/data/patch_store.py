"""Pictures become the patch store: read, checked, decoded, split and cut, once for all trials.

The store is content-addressed: its name is the digest of what the source holds and of how it is cut. It
appears whole, by one rename, so that two runs which prepare it at once do not harm each other.
"""

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from gan.data.patches import SHARD_SUFFIX
from runner.config.schema import Data
from runner.data.checksums import SyncBehind, first_damaged
from runner.data.shards import ShardReport
from runner.data.sources import SPLITS, Source
from runner.errors import DataError
from runner.storage.folder import TEMPORARY, Storage
from runner.storage.run_folder import QUARANTINE

META = "meta.json"
META_FORMAT = 3  # of meta.json and how it verifies the rest; STORE_FORMAT is what the patches depend on
NAMES_SHOWN = 5
LEFTOVER_S = 3600.0

# Writes a source's shards into a folder and gives their reports, in order.
Cut = Callable[[Source, Data, Storage], Iterable[ShardReport]]


class PatchStore(NamedTuple):
    """A whole and verified store. `meta` is its meta.json."""

    fingerprint: str
    folder: Storage
    meta: dict[str, Any]

    def num_patches(self, split: str) -> int:
        """Patches of a split."""
        return int(self.meta["splits"][split]["patches"])

    def paths(self, split: str) -> list[Path]:
        """The split's shards, in order."""
        return [self.folder.local_path / shard["name"] for shard in self.meta["splits"][split]["shards"]]


def find_store(patches: Storage, fingerprint: str) -> tuple[PatchStore | None, str]:
    """The verified store, or None and what is wrong with the one that stands there ("" where none does)."""
    folder = patches.at(fingerprint)
    if not folder.exists():
        return None, ""
    try:
        meta = json.loads(folder.read(META))
        if meta["format"] != META_FORMAT:
            return None, f"{META} is of format {meta['format']}, not {META_FORMAT}"
        shards = {shard["name"]: shard for split in SPLITS for shard in meta["splits"][split]["shards"]}
        if problem := shards_problem(folder, shards):
            return None, problem
        if meta["fingerprint"] != fingerprint:
            return None, f"{META} is of another store"
        store = PatchStore(fingerprint, folder, meta)
        if len(read_quarantine(store)) != meta["left_out"]:
            return None, f"{QUARANTINE} does not name the {meta['left_out']} files that were left out"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"it can't be read ({type(error).__name__}: {error})"
    return store, ""


def shards_problem(folder: Storage, shards: dict[str, dict[str, Any]]) -> str:
    """What is wrong with a store's shards, their sizes looked at first; "" where nothing is."""
    for name in folder.names():
        if name.endswith(SHARD_SUFFIX) and name not in shards:
            return f"{name} is none of its shards"
    for name, shard in shards.items():
        if (size := folder.size(name)) != shard["bytes"]:
            return f"{name} has {size} bytes instead of {shard['bytes']}"
    damaged = first_damaged(folder.local_path, {name: shard["xxh3"] for name, shard in shards.items()})
    return f"{damaged} does not match its checksum" if damaged else ""


def set_aside(patches: Storage, fingerprint: str) -> str:
    """Moves a damaged store out of the way, never deleting it; its new name."""
    name = f"damaged-{fingerprint}-{secrets.token_hex(3)}"
    patches.rename(fingerprint, name)
    return name


def build_store(patches: Storage, fingerprint: str, data: Data, source: Source, cut: Cut) -> PatchStore:
    """Has the store's shards written, and puts it in place whole.

    What was just written is not read again: it would come from memory, and each later start verifies it.

    Raises:
        DataError: too many pictures are bad, or a split has no good one; nothing is left behind.
    """
    remove_leftovers(patches)
    temporary = f"{TEMPORARY}{fingerprint}-{secrets.token_hex(4)}"
    patches.make_folder(temporary)
    try:
        folder = patches.at(temporary)
        with folder.locked():
            meta = write_store(folder, fingerprint, data, source, cut)
        try:
            patches.rename(temporary, fingerprint)
            return PatchStore(fingerprint, patches.at(fingerprint), meta)
        except OSError:
            if not patches.exists(fingerprint):
                raise
            # Another run was quicker; what it made is the same, and is verified below.
    finally:
        discard(patches, temporary)
    store, problem = find_store(patches, fingerprint)
    if store is None:
        raise DataError(
            f"the patch store {patches.at(fingerprint).root} was written by another run, but {problem}: "
            "is the disk sound?"
        )
    return store


def discard(patches: Storage, temporary: str) -> None:
    """Deletes an unfinished store under another name, where nobody who still writes shards of it finds it."""
    if patches.exists(temporary):
        away = f"{TEMPORARY}{secrets.token_hex(4)}"
        patches.rename(temporary, away)
        patches.remove(away)


def remove_leftovers(patches: Storage) -> None:
    """Deletes what preparations left that were killed: nobody holds it, and nobody has written there for an hour."""
    for name in patches.temporary_names():
        leftover = patches.at(name)
        if leftover.is_unlocked() and leftover.idle_s() > LEFTOVER_S:
            patches.remove(name)


def write_store(folder: Storage, fingerprint: str, data: Data, source: Source, cut: Cut) -> dict[str, Any]:
    """Fills a folder with all that a store has, and waits until the disk has it; returns its description.

    Raises:
        DataError: too little of the source is good.
    """
    splits: dict[str, dict[str, Any]] = {split: {"pictures": 0, "patches": 0, "shards": []} for split in SPLITS}
    left_out: list[dict[str, str]] = []
    sizes: Counter[str] = Counter()
    with SyncBehind(folder) as syncing:
        for report in cut(source, data, folder):
            syncing.add(report.name)
            entry = splits[report.split]
            entry["pictures"] += report.pictures
            entry["patches"] += report.patches
            entry["shards"].append({"name": report.name, "bytes": report.bytes, "xxh3": report.checksum})
            left_out += report.left_out
            sizes.update(report.sizes)
    check_bad_fraction(left_out, len(source.pictures), data)
    for split, entry in splits.items():
        if not entry["pictures"]:
            raise DataError(f"{data.source}: every picture of {split}/ is bad.\n{first_names(left_out)}")
    for name in folder.temporary_names():
        folder.remove(name)  # a worker died while it wrote it, and another has written that shard
    folder.write(QUARANTINE, "".join(json.dumps(entry) + "\n" for entry in left_out).encode())
    meta = {
        "format": META_FORMAT,
        "fingerprint": fingerprint,
        "patching": data.patching,
        "patch_size": data.patch_size,
        "splits": splits,
        "left_out": len(left_out),
        "sizes": dict(sizes.most_common()),
    }
    folder.write(META, json.dumps(meta).encode())  # as all writes do, it makes what was renamed in the folder last
    return meta


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
    cut: Cut,
    notify: Callable[[str], None],
) -> PatchStore:
    """The verified store of that fingerprint: found, or built; a damaged one is set aside and built again.

    Args:
        source: None where it is gone; then the store must stand.
        patches: the folder of all stores.
        notify: told what happens, a line at a time.

    Raises:
        DataError: the source can't be used, or is gone and the store with it.
    """
    store, problem = find_store(patches, fingerprint)
    if problem:
        notify(
            f"patch store {fingerprint}: {problem}; set aside as patches/{set_aside(patches, fingerprint)}, built again"
        )
    if store is None:
        if source is None:
            raise DataError(
                f"data.source is {data.source!r}: it does not exist, and the patch store {fingerprint} that this "
                f"experiment was trained on is {'damaged' if problem else 'gone'} too. Bring one of them back."
            )
        notify(f"preparing {len(source.pictures)} pictures ({data.patching} of {data.patch_size} pixels)")
        store = build_store(patches, fingerprint, data, source, cut)
    elif source is not None:
        check_bad_fraction(read_quarantine(store), len(source.pictures), data)
    return store


def read_quarantine(store: PatchStore) -> list[dict[str, str]]:
    """The files that were left out of a store, with their reasons."""
    return [json.loads(line) for line in store.folder.read_text(QUARANTINE).splitlines()]
