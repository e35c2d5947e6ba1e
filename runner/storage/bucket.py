"""The storage in a bucket of an object store: S3 and what speaks its protocol, Google's and Azure's.

There are no locks, no renames and no appends. What takes their place:

- An object is replaced only where it has the tag that was seen last. Whoever has lost a folder to another process finds
  the tag changed, and writes nothing.
- The files of a folder that must appear whole have names of their writer's own. The file that makes the folder count is
  put last, where there is none, or in the place of the one that was seen.
- A log is one object, which is replaced by a longer one. Its metadata has a mark that stays the same as it grows.

An answer may be lost after the store has done what it was asked. So a conditional request that fails reads the object
back: what was to be written there has been written.
"""

import contextlib
import functools
import json
import re
import secrets
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError

from runner.errors import StorageError, UserError
from runner.storage.cache import Remote, cache_folder, copy_folder, scratch_folder
from runner.storage.requests import request, store_of, trying_for
from runner.storage.storage import LOOKED_UP, Changed, NewFolder, Storage, Unreachable, unfenced

SCHEMES = ("s3", "gs", "az")
_URI = re.compile(r"(?P<scheme>\w+)://(?P<bucket>[^/]*)/?(?P<prefix>.*)")
_LOG_MARK = "log"
_TRIES = 10
_IN_MEMORY_BYTES = 64 * 2**20
_INTERVAL_S = 15.0
_PATIENCE_AT_START_S = 5.0

