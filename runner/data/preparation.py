"""Pictures become a patch store: read, decoded, split and cut, once for all trials.

A store appears complete. So two runs may prepare the same store at the same time.
"""

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from runner.config.schema import Data
from runner.data.changes import write_contents
from runner.data.checksums import SyncBehind
from runner.data.patch_store import (
    META,
    META_FORMAT,
    PatchStore,
    check_bad_fraction,
    find_store,
    first_bad_files,
    read_quarantine,
)
from runner.data.shards import ShardReport
from runner.data.sources import SPLITS, Source
from runner.errors import DataError
from runner.storage.run_folder import QUARANTINE
from runner.storage.storage import Changed, NewFolder, Storage

# Writes a source's shards into a folder, and yields their reports in order.
Cut = Callable[[Source, Data, Storage], Iterable[ShardReport]]

_LEFTOVER_S = 3600.0


def prepare_patches(
    data: Data,
    source: Source | None,
    fingerprint: str,
    patches: Storage,
    cut: Cut,
    notify: Callable[[str], None],
) -> PatchStore:
    """Returns the store with this fingerprint, verified. Builds it where there is none.

    A damaged store is never deleted. It gets another name, and is built again.

    Args:
        source: None where it can't be found any more. Then the store must exist.
        patches: the folder of all stores.
        notify: gets a line for each thing that happens.

    Raises:
        DataError: the source can't be used, or neither source nor store exist.
    """
    store, problem = find_store(patches, fingerprint)
    if problem:
        aside = _set_aside(patches, fingerprint)
        notify(f"patch store {fingerprint}: {problem}; set aside as patches/{aside}, built again")

    if store is not None:
        # This experiment may allow fewer bad files than the one that built the store.
        if source is not None:
            check_bad_fraction(read_quarantine(store), len(source.pictures), data)
        return store

    if source is None:
        raise DataError(
            f"data.source is {data.source!r}: it does not exist, and the patch store {fingerprint} that this "
            f"experiment was trained on is {'damaged' if problem else 'gone'} too. Bring one of them back."
        )
    where = f" from {data.source}, {source.description}" if source.description else ""
    notify(f"preparing {len(source.pictures)} pictures{where} ({data.patching} of {data.patch_size} pixels)")
    return _build_store(patches, fingerprint, data, source, cut)


def _set_aside(patches: Storage, fingerprint: str) -> str:
    """Renames a damaged store. Returns its new name."""
    name = f"damaged-{fingerprint}-{secrets.token_hex(3)}"
    patches.set_aside(fingerprint, name)
    return name


def _build_store(patches: Storage, fingerprint: str, data: Data, source: Source, cut: Cut) -> PatchStore:
    """Builds a store, which counts once it is whole.

    Raises:
        DataError: too many pictures are bad, or all of a split. Nothing is left behind.
    """
    patches.remove_unfinished(META, idle_s=_LEFTOVER_S)
    try:
        with patches.new_folder(fingerprint, META, replaces=False) as building:
            meta = _write_store(building, fingerprint, data, source, cut)
        # Not verified: it would be read from memory now, and each later start verifies it.
        return PatchStore(fingerprint, patches.at(fingerprint), meta)
    except Changed:
        pass  # Another run was faster. Its store has the same content, and is verified below.

    store, problem = find_store(patches, fingerprint)
    if store is None:
        raise DataError(
            f"the patch store {patches.at(fingerprint).root} was written by another run, but {problem}. "
            "Check whether the disk is damaged."
        )
    return store


def _write_store(building: NewFolder, fingerprint: str, data: Data, source: Source, cut: Cut) -> dict[str, Any]:
    """Writes all files of a store, and waits until the disk has them. Returns the content of meta.json.

    Raises:
        DataError: too many pictures are bad, or all of a split.
    """
    folder = building.place
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

    # Only now is it known how many pictures are bad: each has been decoded.
    check_bad_fraction(left_out, len(source.pictures), data)
    for split, entry in splits.items():
        if not entry["pictures"]:
            raise DataError(f"{data.source}: every picture of {split}/ is bad.\n{first_bad_files(left_out)}")

    write_contents(folder, source)
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
    # Last, because each write also makes sure that earlier renames in the folder are on the disk.
    building.finish(json.dumps(meta).encode())
    return meta
