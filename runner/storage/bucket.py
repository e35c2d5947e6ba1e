"""The storage in a bucket of an object store: S3 and what speaks its protocol, Google's and Azure's.

There are no locks, no renames and no appends. What takes their place:

- An object is replaced only where it has the tag that was seen last. Whoever has lost a folder to another process finds
  the tag changed, and writes nothing.
- The files of a folder that must appear whole have names of their writer's own. The file that makes the folder count is
  put last, where there is none, or in the place of the one that was seen.
- A log is one object, which is replaced by a longer one. Its metadata has a mark that stays the same as it grows.

An answer may be lost after the store has done what it was asked. So each conditional write leaves a mark of its own in
the object's metadata, and one that fails reads the object back: where its mark is there, it has been done.
"""

import contextlib
import functools
import json
import os
import re
import secrets
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError

from runner.errors import StorageError, UserError
from runner.storage.cache import Remote, cache_folder, copy_folder, scratch_folder
from runner.storage.requests import PastEnd, check_settings, describe, is_refusal, request, store_of, trying_for
from runner.storage.storage import (
    LOOKED_UP,
    UNREACHABLE,
    Changed,
    NewFolder,
    Storage,
    Unreachable,
    is_full,
    unfenced,
)

SCHEMES = ("s3", "gs", "az")
_URI = re.compile(r"(?P<scheme>\w+)://(?P<bucket>[^/]*)/?(?P<prefix>.*)")
_LOG_MARK, _WRITES = "log", "writes"  # in an object's metadata
_NUM_WRITES = 8  # whose marks are kept
_TRIES = 10
_IN_MEMORY_BYTES = 64 * 2**20
_INTERVAL_S = 15.0
_PATIENCE_AT_START_S = 5.0

# By URI, what this process has seen last of objects that it writes: tags, and logs with their tags and marks.
_seen_tags: dict[str, str] = {}
_seen_logs: dict[str, "_Found"] = {}
_remembering = threading.Lock()
_fences = threading.local()