# By URI, what this process has seen last of objects that it writes: tags, and logs with their tags and marks.
_seen_tags: dict[str, str] = {}
_seen_logs: dict[str, tuple[bytes, str, str]] = {}
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
        found = _URI.fullmatch(uri)
        if found is None or found["scheme"] not in SCHEMES:
            known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise StorageError(f"{uri}: its scheme is unknown; give a folder, or a bucket by one of {known}.")
        if "@" in found["bucket"] or "?" in uri:
            raise StorageError(
                f"{found['scheme']}://...: credentials and options belong into the environment; give the bucket and "
                "the prefix alone."
            )
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
        return request("head", self._uri(name), lambda: obstore.head(self._store, self._key(name)))

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
        try:
            with trying_for(_PATIENCE_AT_START_S):
                self._check_prefix()
                self._probe()
        except OSError as error:
            raise StorageError(
                f"{self.root}: {error.strerror or error}. Looked up from the environment: endpoint, region and "
                "credentials (for s3:// AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY). Check "
                "them, the bucket's name, and that they may read, write, list and delete there."
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
        first = secrets.token_hex(8).encode()
        if not self.create(name, first):
            raise StorageError(f"{self.root}: a new object was taken for one that was there already.")
        try:
            _, tag = self.read_tagged(name)
            ignored = self._put(name, b"another", "create") is not None
            new_tag = self.replace(name, first + b"2", tag)
            ignored |= self._put(name, b"a third", _mode_of(tag)) is not None
            if ignored or self.read(name) != first + b"2":
                raise StorageError(
                    f"{self.root}: the store ignores conditions (If-None-Match, If-Match), so that two runs could "
                    "overwrite each other; use one that keeps to them, such as S3, Google Cloud Storage, Azure, R2 or "
                    "a recent MinIO or Ceph."
                )
            self.replace(name, first + b"3", new_tag)
            self.names()
        finally:
            request("delete", self._uri(name), lambda: obstore.delete(self._store, self._key(name)))

    # Reading.

    def read_tagged(self, name: str) -> tuple[bytes, str]:
        """The tag is the store's."""
        content, tag, _ = self._get(name)
        return content, tag

    def _get(self, name: str, start: int = 0) -> tuple[bytes, str, str]:
        """Content from a byte on, tag and log mark."""

        def work() -> tuple[bytes, str, str]:
            options: Any = {"range": {"offset": start}} if start else {}
            found = obstore.get(self._store, self._key(name), options=options)
            return bytes(found.bytes()), _tag_of(found.meta), str(found.attributes.get(_LOG_MARK, ""))

        return request("get", self._uri(name), work)

    def read_from(self, name: str, start: int) -> tuple[bytes, str]:
        """The text is a mark in the object's metadata, which a log keeps as it grows."""
        if not start:
            content, _, mark = self._get(name)
            return content, mark
        try:
            # A byte more: a store refuses a range that begins at the end.
            content, _, mark = self._get(name, start - 1)
        except Unreachable as error:
            if "416" not in str(error):
                raise
            return b"", f"shorter than {start}"
        return content[1:], mark

    # Writing.

    def _put(
        self, name: str, data: bytes | memoryview | IO[bytes], mode: Any = "overwrite", mark: str = ""
    ) -> str | None:
        """The new tag; None where the condition does not hold, and what is there is not what was to be written."""

        def work() -> str:
            if hasattr(data, "seek"):
                data.seek(0)
            attributes = {_LOG_MARK: mark} if mark else None
            put = obstore.put(self._store, self._key(name), data, mode=mode, attributes=attributes)
            return _tag_of(put)

        try:
            return request("put", self._uri(name), work)
        except (AlreadyExistsError, PreconditionError):
            with contextlib.suppress(FileNotFoundError):
                content, tag, _ = self._get(name)
                if content == data:  # it was written, and the answer got lost
                    return tag
            return None
        except FileNotFoundError:  # some stores say so of an object that was to be replaced
            return None

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Inside `exclusive` by compare and swap, elsewhere whatever is there."""
        uri, mark = self._uri(name), secrets.token_hex(8)
        check = getattr(_fences, "check", None)
        if check is None:
            self._remember(uri, self._put(name, data, mark=mark))
            return

        for _ in range(_TRIES):
            tag = _seen_tags.get(uri)
            if tag is None:
                with contextlib.suppress(FileNotFoundError):
                    tag = _tag_of(self._head(name))
                # Once more, after the tag is known: whoever owns the folder by now may have written already.
                check()
            new_tag = self._put(name, bytes(data), "create" if tag is None else _mode_of(tag), mark)
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
        """Into memory or, where that is large, into a file of this machine; it is put at the end of the block."""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as stream:
            yield stream  # type: ignore[misc]
            stream.seek(0)
            self._remember(self._uri(name), self._put(name, stream, mark=secrets.token_hex(8)))

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
        uri = self._uri(name)
        for attempt in range(_TRIES):
            with _remembering:
                seen = _seen_logs.get(uri) if not attempt else None
            if seen is None:
                try:
                    seen = self._get(name)
                except FileNotFoundError:
                    seen = (b"", "", "")
                if attempt and (check := getattr(_fences, "check", None)) is not None:
                    check()
            content, tag, mark = seen
            content, mark = content + data, mark or secrets.token_hex(8)
            new_tag = self._put(name, content, _mode_of(tag) if tag else "create", mark)
            if new_tag is not None:
                with _remembering:
                    _seen_logs[uri] = (content, new_tag, mark)
                    _seen_tags[uri] = new_tag
                return
        raise OSError(f"{uri}: it is replaced again and again by others")

    def remove(self, name: str) -> None:
        """The object, and all that is below that prefix."""
        keys = [self._key(name), *(f"{self._key(name)}/{known.name}" for known in self._objects(name))]

        def work() -> None:
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, keys)

        request("delete", self._uri(name), work)
        with _remembering:
            for seen in (_seen_tags, _seen_logs):
                for uri in [uri for uri in seen if uri == self._uri(name) or uri.startswith(f"{self._uri(name)}/")]:
                    del seen[uri]

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
        try:
            yield new
            with committing():
                if tag:
                    folder.replace(last, new.last_content, tag)
                elif not folder.create(last, new.last_content):
                    raise Changed(f"{folder.root} is there already")
        except BaseException as error:
            # Files with the writer's own names are nobody else's. Others may be in use by who writes the same.
            if new.written or isinstance(error, UserError):
                with contextlib.suppress(OSError):
                    for known in folder._objects():
                        if known.name in new.written or (isinstance(error, UserError) and not tag):
                            folder.remove(known.name)
            raise
        if tag:
            for known in folder._objects():
                if known.name != last and known.name not in new.written:
                    folder.remove(known.name)

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
        if name:
            with contextlib.suppress(FileNotFoundError):
                head = self._head(name)
                # Under its own name in a folder of its own: libraries look at the suffix.
                known = Remote(last, int(head["size"]), _tag_of(head))
                copy = copy_folder(self.cache, f"{self._uri(name)}#", [known], self.at(parent)._fetch)
                return copy / last
        folder = self.at(name)
        return copy_folder(self.cache, folder.root, folder._objects(), folder._fetch)

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
        for known in self._objects(name):
            if known.name not in here:
                self.remove(f"{name}/{known.name}")


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
