"""Requests to an object store: tried again where that may help, and answered by errors that people understand.

Credentials and the endpoint come from the environment, as the store's own tools take them. Nothing of them is in what
is returned, raised or pickled.
"""

import contextlib
import errno
import functools
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import obstore
import obstore.exceptions
import obstore.store

from runner.storage.storage import UNREACHABLE, Unreachable

T = TypeVar("T")

RETRY_VARIABLE = "PIX2PIX_STORE_RETRY_S"
RETRY_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0

# What a store says when it has no room for more.
_FULL = re.compile(r"QuotaExceeded|InsufficientStorage|StorageFull|code: 507")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d+(?: [A-Z][A-Za-z ]+)?)")
_CAUSE = re.compile(r"(Connection refused|Connection reset|dns error|timed out|connection closed|connect error)", re.I)

# They may be over by the time of the next try: where credentials are renewed, an old pair is refused for a while.
_PASSING_CODES = ("ExpiredToken", "ExpiredTokenException", "RequestTimeTooSkewed", "SlowDown", "RequestTimeout")

# How many requests this process has made of each kind.
num_requests: Counter[str] = Counter()
_counting = threading.Lock()
_patience = threading.local()


@functools.lru_cache
def store_of(bucket: str) -> Any:
    """The client for a bucket, as `s3://name`, in this process."""
    return obstore.store.from_url(
        bucket,
        client_options={"connect_timeout": "5s", "timeout": "120s", "allow_http": _allows_http()},
        # Most of the trying again is done here, where it is known what a lost answer means.
        retry_config={
            "max_retries": 2,
            "retry_timeout": timedelta(seconds=10),
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
        },
    )


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


def request(kind: str, shown: str, work: Callable[[], T]) -> T:
    """Makes a request, again and again where that may help.

    Args:
        kind: such as "put"; for the count, and for errors.
        shown: the object's URI.

    Raises:
        FileNotFoundError: there is no such object.
        obstore.exceptions.AlreadyExistsError, PreconditionError, NotModifiedError: the condition does not hold.
        Unreachable: the store refuses, or has not answered for RETRY_S.
        OSError: with ENOSPC where the store has no room.
    """
    retry_s = getattr(_patience, "seconds", None)
    retry_s = float(os.environ.get(RETRY_VARIABLE, RETRY_S)) if retry_s is None else retry_s
    give_up_at = time.monotonic() + retry_s
    pause_s = _FIRST_PAUSE_S
    while True:
        with _counting:
            num_requests[kind] += 1
        try:
            return work()
        except (
            obstore.exceptions.AlreadyExistsError,
            obstore.exceptions.PreconditionError,
            obstore.exceptions.NotModifiedError,
        ):
            raise
        except (obstore.exceptions.BaseError, FileNotFoundError) as error:
            problem = _translated(error, kind, shown)
            if not isinstance(problem, Unreachable) or not _may_pass(error) or time.monotonic() > give_up_at:
                raise problem from None  # the store's own text is long, and names the key of who asked
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def describe(error: BaseException) -> str:
    """What a store answered, in a few words."""
    text = str(error)
    code, status, cause = _CODE.search(text), _STATUS.search(text), _CAUSE.search(text)
    if code or status:
        return ", ".join(found[1].strip() for found in (status, code) if found)
    if cause:
        return cause[1].lower()
    return text.splitlines()[0][:200] if text else type(error).__name__


def code_of(error: BaseException) -> str:
    """The store's word for what is wrong, such as NoSuchBucket; "" where it has none."""
    found = _CODE.search(str(error))
    return found[1] if found else ""


def _translated(error: BaseException, kind: str, shown: str) -> OSError:
    if _FULL.search(str(error)):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), shown)
    if isinstance(error, FileNotFoundError) and code_of(error) != "NoSuchBucket":
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), shown)
    return Unreachable(f"{UNREACHABLE}: {kind} of {shown} failed ({describe(error)})")


def _may_pass(error: BaseException) -> bool:
    """True where the same request may be taken later."""
    if code_of(error) in _PASSING_CODES:
        return True
    refused = (obstore.exceptions.PermissionDeniedError, obstore.exceptions.UnauthenticatedError)
    if isinstance(error, (*refused, FileNotFoundError)):
        return False
    found = _STATUS.search(str(error))
    return found is None or found[1].startswith(("5", "408", "429"))
