"""A proxy between clients and an object store that misbehaves as it is told to.

    with FaultProxy(server.endpoint) as proxy:
        proxy.lose_answer(on("put", "lease.json"), times=1)

A request goes on as it came, its Host header too; only what is between two neighbours is left out (Connection,
Keep-Alive, Expect). Connections stay open on both sides, as far as the server lets them, and bodies go through in
blocks. Buckets are in the path: http://ENDPOINT/BUCKET/KEY.
"""

import contextlib
import fnmatch
import http.client
import random
import socket
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, NamedTuple, get_args

BLOCK_SIZE = 1 << 18
BETWEEN_NEIGHBOURS = {"connection", "keep-alive", "proxy-connection", "expect", "te", "upgrade"}
CONDITIONS = {"if-none-match", "if-match"}

# What stores answer: HTTP status and message. ExpiredToken has 400 in S3 itself, and 403 elsewhere.
ERRORS: dict[str, tuple[int, str]] = {
    "AccessDenied": (403, "Access Denied"),
    "ExpiredToken": (403, "The provided token has expired."),
    "InvalidAccessKeyId": (403, "The AWS Access Key Id you provided does not exist in our records."),
    "SignatureDoesNotMatch": (403, "The request signature we calculated does not match the signature you provided."),
    "RequestTimeTooSkewed": (403, "The difference between the request time and the current time is too large."),
    "NoSuchBucket": (404, "The specified bucket does not exist"),
    "NoSuchKey": (404, "The specified key does not exist."),
    "ConditionalRequestConflict": (409, "A conflicting operation occurred during the upload."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "NotImplemented": (501, "A header you provided implies functionality that is not implemented."),
    "ServiceUnavailable": (503, "Service is unable to handle request."),
    "SlowDown": (503, "Please reduce your request rate."),
    "QuotaExceeded": (403, "Quota exceeded"),  # Ceph: of a bucket or a user
    "XMinioAdminBucketQuotaExceeded": (400, "Bucket quota exceeded"),  # MinIO: of a bucket
    "XMinioStorageFull": (507, "Storage backend has reached its minimum free drive threshold."),  # MinIO: of its disks
}

Kind = Literal["get", "head", "put", "list", "delete", "multipart", "other"]
Predicate = Callable[[str, str, str], bool]
CutPlace = Literal["request", "before_answer", "answer"]
DelayPlace = Literal["request", "answer"]


class SeenRequest(NamedTuple):
    """A request that the proxy has dealt with.

    Attributes:
        path: with the bucket, percent-encoded.
        status: of the server's answer, or of the one made up in its place; None where there was neither.
        faults: what was done to it.
    """

    method: str
    path: str
    query: str
    status: int | None
    faults: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        return kind_of(self.method, self.path, self.query)

    @property
    def key(self) -> str:
        return key_of(self.path)


def key_of(path: str) -> str:
    """The key that a path of /BUCKET/KEY names, decoded; empty for the bucket itself."""
    return urllib.parse.unquote(path.lstrip("/").partition("/")[2])


def kind_of(method: str, path: str, query: str) -> Kind:
    """What a request is for. All that has to do with an upload in parts is `multipart`, its deletion too."""
    names = set(urllib.parse.parse_qs(query, keep_blank_values=True))
    if names & {"uploads", "uploadId"}:
        return "multipart"
    if method == "DELETE" or (method == "POST" and "delete" in names):
        return "delete"
    if method == "GET" and not key_of(path):
        return "list"
    kinds: dict[str, Kind] = {"GET": "get", "HEAD": "head", "PUT": "put"}
    return kinds.get(method, "other")


def on(kind: Kind | None = None, key: str = "*") -> Predicate:
    """Requests of a kind, or of all, whose key matches a pattern such as `*/lease.json`; `*` stands for `/` too."""

    def holds(method: str, path: str, query: str) -> bool:
        return kind in (None, kind_of(method, path, query)) and fnmatch.fnmatchcase(key_of(path), key)

    return holds


EVERYTHING = on()


@dataclass(frozen=True)
class Fault:
    """One thing that is done to one request.

    Attributes:
        name: as in `SeenRequest.faults`.
        place: of a cut or a delay.
        seconds: how long a delay is; None until its rule is removed.
        code, status: the error that is answered.
    """

    name: Literal["delay", "hold", "cut", "status", "lose_answer", "ignore_conditions"]
    place: CutPlace | DelayPlace = "answer"
    seconds: float | None = None
    code: str = ""
    status: int = 0

    @property
    def ends_it(self) -> bool:
        """Whether nothing more can be done to the request."""
        return self.name in ("cut", "status", "lose_answer")


@dataclass(eq=False)
class Rule:
    """Which requests get which fault, until it is removed: by hand, at the end of a `with`, or after `times` requests.

    Attributes:
        choose: the fault for a request whose body has so many bytes, or None.
        times: how many more requests get it; None: all.
        hits: how many have got it. A delay counts when it begins.
    """

    proxy: "FaultProxy"
    matches: Predicate
    choose: Callable[["_Question"], Fault | None]
    times: int | None = None
    hits: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def remove(self) -> None:
        """Ends the rule, and what it delays goes on."""
        self.proxy.remove(self)

    def wait(self, hits: int = 1, timeout_s: float = 60) -> None:
        """Returns as soon as so many requests have got the fault.

        Raises:
            TimeoutError: they did not come.
        """
        with self.proxy.changed:
            if not self.proxy.changed.wait_for(lambda: self.hits >= hits, timeout_s):
                raise TimeoutError(f"{self.hits} of {hits} requests came within {timeout_s:g} s: {self.proxy.requests}")

    def __enter__(self) -> "Rule":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


@dataclass(eq=False)
class QuotaRule(Rule):
    """A quota, which may be raised while the proxy runs.

    Attributes:
        num_bytes: how many bytes may be stored from the rule's beginning on; what is deleted frees none.
        used: how many have been let through.
    """

    num_bytes: int = 0
    used: int = 0


class _Question(NamedTuple):
    """A request as a rule sees it."""

    method: str
    path: str
    query: str
    size: int


class FaultProxy:
    """`with FaultProxy(endpoint) as proxy`: clients use `proxy.endpoint`, and `proxy.delay(...)` and so on set rules.

    Of the rules that match a request, delays and `ignore_conditions` add up; of the others the one that was set first
    counts. `on` makes predicates; without one a rule is for all requests.

    Attributes:
        requests: those that have been dealt with, in the order of their answers; `clear` empties it.
        changed: notified when a request gets a fault or is added to `requests`.
    """

    def __init__(self, server_endpoint: str) -> None:
        address = urllib.parse.urlsplit(server_endpoint)
        assert address.hostname and address.port, server_endpoint
        self.server = (address.hostname, address.port)
        self.changed = threading.Condition(threading.RLock())
        self.requests: list[SeenRequest] = []
        self._rules: list[Rule] = []
        self._connections: set[socket.socket] = set()
        self._open(0)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    # What a test sees.

    def clear(self) -> None:
        """Forgets the requests up to now."""
        with self.changed:
            self.requests.clear()

    def count(self, matches: Predicate = EVERYTHING) -> int:
        """How many requests match."""
        with self.changed:
            return sum(matches(seen.method, seen.path, seen.query) for seen in self.requests)

    @property
    def kinds(self) -> Counter[Kind]:
        """How many requests there were of each kind."""
        with self.changed:
            return Counter(seen.kind for seen in self.requests)

    @property
    def methods(self) -> Counter[str]:
        """How many requests there were of each method."""
        with self.changed:
            return Counter(seen.method for seen in self.requests)

    def wait_for(self, matches: Predicate, count: int = 1, timeout_s: float = 60) -> None:
        """Returns as soon as so many matching requests have been dealt with.

        Raises:
            TimeoutError: they did not come.
        """
        with self.changed:
            if not self.changed.wait_for(lambda: self.count(matches) >= count, timeout_s):
                raise TimeoutError(f"{self.count(matches)} of {count} requests came within {timeout_s:g} s")

    # What a test orders.

    def delay(
        self, seconds: float, matches: Predicate = EVERYTHING, times: int | None = None, at: DelayPlace = "answer"
    ) -> Rule:
        """Lets requests wait, before they go on to the server or, usual, before their answers come back."""
        return self._always(Fault("delay", place=at, seconds=seconds), matches, times)

    def hold(self, matches: Predicate = EVERYTHING, times: int | None = None, at: DelayPlace = "request") -> Rule:
        """Lets requests wait until the rule is removed.

        With `at="request"` a request whose client has given up meanwhile still reaches the server then: a late write.
        Its body must have been in the connection by the client's end, some 100 kB are.
        """
        return self._always(Fault("hold", place=at), matches, times)

    def cut(self, place: CutPlace, matches: Predicate = EVERYTHING, times: int | None = None) -> Rule:
        """Closes the connection.

        Args:
            place: "request": in the middle of its body, and the server gets nothing; "before_answer": when all of it
                has come, and the server gets nothing; "answer": in the middle of the server's answer.
        """
        return self._always(Fault("cut", place=place), matches, times)

    def status(
        self, code: str, matches: Predicate = EVERYTHING, times: int | None = None, *, status: int | None = None
    ) -> Rule:
        """Answers an error that the server knows nothing of.

        Args:
            code: of S3, a key of ERRORS, which also has the HTTP status.
            status: another HTTP status than there.
        """
        return self._always(_error(code, status), matches, times)

    def lose_answer(self, matches: Predicate = EVERYTHING, times: int | None = None) -> Rule:
        """Closes the connection in place of an answer; the server has done what it was asked for."""
        return self._always(Fault("lose_answer"), matches, times)

    def ignore_conditions(self, matches: Predicate = EVERYTHING, times: int | None = None) -> Rule:
        """Takes the conditions off writes, as a store does that does not know them."""

        def choose(question: _Question) -> Fault | None:
            return Fault("ignore_conditions") if question.method in ("PUT", "POST") else None

        return self._add(Rule(self, matches, choose, times))

    def expired(self, matches: Predicate = EVERYTHING, *, status: int = 403) -> Rule:
        """Credentials that are good again when the rule is removed. S3 itself answers 400 then, others 403."""
        return self.status("ExpiredToken", matches, status=status)

    def quota(self, num_bytes: int, code: str = "QuotaExceeded", matches: Predicate = EVERYTHING) -> QuotaRule:
        """Refuses a PUT that would bring more bytes than this, until the rule's `num_bytes` is raised.

        Args:
            code: Ceph's, with HTTP status 403. MinIO has XMinioAdminBucketQuotaExceeded, 400, and for full disks
                XMinioStorageFull, 507.
        """

        def choose(question: _Question) -> Fault | None:
            if question.method != "PUT":
                return None
            if rule.used + question.size > rule.num_bytes:
                return _error(code)
            rule.used += question.size
            return None

        rule = QuotaRule(self, matches, choose, num_bytes=num_bytes)
        self._add(rule)
        return rule

    def seeded(
        self,
        rate: float,
        seed: int,
        matches: Predicate = EVERYTHING,
        *,
        longest_delay_s: float = 0.1,
        cuts: Iterable[CutPlace] = get_args(CutPlace),
    ) -> Rule:
        """A random one of the faults after which it is right to ask again, for this share of all requests.

        Which one a request gets depends on the seed, its method, its key, the names in its query, and on how many
        such requests came before: not on its bucket, nor on what other threads ask for meanwhile.
        """
        seen: Counter[str] = Counter()
        places = list(cuts)

        def choose(question: _Question) -> Fault | None:
            names = sorted(urllib.parse.parse_qs(question.query, keep_blank_values=True))
            about = f"{question.method} {key_of(question.path)} {names}"
            seen[about] += 1
            draw = random.Random(f"{seed} {about} {seen[about]}")
            if draw.random() >= rate:
                return None
            return draw.choice(
                [
                    Fault("delay", seconds=draw.uniform(0, longest_delay_s)),
                    *([Fault("cut", place=draw.choice(places))] if places else []),
                    _error("InternalError"),
                    _error("SlowDown"),
                    Fault("lose_answer"),
                ]
            )

        return self._add(Rule(self, matches, choose))

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Nobody listens during the block: connections are refused, and the open ones are closed."""
        self._close()
        try:
            yield
        finally:
            self._open(self._port)

    def remove(self, rule: Rule) -> None:
        with self.changed:
            if rule in self._rules:
                self._rules.remove(rule)
        rule.over.set()

    def remove_all(self) -> None:
        """From now on all is forwarded."""
        for rule in list(self._rules):
            rule.remove()

    def _always(self, fault: Fault, matches: Predicate, times: int | None) -> Rule:
        return self._add(Rule(self, matches, lambda _: fault, times))

    def _add(self, rule: Rule) -> Rule:
        with self.changed:
            self._rules.append(rule)
        return rule

    # What the connections ask.

    def faults_for(self, question: _Question) -> list[tuple[Rule, Fault]]:
        """What is to be done to a request, in this order."""
        chosen: list[tuple[Rule, Fault]] = []
        with self.changed:
            for rule in self._rules:
                if rule.times == 0 or not rule.matches(question.method, question.path, question.query):
                    continue
                fault = rule.choose(question)
                if fault is None:
                    continue
                chosen.append((rule, fault))
                rule.hits += 1
                if rule.times is not None:
                    rule.times -= 1
                if fault.ends_it:
                    break
            self.changed.notify_all()
        return chosen

    def add(self, seen: SeenRequest) -> None:
        with self.changed:
            self.requests.append(seen)
            self.changed.notify_all()

    def connected(self, connection: socket.socket) -> None:
        with self.changed:
            self._connections.add(connection)

    def disconnected(self, connection: socket.socket) -> None:
        with self.changed:
            self._connections.discard(connection)
            self.changed.notify_all()

    def _open(self, port: int) -> None:
        self._http = _Http(("127.0.0.1", port), _Connection)
        self._http.owner = self
        self._port = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def _close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        with self.changed:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the client was quicker
                    connection.shutdown(socket.SHUT_RDWR)
        self._http.server_close()

    def __enter__(self) -> "FaultProxy":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove_all()
        self._close()
        with self.changed:
            assert self.changed.wait_for(lambda: not self._connections, 60), "a request never ended"


def _error(code: str, status: int | None = None) -> Fault:
    return Fault("status", code=code, status=status or ERRORS[code][0])


class _Http(ThreadingHTTPServer):
    owner: FaultProxy
    daemon_threads = True  # `refusing` does not wait for what a rule holds
    block_on_close = False
    request_queue_size = 128

    def process_request(self, request: Any, client_address: Any) -> None:
        self.owner.connected(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.owner.disconnected(request)


class _Cut(ConnectionError):
    """The connection ends here."""


class _Connection(BaseHTTPRequestHandler):
    """One client's connection, and one to the server for it."""

    server: _Http
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.proxy = self.server.owner
        self.upstream = http.client.HTTPConnection(*self.proxy.server)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def finish(self) -> None:
        self.upstream.close()
        with contextlib.suppress(ConnectionError):
            super().finish()

    def log_message(self, *_: object) -> None:
        """Prints nothing."""

    def _take(self) -> None:
        path, _, query = self.path.partition("?")
        self._size = int(self.headers.get("Content-Length") or 0)
        self._question = _Question(self.command, path, query, self._size)
        self._faults = self.proxy.faults_for(self._question)
        self._status: int | None = None
        self._is_seen = False
        try:
            self._deal()
        except (ConnectionError, http.client.HTTPException):
            self._see()
            self._hang_up()

    def _deal(self) -> None:
        """Does what the rules say, and forwards the request if they let it.

        Raises:
            ConnectionError: the client's connection is to be closed, or has been.
        """
        names = [fault.name for _, fault in self._faults]
        end = next((fault for _, fault in self._faults if fault.ends_it), None)
        self._wait("request")
        if end and end.name == "status":
            self._skip_body()
            self._status = end.status
            self._wait("answer")
            self._see()
            self._answer_error(end.code)
            return
        if end and end.name == "cut" and end.place != "answer":
            self._skip_body(half=end.place == "request")
            self._wait("answer")
            raise _Cut

        answer = self._forward(CONDITIONS if "ignore_conditions" in names else set())
        self._status = answer.status
        if end and end.name == "lose_answer":
            while answer.read(BLOCK_SIZE):
                pass
            self._wait("answer")
            raise _Cut
        self._wait("answer")
        self._see()
        self._relay(answer, cut="cut" in names)

    def _wait(self, place: DelayPlace) -> None:
        for rule, fault in self._faults:
            if fault.name in ("delay", "hold") and fault.place == place:
                rule.over.wait(fault.seconds)

    def _see(self) -> None:
        """Adds the request to those that tests see: before the client can know that it is done."""
        if not self._is_seen:
            self._is_seen = True
            method, path, query, _ = self._question
            self.proxy.add(
                SeenRequest(method, path, query, self._status, tuple(fault.name for _, fault in self._faults))
            )

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_OPTIONS = _take  # noqa: N815

    def _body(self) -> Iterator[bytes]:
        """The request's body in blocks.

        Raises:
            ConnectionError: the client has gone in the middle of it.
        """
        if self._is_chunked:
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailers
            return
        left = self._size
        while left:
            block = self.rfile.read(min(left, BLOCK_SIZE))
            if not block:
                raise _Cut
            left -= len(block)
            yield block

    @property
    def _is_chunked(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "").lower()

    def _skip_body(self, half: bool = False) -> None:
        done = 0
        for block in self._body():
            done += len(block)
            if half and 2 * done >= self._size:
                return

    def _forward(self, without: set[str]) -> http.client.HTTPResponse:
        """Sends the request on; the head of the server's answer."""
        self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in BETWEEN_NEIGHBOURS | without:
                self.upstream.putheader(name, value)
        self.upstream.endheaders()
        is_chunked = self._is_chunked
        try:
            for block in self._body():
                self.upstream.send(b"%x\r\n%b\r\n" % (len(block), block) if is_chunked else block)
            if is_chunked:
                self.upstream.send(b"0\r\n\r\n")
        except ConnectionError:
            self.upstream.close()  # the server must not wait for the rest
            raise
        return self.upstream.getresponse()

    def _relay(self, answer: http.client.HTTPResponse, cut: bool) -> None:
        """Sends the server's answer to the client, or its first half."""
        size = answer.length
        has_body = self.command != "HEAD" and answer.status not in (204, 304) and size != 0
        in_chunks = has_body and size is None
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in BETWEEN_NEIGHBOURS | {"transfer-encoding"}:
                self.send_header(name, value)
        if in_chunks:
            self.send_header("Transfer-Encoding", "chunked")
        if cut and not has_body:
            head = b"".join(self._headers_buffer)
            self._headers_buffer: list[bytes] = []
            self.wfile.write(head[: len(head) // 2])
            raise _Cut
        self.end_headers()

        left = (size or 2 * BLOCK_SIZE) // 2 if cut else sys.maxsize
        while has_body and left and (block := answer.read(min(BLOCK_SIZE, left))):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if in_chunks else block)
            left -= len(block)
        if cut:
            raise _Cut
        if in_chunks:
            self.wfile.write(b"0\r\n\r\n")
        answer.close()

    def _answer_error(self, code: str) -> None:
        message, path = ERRORS[code][1], self._question.path
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>'
            f"<Resource>{path}</Resource><RequestId>{time.monotonic_ns():X}</RequestId></Error>"
        ).encode()
        self.send_response_only(self._status or 500)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.upstream.close()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
