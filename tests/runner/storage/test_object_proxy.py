"""The proxy that misbehaves: what each of its faults does, as a client of the object store sees it."""

import contextlib
import http.client
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PermissionDeniedError, PreconditionError
from obstore.store import S3Store

from tests.support.object_proxy import ERRORS, CutPlace, FaultProxy, kind_of, on
from tests.support.object_server import ObjectServer, make_bucket, open_bucket

MIB = 1 << 20
RETRIES = 10


@pytest.fixture
def store(fault_proxy: FaultProxy, bucket: str) -> S3Store:
    """The test's bucket behind the proxy, by a client that asks once."""
    return open_bucket(fault_proxy.endpoint, bucket)


@pytest.fixture
def patient_store(fault_proxy: FaultProxy, bucket: str) -> S3Store:
    """The test's bucket behind the proxy, by a client that asks again by itself."""
    return open_bucket(fault_proxy.endpoint, bucket, max_retries=RETRIES)


@pytest.fixture
def direct(s3_server: ObjectServer, bucket: str) -> S3Store:
    """The test's bucket without the proxy."""
    return open_bucket(s3_server.endpoint, bucket)


def content(store: S3Store, key: str) -> bytes | None:
    """What an object holds; None where there is none."""
    try:
        return bytes(obstore.get(store, key).bytes())
    except FileNotFoundError:
        return None


# What is forwarded.


def test_without_rules_all_comes_through(fault_proxy: FaultProxy, store: S3Store, direct: S3Store) -> None:
    tag = obstore.put(store, "folder/a key+%", b"value", mode="create", attributes={"generation": "7"})["e_tag"]
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "folder/a key+%", b"other", mode="create")
    obstore.put(store, "folder/a key+%", b"12345678", mode={"e_tag": tag}, attributes={"generation": "8"})
    with pytest.raises(PreconditionError):
        obstore.put(store, "folder/a key+%", b"other", mode={"e_tag": tag})

    for client in (store, direct):
        got = obstore.get(client, "folder/a key+%", options={"range": (2, 5)})
        assert (got.bytes(), got.attributes["generation"]) == (b"345", "8")
        assert obstore.head(client, "folder/a key+%")["size"] == 8
        assert [found["path"] for found in obstore.list(client).collect()] == ["folder/a key+%"]
    first = fault_proxy.requests[0]
    assert (first.key, *first[2:]) == ("folder/a key+%", "", 200, ())


def test_requests_are_counted_by_method_and_kind(fault_proxy: FaultProxy, store: S3Store) -> None:
    obstore.put(store, "folder/small", b"value")
    obstore.put(store, "large", bytes(11 * MIB), chunk_size=6 * MIB)
    obstore.get(store, "large", options={"range": (0, 5)}).bytes()
    obstore.head(store, "large")
    obstore.list_with_delimiter(store, "folder")
    obstore.delete(store, "large")
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "large")

    assert fault_proxy.kinds == Counter(put=1, multipart=4, get=2, head=1, list=1, delete=1)
    assert fault_proxy.methods == Counter(PUT=3, POST=3, GET=3, HEAD=1)
    assert fault_proxy.count(on(key="large")) == 7
    assert fault_proxy.count(on("get", "folder/*")) == 0
    assert fault_proxy.requests[-1].status == 404
    assert fault_proxy.requests[-1].key == "large"
    fault_proxy.clear()
    assert fault_proxy.requests == []


@pytest.mark.parametrize(
    ("method", "path", "query", "kind"),
    [
        ("DELETE", "/bucket/key", "", "delete"),
        ("DELETE", "/bucket/key", "uploadId=1", "multipart"),
        ("POST", "/bucket/key", "uploads", "multipart"),
        ("POST", "/bucket", "delete", "delete"),
        ("GET", "/bucket/", "list-type=2", "list"),
        ("GET", "/bucket/list", "", "get"),
        ("OPTIONS", "/bucket/key", "", "other"),
    ],
)
def test_what_a_request_is_for(method: str, path: str, query: str, kind: str) -> None:
    assert kind_of(method, path, query) == kind


# A client that shows what obstore hides; of its signature the server reads only that there is one.
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/s3/aws4_request"}


def connect(proxy: FaultProxy) -> contextlib.closing[http.client.HTTPConnection]:
    port = int(proxy.endpoint.rpartition(":")[2])
    return contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60))


