"""What is true of a bucket alone: its faults, other writers between two requests, and what is refused at the start."""

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import obstore
import pytest
from obstore.store import S3Store

import runner.storage.bucket
import runner.storage.requests
from runner.errors import StorageError
from runner.storage.requests import RETRY_VARIABLE, describe, forget_clients
from runner.storage.storage import (
    Changed,
    Storage,
    Unreachable,
    is_full,
    is_unreachable,
    open_storage,
    takes_nothing,
)
from tests.support.object_proxy import ERRORS, CutPlace, FaultProxy, Kind, on
from tests.support.object_server import (
    ACCESS_KEY_ID,
    SECRET_ACCESS_KEY,
    ObjectServer,
    open_bucket,
)
from tests.support.other_process import as_another_process

PREFIX = "some/results"


@pytest.fixture
def direct(s3_server: ObjectServer, bucket: str) -> S3Store:
    """The test's bucket without the proxy, for another writer."""
    return open_bucket(s3_server.endpoint, bucket)


@pytest.fixture
def patient_storage(troubled: Storage, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """The test's bucket behind the proxy, asked for longer than any fault lasts."""
    monkeypatch.setenv(RETRY_VARIABLE, "60")
    return troubled


def in_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


# Lost answers. The client asks a second and a third time by itself; of a request of ours four may be lost.


@pytest.mark.parametrize("times", [1, 4])
def test_a_creation_whose_answer_was_lost_has_been_made(
    patient_storage: Storage, fault_proxy: FaultProxy, times: int
) -> None:
    fault_proxy.lose_answer(on("put"), times)
    assert patient_storage.create("lock", b"mine")
    assert not patient_storage.create("lock", b"mine")
    assert fault_proxy.count(on("put")) >= times + 1


@pytest.mark.parametrize("times", [1, 4])
def test_a_replacement_whose_answer_was_lost_has_been_made(
    patient_storage: Storage, fault_proxy: FaultProxy, times: int
) -> None:
    patient_storage.create("lease", b"1")
    _, tag = patient_storage.read_tagged("lease")
    fault_proxy.lose_answer(on("put"), times)
    second = patient_storage.replace("lease", b"2", tag)
    assert patient_storage.read_tagged("lease") == (b"2", second)
    patient_storage.replace("lease", b"3", second)


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_line_whose_answer_was_lost_is_there_once(
    patient_storage: Storage, fault_proxy: FaultProxy, times: int, is_first: bool
) -> None:
    before = b"" if is_first else b"line\n"
    if not is_first:
        patient_storage.append("log", before)
    fault_proxy.lose_answer(on("put"), times)
    patient_storage.append("log", b"line\n")
    assert patient_storage.read("log") == before + b"line\n"
    patient_storage.append("log", b"line\n")
    assert patient_storage.read("log") == before + b"line\nline\n"


@pytest.mark.parametrize("times", [1, 4])
def test_whatever_else_is_written_is_written_though_its_answer_was_lost(
    patient_storage: Storage, fault_proxy: FaultProxy, times: int
) -> None:
    def writes() -> Iterator[Callable[[], object]]:
        yield lambda: patient_storage.write("file", b"1")
        with patient_storage.exclusive():
            for content in (b"2", b"3"):
                yield lambda content=content: patient_storage.write("owned", content)  # type: ignore[misc]
        yield lambda: whole_folder("new", b"1")
        yield lambda: whole_folder("new", b"2")
        yield lambda: patient_storage.set_aside("new", "aside")
        yield lambda: patient_storage.remove("aside/last")

    def whole_folder(name: str, content: bytes) -> None:
        with patient_storage.new_folder(name, "last") as new:
            with new.writing("file") as stream:
                stream.write(content)
            new.finish(content)

    for write in writes():
        with fault_proxy.lose_answer(lambda method, *_: method in ("PUT", "DELETE", "POST"), times):
            write()
    assert (patient_storage.read("file"), patient_storage.read("owned")) == (b"1", b"3")
    (name,) = patient_storage.names("aside")
    assert patient_storage.read(f"aside/{name}") == b"2"


def test_a_creation_whose_answer_was_lost_counts_no_more_once_another_has_replaced_it(
    patient_storage: Storage, fault_proxy: FaultProxy, direct: S3Store
) -> None:
    created: list[bool] = []
    fault_proxy.lose_answer(on("put"), times=1)
    with fault_proxy.hold(on("get"), times=1) as reading_back:
        thread = in_background(lambda: created.append(patient_storage.create("lock", b"mine")))
        reading_back.wait()
        obstore.put(direct, f"{PREFIX}/lock", b"another's")
    thread.join()
    assert created == [False]
    assert patient_storage.read("lock") == b"another's"


def test_a_line_whose_answer_was_lost_is_there_once_though_another_has_added_to_it_meanwhile(
    patient_storage: Storage, fault_proxy: FaultProxy
) -> None:
    patient_storage.append("log", b"0\n")
    fault_proxy.lose_answer(on("put"), times=1)
    with fault_proxy.hold(on("get"), times=1) as reading_back:
        thread = in_background(lambda: patient_storage.append("log", b"1\n"))
        reading_back.wait()
        with as_another_process():
            patient_storage.append("log", b"2\n")
            patient_storage.append("log", b"1\n")
    thread.join()
    patient_storage.append("log", b"3\n")
    assert patient_storage.read("log") == b"0\n1\n2\n1\n3\n"


def test_a_write_that_comes_late_changes_nothing(
    patient_storage: Storage, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client gives it up, and asks again; the first one reaches the store when all is over."""
    monkeypatch.setattr(runner.storage.requests, "_LONGEST_S", 0.3)
    forget_clients()
    patient_storage.append("log", b"0\n")
    _, tag = patient_storage.read_tagged("log")
    fault_proxy.clear()
    with fault_proxy.hold(on("put"), times=1):
        patient_storage.append("log", b"1\n")
        patient_storage.append("log", b"2\n")
    fault_proxy.wait_for(on("put"), 3)
    assert [seen.status for seen in fault_proxy.requests if seen.kind == "put"] == [200, 200, 412]
    assert patient_storage.read("log") == b"0\n1\n2\n"
    with pytest.raises(Changed):
        patient_storage.replace("log", b"", tag)


# Faults that pass, and those that do not.


def operations(storage: Storage) -> dict[Kind, list[Callable[[], object]]]:
    """By the kind of its first request, what is asked of a storage with an object `file` of one byte."""
    return {
        "get": [lambda: storage.read("file"), lambda: storage.read_from("file", 1), lambda: storage.local_copy("file")],
        "head": [lambda: storage.size("file"), lambda: storage.exists("file")],
        "put": [
            lambda: storage.write("file", b"1"),
            lambda: storage.append("log", b"1"),
            lambda: storage.create("lock", b"1") or storage.remove("lock"),
        ],
        "list": [storage.names, storage.sizes, storage.total_bytes, lambda: storage.exists("nothing")],
        "delete": [lambda: storage.remove("file") or storage.write("file", b"1")],
    }


KINDS: list[Kind] = ["get", "head", "put", "list", "delete"]
PASSING = {
    "500": partial(FaultProxy.status, code="InternalError"),
    "503": partial(FaultProxy.status, code="SlowDown"),
    "429": partial(FaultProxy.status, code="ServiceUnavailable", status=429),
    "expired": partial(FaultProxy.status, code="ExpiredToken"),
    "expired, as S3 says it": partial(FaultProxy.status, code="ExpiredToken", status=400),
    "clock": partial(FaultProxy.status, code="RequestTimeTooSkewed"),
    "in request": partial(FaultProxy.cut, "request"),
    "before answer": partial(FaultProxy.cut, "before_answer"),
    "in answer": partial(FaultProxy.cut, "answer"),
}


def set_fault(proxy: FaultProxy, name: str, kind: Kind, times: int | None) -> Any:
    """A fault of PASSING for requests of a kind."""
    fault = PASSING[name]
    if fault.func is FaultProxy.status:
        return proxy.status(fault.keywords["code"], on(kind), times, status=fault.keywords.get("status"))
    place: CutPlace = fault.args[0]
    return proxy.cut(place, on(kind), times)


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_that_passes_is_waited_for(
    patient_storage: Storage, fault_proxy: FaultProxy, kind: Kind, fault: str
) -> None:
    patient_storage.write("file", b"1")
    for work in operations(patient_storage)[kind]:
        # The library itself asks three times where something went wrong, and once where it was refused.
        times = 4 if fault in ("500", "503", "429", "in request", "before answer") else 2
        rule = set_fault(fault_proxy, fault, kind, times)
        # Why it is refused, only the answer to a GET says.
        also = set_fault(fault_proxy, fault, "get", times) if kind == "head" else rule
        work()
        assert rule.hits >= 1
        rule.remove()
        also.remove()
    assert patient_storage.read("file") == b"1"


def test_of_writers_at_once_whom_a_store_refuses_for_that_each_tries_again(
    patient_storage: Storage, fault_proxy: FaultProxy
) -> None:
    fault_proxy.status("ConditionalRequestConflict", on("put"), times=2)
    assert patient_storage.create("lock", b"1")
    _, tag = patient_storage.read_tagged("lock")
    fault_proxy.status("ConditionalRequestConflict", on("put"), times=2)
    patient_storage.replace("lock", b"2", tag)
    fault_proxy.status("ConditionalRequestConflict", on("put"), times=2)
    patient_storage.write("lock", b"3")
    assert patient_storage.read("lock") == b"3"


@pytest.mark.parametrize("seed", range(3))
def test_a_bad_network_changes_nothing(
    patient_storage: Storage, fault_proxy: FaultProxy, direct: S3Store, seed: int
) -> None:
    """All faults at random: each line is there once and in order, and the chain of replacements is unbroken."""
    fault_proxy.seeded(0.3, seed, longest_delay_s=0.01)
    _, tag = (patient_storage.create("lease", b"start"), patient_storage.read_tagged("lease")[1])
    for number in range(12):
        patient_storage.append("log", b"%d\n" % number)
        tag = patient_storage.replace("lease", b"%d" % number, tag)
        with patient_storage.exclusive():
            patient_storage.write("file", b"%d" % number)
        with patient_storage.new_folder("new", "last") as new:
            with new.writing("file") as stream:
                stream.write(b"%d" % number)
            new.finish(b"%d" % number)
    fault_proxy.remove_all()
    assert patient_storage.read("log") == b"".join(b"%d\n" % number for number in range(12))
    assert [patient_storage.read(name) for name in ("lease", "file", "new/last")] == [b"11"] * 3
    assert len(patient_storage.names("new")) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_does_not_recover_is_given_up_in_words_that_say_what_was_tried(
    troubled: Storage, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "0.1")
    troubled.write("file", b"1")
    _, tag = troubled.read_tagged("file")
    for work in operations(troubled)[kind]:
        forget_clients()  # and that this kind was given up
        with fault_proxy.status("InternalError", on(kind)), pytest.raises(Unreachable) as given_up:
            work()
        assert is_unreachable(given_up.value)
        assert takes_nothing(given_up.value)
        assert not is_full(given_up.value)
        text = str(given_up.value)
        assert text.startswith(f"the object store can't be used: {kind} of {troubled.root}")
        assert "500 Internal Server Error" in text
        assert "tried " in text
    assert troubled.read_tagged("file") == (b"1", tag)


def test_after_a_request_was_given_up_the_next_ones_of_its_kind_wait_no_longer_until_one_is_answered(
    troubled: Storage, fault_proxy: FaultProxy
) -> None:
    """An end that has a dozen objects to write must not wait for each of them."""

    def requests_of_a_failing_write() -> int:
        fault_proxy.clear()
        with fault_proxy.status("InternalError", on("put")), pytest.raises(Unreachable):
            troubled.write("file", b"1")
        return fault_proxy.count(on("put"))

    first, second = (requests_of_a_failing_write() for _ in range(2))
    assert second < first
    assert second == 2 * 3  # two tries, of which each is one of the library's with two repetitions
    troubled.write("file", b"1")
    assert requests_of_a_failing_write() > second


@pytest.mark.parametrize("value", ["soon", "-1", "inf", "nan"])
def test_a_time_to_try_for_that_is_none_is_refused(
    bucket_storage: Storage, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, value)
    with pytest.raises(StorageError, match=f"{RETRY_VARIABLE} is '{value}': it must be a number of seconds"):
        bucket_storage.check_writable()


def test_where_nobody_listens_it_is_given_up_and_goes_on_later(troubled: Storage, fault_proxy: FaultProxy) -> None:
    troubled.append("log", b"1\n")
    with fault_proxy.refusing(), pytest.raises(Unreachable, match=r"put of s3://.*/log failed \(connection refused"):
        troubled.append("log", b"2\n")
    troubled.append("log", b"2\n")
    assert troubled.read("log") == b"1\n2\n"


def test_a_connection_that_breaks_off_is_named_as_that(troubled: Storage, fault_proxy: FaultProxy) -> None:
    with fault_proxy.cut("before_answer"), pytest.raises(Unreachable, match=r"\(the connection broke off, tried"):
        troubled.read("file")


def test_a_store_that_is_silent_is_asked_a_second_time_however_short_the_patience(
    troubled: Storage, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "0")
    monkeypatch.setattr(runner.storage.requests, "_LONGEST_S", 0.2)
    forget_clients()
    troubled.write("file", b"1")
    with fault_proxy.hold(on("get")) as silent, pytest.raises(Unreachable, match=r"timed out, tried 2 times"):
        troubled.read("file")
    assert silent.hits >= 2


@pytest.mark.parametrize("kind", KINDS)
def test_credentials_that_stay_expired_are_named(
    troubled: Storage, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "0.1")
    troubled.write("file", b"1")
    with fault_proxy.expired(), pytest.raises(Unreachable, match=r"ExpiredToken, tried \d+ times in"):
        operations(troubled)[kind][0]()


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_a_refusal_is_final(patient_storage: Storage, fault_proxy: FaultProxy, code: str) -> None:
    patient_storage.write("file", b"1")
    with fault_proxy.status(code):
        for works in operations(patient_storage).values():
            fault_proxy.clear()
            with pytest.raises(Unreachable, match=rf"of s3://.* failed \({ERRORS[code][0]} [A-Za-z ]+, {code}\)"):
                works[0]()
            assert len(fault_proxy.requests) <= 2  # a GET says what a HEAD does not


def test_what_a_store_has_not_learned_it_will_not_learn(patient_storage: Storage, fault_proxy: FaultProxy) -> None:
    fault_proxy.status("NotImplemented", on("put"))
    with pytest.raises(Unreachable, match=r"\(501 Not Implemented, NotImplemented\)"):
        patient_storage.create("lock", b"1")


def test_a_bucket_that_is_not_there_is_no_missing_file(
    bucket_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "0")
    nowhere = Storage.open("s3://no-such-bucket/results")
    for work in (
        lambda: nowhere.read("file"),
        lambda: nowhere.write("file", b"1"),
        lambda: nowhere.create("file", b"1"),
        lambda: nowhere.append("log", b"1"),
        lambda: nowhere.exists("file"),
        nowhere.names,
    ):
        with pytest.raises(Unreachable, match="NoSuchBucket"):
            work()


@pytest.mark.parametrize("code", ["QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"])
def test_a_quota_is_as_a_full_disk_and_what_was_refused_can_be_written_once_there_is_room(
    patient_storage: Storage, fault_proxy: FaultProxy, code: str
) -> None:
    patient_storage.append("log", b"1\n")
    quota = fault_proxy.quota(0, code)
    _, tag = patient_storage.read_tagged("log")
    for write in (
        lambda: patient_storage.append("log", b"2\n"),
        lambda: patient_storage.write("file", b"1"),
        lambda: patient_storage.create("lock", b"1"),
        lambda: patient_storage.replace("log", b"2\n", tag),
    ):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as full:
            write()
        assert is_full(full.value)
        assert not is_unreachable(full.value)
    quota.num_bytes = 1000
    patient_storage.append("log", b"2\n")
    assert patient_storage.read("log") == b"1\n2\n"
    assert patient_storage.names() == ["log"]


# A process that has lost the folder between its check and its write.


class Owner:
    """Owns a folder until the given number of checks; then another process takes it, and `writes`."""

    def __init__(self, loses_at: int, writes: Callable[[], object]) -> None:
        self._loses_at, self._writes = loses_at, writes
        self.num_checks = 0

    def check(self) -> None:
        self.num_checks += 1
        if self.num_checks > self._loses_at:
            raise PermissionError("another has it")
        if self.num_checks == self._loses_at:
            self._writes()  # when the check is over


def stream_into(storage: Storage, name: str, data: bytes) -> None:
    with storage.writing(name) as stream:
        stream.write(data)


WRITES: dict[str, Callable[[Storage, str, bytes], None]] = {
    "write": lambda storage, name, data: storage.write(name, data),
    "writing": stream_into,
    "append": lambda storage, name, data: storage.append(name, data),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("known", ["written before", "written by another", "absent"])
@pytest.mark.parametrize("loses_at", [1, 2])
def test_who_has_lost_the_folder_writes_nothing_over_the_new_owner(
    bucket_storage: Storage, direct: S3Store, write: str, known: str, loses_at: int
) -> None:
    if known == "written before":
        with bucket_storage.exclusive():
            WRITES[write](bucket_storage, "file", b"old\n")
        loses_at = 1  # nothing is checked any more before the write
    elif known == "written by another":
        obstore.put(direct, f"{PREFIX}/file", b"old\n")

    owner = Owner(loses_at, lambda: obstore.put(direct, f"{PREFIX}/file", b"the new owner's\n"))
    with pytest.raises(PermissionError, match="another has it"), bucket_storage.exclusive(owner.check):
        WRITES[write](bucket_storage, "file", b"late\n")
    assert bucket_storage.read("file") == b"the new owner's\n"


@pytest.mark.parametrize("write", WRITES)
def test_who_has_lost_the_folder_creates_nothing_over_what_the_new_owner_has_just_created(
    bucket_storage: Storage, direct: S3Store, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    owner = Owner(2, lambda: None)
    put = obstore.put

    def put_second(*values: Any, **options: Any) -> object:
        monkeypatch.setattr(obstore, "put", put)
        put(direct, f"{PREFIX}/file", b"the new owner's\n")
        return put(*values, **options)

    monkeypatch.setattr(obstore, "put", put_second)
    with pytest.raises(PermissionError, match="another has it"), bucket_storage.exclusive(owner.check):
        WRITES[write](bucket_storage, "file", b"late\n")
    assert bucket_storage.read("file") == b"the new owner's\n"


def test_who_has_lost_the_folder_removes_nothing(bucket_storage: Storage, direct: S3Store) -> None:
    bucket_storage.write("folder/file", b"1")
    owner = Owner(1, lambda: obstore.put(direct, f"{PREFIX}/folder/new", b"1"))
    with pytest.raises(PermissionError), bucket_storage.exclusive(owner.check):
        bucket_storage.remove("folder")
    assert bucket_storage.names("folder") == ["file", "new"]


def test_a_store_that_was_given_up_is_not_waited_for_until_it_answers(
    troubled: Storage, fault_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RETRY_VARIABLE, "0.1")
    with fault_proxy.expired(on("put")):
        with pytest.raises(Unreachable, match="tried "):
            troubled.write("file", b"1")
        fault_proxy.clear()
        monkeypatch.setenv(RETRY_VARIABLE, "60")
        with pytest.raises(Unreachable):
            troubled.write("file", b"1")
        assert len(fault_proxy.requests) == 2
    troubled.write("file", b"1")
    fault_proxy.status("ExpiredToken", on("put"), times=3)
    troubled.write("file", b"2")
    assert troubled.read("file") == b"2"


def test_an_owner_goes_on_where_somebody_else_has_written_its_file(bucket_storage: Storage, direct: S3Store) -> None:
    owner = Owner(100, lambda: None)
    with bucket_storage.exclusive(owner.check):
        bucket_storage.write("file", b"1")
        bucket_storage.append("log", b"1\n")
        obstore.put(direct, f"{PREFIX}/file", b"by mistake")
        obstore.put(direct, f"{PREFIX}/log", b"1\nby mistake\n")
        before = owner.num_checks
        bucket_storage.write("file", b"2")
        bucket_storage.append("log", b"2\n")
    assert owner.num_checks == before + 2
    assert bucket_storage.read("file") == b"2"
    assert bucket_storage.read("log") == b"1\nby mistake\n2\n"


def test_outside_the_block_and_in_other_threads_nothing_is_checked(bucket_storage: Storage) -> None:
    owner = Owner(1, lambda: None)
    with bucket_storage.exclusive(owner.check):
        in_background(lambda: bucket_storage.write("other", b"1")).join()
    bucket_storage.write("file", b"1")
    assert owner.num_checks == 1
    assert bucket_storage.names() == ["file", "other"]


def test_a_large_file_is_checked_before_it_is_put(bucket_storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.storage.bucket, "_IN_MEMORY_BYTES", 10)
    owner = Owner(1, lambda: None)
    with pytest.raises(PermissionError), bucket_storage.exclusive(owner.check):
        stream_into(bucket_storage, "file", bytes(11))
    assert not bucket_storage.exists("file")


def test_of_a_new_folder_that_got_no_answer_to_its_last_file_no_file_is_removed(
    troubled: Storage, fault_proxy: FaultProxy, direct: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last file is there: without the others, the folder would count and be damaged."""
    monkeypatch.setenv(RETRY_VARIABLE, "0")
    with pytest.raises(Unreachable), troubled.new_folder("new", "last") as new:
        with new.writing("file") as stream:
            stream.write(b"1")
        new.finish(new.path_of("file").encode())
        fault_proxy.lose_answer(on("put", "*/last"))
        fault_proxy.cut("before_answer", on("get", "*/last"))
    fault_proxy.remove_all()
    assert troubled.read(f"new/{troubled.read_text('new/last')}") == b"1"


# What is refused at the start.


def refusal(storage: Storage) -> str:
    """What a check says; it never has a key in it, and leaves nothing."""
    with pytest.raises(StorageError) as refused:
        storage.check_writable()
    text = str(refused.value)
    assert SECRET_ACCESS_KEY not in text
    assert ACCESS_KEY_ID not in text
    assert text.startswith(storage.root)
    return text


@pytest.fixture
def impatient(troubled: Storage, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """The test's bucket behind the proxy, checked for a moment only."""
    monkeypatch.setattr(runner.storage.bucket, "_PATIENCE_AT_START_S", 0.3)
    forget_clients()
    return troubled


def test_a_bucket_that_is_not_there_is_refused(impatient: Storage) -> None:
    text = refusal(Storage.open("s3://no-such-bucket/results"))
    assert "put of s3://no-such-bucket/results/.probe-" in text
    assert "404 Not Found, NoSuchBucket" in text
    assert "AWS_ENDPOINT_URL" in text


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
def test_wrong_credentials_are_refused_by_the_stores_name_for_it(
    impatient: Storage, fault_proxy: FaultProxy, code: str
) -> None:
    fault_proxy.status(code)
    assert code in refusal(impatient)


@pytest.mark.parametrize("kind", ["put", "get", "list", "delete"])
def test_a_right_that_is_missing_is_named(
    impatient: Storage, fault_proxy: FaultProxy, direct: S3Store, kind: Kind
) -> None:
    with fault_proxy.status("AccessDenied", on(kind)):
        text = refusal(impatient)
    assert f"{kind} of {impatient.root}" in text
    assert "403 Forbidden, AccessDenied" in text
    left = [found["path"] for found in obstore.list(direct).collect()]
    assert bool(left) == (kind == "delete")


def test_a_store_that_ignores_conditions_is_refused(impatient: Storage, fault_proxy: FaultProxy) -> None:
    fault_proxy.ignore_conditions()
    assert "ignores conditions (If-None-Match, If-Match)" in refusal(impatient)
    assert impatient.names() == []


def test_a_store_that_keeps_no_metadata_is_refused(impatient: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    put = obstore.put
    monkeypatch.setattr(obstore, "put", lambda *values, attributes=None, **options: put(*values, **options))
    assert "does not keep objects' metadata" in refusal(impatient)
    assert impatient.names() == []


def test_a_prefix_that_is_an_object_is_refused(impatient: Storage) -> None:
    impatient.write("file", b"1")
    assert "there is an object of that name" in refusal(impatient.at("file"))
    refused = pytest.raises(StorageError, match=r"--storage is s3://.*/file: there is an object of that name")
    with refused:
        open_storage(impatient.at("file").root)


def test_where_nobody_listens_at_the_start_that_is_said(impatient: Storage, fault_proxy: FaultProxy) -> None:
    with fault_proxy.refusing():
        assert "connection refused" in refusal(impatient)


def test_a_store_that_is_silent_at_the_start_is_given_up(impatient: Storage, fault_proxy: FaultProxy) -> None:
    with fault_proxy.hold():
        assert "timed out" in refusal(impatient)


def test_a_whole_bucket_may_be_the_storage(bucket_storage: Storage) -> None:
    whole = bucket_storage.above(2)
    whole.check_writable()
    whole.write("file", b"1")
    assert whole.names() == ["file"]
    assert whole.exists()
    assert whole.total_bytes() == 1


@pytest.fixture
def metadata_service() -> Iterator[tuple[str, socket.socket]]:
    """Where a machine of a cloud would be asked for credentials; nobody answers there."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", listening


@pytest.mark.parametrize("how", ["refusing", "silent", "answering that there are none"])
def test_without_any_credentials_that_is_said_and_nobody_waits_for_the_machines_own(
    impatient: Storage,
    fault_proxy: FaultProxy,
    monkeypatch: pytest.MonkeyPatch,
    metadata_service: tuple[str, socket.socket],
    how: str,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    address, listening = metadata_service
    if how == "silent":
        listening.listen()
    elif how != "refusing":
        fault_proxy.status("AccessDenied", on("put", "api/token"))
        address = fault_proxy.endpoint
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", address)
    forget_clients()
    assert "the environment has no credentials, nor has this machine any of its own" in refusal(impatient)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_ENDPOINT_URL", "localhost:9000", "AWS_ENDPOINT_URL is no address of an object store"),
        ("AWS_ENDPOINT_URL", f"http://me:{SECRET_ACCESS_KEY}@[", "AWS_ENDPOINT_URL is no address of an object store"),
        ("AWS_ALLOW_HTTP", "", "AWS_ENDPOINT_URL begins with http://: set AWS_ALLOW_HTTP=true"),
        ("AWS_SECRET_ACCESS_KEY", None, "Missing SecretAccessKey"),
    ],
)
def test_an_environment_of_which_no_client_can_be_made_is_refused(
    impatient: Storage, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, said: str
) -> None:
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    forget_clients()
    with pytest.raises(StorageError) as refused:
        impatient.check_writable()
    assert said in str(refused.value)
    assert SECRET_ACCESS_KEY not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ftp://bucket/results", r"ftp://bucket/results: its scheme is unknown; .* s3://, gs://, az://"),
        ("S3://bucket/results", "its scheme is unknown"),
        ("s3:///results", r"it names no bucket; give s3://BUCKET/PREFIX"),
        ("s3://bucket/a/../b", "can't have the parts"),
    ],
)
def test_a_uri_that_names_no_place_is_refused(uri: str, said: str) -> None:
    with pytest.raises(StorageError, match=said):
        Storage.open(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:hush@bucket/results",
        "s3://hush@bucket",
        "s3://bucket/results?secret=hush",
        "ftp://me:hush@bucket/results",
        "https://bucket.example.org/results?X-Amz-Signature=hush",
        "://key:hush@bucket",
    ],
)
def test_credentials_in_a_uri_are_refused_and_never_repeated(uri: str) -> None:
    with pytest.raises(StorageError, match="credentials and options belong into the environment") as refused:
        Storage.open(uri)
    assert "hush" not in str(refused.value)


def test_slashes_too_many_are_no_part_of_the_prefix() -> None:
    assert Storage.open("s3://bucket//a//b/").root == "s3://bucket/a/b"
    assert Storage.open("s3://bucket/").root == "s3://bucket"


def test_an_error_of_the_library_is_told_without_addresses_and_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
    text = f"Generic X error: no {ACCESS_KEY_ID} nor c2VjcmV0 at https://me:pw@x.example.org/a?sig=1"
    assert describe(RuntimeError(f"{text}\nDebug source: c2VjcmV0")) == "no ... nor ... at ..."
    assert describe(RuntimeError()) == "RuntimeError"
