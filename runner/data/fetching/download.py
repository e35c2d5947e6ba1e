"""A file from the web, whole: a broken download goes on where it ended, and bytes of two versions are never joined."""

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPResponse
from typing import BinaryIO

from runner.data.fetching.members import BLOCK_BYTES, NoArchiveError, archive_kind
from runner.data.fetching.progress import shown_progress
from runner.data.fetching.web import Unreachable, WebAddress, explained, open_address
from runner.errors import DataError, ResourceError
from runner.number_format import byte_size, counted
from runner.storage.folder import Folder

ARCHIVE = "archive"  # the download's name in its folder, whole or not
_STATE = "download.json"

_HEAD_BYTES = 512  # they tell an archive of any kind from something else
_STEP_FORWARD_BYTES = 10**6  # a try that brought this much is no failure
_WEB_PAGES = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True)
class Patience:
    """How long a download is tried.

    Attributes:
        timeout_s: the longest silence of a server.
        tries: how many in a row may bring nothing.
        first_wait_s: between the first two of them; twice as long after each further one.
        longest_wait_s: no wait is longer; a server that asks for more is given up.
        sleep: waits so many seconds.
    """

    timeout_s: float = 20.0
    tries: int = 5
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class _State:
    """What is known of the file of which a part is there.

    Attributes:
        tag: the server's name for this version of the file: its ETag, or when it was last modified.
        total: its bytes.
        whole: True once all of them are there.
    """

    tag: str | None = None
    total: int | None = None
    whole: bool = False


def download(address: WebAddress, folder: Folder, patience: Patience, max_bytes: int) -> None:
    """Downloads a file to ARCHIVE in a folder, or goes on with what an earlier call has left there.

    Raises:
        Unreachable: the address brings no archive. What has come so far stays.
        DataError: the file is longer than `max_bytes`.
        ResourceError: there is no room for it.
        OSError: the disk can't take it.
    """
    if _read_state(folder).whole:
        return
    failures, answered = 0, False
    while True:
        before = _size(folder)
        try:
            _try_once(address, folder, patience, max_bytes)
            return
        except Unreachable as error:
            # Whoever has never answered is not asked again: most often the address is wrong, or there is no network.
            answered = answered or not error.silent or _size(folder) != before
            if not error.transient or not answered:
                raise
            failures = 1 if _size(folder) - before >= _STEP_FORWARD_BYTES else failures + 1
            if failures >= patience.tries:
                raise Unreachable(f"{error.reason}; tried {counted(failures, 'time')}") from None
            wait_s = _wait_s(error, failures, patience)
            print(f"{address.shown}: {error.reason}; trying again in {wait_s:.0f} s", flush=True)

        patience.sleep(wait_s)


def _wait_s(error: Unreachable, failures: int, patience: Patience) -> float:
    """Seconds until the next try. Raises Unreachable where the server asks for too many."""
    if error.wait_s is not None and error.wait_s > patience.longest_wait_s:
        raise Unreachable(f"{error.reason}, and asks to wait {error.wait_s:.0f} s: try again then")
    own: float = patience.first_wait_s * 2 ** (failures - 1)
    return min(max(own, error.wait_s or 0.0), patience.longest_wait_s)


def _try_once(address: WebAddress, folder: Folder, patience: Patience, max_bytes: int) -> None:
    """One request. Returns when the file is whole. Raises like `download`."""
    state, have = _read_state(folder), _size(folder)
    # Identity: the bytes as they lie on the server, which alone can be counted and continued.
    headers = {"Accept-Encoding": "identity"}
    if have and state.tag:
        headers |= {"Range": f"bytes={have}-", "If-Range": state.tag}

    try:
        answer = open_address(address, headers, patience.timeout_s)
    except Unreachable as error:
        if error.status == 416 and "Range" in headers:
            _end_beyond_range(folder, state, have, error.headers.get("Content-Range", ""))
            return
        raise
    with answer:
        if answer.status == 206 and "Range" in headers:
            state = _continued(folder, answer, state, have)
        elif answer.status in (200, 203):
            state, have = _begin(folder, answer, have, address, max_bytes, patience)
        else:
            raise Unreachable(f"it answers {answer.status} in place of a file")
        _receive(folder, answer, state, have, address, max_bytes)


def _end_beyond_range(folder: Folder, state: _State, have: int, content_range: str) -> None:
    """The server has no byte after those that are there. Raises Unreachable where they are not the whole file."""
    if content_range.replace(" ", "") != f"bytes*/{have}":
        _forget(folder)
        raise Unreachable("it has another file than before", transient=True)
    _write_state(folder, _State(state.tag, have, whole=True))


