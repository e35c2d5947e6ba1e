"""Requests to an object store: tried again where that may help, and answered by errors that people understand.

Credentials and the endpoint come from the environment, as the store's own tools take them. Nothing of them is in what
is returned, raised or pickled.
"""

import contextlib
import errno
import functools
import itertools
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import obstore
import obstore.exceptions
import obstore.store

from runner.errors import StorageError
from runner.storage.storage import UNREACHABLE, Unreachable

T = TypeVar("T")

RETRY_VARIABLE = "PIX2PIX_STORE_RETRY_S"
RETRY_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_LONGEST_S = 120.0  # that one request may take

# What a store says when it has no room for more.
_FULL = re.compile(r"QuotaExceeded|InsufficientStorage|StorageFull|code: 507")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d+(?: [A-Z][A-Za-z ]+)?)")
# Without an answer: what the library says, and how people say it; the first that fits.
_CAUSES = (
    ("Connection refused", "connection refused"),
    ("dns error", "its address is not known"),
    ("TimedOut", "timed out"),
    ("timed out", "timed out"),
    ("connect error", "no connection"),
    ("error sending request", "the connection broke off"),
    ("response body error", "the connection broke off"),
)
# The addresses at which a machine of a cloud is asked for its own credentials.
_MACHINES_OWN = re.compile(r"/latest/(?:api/token|meta-data)|/computeMetadata/|/metadata/identity")
_ENDPOINT = re.compile(r"https?://(?:[^/\s\[\]]+|\[[\da-f:.]+\](?::\d+)?)(?:/\S*)?", re.I)
_SECRETS = ("KEY", "SECRET", "TOKEN", "SAS")
_ADDRESS = re.compile(r"\S+://\S+")

# They may be over by the time of the next try: where credentials are renewed, an old pair is refused for a while; and
# of several writers at once a store may refuse some, whatever their conditions.
_PASSING_CODES = (
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestTimeTooSkewed",
    "SlowDown",
    "RequestTimeout",
    "ConditionalRequestConflict",
    "OperationAborted",
)
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")

_CONDITIONS = (
    obstore.exceptions.AlreadyExistsError,
    obstore.exceptions.PreconditionError,
    obstore.exceptions.NotModifiedError,
)
_REFUSED = (obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError)

# The kinds of which the last request was given up: an end that writes a dozen objects must not wait for each of them.
_given_up: set[str] = set()
_patience = threading.local()


class PastEnd(OSError):
    """A range of bytes begins where the object has ended."""


def store_of(bucket: str) -> Any:
    """The client for a bucket, as `s3://name`, in this process."""
    return _client(bucket, getattr(_patience, "seconds", None) or _LONGEST_S)


@functools.lru_cache
def _client(bucket: str, longest_s: float) -> Any:
    if bucket.startswith("s3://"):
        _check_endpoint()

    return obstore.store.from_url(
        bucket,
        client_options={"connect_timeout": "5s", "timeout": f"{longest_s:g}s", "allow_http": _allows_http()},
        # Most of the trying again is done here, where it is known what a lost answer means.
        retry_config={
            "max_retries": 2,
            "retry_timeout": timedelta(seconds=10),
            "backoff": {
                "init_backoff": timedelta(seconds=_FIRST_PAUSE_S / 2),
                "max_backoff": timedelta(seconds=5 * _FIRST_PAUSE_S),
                "base": 2,
            },
        },
    )


def _check_endpoint() -> None:
    """Raises StorageError for an address of which the library says nothing, or panics; it may have a password in it."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        value = os.environ.get(name, "")
        if value and not re.fullmatch(
            r"https?://[^/\s\[\]]+(/\S*)?|https?://\[[\da-f:.]+\](:\d+)?(/\S*)?", value, re.I
        ):
            raise StorageError(
                f"{name} is no address of an object store: give one such as https://objects.example.org."
            )
        if value.lower().startswith("http://") and not _allows_http():
            raise StorageError(f"{name} begins with http://: set AWS_ALLOW_HTTP=true if that is meant.")


def _allows_http() -> bool:
    """As the environment says: options that are given replace those that the library reads there."""
    names = ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
    return any(os.environ.get(name, "").lower() in ("1", "true") for name in names)


@contextlib.contextmanager
def trying_for(seconds: float) -> Iterator[None]:
    """Inside the block, this thread's requests are given up after so long."""
    before = getattr(_patience, "seconds", None)
    _patience.seconds = seconds
    try:
        yield
    finally:
        _patience.seconds = before


