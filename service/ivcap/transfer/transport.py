"""Limits of time and size, and retries, for libraries whose requests have neither.

`requests.get` and its kin open a session for one call, and a session mounts what it finds as `HTTPAdapter`.
`limited_requests` puts an adapter there that limits the time of every request, reads the whole answer before anybody
sees it, and asks again after a pause when what went wrong may pass: no connection, a connection that was cut or reset,
no answer in time, an answer that was cut off, status 408, 423, 425, 429 or 500 and above. Another status is handed on
as it is.

A request that stores something is sent again, too, although it may have been carried out the first time: rather twice
than not at all. A redirection that would leave out what is to be stored is refused.

The body of an answer may have so many bytes and no more: `Sizes` says how many for each kind, and `receiving` which
kind a block of code asks for. The size that an answer states is compared before a byte of the body is read, and what
comes is counted. Bodies are asked for as they are, and one that is packed for the transfer is refused: no few bytes
become many. A large body waits in a temporary file. Answers that are refused are not asked for again.

`service.ivcap.transfer.limited_httpx` does the same for the other library of requests, with what stands here.
"""

# requests keeps the types of its options to itself.
# ruff: noqa: ANN401

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, Self
from urllib.parse import urlsplit

import requests
import requests.sessions
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import rewind_body
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from service.ivcap.transfer.limits import Allowance, RetryPolicy, Sizes, TransferError

_log = logging.getLogger(__name__)
PIECE_BYTES = 1 << 16
_BYTES_IN_MEMORY = 8 << 20
# A store may lock an upload that was cut off until it notices.
_PASSING_STATUSES = frozenset({408, 423, 425, 429})
# What is redirected like this arrives at the other address without its body.
_REDIRECTIONS_WITHOUT_BODY = frozenset({301, 302, 303})
_MOST_DIGITS = 18


def may_pass(status: int) -> bool:
    """Tell whether what a status says may be over in a moment.

    >>> [status for status in (200, 404, 409, 423, 429, 503) if may_pass(status)]
    [423, 429, 503]
    """
    return status >= 500 or status in _PASSING_STATUSES


@dataclass(frozen=True, slots=True)
class _Receipt:
    allowance: Allowance
    folder: Path | None


_receipt: ContextVar[_Receipt | None] = ContextVar("receipt", default=None)


@contextmanager
def receiving(allowance: Allowance, folder: Path | None = None) -> Generator[None]:
    """Say what the requests of a block and of its thread are answered with; elsewhere it is records.

    A large answer waits in `folder`; without it, in the system's folder for temporary files.
    """
    token = _receipt.set(_Receipt(allowance, folder))
    try:
        yield
    finally:
        _receipt.reset(token)


class Body(SpooledTemporaryFile[bytes]):
    """The body of an answer: in memory, or if it is large, in a file that has no name.

    As those of real connections are, it is closed when it is read to its end.

    Attributes:
        size_bytes: what has been written.
    """

    def __init__(self, record: Allowance, address: str) -> None:
        receipt = _receipt.get() or _Receipt(record, None)
        super().__init__(_BYTES_IN_MEMORY, dir=None if receipt.folder is None else str(receipt.folder))
        self._allowance = receipt.allowance
        self._address = address
        self.size_bytes = 0

    def require_acceptable(self, status: int, headers: Mapping[str, str]) -> None:
        """Refuse (TransferError) what is not the whole answer, and a body that is packed, too large or of no size."""
        if status < HTTPStatus.OK or status == HTTPStatus.PARTIAL_CONTENT:
            raise TransferError(
                f"{self._address} was answered in part, which was not asked for ({status})", self._address
            )
        packed = headers.get("Content-Encoding", "").strip().lower()
        if packed not in {"", "identity"}:
            raise TransferError(
                f"came packed for the transfer (Content-Encoding: {packed[:80]!r}), which was not asked for and is not "
                "taken: have it served as it is",
                self._address,
            )
        stated = {each.strip() for each in headers.get("Content-Length", "0").split(",")}
        for each in stated:
            if not (each.isascii() and each.isdigit()):
                raise TransferError(f"states a size that is none (Content-Length: {each[:80]!r})", self._address)
            self._allowance.require(int(each[: _MOST_DIGITS + 1]), self._address)

    def add(self, piece: bytes) -> None:
        """Write what came; TransferError if the body gets too large."""
        self.size_bytes += len(piece)
        self._allowance.require(self.size_bytes, self._address)
        self.write(piece)

    def read(self, *size: Any) -> bytes:
        piece = super().read(*size)
        if self.tell() == self.size_bytes:
            self.close()
        return piece