def test_a_connection_serves_many_requests(fault_proxy: FaultProxy, bucket: str) -> None:
    with connect(fault_proxy) as connection:
        connection.request("PUT", f"/{bucket}/key", body=iter([b"in ", b"chunks"]), headers=SIGNED)
        assert connection.getresponse().read() == b""
        first = connection.sock
        assert first is not None
        with fault_proxy.status("SlowDown", on("put")):
            connection.request("PUT", f"/{bucket}/key", body=b"other", headers=SIGNED)
            assert connection.getresponse().read().count(b"<Code>SlowDown</Code>") == 1
        for method, body in (("GET", b"in chunks"), ("HEAD", b""), ("GET", b"in chunks")):
            connection.request(method, f"/{bucket}/key", headers=SIGNED)
            assert connection.getresponse().read() == body
        assert connection.sock is first


def test_a_body_is_never_held_as_a_whole(store: S3Store) -> None:
    body = bytes(64 * MIB)
    tracemalloc.start()
    try:
        obstore.put(store, "large", body, use_multipart=False)
        assert len(obstore.get(store, "large").bytes()) == len(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB


# Which requests a rule is for.


def test_a_rule_is_for_requests_that_match_and_for_so_many(fault_proxy: FaultProxy, store: S3Store) -> None:
    rule = fault_proxy.status("AccessDenied", on("put", "*/locked"), times=2)
    obstore.put(store, "open", b"1")
    for _ in range(2):
        with pytest.raises(PermissionDeniedError):
            obstore.put(store, "folder/locked", b"1")
    obstore.put(store, "folder/locked", b"1")
    assert rule.hits == 2


def test_a_rule_ends_with_its_block_or_when_it_is_removed(fault_proxy: FaultProxy, store: S3Store) -> None:
    with fault_proxy.status("AccessDenied"), pytest.raises(PermissionDeniedError):
        obstore.put(store, "key", b"1")
    obstore.put(store, "key", b"1")
    fault_proxy.cut("before_answer")
    fault_proxy.status("AccessDenied")
    fault_proxy.remove_all()
    obstore.put(store, "key", b"1")


def test_delays_add_up_and_of_what_ends_a_request_the_first_rule_counts(
    fault_proxy: FaultProxy, store: S3Store
) -> None:
    fault_proxy.delay(0.001)
    fault_proxy.delay(0.001, at="request")
    denied = fault_proxy.status("AccessDenied", times=1)
    cut = fault_proxy.cut("answer", times=1)
    with pytest.raises(PermissionDeniedError):
        obstore.put(store, "key", b"1")
    assert fault_proxy.requests[-1].faults == ("delay", "delay", "status")
    assert (denied.hits, cut.hits) == (1, 0)


# Faults.


@pytest.mark.parametrize("code", ERRORS)
def test_errors_are_answered_in_the_servers_place(
    fault_proxy: FaultProxy, store: S3Store, direct: S3Store, code: str
) -> None:
    status = ERRORS[code][0]
    kinds = {403: PermissionDeniedError, 404: FileNotFoundError, 409: AlreadyExistsError}
    with fault_proxy.status(code), pytest.raises(kinds.get(status, GenericError)) as raised:
        obstore.put(store, "key", b"1")
    assert f"status code: {status} " in str(raised.value)
    assert f"<Code>{code}</Code>" in str(raised.value)
    assert [seen[3:] for seen in fault_proxy.requests] == [(status, ("status",))]
    assert content(direct, "key") is None


def test_an_error_to_a_head_has_no_body(fault_proxy: FaultProxy, store: S3Store) -> None:
    with fault_proxy.status("AccessDenied", times=1), pytest.raises(PermissionDeniedError, match="403 Forbidden"):
        obstore.head(store, "key")
    with pytest.raises(FileNotFoundError):
        obstore.head(store, "key")


def test_an_error_may_have_another_status(fault_proxy: FaultProxy, store: S3Store) -> None:
    with fault_proxy.expired(status=400), pytest.raises(GenericError, match="status code: 400 ") as raised:
        obstore.get(store, "key")
    assert "<Code>ExpiredToken</Code>" in str(raised.value)


def test_credentials_expire_and_are_good_again(fault_proxy: FaultProxy, store: S3Store) -> None:
    rule = fault_proxy.expired()
    for operation in (lambda: obstore.put(store, "key", b"1"), lambda: obstore.get(store, "key")):
        with pytest.raises(PermissionDeniedError, match="ExpiredToken"):
            operation()
    rule.remove()
    obstore.put(store, "key", b"1")


def test_a_lost_answer_leaves_the_write(fault_proxy: FaultProxy, store: S3Store, direct: S3Store) -> None:
    tag = obstore.put(store, "replaced", b"0")["e_tag"]
    with fault_proxy.lose_answer():
        with pytest.raises(GenericError, match="error sending request"):
            obstore.put(store, "created", b"1", mode="create")
        with pytest.raises(GenericError, match="error sending request"):
            obstore.put(store, "replaced", b"1", mode={"e_tag": tag})
    assert (content(direct, "created"), content(direct, "replaced")) == (b"1", b"1")
    assert [seen[3:] for seen in fault_proxy.requests[1:]] == [(200, ("lose_answer",))] * 2


def test_a_client_that_asks_again_is_refused_by_its_own_write(
    fault_proxy: FaultProxy, patient_store: S3Store, direct: S3Store
) -> None:
    tag = obstore.put(direct, "replaced", b"0")["e_tag"]
    with fault_proxy.lose_answer(times=1), pytest.raises(AlreadyExistsError):
        obstore.put(patient_store, "created", b"1", mode="create")
    with fault_proxy.lose_answer(times=1), pytest.raises(PreconditionError):
        obstore.put(patient_store, "replaced", b"1", mode={"e_tag": tag})
    assert (content(direct, "created"), content(direct, "replaced")) == (b"1", b"1")
    assert [seen.status for seen in fault_proxy.requests] == [200, 412, 200, 412]


@pytest.mark.parametrize(("place", "is_written"), [("request", False), ("before_answer", False), ("answer", True)])
def test_a_cut_connection(
    fault_proxy: FaultProxy, store: S3Store, direct: S3Store, place: CutPlace, is_written: bool
) -> None:
    body = bytes(3 * MIB)
    with fault_proxy.cut(place), pytest.raises(GenericError, match="error sending request"):
        obstore.put(store, "key", body, use_multipart=False)
    assert content(direct, "key") == (body if is_written else None)
    assert fault_proxy.requests[0][3:] == (200 if is_written else None, ("cut",))

    obstore.put(direct, "key", body)
    with fault_proxy.cut(place), pytest.raises(GenericError):
        content(store, "key")
    assert content(store, "key") == body


@pytest.mark.parametrize("size", [0, 1, 100, 3 * MIB])
def test_an_answer_that_is_cut_is_never_whole(fault_proxy: FaultProxy, store: S3Store, size: int) -> None:
    obstore.put(store, "key", bytes(size), use_multipart=False)
    for request in (lambda: obstore.head(store, "key"), lambda: content(store, "key"), lambda: list(store.list())):
        with fault_proxy.cut("answer") as rule, pytest.raises(GenericError):
            request()
        assert rule.hits == 1


def test_an_answer_is_cut_in_its_middle_and_the_connection_closed(
    fault_proxy: FaultProxy, bucket: str, direct: S3Store
) -> None:
    obstore.put(direct, "key", bytes(1000))
    with connect(fault_proxy) as connection, fault_proxy.cut("answer"):
        connection.request("GET", f"/{bucket}/key", headers=SIGNED)
        answer = connection.getresponse()
        with pytest.raises(http.client.IncompleteRead) as raised:
            answer.read()
    assert (len(raised.value.partial), raised.value.expected) == (500, 500)


def test_the_rest_of_an_answer_that_was_cut_is_asked_for(fault_proxy: FaultProxy, patient_store: S3Store) -> None:
    body = bytes(range(256)) * 8192
    obstore.put(patient_store, "key", body)
    with fault_proxy.cut("answer", times=1):
        assert content(patient_store, "key") == body
    assert [seen.status for seen in fault_proxy.requests[1:]] == [200, 206]


def in_background(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_a_delayed_answer_comes_late_and_the_write_does_not(
    fault_proxy: FaultProxy, store: S3Store, direct: S3Store
) -> None:
    answered = threading.Event()
    rule = fault_proxy.delay(3600, on("put"))
    waiting = in_background(lambda: (obstore.put(store, "key", b"1"), answered.set()))
    deadline = time.monotonic() + 60
    while content(direct, "key") is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)  # a poll
    assert not answered.is_set()
    assert (rule.hits, fault_proxy.requests) == (1, [])
    rule.remove()
    waiting.join()
    assert answered.is_set()


def test_a_short_delay_ends_by_itself(fault_proxy: FaultProxy, store: S3Store) -> None:
    with fault_proxy.delay(0.01), fault_proxy.delay(0.01, at="request"):
        obstore.put(store, "key", b"1")
    assert fault_proxy.requests[0].faults == ("delay", "delay")


def test_a_client_does_not_wait_longer_than_it_was_told_to(fault_proxy: FaultProxy, bucket: str) -> None:
    hasty = open_bucket(fault_proxy.endpoint, bucket, timeout="100ms")
    with fault_proxy.delay(3600), pytest.raises(GenericError, match="error sending request"):
        obstore.put(hasty, "key", b"1")


def test_a_write_is_held_up_and_lands_after_its_client_has_given_up(
    fault_proxy: FaultProxy, bucket: str, direct: S3Store
) -> None:
    hasty = open_bucket(fault_proxy.endpoint, bucket, timeout="100ms")
    with fault_proxy.hold(on("put", "lease")) as rule:
        with pytest.raises(GenericError, match="error sending request"):
            obstore.put(hasty, "lease", b"late")
        rule.wait()
        obstore.put(direct, "lease", b"another's")
    fault_proxy.wait_for(on("put", "lease"))
    assert content(direct, "lease") == b"late"


def test_waiting_for_what_does_not_come_ends(fault_proxy: FaultProxy) -> None:
    with fault_proxy.hold() as rule, pytest.raises(TimeoutError, match="0 of 1"):
        rule.wait(timeout_s=0.01)
    with pytest.raises(TimeoutError, match="0 of 2"):
        fault_proxy.wait_for(on("put"), count=2, timeout_s=0.01)


def test_a_store_that_ignores_conditions(fault_proxy: FaultProxy, store: S3Store) -> None:
    tag = obstore.put(store, "key", b"1")["e_tag"]
    with fault_proxy.ignore_conditions() as rule:
        obstore.put(store, "key", b"2", mode="create")
        obstore.put(store, "key", b"3", mode={"e_tag": tag})
        assert content(store, "key") == b"3"
    assert rule.hits == 2
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "key", b"4", mode="create")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("QuotaExceeded", PermissionDeniedError),
        ("XMinioAdminBucketQuotaExceeded", GenericError),
        ("XMinioStorageFull", GenericError),
    ],
)
def test_a_quota_holds_until_it_is_raised(
    fault_proxy: FaultProxy, store: S3Store, code: str, kind: type[Exception]
) -> None:
    rule = fault_proxy.quota(100, code)
    obstore.put(store, "first", bytes(60))
    for _ in range(2):
        with pytest.raises(kind, match=f"<Code>{code}</Code>"):
            obstore.put(store, "second", bytes(60))
    obstore.put(store, "third", bytes(40))
    assert (rule.used, rule.hits) == (100, 2)
    assert len(content(store, "first") or b"") == 60
    rule.num_bytes = 200
    obstore.put(store, "second", bytes(60))