def _continued(folder: Folder, answer: HTTPResponse, state: _State, have: int) -> _State:
    """What is known of the file from an answer that goes on with it.

    Raises:
        Unreachable: it does not go on with what is there, all of which is dropped.
    """
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", "").strip(), re.ASCII)
    total = int(found[3]) if found and found[3] != "*" else None
    # Some servers do not know If-Range, and send the rest of whatever file they have now.
    same = _tag(answer) in (state.tag, None) and (total is None or state.total is None or total == state.total)
    if not found or int(found[1]) != have or not same:
        _forget(folder)
        raise Unreachable("the file has changed since the first part of it came", transient=True)
    print(f"going on after the first {byte_size(have)}", flush=True)
    return _State(state.tag, total or state.total)


def _begin(
    folder: Folder, answer: HTTPResponse, have: int, address: WebAddress, max_bytes: int, patience: Patience
) -> tuple[_State, int]:
    """Looks at the beginning of an answer that has the file from its first byte, and keeps it.

    Returns:
        What is known of the file, and how many bytes of it are there.
    """
    if answer.headers.get_content_type() in _WEB_PAGES:
        raise Unreachable("it answers with a web page in place of an archive")
    total = answer.length  # None where the server does not say
    if total is not None:
        _check_room(folder, total, have, max_bytes)

    head = b""
    while len(head) < _HEAD_BYTES and (block := _read(answer, _HEAD_BYTES - len(head), address)):
        head += block
    try:
        archive_kind(head)
    except NoArchiveError as error:
        raise Unreachable(f"it answers with something else: {str(error).removesuffix('.')}") from None

    # What is there is dropped only now, when something better has begun to come.
    if have:
        print("starting over: the file has changed, or the server can't go on in the middle of it", flush=True)
    _forget(folder)
    _write_state(folder, _State(_tag(answer), total))
    with _opened(folder) as stream:
        stream.write(head)
    return _read_state(folder), len(head)


def _receive(
    folder: Folder, answer: HTTPResponse, state: _State, have: int, address: WebAddress, max_bytes: int
) -> None:
    """Appends the rest of an answer. Raises Unreachable where it ends too early."""
    with _opened(folder) as stream, shown_progress("downloading", have, state.total) as show:
        # Not further than to the announced end: some servers keep the connection open after it.
        while state.total is None or have < state.total:
            wanted = BLOCK_BYTES if state.total is None else min(BLOCK_BYTES, state.total - have)
            block = _read(answer, wanted, address)
            if not block:
                break
            stream.write(block)
            have += len(block)
            if have > max_bytes:
                raise DataError(f"it is longer than {byte_size(max_bytes)}, the most that is fetched.")
            show(have)

    if state.total is not None and have < state.total:
        raise Unreachable(
            f"it broke off after {byte_size(have)} of {byte_size(state.total)} ({have} of {state.total} bytes)",
            transient=True,
        )
    _write_state(folder, _State(state.tag, have, whole=True))


def _read(answer: HTTPResponse, count: int, address: WebAddress) -> bytes:
    """Some of the next bytes, or none at the end. Raises Unreachable where the connection breaks."""
    try:
        return answer.read1(count)
    except (OSError, HTTPException, ValueError) as error:
        raise explained(error, address) from None


def _check_room(folder: Folder, total: int, have: int, max_bytes: int) -> None:
    """Raises where an archive of this size, and at least as much when it is unpacked, has no room."""
    if total > max_bytes:
        raise DataError(f"it has {byte_size(total)}, and at most {byte_size(max_bytes)} are fetched.")
    free = folder.free_bytes() + have
    if 2 * total > free:
        raise ResourceError(
            f"the archive has {byte_size(total)} and needs at least as much again when it is unpacked, but "
            f"{folder.above(1).shown} has room for {byte_size(free)}: make room, or give a folder on another disk."
        )


def _tag(answer: HTTPResponse) -> str | None:
    """What tells this version of a file from others."""
    tag = answer.headers.get("ETag", "")
    # A weak tag allows other bytes with the same meaning, so that ranges of them do not fit together.
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified")


# The file that comes, and what is known of it.


def _opened(folder: Folder) -> BinaryIO:
    return open(folder.local_path / ARCHIVE, "ab")


def _size(folder: Folder) -> int:
    return folder.size(ARCHIVE) if folder.exists(ARCHIVE) else 0


def _forget(folder: Folder) -> None:
    """Drops what is there; the bytes first, so that they are never taken for those of another version."""
    folder.remove(ARCHIVE)
    folder.remove(_STATE)


def _read_state(folder: Folder) -> _State:
    try:
        return _State(**json.loads(folder.read_text(_STATE)))
    except (FileNotFoundError, ValueError, TypeError):
        return _State()


def _write_state(folder: Folder, state: _State) -> None:
    # A file is called whole only once the disk has it.
    if state.whole:
        with _opened(folder) as stream:
            os.fsync(stream.fileno())
    folder.write(_STATE, json.dumps(asdict(state)).encode())
