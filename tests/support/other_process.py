"""A second process that uses the same storage, without the time that starting one takes."""

import contextlib
import threading
from collections.abc import Iterator

import pytest

import runner.storage.bucket


@contextlib.contextmanager
def as_another_process() -> Iterator[None]:
    """In the block this process knows nothing of what it has seen of a bucket, and forgets afterwards what it saw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner.storage.bucket, "_seen_tags", {})
        patch.setattr(runner.storage.bucket, "_seen_logs", {})
        patch.setattr(runner.storage.bucket, "_fences", threading.local())
        yield