def test_a_quota_counts_parts(fault_proxy: FaultProxy, store: S3Store) -> None:
    fault_proxy.quota(7 * MIB)
    with pytest.raises(PermissionDeniedError):
        obstore.put(store, "large", bytes(11 * MIB), chunk_size=6 * MIB)


def test_connections_are_refused_and_then_taken_again(fault_proxy: FaultProxy, store: S3Store) -> None:
    obstore.put(store, "key", b"1")  # its connection stays open, and must not
    held = fault_proxy.hold(on("get", "held"))

    def ask() -> None:
        with pytest.raises(GenericError):
            obstore.get(store, "held")

    waiting = in_background(ask)
    held.wait()
    with fault_proxy.refusing():
        waiting.join()
        for _ in range(2):
            with pytest.raises(GenericError, match="error sending request"):
                obstore.put(store, "key", b"2")
    assert content(store, "key") == b"1"


# Random mixtures.


def mixture(endpoint: str, rate: float, seed: int) -> list[tuple[str, str, tuple[str, ...]]]:
    """Key, method and faults of 200 requests of each of two clients at once, sorted."""
    with FaultProxy(endpoint) as proxy:
        store = open_bucket(proxy.endpoint, make_bucket(endpoint))
        proxy.seeded(rate, seed, longest_delay_s=0.001)

        def ask(client: int) -> None:
            for number in range(100):
                key = f"{client}/{number % 10}"
                with contextlib.suppress(BaseError):
                    obstore.put(store, key, b"1")
                with contextlib.suppress(BaseError, FileNotFoundError):
                    obstore.get(store, key)

        clients = [in_background(lambda client=client: ask(client)) for client in range(2)]
        for client in clients:
            client.join()
        return sorted((seen.key, seen.method, seen.faults) for seen in proxy.requests)


def test_a_random_mixture_is_the_same_for_the_same_seed(s3_server: ObjectServer) -> None:
    first = mixture(s3_server.endpoint, 0.3, seed=1)
    assert mixture(s3_server.endpoint, 0.3, seed=1) == first
    assert mixture(s3_server.endpoint, 0.3, seed=2) != first
    faults = Counter(faults for *_, faults in first)
    assert faults.keys() == {(), ("delay",), ("cut",), ("status",), ("lose_answer",)}
    assert len(first) == 400
    assert 0.2 < 1 - faults[()] / len(first) < 0.4


def test_what_a_random_mixture_does_is_worth_asking_again(fault_proxy: FaultProxy, patient_store: S3Store) -> None:
    rule = fault_proxy.seeded(0.3, seed=3, longest_delay_s=0.001)
    for number in range(30):
        obstore.put(patient_store, f"key-{number}", b"%d" % number)
        assert content(patient_store, f"key-{number}") == b"%d" % number
    assert rule.hits > 5
