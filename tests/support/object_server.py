"""An object store on this machine: moto's S3 server in a process of its own.

    python -m tests.support.object_server

prints its endpoint, such as http://127.0.0.1:34567, and serves until its standard input is closed: when whoever
started it has ended, however that was.
"""

import contextlib
import logging
import subprocess
import sys
import tempfile
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the server does without
    import pytest
    from obstore.store import S3Store

ROOT = Path(__file__).parents[2]
REGION = "us-east-1"
ACCESS_KEY_ID, SECRET_ACCESS_KEY = "AKIATESTS", "no-secret"  # the server takes any
START_TIMEOUT_S = 120.0
BLOCK_SIZE = 1 << 18
IN_MEMORY_SIZE = 1 << 23  # bytes of a request's body; more goes to a temporary file

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class ObjectServer:
    """A running server.

    Attributes:
        endpoint: its address, as in AWS_ENDPOINT_URL.
        process: what was started; its standard error is a file that `errors` reads.
    """

    endpoint: str
    process: subprocess.Popen[str]
    _error_file: Path

    @property
    def errors(self) -> str:
        """What the server has printed beside its endpoint: nothing, as long as all is well with it."""
        return self._error_file.read_text()


@contextlib.contextmanager
def object_server() -> Iterator[ObjectServer]:
    """A server that is empty, and is ended after the block.

    Raises:
        RuntimeError: it ended, or did not answer in time; with what it printed.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        error_file = Path(folder) / "stderr"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.object_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stack.enter_context(error_file.open("w")),
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests, which may need the server until they have ended
        )
        stack.callback(_end, process)
        assert process.stdout is not None
        overdue = threading.Timer(START_TIMEOUT_S, process.kill)
        overdue.start()
        try:
            endpoint = process.stdout.readline().strip()
        finally:
            overdue.cancel()
            overdue.join()
        if not endpoint:
            raise RuntimeError(f"the object server did not start:\n{error_file.read_text()}")
        yield ObjectServer(endpoint, process, error_file)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()  # it keeps nothing that would need an orderly end
    process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def make_bucket(endpoint: str) -> str:
    """Makes an empty bucket with a name that no other has; the name."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(f"{endpoint}/{name}", method="PUT")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        assert answer.status == 200
    return name


def client_environment(endpoint: str) -> dict[str, str]:
    """The environment variables with which a process finds the server, or a proxy in front of it."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


@contextlib.contextmanager
def pointed_at(endpoint: str, monkeypatch: "pytest.MonkeyPatch") -> Iterator[None]:
    """This process and what it starts find the server there."""
    from runner.storage.requests import forget_clients

    for name, value in client_environment(endpoint).items():
        monkeypatch.setenv(name, value)
    forget_clients()
    yield
    forget_clients()


def open_bucket(endpoint: str, bucket: str, *, max_retries: int = 0, timeout: str = "30s", **config: Any) -> "S3Store":
    """A client of one bucket.

    Args:
        max_retries: how often it asks again by itself; 10 is obstore's default.
        timeout: for one request, from its beginning to the end of its answer; obstore's default.
        config: more of what S3Store takes.
    """
    from obstore.store import S3Store

    return S3Store(
        bucket,
        endpoint=endpoint,
        access_key_id=ACCESS_KEY_ID,
        secret_access_key=SECRET_ACCESS_KEY,
        region=REGION,
        client_options={"allow_http": True, "timeout": timeout},
        retry_config={"max_retries": max_retries},
        **config,
    )


class WholeRequests:
    """Makes moto keep two promises of S3: a request counts as a whole or not at all, and writes come one by one.

    moto looks whether a condition holds, and later writes: of two clients that create an object at once, both would
    be told that they did.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self._one_write = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self._application(environ, start_response)

        # All of the body first: a client that stops in the middle must not keep the others waiting.
        in_chunks = environ.get("wsgi.input_terminated")  # then the stream ends with the body
        expected = sys.maxsize if in_chunks else int(environ.get("CONTENT_LENGTH") or 0)
        size = 0
        with tempfile.SpooledTemporaryFile(IN_MEMORY_SIZE) as body:
            while block := environ["wsgi.input"].read(min(BLOCK_SIZE, expected - size)):
                size += body.write(block)
            if size < expected and not in_chunks:
                start_response("400 Bad Request", [("Content-Length", "0")])
                return [b""]

            body.seek(0)
            environ |= {"wsgi.input": body, "wsgi.input_terminated": True, "CONTENT_LENGTH": str(size)}
            environ.pop("HTTP_TRANSFER_ENCODING", None)
            with self._one_write:
                return self._application(environ, start_response)


def main() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for each request

    class Handler(MotoRequestHandler):
        disable_nagle_algorithm = True

    application = WholeRequests(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
