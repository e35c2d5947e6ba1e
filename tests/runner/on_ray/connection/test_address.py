"""Which Ray a command uses, and what it says of one that does not answer."""

import contextlib
import os
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

import runner.train
import runner.tune
from runner.errors import ResourceError
from runner.on_ray.connection import address as address_module
from runner.on_ray.connection.address import check_reachable, cluster_address
from tests.support.commands import finish, start, write_experiment

HEALTHY = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse(status=SERVING)


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def listening(handler: type[socketserver.BaseRequestHandler] | None = None) -> Iterator[str]:
    """The address of a server that accepts connections; without a handler it says nothing."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler or socketserver.BaseRequestHandler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        # Without a thread that accepts, connections wait in the queue, as those of a machine that hangs.
        if handler is not None:
            thread.start()
        yield "{}:{}".format(*server.server_address)
        if handler is not None:
            server.shutdown()
            thread.join()


class WebServer(socketserver.BaseRequestHandler):
    """Answers whatever comes as a web server does."""

    def handle(self) -> None:
        self.request.recv(1000)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


@contextlib.contextmanager
def head(*, has_health_service: bool = True) -> Iterator[str]:
    """The address of a gRPC server: as a cluster's head with the health service, without as the server of ray://."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    if has_health_service:
        check = grpc.unary_unary_rpc_method_handler(lambda request, context: HEALTHY)
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})]
        )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("option", "variable", "expected"),
    [
        (None, None, None),
        (None, "", None),
        (None, " ", None),
        ("", None, None),
        ("", "", None),
        (None, "a:1", "a:1"),
        ("", "a:1", "a:1"),
        ("b:2", "a:1", "b:2"),
        ("local", "a:1", None),
        (None, "local", None),
        ("auto", None, "auto"),
        ("auto", "a:1", "a:1"),
    ],
)
def test_no_address_has_one_meaning_however_it_is_written(
    monkeypatch: pytest.MonkeyPatch, option: str | None, variable: str | None, expected: str | None
) -> None:
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert cluster_address(option) == expected


def test_a_cluster_that_answers_is_accepted() -> None:
    with head() as address:
        check_reachable(address)
    with head(has_health_service=False) as address:
        check_reachable(f"ray://{address}")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_who_is_no_ray_is_refused(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_module, "PROBE_TIMEOUT_S", 1.0)
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ResourceError, match=f"--address is '{scheme}{address}', but no Ray answers there.*refused"):
        check_reachable(scheme + address)
    for handler in (None, WebServer):
        with listening(handler) as address, pytest.raises(ResourceError, match="something else than Ray has that port"):
            check_reachable(scheme + address)


def test_a_server_of_grpc_that_is_no_head_of_a_cluster_is_refused() -> None:
    with head(has_health_service=False) as address, pytest.raises(ResourceError, match="something else than Ray"):
        check_reachable(address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "http://127.0.0.1:8265", "host:port", "127.0.0.1:99999", "ray://", "[::1", ":6379"]
)
def test_what_is_no_address_is_refused_with_the_forms(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ResourceError, match=r"RAY_ADDRESS is .*: it must be HOST:PORT, ray://HOST:PORT"):
        check_reachable(address)


def test_a_name_that_is_looked_up_for_ever_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, over = threading.Event(), threading.Event()

    def look_up(*arguments: object, **options: object) -> None:
        asked.set()
        over.wait(30)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", look_up)
    monkeypatch.setattr(address_module, "PROBE_TIMEOUT_S", 0.2)
    with pytest.raises(ResourceError, match="no reply within"):
        check_reachable("some.where:6379")
    assert asked.is_set()
    over.set()


@pytest.mark.parametrize("arguments", [[], ["--dry-run"]])
def test_a_left_over_variable_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    storage = tmp_path / "results"
    command = [str(write_experiment(tmp_path)), "--storage", str(storage), *arguments]
    assert runner.tune.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: RAY_ADDRESS is '{address}', but no Ray answers there: Connection refused")
    assert "--address local uses this machine alone" in error
    assert not storage.exists()


@pytest.mark.parametrize(
    ("main", "option"), [(runner.train.main, "--in-process"), (runner.tune.main, "--address=local")]
)
def test_who_needs_no_cluster_does_not_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: Callable[[list[str]], int], option: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    assert main([str(write_experiment(tmp_path)), "--storage", str(tmp_path / "results"), "--dry-run", option]) == 0


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "number", "code"),
    [([], signal.SIGTERM, 75), ([], signal.SIGINT, 130), (["--time-limit", "9s"], 0, 75)],
)
def test_a_head_that_hangs_is_not_waited_for_once_asked_to_stop(
    tmp_path: Path, arguments: list[str], number: int, code: int
) -> None:
    with head() as address:
        command = [write_experiment(tmp_path), "--storage", tmp_path / "results", "--address", address, *arguments]
        process = start("runner.tune", *command)
        # The lease is taken before Ray is joined; from then on signals are requests.
        while not (tmp_path / "results/small/lock").exists():
            assert process.poll() is None, finish(process)
            time.sleep(0.05)  # a poll
        if number:
            os.kill(process.pid, number)
        output = finish(process, timeout_s=60)
    assert process.returncode == code, output
    assert "the same command goes on from the last checkpoint" in output