def forget_clients() -> None:
    """The next request looks at the environment again."""
    _client.cache_clear()
    _given_up.clear()


def request(kind: str, shown: str, work: Callable[[], T]) -> T:
    """Makes a request, again and again where that may help: twice at least, unless inside `trying_for`.

    Args:
        kind: such as "put"; for errors.
        shown: the object's URI.

    Raises:
        FileNotFoundError: there is no such object.
        obstore.exceptions.AlreadyExistsError, PreconditionError, NotModifiedError: the condition does not hold.
        PastEnd: see there.
        Unreachable: the store refuses, or has not answered for RETRY_S; after two tries where that is known from the
            request of its kind before.
        OSError: with ENOSPC where the store has no room.
    """
    patience_s = getattr(_patience, "seconds", None)
    retry_s = _retry_s() if patience_s is None else patience_s
    if patience_s is None and kind in _given_up:
        retry_s = 0.0

    started = time.monotonic()
    pause_s = _FIRST_PAUSE_S
    for tries in itertools.count(1):
        try:
            result = work()
            _given_up.discard(kind)
            return result
        except (obstore.exceptions.BaseError, FileNotFoundError) as error:
            if isinstance(error, _CONDITIONS) and code_of(error) not in _PASSING_CODES:
                _given_up.discard(kind)
                raise

            took_s = time.monotonic() - started
            is_last = took_s + pause_s > retry_s and (tries > 1 or patience_s is not None)
            if not _may_pass(error):
                _given_up.discard(kind)
            elif is_last and patience_s is None:
                _given_up.add(kind)
            if is_last or not _may_pass(error):
                # The store's own text is long, and may name the key of who asked.
                raise _translated(error, kind, shown, tries, took_s) from None
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    raise AssertionError("not reached")


def check_settings() -> None:
    """Raises StorageError where a variable of the environment has a value that it can't have."""
    _retry_s()


def _retry_s() -> float:
    """For how long requests are tried; raises StorageError where the environment has no such number."""
    given = os.environ.get(RETRY_VARIABLE, "")
    try:
        seconds = float(given) if given else RETRY_S
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise StorageError(f"{RETRY_VARIABLE} is {given!r}: it must be a number of seconds, such as 60.")
    return seconds


def describe(error: BaseException) -> str:
    """What a store answered, in a few words, without addresses: there may be a signature in them."""
    text = str(error)
    if _MACHINES_OWN.search(text):
        return "the environment has no credentials, nor has this machine any of its own"
    if answered := [word for word in (_status_of(error).strip(), code_of(error)) if word]:
        return ", ".join(answered)
    for cause, words in _CAUSES:
        if cause in text:
            return words
    first, *_ = [*text.splitlines(), type(error).__name__]
    return _ADDRESS.sub("...", _without_secrets(first.partition(" error: ")[2] or first))[:200]


def _without_secrets(text: str) -> str:
    """The text without what the environment has for a store alone to know."""
    for name, value in os.environ.items():
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")) and value and any(word in name for word in _SECRETS):
            text = text.replace(value, "...")
    return text


def code_of(error: BaseException) -> str:
    """The store's word for what is wrong, such as NoSuchBucket; "" where it has none."""
    found = _CODE.search(str(error))
    return found[1] if found else ""


def is_refusal(error: BaseException) -> bool:
    """True where the answer says that this request is refused, rather than that something went wrong."""
    return isinstance(error, _REFUSED) or _status_of(error).startswith(("400", "401", "403"))


def _status_of(error: BaseException) -> str:
    found = _STATUS.search(str(error))
    return found[1] if found else ""


def _translated(error: BaseException, kind: str, shown: str, tries: int, took_s: float) -> OSError:
    if _FULL.search(str(error)):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), shown)
    if isinstance(error, FileNotFoundError) and code_of(error) not in _NO_BUCKET:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), shown)
    if _status_of(error).startswith("416"):
        return PastEnd(errno.EINVAL, os.strerror(errno.EINVAL), shown)
    again = f", tried {tries} times in {took_s:.0f} s" if tries > 1 else ""
    return Unreachable(f"{UNREACHABLE}: {kind} of {shown} failed ({describe(error)}{again})")


def _may_pass(error: BaseException) -> bool:
    """True where the same request may be taken later."""
    if _FULL.search(str(error)) or isinstance(error, FileNotFoundError):
        return False
    if code_of(error) in _PASSING_CODES:
        return True
    if isinstance(error, _REFUSED):
        return False
    status = _status_of(error)
    return not status.startswith("501") and (not status or status.startswith(("5", "408", "429")))
