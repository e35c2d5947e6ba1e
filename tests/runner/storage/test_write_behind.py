"""Rows that are written a while after they came."""

import threading

import pytest

from runner.storage.write_behind import WriteBehind

NEVER_S = 3600.0


def test_what_has_come_since_is_written_at_once_and_in_order() -> None:
    written: list[bytes] = []
    behind = WriteBehind(written.append, NEVER_S)
    for row in (b"1", b"2", b"3"):
        behind.add(row)
    assert written == []
    behind.flush()
    behind.flush()
    behind.add(b"4")
    behind.close()
    assert written == [b"123", b"4"]


def test_it_is_written_after_a_while_by_itself() -> None:
    is_written = threading.Event()
    behind = WriteBehind(lambda data: is_written.set(), 0.01)
    behind.add(b"1")
    assert is_written.wait(30)
    behind.close()


def test_of_rows_of_many_threads_none_is_lost_however_slow_a_write_is() -> None:
    written: list[bytes] = []
    is_writing, go_on = threading.Event(), threading.Event()

    def write(data: bytes) -> None:
        is_writing.set()
        assert go_on.wait(30)
        written.append(data)

    behind = WriteBehind(write, 0.001)

    def add(number: int) -> None:
        for row in range(100):
            behind.add(b"%d-%d " % (number, row))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    assert is_writing.wait(30)
    for thread in threads:
        thread.join()  # who adds a row does not wait for a write
    go_on.set()
    behind.close()
    rows = b"".join(written).split()
    assert len(rows) == 300
    for number in range(3):
        assert [row for row in rows if row.startswith(b"%d-" % number)] == [b"%d-%d" % (number, n) for n in range(100)]


@pytest.mark.parametrize("noticed_by", ["add", "flush", "close"])
def test_after_a_write_that_failed_nothing_more_is_written_and_whoever_comes_is_told(noticed_by: str) -> None:
    tried: list[bytes] = []

    def write(data: bytes) -> None:
        tried.append(data)
        behind.add(b"came meanwhile")
        raise OSError("full")

    behind = WriteBehind(write, NEVER_S)
    behind.add(b"1")
    with pytest.raises(OSError, match="full"):
        behind.flush()
    with pytest.raises(OSError, match="full"):
        behind.add(b"2") if noticed_by == "add" else getattr(behind, noticed_by)()
    with pytest.raises(OSError, match="full"):
        behind.close()
    assert tried == [b"1"]