@dataclass(slots=True)
class Deadline:
    """Hangs up when time is over, whatever the other side does meanwhile; a context manager.

    A limit on silence alone is kept by whoever sends a byte now and then. `passed` tells whether it hung up.
    """

    seconds: float
    passed: bool = field(default=False, init=False)
    _sockets: list[socket.socket] = field(default_factory=list[socket.socket], init=False)
    _timer: threading.Timer = field(init=False)

    def __enter__(self) -> Self:
        self._timer = threading.Timer(min(self.seconds, threading.TIMEOUT_MAX), self._hang_up)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._timer.cancel()

    def watch(self, connection: socket.socket | None) -> None:
        if connection is not None:
            self._sockets.append(connection)
            if self.passed:
                self._hang_up()

    def _hang_up(self) -> None:
        self.passed = True
        for each in self._sockets:
            # It may be closed already.
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


_deadline: ContextVar[Deadline] = ContextVar("deadline")


class _WatchedConnection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _deadline.get().watch(self.sock)


class _WatchedSecureConnection(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _deadline.get().watch(self.sock)


class _WatchedPool(HTTPConnectionPool):
    ConnectionCls = _WatchedConnection  # pyright: ignore[reportAssignmentType]  (as urllib3 itself does)


class _WatchedSecurePool(HTTPSConnectionPool):
    ConnectionCls = _WatchedSecureConnection  # pyright: ignore[reportAssignmentType]


def _watched(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    watched: dict[str, type[HTTPConnectionPool] | type[HTTPSConnectionPool]]
    watched = {"http": _WatchedPool, "https": _WatchedSecurePool}
    manager.pool_classes_by_scheme = watched  # pyright: ignore[reportAttributeAccessIssue]  (made for that)
    return manager


AllowedHosts = Callable[[], frozenset[str] | None]
"""Hosts, with their ports where these are stated, that may be asked; None: all."""


def _any_host() -> None:
    return None


def _is_link_local(host: str) -> bool:
    """Whether a host is an address of this link alone, where clouds keep the credentials of machines.

    >>> [_is_link_local(host) for host in ("169.254.169.254", "2852039166", "::ffff:169.254.1.1", "reef.example")]
    [True, True, True, False]
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            # One number, too, is an address for the system.
            address = ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return False
    # The newer kind of address may hold one of the older kind.
    return (getattr(address, "ipv4_mapped", None) or address).is_link_local


class _PassingError(requests.HTTPError):
    """A status that may be another one in a moment."""

    def __init__(self, request: requests.PreparedRequest, response: requests.Response) -> None:
        message = f"{request.method} {request.url}: {response.status_code} {response.reason}"
        super().__init__(message, request=request, response=response)
        self.headers: Mapping[str, str] = response.headers


class LimitedAdapter(HTTPAdapter):
    """Sends requests with limits, and again where that may help."""

    def __init__(self, policy: RetryPolicy, sizes: Sizes, hosts: AllowedHosts = _any_host) -> None:
        super().__init__()
        self._policy = policy
        self._sizes = sizes
        self._hosts = hosts

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Make connections such that a deadline can end them."""
        super().init_poolmanager(*arguments, **options)
        _watched(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> urllib3.PoolManager:
        """Make connections to a proxy such that a deadline can end them."""
        return _watched(super().proxy_manager_for(proxy, **options))

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send a request until it is answered, or the retries are used up; its answer must not be packed.

        `stream` and `timeout` have no effect: the answer is always read, and the limits of the adapter hold. Raises
        requests.RequestException, what went wrong with the last attempt, or TransferError: the address must not be
        asked, or the answer not be taken.
        """
        self._require_allowed(str(request.url))
        request.headers["Accept-Encoding"] = "identity"
        send_once = partial(self._send_once, request, verify=verify, cert=cert, proxies=proxies)
        for pause_s in self._policy.pauses_s():
            try:
                return send_once()
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                _log.warning("%s %s: %s; again in %g s", request.method, request.url, error, pause_s)
            except _PassingError as error:
                pause_s = self._policy.pause_after(error.headers, pause_s)
                _log.warning("%s; again in %g s", error, pause_s)
            time.sleep(pause_s)
            if hasattr(request.body, "read"):
                rewind_body(request)
        return send_once()

    def _require_allowed(self, address: str) -> None:
        parts, hosts = urlsplit(address), self._hosts()
        if _is_link_local(parts.hostname or ""):
            raise TransferError(f"{address} is not asked: it is an address of this machine's own link", address)
        if hosts is not None and parts.netloc.lower() not in hosts:
            raise TransferError(
                f"{address} is not asked: its host is none of {', '.join(sorted(hosts))}; if the platform keeps "
                "files there, name the host in PSEG_HTTP_HOSTS",
                address,
            )

    def _send_once(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        timeout = (self._policy.connect_s, self._policy.silence_s)
        with Deadline(self._policy.answer_s) as deadline:
            token = _deadline.set(deadline)
            try:
                response = super().send(request, stream=True, timeout=timeout, **options)
                answer = self._received(request, response)
            except requests.RequestException as error:
                if not deadline.passed:
                    raise
                raise self._too_late(request) from error
            finally:
                _deadline.reset(token)
        if deadline.passed:
            # A body without a stated length seems to end where it was cut off.
            raise self._too_late(request)
        return answer

    def _too_late(self, request: requests.PreparedRequest) -> requests.ReadTimeout:
        return requests.ReadTimeout(f"no whole answer in {self._policy.answer_s:g} s", request=request)

    def _received(self, request: requests.PreparedRequest, response: requests.Response) -> requests.Response:
        raw: urllib3.HTTPResponse = response.raw
        body = Body(self._sizes.record, str(request.url))
        try:
            if may_pass(response.status_code):
                raise _PassingError(request, response)
            if response.status_code in _REDIRECTIONS_WITHOUT_BODY and request.method not in {"GET", "HEAD"}:
                raise TransferError(
                    f"{request.method} {request.url} is redirected to {response.headers.get('Location')} with status "
                    f"{response.status_code}, by which what was sent would be lost: have it answered there, or "
                    "redirected with 307 or 308",
                    str(request.url),
                )
            if request.method != "HEAD":
                body.require_acceptable(response.status_code, response.headers)
            while piece := raw.read1(PIECE_BYTES, decode_content=False):
                body.add(piece)
        except urllib3.exceptions.ReadTimeoutError as error:
            body.close()
            raise requests.ReadTimeout(error, request=request) from error
        except urllib3.exceptions.ProtocolError as error:
            body.close()
            raise requests.exceptions.ChunkedEncodingError(error, request=request) from error
        except BaseException:
            body.close()
            raise
        finally:
            response.close()
        body.seek(0)
        return self.build_response(
            request,
            urllib3.HTTPResponse(
                body,
                headers=raw.headers,
                status=raw.status,
                reason=raw.reason,
                preload_content=False,
                request_method=request.method,
            ),
        )


@contextmanager
def limited_requests(
    policy: RetryPolicy, sizes: Sizes | None = None, hosts: AllowedHosts = _any_host
) -> Generator[None]:
    """Impose limits on all requests that `requests` sends, by whichever library, until the block ends."""
    usual = requests.sessions.HTTPAdapter  # pyright: ignore[reportPrivateImportUsage]
    # requests makes its sessions deep inside its functions: no argument carries an adapter there.
    adapter = partial(LimitedAdapter, policy, sizes or Sizes(), hosts)
    requests.sessions.HTTPAdapter = adapter  # pyright: ignore
    try:
        yield
    finally:
        requests.sessions.HTTPAdapter = usual  # pyright: ignore[reportPrivateImportUsage]


def limited_session(policy: RetryPolicy) -> requests.Session:
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, LimitedAdapter(policy, Sizes()))
    return session
