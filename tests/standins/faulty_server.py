"""What the stand-ins share: a real HTTP server on loopback whose operations go wrong where a test says so.

Each `Faults` is a platform of its own below one path, so that many tests can run against one server.
"""

import socket
import struct
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

FaultKind = Literal["500", "404", "reset", "slow", "truncated"]

SLOW_S = 2.5
"""How long a slow answer takes."""
IMPATIENT = {"PSEG_HTTP_SILENCE_S": "1.2"}
"""The environment of clients that do not wait for a slow answer; where none is slow, a busy machine may take longer."""


@dataclass(slots=True)
class Fault:
    """What goes wrong with an operation.

    `reset`, `slow` and the statuses happen in place of the operation; `truncated` cuts the answer of one that was done.
    """

    operation: str
    kind: FaultKind
    times: int | None = 1
    """None: always."""
    where: str = ""
    """Part of the URN, name or schema that it is about."""

    def strikes(self, operation: str, what: str) -> bool:
        if self.operation != operation or self.where not in what or self.times == 0:
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(frozen=True, slots=True)
class Event:
    operation: str
    what: str


@dataclass(slots=True)
class Platform:
    """One platform: what goes wrong there, and what was done in which order."""

    url: str
    faults: list[Fault] = field(default_factory=list[Fault])
    events: list[Event] = field(default_factory=list[Event])
    """Operations that were done, in order."""
    aspects: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """What was attached, with `$entity`."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def records(self, schema: str) -> list[dict[str, Any]]:
        return [aspect for aspect in self.aspects if aspect["$schema"] == schema]

    def done(self, operation: str) -> list[str]:
        return [event.what for event in self.events if event.operation == operation]


_Platform = TypeVar("_Platform", bound=Platform)


class FaultyHandler(BaseHTTPRequestHandler, Generic[_Platform]):
    protocol_version = "HTTP/1.1"
    server: "FaultyServer[_Platform]"  # type: ignore[assignment]
    _cut = False

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the tests read what was asked from the platform."""

    @property
    def platform(self) -> _Platform:
        return self.server.platforms[self.path.split("/")[1]]

    @contextmanager
    def operation(self, operation: str, what: str) -> Generator[_Platform | None]:
        """The platform to work on, or None where a fault took the place of the operation."""
        platform = self.platform
        with platform.lock:
            fault = next((each for each in platform.faults if each.strikes(operation, what)), None)
        kind = None if fault is None else fault.kind
        self._cut = kind == "truncated"
        if kind is None or kind == "truncated":
            with platform.lock:
                platform.events.append(Event(operation, what))
                yield platform
            return
        if kind == "500" or kind == "404":
            self.answer(int(kind))
        elif kind == "slow":
            time.sleep(SLOW_S)
        else:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.connection.detach())
        self.close_connection = True
        yield None

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(
        self, status: int, body: bytes = b"", *, length: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        if self._cut and not body:
            self.wfile.write(b"HTTP/1.1 2")
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self._cut else body)
        self.close_connection |= self._cut


class FaultyServer(ThreadingHTTPServer, Generic[_Platform]):
    """The server; a context manager."""

    daemon_threads = True

    def __init__(self, handler: type[FaultyHandler[_Platform]], new_platform: type[_Platform]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.platforms: dict[str, _Platform] = {}
        self._new_platform = new_platform
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silence about connections that were cut, by the server or by an impatient client."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def platform(self) -> _Platform:
        """A new, empty platform."""
        name = f"platform-{len(self.platforms)}"
        self.platforms[name] = self._new_platform(f"http://127.0.0.1:{self.server_port}/{name}")
        return self.platforms[name]