@dataclass(frozen=True)
class Bucket(Storage):
    """What is below a prefix of a bucket; `root` is its URI without a slash at its end.

    Attributes:
        cache: the folder for local copies that was given; "" for the one that the machine's environment names.
    """

    cache: str = ""

    is_remote = True
    row_interval_s = _INTERVAL_S
    poll_interval_s = _INTERVAL_S / 2

    @classmethod
    def at_uri(cls, uri: str, cache: str | None = None) -> "Bucket":
        """The storage at a URI. Raises StorageError for a scheme that is unknown, or a URI without a bucket."""
        scheme, _, rest = uri.partition("://")
        if "@" in rest.partition("/")[0] or "?" in rest:
            raise StorageError(
                f"{scheme}://...: credentials and options belong into the environment; give the bucket and "
                "the prefix alone."
            )

        found = _URI.fullmatch(uri)
        if found is None or found["scheme"] not in SCHEMES:
            known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise StorageError(f"{uri}: its scheme is unknown; give a folder, or a bucket by one of {known}.")
        if not found["bucket"]:
            raise StorageError(f"{uri}: it names no bucket; give {found['scheme']}://BUCKET/PREFIX.")

        parts = [part for part in found["prefix"].split("/") if part]
        if any(part in (".", "..") for part in parts):
            raise StorageError(f"{uri}: a prefix can't have the parts `.` and `..`.")
        root = "/".join([f"{found['scheme']}://{found['bucket']}", *parts])
        return cls(root, str(Path(cache).absolute()) if cache else "")

    @property
    def _bucket(self) -> str:
        return "/".join(self.root.split("/")[:3])

    @property
    def _store(self) -> Any:
        return store_of(self._bucket)

    def _key(self, name: str) -> str:
        prefix = self.root.removeprefix(self._bucket).strip("/")
        return f"{prefix}/{name}".strip("/")

    def _uri(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    @property
    def name(self) -> str:
        """The last part of its prefix, or the bucket's name."""
        return self.root.rpartition("/")[2]

    @property
    def shown(self) -> str:
        """The URI."""
        return self.root

    def at(self, name: str) -> "Bucket":
        """What is below a longer prefix."""
        return replace(self, root=f"{self.root}/{name}") if name else self

    def above(self, levels: int) -> "Bucket":
        """What is below a shorter prefix: at most the whole bucket."""
        parts = self.root.split("/")
        return replace(self, root="/".join(parts[: max(len(parts) - levels, len(self._bucket.split("/")))]))

    # What there is.

    def absence(self) -> str:
        """By one listing, which is not tried for long."""
        try:
            with trying_for(_PATIENCE_AT_START_S):
                if self._objects(limit=1):
                    return ""
        except OSError as error:
            raise self._unreadable(error) from error
        bucket, prefix = self._bucket.partition("://")[2], self._key("")
        return f"the bucket {bucket} has nothing below {prefix}/" if prefix else f"the bucket {bucket} is empty"

    def _unreadable(self, error: OSError) -> StorageError:
        scheme, _, bucket = self._bucket.partition("://")
        if "NoSuchBucket" in str(error):
            return StorageError(
                f"{self.root}: there is no bucket {bucket}: a URI begins with the bucket, {scheme}://BUCKET/PREFIX. "
                f"{LOOKED_UP}"
            )
        return StorageError(
            f"{self.root}: {error.strerror or error}. {LOOKED_UP} Check them, the bucket's name, and that they may "
            "read and list there."
        )

    def exists(self, name: str = "") -> bool:
        """An object or, as there are no folders, anything below that prefix."""
        if name or self.root != self._bucket:
            with contextlib.suppress(FileNotFoundError):
                self.size(name)
                return True
        return bool(self._objects(name, limit=1))

    def size(self, name: str) -> int:
        """By a request for the object's head."""
        return int(self._head(name)["size"])

    def _head(self, name: str) -> Any:
        def work() -> Any:
            try:
                return obstore.head(self._store, self._key(name))
            except obstore.exceptions.BaseError as error:
                if not is_refusal(error):
                    raise
                # The answer to HEAD has no body, and so does not say why: the one to GET does.
                return obstore.get(self._store, self._key(name)).meta

        return request("head", self._uri(name), work)

    def names(self, name: str = "") -> list[str]:
        """By one listing."""
        prefix = self._key(name)
        found = request("list", self._uri(name), lambda: obstore.list_with_delimiter(self._store, prefix or None))
        paths = [*found["common_prefixes"], *(entry["path"] for entry in found["objects"])]
        return sorted({path.rstrip("/").rpartition("/")[2] for path in paths})

    def _objects(self, name: str = "", limit: int | None = None) -> list[Remote]:
        """All objects below a folder, their names relative to it."""
        prefix = self._key(name)

        def work() -> list[Any]:
            found: list[Any] = []
            chunks = obstore.list(self._store, f"{prefix}/" if prefix else None, chunk_size=limit or 1000)
            for chunk in chunks:
                found += chunk
                if limit is not None and found:
                    break
            return found

        start = len(prefix) + 1 if prefix else 0
        return [
            Remote(entry["path"][start:], int(entry["size"]), _tag_of(entry))
            for entry in request("list", self._uri(name), work)
        ]

    def sizes(self) -> dict[str, int]:
        """By one listing."""
        return {known.name: known.size for known in self._objects() if "/" not in known.name}

    def total_bytes(self) -> int:
        """By one listing."""
        return sum(known.size for known in self._objects())

    def free_bytes(self) -> int:
        """Not known: a quota shows when it is used up."""
        return sys.maxsize

    def check_writable(self) -> None:
        """Writes, replaces, reads, lists and deletes a small object, and tries what the store must refuse."""
        cache_folder(self.cache)
        check_settings()
        try:
            with trying_for(_PATIENCE_AT_START_S):
                self._check_prefix()
                self._probe()
        except OSError as error:
            if is_full(error):
                raise StorageError(f"{self.root}: there is no room in it: raise its quota, or make room.") from error
            raise StorageError(
                f"{self.root}: {error.strerror or error}. {LOOKED_UP} Check them, the bucket's name, and that they may "
                "read, write, list and delete there."
            ) from error

    def _check_prefix(self) -> None:
        """Raises StorageError where the prefix is an object's name."""
        if self.root == self._bucket:
            return
        with contextlib.suppress(FileNotFoundError):
            self.size("")
            raise StorageError(f"{self.root}: there is an object of that name; give another prefix.")

    def _probe(self) -> None:
        """Raises StorageError where the store ignores conditions, and OSError where it refuses a request."""
        name = f".probe-{secrets.token_hex(8)}"
        if self._put(name, b"1", "create", log="probe") is None:
            raise StorageError(f"{self.root}: a new object was taken for one that was there already.")
        try:
            found = self._get(name)
            if found.log != "probe":
                raise StorageError(f"{self.root}: the store does not keep objects' metadata, which logs need.")

            ignored = self._put(name, b"another", "create") is not None
            with contextlib.suppress(Changed):
                self.replace(name, b"22", found.tag)
            ignored |= self._put(name, b"a third", _mode_of(found.tag)) is not None
            if ignored or self.read(name) != b"22":
                raise StorageError(
                    f"{self.root}: the store ignores conditions (If-None-Match, If-Match), so that two runs could "
                    "overwrite each other; use one that keeps to them, such as S3, Google Cloud Storage, Azure, R2 or "
                    "a recent MinIO or Ceph."
                )
            self.names()
        finally:
            self._delete([name])

    # Reading.

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        """The tag is the store's."""
        found = self._get(name)
        return found.content, found.tag

    def _get(self, name: str, start: int = 0) -> "_Found":
        """An object, its content from a byte on."""

        def work() -> _Found:
            options: Any = {"range": {"offset": start}} if start else {}
            found = obstore.get(self._store, self._key(name), options=options)
            log, writes = (str(found.attributes.get(kind, "")) for kind in (_LOG_MARK, _WRITES))
            return _Found(bytes(found.bytes()), _tag_of(found.meta), log, writes)

        return request("get", self._uri(name), work)

    def read_from(self, name: str, start: int) -> tuple[bytes, str]:
        """The text is a mark in the object's metadata, which a log keeps as it grows."""
        try:
            # A byte more: a store refuses a range that begins at the end.
            found = self._get(name, max(start - 1, 0))
        except PastEnd:
            return b"", f"shorter than {start}"
        return found.content[1:] if start else found.content, found.log

    # Writing.

    def _put(
        self, name: str, data: bytes | memoryview | IO[bytes], mode: Any = "overwrite", log: str = "", writes: str = ""
    ) -> str | None:
        """Puts an object.

        Args:
            mode: "overwrite", "create", or the tag that it must have.
            log: see `_Found`.
            writes: see `_Found`; the last one is this write's.

        Returns:
            The new tag; "" where others have added to it meanwhile; None where the condition does not hold.
        """
        writes = writes or _one_more("")
        attributes = {_WRITES: writes} | ({_LOG_MARK: log} if log else {})

        def work() -> str:
            if hasattr(data, "seek"):
                data.seek(0)
            return _tag_of(obstore.put(self._store, self._key(name), data, mode=mode, attributes=attributes))

        try:
            return request("put", self._uri(name), work)
        except (
            AlreadyExistsError,
            PreconditionError,
            FileNotFoundError,
        ) as error:  # the last of what was to be replaced
            if mode == "overwrite":
                raise Unreachable(f"{UNREACHABLE}: put of {self._uri(name)} failed ({describe(error)})") from None
        with contextlib.suppress(FileNotFoundError):
            found = self._get(name)
            if found.writes == writes:  # it was done, and the answer got lost
                return found.tag
            if writes.rpartition("-")[2] in found.writes.split("-"):
                return ""
        return None

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Inside `exclusive` by compare and swap, elsewhere whatever is there."""
        self._replace_any(name, bytes(data))

    def _replace_any(self, name: str, data: bytes) -> None:
        uri, log = self._uri(name), secrets.token_hex(8)
        check = getattr(_fences, "check", None)
        if check is None:
            self._remember(uri, self._put(name, data, log=log))
            return

        for _ in range(_TRIES):
            tag = _seen_tags.get(uri)
            if tag is None:
                with contextlib.suppress(FileNotFoundError):
                    tag = _tag_of(self._head(name))
                # Once more, after the tag is known: whoever owns the folder by now may have written already.
                check()
            new_tag = self._put(name, data, "create" if tag is None else _mode_of(tag), log)
            self._remember(uri, new_tag)
            if new_tag is not None:
                return
        raise OSError(f"{uri}: it is replaced again and again by others")

    @staticmethod
    def _remember(uri: str, tag: str | None) -> None:
        with _remembering:
            _seen_logs.pop(uri, None)
            if tag is None:
                _seen_tags.pop(uri, None)
            else:
                _seen_tags[uri] = tag

    @contextlib.contextmanager
    def writing(self, name: str, *, synced: bool = True) -> Iterator[BinaryIO]:
        """Into memory or, where that is large, into a file of this machine; it is put at the end of the block.

        What is large is put in parts, and replaces whatever is there, after one more check.
        """
        # In the cache folder: where `/tmp` is in memory, a checkpoint would be there a second time.
        folder = scratch_folder(self.cache, self._bucket, "uploads")
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=str(folder)) as stream:
            yield stream  # type: ignore[misc]
            if stream.seek(0, os.SEEK_END) > _IN_MEMORY_BYTES:
                if (check := getattr(_fences, "check", None)) is not None:
                    check()
                self._remember(self._uri(name), self._put(name, stream, log=secrets.token_hex(8)))
                return
            stream.seek(0)
            self._replace_any(name, stream.read())

    def create(self, name: str, data: bytes) -> bool:
        """By If-None-Match."""
        return self._put(name, data, "create") is not None

    def replace(self, name: str, data: bytes, tag: str) -> str:
        """By If-Match."""
        new_tag = self._put(name, data, _mode_of(tag))
        if new_tag is None:
            raise Changed(f"{self._uri(name)} has been replaced or removed")
        return new_tag

    def append(self, name: str, data: bytes, *, synced: bool = True) -> None:
        """Replaces the log by a longer one; reads it again where another process has added to it."""
        uri, check = self._uri(name), getattr(_fences, "check", None)
        with _remembering:
            seen = _seen_logs.get(uri)
        for _ in range(_TRIES):
            if seen is None:
                seen = _Found(b"", "", secrets.token_hex(8), "")
                with contextlib.suppress(FileNotFoundError):
                    seen = self._get(name)
                # As for `write`.
                if check is not None:
                    check()

            content = seen.content + data
            log, writes = seen.log or secrets.token_hex(8), _one_more(seen.writes)
            new_tag = self._put(name, content, _mode_of(seen.tag) if seen.tag else "create", log, writes)

            self._remember(uri, new_tag or None)
            if new_tag:
                with _remembering:
                    _seen_logs[uri] = _Found(content, new_tag, log, writes)
            if new_tag is not None:
                return
            seen = None
        raise OSError(f"{uri}: it is replaced again and again by others")

    def remove(self, name: str) -> None:
        """The object, and all that is below that prefix."""
        folder = self.at(name)
        below = [known.name for known in folder._objects()]
        # After the list: what a later owner of the folder writes is not on it.
        if (check := getattr(_fences, "check", None)) is not None:
            check()
        folder._delete(below)
        self._delete([name])
        with _remembering:
            for seen in (_seen_tags, _seen_logs):
                for uri in [uri for uri in seen if uri == self._uri(name) or uri.startswith(f"{self._uri(name)}/")]:
                    del seen[uri]

    def _delete(self, names: list[str]) -> None:
        """Deletes objects by as few requests as the store takes; those that are gone already do not matter."""
        keys = [key for name in names if (key := self._key(name))]

        def delete(keys: str | list[str]) -> None:
            shown = self._uri(names[0] if len(names) == 1 else "")
            request("delete", shown, lambda: obstore.delete(self._store, keys))

        try:
            if keys:
                delete(keys[0] if len(keys) == 1 else keys)
        except FileNotFoundError:  # some stores say so of one that is gone: the others are still there
            for key in keys if len(keys) > 1 else []:
                with contextlib.suppress(FileNotFoundError):
                    delete(key)

    def set_aside(self, name: str, new_name: str) -> None:
        """By copies: all objects are under the new name before the first is deleted."""
        names = [f"/{known.name}" for known in self._objects(name)] or [""]
        for end in names:
            source, target = self._key(f"{name}{end}"), self._key(f"{new_name}{end}")
            request("copy", self._uri(name), functools.partial(obstore.copy, self._store, source, target))
        self.remove(name)

    # Folders that appear whole.

    @contextlib.contextmanager
    def new_folder(
        self,
        name: str,
        last: str,
        committing: Callable[[], AbstractContextManager[None]] = unfenced,
        *,
        replaces: bool = True,
    ) -> Iterator[NewFolder]:
        """The last file is put where there is none, or in the place of the one that was there at the beginning."""
        folder = self.at(name)
        try:
            _, tag = folder.read_tagged(last)
        except FileNotFoundError:
            tag = ""
        if tag and not replaces:
            raise Changed(f"{folder.root} is there already")

        new = _BucketFolder(folder, secrets.token_hex(4))
        is_put = False
        try:
            yield new
            with committing():
                is_put = True
                if tag:
                    folder.replace(last, new.last_content, tag)
                elif not folder.create(last, new.last_content):
                    raise Changed(f"{folder.root} is there already")
        except BaseException as error:
            # Where no answer came to the last file, it may be there, and the folder may count.
            if not is_put or isinstance(error, Changed):
                with contextlib.suppress(OSError):
                    folder._remove_what_is_new(new, last, with_shared=isinstance(error, UserError))
            raise
        if tag:
            # It counts by now, whether the older one's files can be deleted or not.
            with contextlib.suppress(OSError):
                there = [known.name for known in folder._objects()]
                folder._delete([name for name in there if name != last and name not in new.written])

    def _remove_what_is_new(self, new: "_BucketFolder", last: str, *, with_shared: bool) -> None:
        """Removes the files of a folder that was not finished.

        Args:
            with_shared: those too whose names are not their writer's own, unless they belong to a folder that counts.
        """
        there = [known.name for known in self._objects()] if new.written or with_shared else []
        self._delete([name for name in there if name in new.written or (with_shared and last not in there)])

    def is_unfinished(self, name: str, last: str) -> bool:
        """True where it is without its last file."""
        return not self.at(name).exists(last)

    def remove_unfinished(self, last: str, idle_s: float = 0.0) -> None:
        """Nothing: what is unfinished has the name of what it would be, and may be in the works elsewhere."""

    # Between processes.

    @contextlib.contextmanager
    def exclusive(self, check: Callable[[], None] = lambda: None) -> Iterator[None]:
        """`check` is called at the beginning, and again before the first write of each object."""
        check()
        before = getattr(_fences, "check", None)
        _fences.check = check
        try:
            yield
        finally:
            _fences.check = before

    # On this machine.

    def local_copy(self, name: str = "") -> Path:
        """A verified copy in the cache folder."""
        parent, _, last = name.rpartition("/")
        folder, of_file = self.at(name), f"{self._uri(name)}#"
        known = []
        if name:
            with contextlib.suppress(FileNotFoundError):
                head = self._head(name)
                known = [Remote(last, int(head["size"]), _tag_of(head))]
        if not known and ((objects := folder._objects()) or not name):
            return copy_folder(self.cache, folder.root, objects, folder._fetch)
        # A file is under its own name in a folder of its own, for libraries look at the suffix. Where there is nothing,
        # nothing is at that path.
        return copy_folder(self.cache, of_file, known, self.at(parent)._fetch) / last

    def _fetch(self, name: str, stream: IO[bytes]) -> None:
        def work() -> None:
            stream.seek(0)
            stream.truncate()
            for chunk in obstore.get(self._store, self._key(name)).stream(min_chunk_size=2**22):
                stream.write(chunk)

        request("get", self._uri(name), work)

    def scratch(self, name: str) -> Path:
        """In the cache folder; it may be lost with the machine."""
        return scratch_folder(self.cache, self.root, name)

    def keep_scratch(self, name: str) -> None:
        """Puts its files, and deletes what an earlier one has left."""
        folder = self.scratch(name)
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
        here = {path.relative_to(folder).as_posix() for path in paths}
        for path in paths:
            with open(path, "rb") as stream:
                self._put(f"{name}/{path.relative_to(folder).as_posix()}", stream)
        self._delete([f"{name}/{known.name}" for known in self._objects(name) if known.name not in here])


class _Found(NamedTuple):
    """An object that was read.

    Attributes:
        log: a mark that stays the same while a log grows; "" for what is no log.
        writes: the marks of the last conditional writes that it is made of, the newest last, joined by hyphens.
    """

    content: bytes
    tag: str
    log: str
    writes: str


def _one_more(writes: str) -> str:
    """The marks with one of a new write."""
    kept = writes.split("-")[1 - _NUM_WRITES :] if writes else []
    return "-".join([*kept, secrets.token_hex(4)])


class _BucketFolder(NewFolder):
    """Files under their writer's own names; `written` has those."""

    def __init__(self, place: Bucket, token: str) -> None:
        self.place: Bucket = place
        self._token = token
        self.written: set[str] = set()
        self.last_content = b""

    def writing(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A stream for a file."""
        self.written.add(self.path_of(name))
        return self.place.writing(self.path_of(name))

    def path_of(self, name: str) -> str:
        """`generator-1a2b3c4d.safetensors`."""
        stem, dot, suffix = name.partition(".")
        return f"{stem}-{self._token}{dot}{suffix}"

    def finish(self, data: bytes) -> None:
        """Keeps the last file for the end of the block."""
        self.last_content = data


def _tag_of(meta: Any) -> str:
    """A store's tag as a text: Google's needs the version, too."""
    return json.dumps({key: meta[key] for key in ("e_tag", "version") if meta.get(key) is not None})


def _mode_of(tag: str) -> Any:
    return json.loads(tag)
