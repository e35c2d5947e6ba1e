"""Which Ray to use: a cluster's address, understood and tried before anything waits for it. Only `auto` loads Ray."""

import os
import socket
import threading
from typing import NamedTuple
from urllib.parse import urlsplit

from runner.errors import ResourceError

VARIABLE = "RAY_ADDRESS"
OPTION = "--address"
LOCAL = "local"
AUTO = "auto"

# All that a probe may take: looking up the name, connecting, and the first reply.
PROBE_TIMEOUT_S = 8.0
_CLIENT_SCHEME, _CLIENT_PORT = "ray", 10001
_FORMS = "HOST:PORT, ray://HOST:PORT, `auto` for a cluster that runs on this machine, or `local` for none"
# The question of https://grpc.io/docs/guides/health-checking that the head of a cluster answers, without a token too.
_HEALTH_CHECK = "/grpc.health.v1.Health/Check"


class _Endpoint(NamedTuple):
    host: str
    port: int


def cluster_address(option: str | None) -> str | None:
    """The address of the cluster to join; None for a Ray of our own.

    As for Ray itself, an empty RAY_ADDRESS is none. An empty option is as if it were not given, and so is `auto`, where
    RAY_ADDRESS has an address.

    Args:
        option: --address; None or "" where it was not given.
    """
    address, variable = (option or "").strip(), os.environ.get(VARIABLE, "").strip()
    if address in ("", AUTO) and variable:
        address = variable
    return None if address in ("", LOCAL) else address


def check_reachable(address: str) -> None:
    """Raises ResourceError where no Ray answers at an address that cluster_address returned, within ten seconds.

    Ray itself would wait for a quarter of an hour.
    """
    named = f"{VARIABLE if os.environ.get(VARIABLE, '').strip() == address else OPTION} is {address!r}"
    endpoint = _endpoint(address, named)
    if endpoint is None:
        return

    is_client = address.startswith(f"{_CLIENT_SCHEME}://")
    # In a thread, because looking a name up has no time limit of its own.
    problems: list[str] = []
    thread = threading.Thread(
        target=lambda: problems.append(_probe(endpoint, is_client_server=is_client)), name="probe", daemon=True
    )
    thread.start()
    thread.join(PROBE_TIMEOUT_S)
    problem = problems[0] if problems else f"no reply within {PROBE_TIMEOUT_S:.0f} s"
    if problem:
        at = "" if address == f"{endpoint.host}:{endpoint.port}" else f" ({endpoint.host}:{endpoint.port})"
        raise ResourceError(f"{named}, but no Ray answers there{at}: {problem}. {_remedy()}")


def _remedy() -> str:
    return f"Start that cluster or correct the address; {OPTION} {LOCAL} uses this machine alone."


def _endpoint(address: str, named: str) -> _Endpoint | None:
    """Where to try an address; None where only Ray knows.

    Raises:
        ResourceError: it is no address, or `auto` finds no cluster.
    """
    if address == AUTO:
        from runner.on_ray.private import running_cluster

        found = running_cluster()
        if found is None:
            raise ResourceError(f"{named}, but no Ray is running on this machine. {_remedy()}")
        address = found

    scheme, separator, rest = address.rpartition("://")
    if separator and scheme not in (_CLIENT_SCHEME, "http", "https"):
        return None  # a scheme of another library
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port or (_CLIENT_PORT if scheme == _CLIENT_SCHEME else None)
    except ValueError:
        host = port = None
    if scheme in ("http", "https") or not host or not port:
        raise ResourceError(f"{named}: it must be {_FORMS}.")
    return _Endpoint(host, port)


def _probe(endpoint: _Endpoint, *, is_client_server: bool) -> str:
    """What keeps Ray from being spoken to there; "" for nothing.

    Args:
        is_client_server: it is that of ray:// addresses, which has no health service.
    """
    try:
        socket.create_connection(endpoint, timeout=PROBE_TIMEOUT_S / 2).close()
    except TimeoutError:
        return f"no reply within {PROBE_TIMEOUT_S / 2:.0f} s"
    except OSError as error:
        return error.strerror or str(error)
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return ""  # only Ray has the keys to ask more

    import grpc  # Ray's own way to talk

    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    with grpc.insecure_channel(f"{host}:{endpoint.port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_HEALTH_CHECK)(b"", timeout=PROBE_TIMEOUT_S / 2 - 0.5)
        except grpc.RpcError as error:
            has_no_health_service = error.code() == grpc.StatusCode.UNIMPLEMENTED
            return "" if is_client_server and has_no_health_service else "something else than Ray has that port"
    return ""
