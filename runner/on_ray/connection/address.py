"""Which Ray to use: a cluster's address, understood and tried before anything waits for it. Only `auto` loads Ray."""

import os
import socket
import threading
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from runner.errors import ResourceError
from runner.on_ray.connection.folders import known_token

if TYPE_CHECKING:
    import grpc

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
# Questions that whoever may use the cluster can ask: its head, and the server of ray:// addresses.
_HEAD_QUESTION = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_CLIENT_QUESTION = "/ray.rpc.RayletDriver/ClusterInfo"


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


class Access(NamedTuple):
    """How a cluster can be joined.

    Attributes:
        wants_token: whether it answers only to those with its token; None where only Ray itself can find out.
    """

    wants_token: bool | None


def check_reachable(address: str) -> Access:
    """How to join the cluster at an address that cluster_address returned.

    Raises:
        ResourceError: within ten seconds, where no Ray answers there, or it wants a token that we do not have. Ray
            itself would wait for a quarter of an hour.
    """
    named = f"{VARIABLE if os.environ.get(VARIABLE, '').strip() == address else OPTION} is {address!r}"
    endpoint = _endpoint(address, named)
    if endpoint is None:
        return Access(None)

    # In a thread, because looking a name up has no time limit of its own.
    found: list[Access | str] = []
    thread = threading.Thread(
        target=lambda: found.append(_probe(endpoint, is_client_server=is_client(address))), name="probe", daemon=True
    )
    thread.start()
    thread.join(PROBE_TIMEOUT_S)
    access = found[0] if found else f"no reply within {PROBE_TIMEOUT_S:.0f} s"
    if isinstance(access, str):
        at = "" if address == f"{endpoint.host}:{endpoint.port}" else f" ({endpoint.host}:{endpoint.port})"
        raise ResourceError(f"{named}, but no Ray answers there{at}: {access}. {_remedy()}")

    if access.wants_token:
        _check_token(named, endpoint, _CLIENT_QUESTION if is_client(address) else _HEAD_QUESTION)
    return access


def is_client(address: str | None) -> bool:
    """True for an address at which a server of the cluster speaks Ray in our place."""
    return address is not None and address.startswith(f"{_CLIENT_SCHEME}://")


def is_reachable(address: str) -> bool:
    """True where a Ray answers at an address that check_reachable has accepted, within some seconds."""
    endpoint = _endpoint(address, address)
    return endpoint is None or not isinstance(_probe(endpoint, is_client_server=is_client(address)), str)


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


def _probe(endpoint: _Endpoint, *, is_client_server: bool) -> Access | str:
    """How to join; a text where something keeps Ray from being spoken to there.

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
        return Access(None)  # only Ray has the keys to ask more

    import grpc  # Ray's own way to talk

    health = _ask(endpoint, _HEALTH_CHECK)
    has_no_health_service = health == grpc.StatusCode.UNIMPLEMENTED
    if health != grpc.StatusCode.OK and not (is_client_server and has_no_health_service):
        return "something else than Ray has that port"
    question = _CLIENT_QUESTION if is_client_server else _HEAD_QUESTION
    return Access(wants_token=_ask(endpoint, question) == grpc.StatusCode.UNAUTHENTICATED)


def _check_token(named: str, endpoint: _Endpoint, question: str) -> None:
    """Raises ResourceError where a cluster that wants a token does not take ours."""
    import grpc

    token, place = known_token()
    if token and _ask(endpoint, question, token) != grpc.StatusCode.UNAUTHENTICATED:
        return
    problem = f"it does not take the one in {place}" if token else f"there is none in {place}"
    raise ResourceError(
        f"{named}, and that cluster asks for a token, but {problem}. Copy ~/.ray/auth_token from the cluster's head, "
        "or give its content in RAY_AUTH_TOKEN."
    )


def _ask(endpoint: _Endpoint, question: str, token: str = "") -> "grpc.StatusCode":
    """How an empty question is answered."""
    import grpc

    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(f"{host}:{endpoint.port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(question)(b"", timeout=PROBE_TIMEOUT_S / 2 - 0.5, metadata=metadata)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK
