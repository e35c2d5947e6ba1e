"""Web addresses without their secrets, and requests that follow no redirect into danger."""

import base64
import email.utils
import hashlib
import http
import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from runner.errors import DataError

_SCHEMES = ("http", "https")
_SAFE = "/%:@!$&'()*+,;=-._~"
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_STATUS_HINTS = {
    401: ": it asks for a user and a password, which https://USER:PASSWORD@HOST/PATH gives",
    403: ": not everybody may have this file; https://USER:PASSWORD@HOST/PATH gives a user and a password",
    404: ": there is no such file",
    407: ": the proxy asks for a user and a password",
}


@dataclass(frozen=True)
class WebAddress:
    """An http or https address.

    Attributes:
        url: all of it but user, password and fragment.
        authorization: the header that user and password make; None where the address has none.
    """

    url: str
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> "WebAddress":
        """Reads an address as a person writes it. Raises DataError, which shows no password."""
        shown = without_secrets(text)
        try:
            parts = urlsplit(text)
            name, port = (parts.hostname or "").encode("idna").decode(), parts.port
        except ValueError:
            # The error is not passed on: it quotes what it could not read, which may be a password.
            raise DataError(
                f"{shown} is no address: its host or port can't be read. In a user's name and a password, write "
                "/ ? # @ : as %2F %3F %23 %40 %3A."
            ) from None
        if parts.scheme not in _SCHEMES:
            raise DataError(
                f"{shown} begins with {parts.scheme}: only http and https are fetched. Download it by other means, "
                "and give the archive's path."
            )
        if "@" in parts.path and parts.username is None and port is not None:
            # A password with a slash: what stands before the slash looks like a host and a port.
            raise DataError(f"{shown} is no plain address: write @ in a path as %40, and / in a password as %2F.")
        if not name or not re.fullmatch(r"[\w.:%-]+", name):
            raise DataError(f"{shown} names no host: write {parts.scheme}://HOST/PATH.")

        # Rebuilt from its parts, so that user and password are in no request line and in no message.
        host = (f"[{name}]" if ":" in name else name) + ("" if port is None else f":{port}")
        path, query = quote(parts.path or "/", safe=_SAFE), quote(parts.query, safe=_SAFE + "?")
        authorization = None
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = "Basic " + base64.b64encode(secret.encode()).decode()
        return cls(urlunsplit((parts.scheme, host, path, query, "")), authorization)

    @property
    def shown(self) -> str:
        """The address for messages and records. The query is left out, because it may hold a key."""
        bare, mark, _ = self.url.partition("?")
        return bare + ("?..." if mark else "")

    @property
    def identity(self) -> str:
        """16 hexadecimal digits that tell this address from others."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:16]

    @property
    def host(self) -> str:
        """Scheme, host and port: who may be told the password."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


def without_secrets(text: str) -> str:
    """An address without user, password, query and fragment, whether it is a valid one or not."""
    # Up to the last @, because a password that was not escaped may have any character.
    text = re.sub(r"(?<=//).*@", "", text, flags=re.DOTALL)
    bare, mark, _ = text.partition("#")[0].partition("?")
    return ascii(bare)[1:-1] + ("?..." if mark else "")


class Unreachable(Exception):
    """A request that brought no file, or not all of it.

    Attributes:
        reason: in words, to stand after the address.
        transient: True where the same request may bring it later.
        silent: True where nobody has answered.
        wait_s: how long the server asks to wait; None where it does not say.
        status: HTTP's; 0 where there is none.
        headers: those of the answer, where there is one.
    """

    def __init__(
        self,
        reason: str,
        *,
        transient: bool = False,
        silent: bool = False,
        wait_s: float | None = None,
        status: int = 0,
        headers: Message | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.transient = transient
        self.silent = silent
        self.wait_s = wait_s
        self.status = status
        self.headers = headers or Message()


def open_address(address: WebAddress, headers: Mapping[str, str], timeout_s: float) -> HTTPResponse:
    """Asks for an address, through the proxy that the environment names, and follows redirects.

    Args:
        timeout_s: the longest silence while connecting, and between two bytes.

    Returns:
        The answer, with a status from 200 to 299.

    Raises:
        Unreachable: there is no such answer.
    """
    director = urllib.request.OpenerDirector()
    director.addheaders = [("User-Agent", "pix2pix-runner")]
    # Not urllib's own opener: it would open file:, data: and ftp: addresses, too.
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(address),
    ):
        director.add_handler(handler)

    scheme, mark, _ = _proxy(address).partition("://")
    if mark and scheme not in _SCHEMES:
        # urllib would speak HTTP to it all the same.
        raise Unreachable(f"it can't be asked{_through(address)}: only proxies that begin with http:// are used")
    try:
        answer: HTTPResponse = director.open(_request(address, headers), timeout=timeout_s)
    except (OSError, HTTPException, ValueError) as error:
        raise explained(error, address) from None
    return answer


def _request(address: WebAddress, headers: Mapping[str, str]) -> urllib.request.Request:
    request = urllib.request.Request(address.url, headers=dict(headers))
    if address.authorization:
        # Not among the headers that urllib hands on to whoever is redirected to.
        request.add_unredirected_header("Authorization", address.authorization)
    return request


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and never from https to http."""

    def __init__(self, address: WebAddress) -> None:
        self._address = address

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> HTTPResponse | None:
        """Refuses other schemes before the base class does, whose error shows the whole address."""
        target = headers.get("location") or headers.get("uri") or ""
        try:
            scheme = urlsplit(urljoin(req.full_url, target)).scheme
        except ValueError:
            scheme = ""
        if scheme not in _SCHEMES:
            fp.close()
            raise Unreachable(f"it redirects to {without_secrets(target)}, and only http and https are followed")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request:
        """The request for where a redirect leads. The password goes along to the same host only."""
        fp.close()
        try:
            address = WebAddress.parse(newurl)
        except DataError as error:
            raise Unreachable(f"it redirects to an address that can't be used ({error})") from None
        if req.full_url.startswith("https:") and address.url.startswith("http:"):
            raise Unreachable(
                f"it redirects to {address.shown}, which is not encrypted; give that address if you trust it"
            )
        if address.authorization is None and address.host == self._address.host:
            address = WebAddress(address.url, self._address.authorization)
        return _request(address, req.headers)


def explained(error: Exception, address: WebAddress) -> Unreachable:
    """What an error means that a request, or reading its answer, has raised."""
    if isinstance(error, Unreachable):
        return error
    if isinstance(error, HTTPError):
        return _explained_status(error)
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        return explained(error.reason, address)

    through = _through(address)
    if isinstance(error, TimeoutError):
        return Unreachable(f"it does not answer in time{through}", transient=True, silent=True)
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = getattr(error, "verify_message", "") or error
        return Unreachable(
            f"its certificate is not valid ({reason}){through}: set the clock right, or let SSL_CERT_FILE name the "
            "certificates of your network"
        )
    if isinstance(error, socket.gaierror):
        name = "the name of the proxy" if through else f"the name {urlsplit(address.url).hostname}"
        return Unreachable(f"{name} can't be resolved ({error.strerror}){through}", transient=True, silent=True)
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or "broken off"
        return Unreachable(f"the connection failed ({reason}){through}", transient=True, silent=True)
    return Unreachable(f"its answer can't be read ({type(error).__name__})", transient=True)


def _explained_status(error: HTTPError) -> Unreachable:
    """An answer with a status that is no success. The server's own words for it are not shown."""
    error.close()
    if 300 <= error.code < 400:
        return Unreachable("it redirects in a circle, or to nowhere")
    try:
        phrase = f"{error.code} {http.HTTPStatus(error.code).phrase}"
    except ValueError:
        phrase = str(error.code)
    return Unreachable(
        f"it answers {phrase}{_STATUS_HINTS.get(error.code, '')}",
        transient=error.code in _TRANSIENT,
        wait_s=_retry_after_s(error.headers.get("Retry-After")),
        status=error.code,
        headers=error.headers,
    )


def _retry_after_s(text: str | None) -> float | None:
    """The seconds that a header Retry-After asks for, as a number or as a date."""
    if text is None:
        return None
    if re.fullmatch(r"\d{1,9}", text.strip(), re.ASCII):
        return float(text)
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None


def _through(address: WebAddress) -> str:
    """Which proxy is used, because it may be the cause; nothing where there is none."""
    proxy = _proxy(address)
    shown = without_secrets(proxy if "//" in proxy else f"//{proxy}")
    return f", asked through {shown} ({urlsplit(address.url).scheme}_proxy)" if proxy else ""


def _proxy(address: WebAddress) -> str:
    """The proxy that the environment names for an address; empty where there is none."""
    parts = urlsplit(address.url)
    return "" if urllib.request.proxy_bypass(parts.netloc) else urllib.request.getproxies().get(parts.scheme, "")
