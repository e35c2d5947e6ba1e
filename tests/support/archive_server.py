"""A server of archives on this machine that misbehaves as it is told to."""

import re
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

Answer = Callable[["Request"], None]
TAG = '"version-1"'


class Request(BaseHTTPRequestHandler):
    """A request, with what is needed to answer it."""

    server: "_Http"

    def do_GET(self) -> None:
        self.server.owner.take(self)

    def do_CONNECT(self) -> None:
        self.server.owner.take(self)

    def log_message(self, *_: object) -> None:
        """Prints nothing."""

    def begin(self, status: int, headers: Mapping[str, object]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def send(self, data: bytes) -> None:
        """Sends bytes; a client may be gone by then."""
        try:
            self.wfile.write(data)
            self.wfile.flush()
        except ConnectionError:
            self.close_connection = True


class _Http(ThreadingHTTPServer):
    owner: "ArchiveServer"
    block_on_close = False
    daemon_threads = True


class ArchiveServer:
    """`with ArchiveServer(answer, ...) as server`: the first request gets the first answer, the last one is repeated.

    Attributes:
        requests: path and headers of each request.
        released: what stalls goes on once it is set.
    """

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.released = threading.Event()
        self._http = _Http(("127.0.0.1", 0), Request)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._http.server_port}"

    def url(self, name: str = "set.tar.gz") -> str:
        return f"http://{self.host}/{name}"

    @property
    def ranges(self) -> list[str | None]:
        """What each request asked for."""
        return [headers.get("range") for _, headers in self.requests]

    def take(self, request: Request) -> None:
        self.requests.append((request.path, {name.lower(): value for name, value in request.headers.items()}))
        self.answers[min(len(self.requests), len(self.answers)) - 1](request)

    def __enter__(self) -> "ArchiveServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def file(
    data: bytes,
    *,
    tag: str | None = TAG,
    modified: str | None = None,
    ranges: bool = True,
    checks_tag: bool = True,
    until: int | None = None,
    stalls: bool = False,
    length: int | None = -1,
    kind: str = "application/gzip",
) -> Answer:
    """Answers with a file, or with the rest of it that is asked for.

    Args:
        ranges: False for a server that knows no ranges.
        checks_tag: False for a server that does not know If-Range.
        until: breaks off before this byte of the file.
        stalls: falls silent there, in place of breaking off.
        length: the length that is announced; -1 for the true one, None for none.
    """

    def answer(request: Request) -> None:
        headers: dict[str, object] = {"Content-Type": kind}
        headers |= {"ETag": tag} if tag else {}
        headers |= {"Last-Modified": modified} if modified else {}
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        valid = not checks_tag or request.headers.get("If-Range") in (tag, modified)

        start = int(wanted[1]) if wanted and ranges and valid else 0
        if start and start >= len(data):
            request.begin(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": 0})
            return
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if length is not None:
            headers["Content-Length"] = len(data) - start if length == -1 else length
        request.begin(206 if start else 200, headers)
        request.send(data[start:until])
        if stalls:
            request.server.owner.released.wait(60)

    return answer


def chunked(data: bytes, *, until: int | None = None) -> Answer:
    """Answers in chunks, with no length; breaks off before byte `until` of the file."""

    def answer(request: Request) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        request.protocol_version = "HTTP/1.1"
        headers: dict[str, object] = {"Transfer-Encoding": "chunked", "ETag": TAG, "Connection": "close"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/*"
        request.begin(206 if start else 200, headers)
        for position in range(start, len(data[:until]), 1000):
            piece = data[:until][position : position + 1000]
            request.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        if until is None:
            request.send(b"0\r\n\r\n")
        request.close_connection = True

    return answer


def status(code: int, body: bytes = b"", **headers: object) -> Answer:
    """Answers with a status; underscores in names of headers are hyphens."""

    def answer(request: Request) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request.begin(code, {"Content-Length": len(body), **named})
        request.send(body)

    return answer


def raw(data: bytes) -> Answer:
    """Answers with these bytes alone."""

    def answer(request: Request) -> None:
        request.send(data)
        request.close_connection = True

    return answer
