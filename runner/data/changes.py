"""What has changed in a source since a patch store was made of it, file by file.

A store is named by the content of all pictures. One that could not be used when the store was made, and still can't,
changes no patch: trials go on with the store.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from gan.data.pictures import PictureError, read_pair
from runner.config.schema import Data
from runner.data.sources import SPLITS, Picture, Source, fingerprint_contents, read_contents, read_picture
from runner.storage.run_folder import QUARANTINE
from runner.storage.storage import Storage, raise_unreachable

CONTENTS = "contents.jsonl"


def write_contents(store: Storage, source: Source) -> None:
    """Records what each file of the source held, so that later changes can be named."""
    if source.seed is None:
        lines = [json.dumps({"file": file, "sha256": digest}) for file, digest in source.contents.items()]
        store.write(CONTENTS, "".join(f"{line}\n" for line in lines).encode())


def changes_since(source: Source, data: Data, store: Storage, fingerprint: str) -> list[str] | None:
    """What of a source is not what a store was made of, as far as it has a part in patches.

    Args:
        store: the store's folder, which may be gone.
        fingerprint: the store's.

    Returns:
        A sentence for each file; empty where the source still gives the store's patches. None where that is not known.
    """
    if _fingerprint_before_layouts(source, data) == fingerprint:
        return []
    try:
        recorded = {entry["file"]: entry["sha256"] for entry in _lines(store, CONTENTS)}
        left_out = {entry["file"] for entry in _lines(store, QUARANTINE)}
    except (OSError, ValueError, KeyError, TypeError) as error:  # gone, or made by a release that kept no such record
        raise_unreachable(error)
        return None
    return list(_changes(recorded, left_out, source, data))


def _fingerprint_before_layouts(source: Source, data: Data) -> str:
    """The store's fingerprint by the rule of the first releases: each file that was not hidden was a picture."""
    others = read_contents([file for file in source.passed_over if _is_visible_file(file)])
    contents = sorted({**source.contents, **others}.items(), key=lambda entry: _place(entry[0]))
    return fingerprint_contents(dict(contents), source.seed, data)


def _place(file: str) -> tuple[int, str]:
    """By what those releases sorted a picture's "split/name"."""
    split, _, name = file.partition("/")
    return SPLITS.index(split), name


def _is_visible_file(file: Picture) -> bool:
    return Path(file.paths[0]).is_file() and not any(part.startswith(".") for part in file.name.split("/"))


def _changes(recorded: Mapping[str, str], left_out: Collection[str], source: Source, data: Data) -> Iterator[str]:
    """What differs in the pictures that a store uses, or would use now."""
    pictures = {f"{picture.split}/{picture.name}": picture for picture in source.pictures}
    for file, digest in source.contents.items():
        if recorded.get(file) == digest:
            continue
        was_used = file in recorded and file not in left_out
        if was_used or _is_usable(pictures[file], data):
            yield f"{file} has changed" if file in recorded else f"{file} is new"
    for file in recorded:
        if file not in pictures and file not in left_out:
            yield f"{file} is gone"


def _is_usable(picture: Picture, data: Data) -> bool:
    """True where a picture gives patches."""
    try:
        read_pair(read_picture(picture, None), data.patch_size)
    except (OSError, PictureError):
        return False
    return True


def _lines(store: Storage, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in store.read_text(name).splitlines()]
