"""A stand-in for the platform's data proxy: a real HTTP server on loopback that speaks its contract.

Each `Storage` is a platform of its own below one path, so that many orders can run against one server. Faults are
injected operation by operation:

| operation | request |
| --- | --- |
| read | GET of an artifact |
| look | HEAD of an artifact |
| take | GET of a queue: 307 with a token, or 204 |
| acknowledge | DELETE of a queue, with the token |
| upload | POST of a file |
| annotate | POST of an aspect |
"""

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

FaultKind = Literal["500", "404", "reset", "slow", "truncated"]
Operation = Literal["read", "look", "take", "acknowledge", "upload", "annotate"]

SLOW_S = 2.5
"""How long a slow answer takes: longer than clients under test are patient."""


@dataclass(slots=True)
class Fault:
    """What goes wrong with an operation.

    `reset`, `slow` and the statuses happen in place of the operation; `truncated` cuts the answer of one that was done.
    """

    operation: Operation
    kind: FaultKind
    times: int | None = 1
    """None: always."""
    where: str = ""
    """Part of the URN, name or schema that it is about."""

    def strikes(self, operation: Operation, what: str) -> bool:
        if self.operation != operation or self.where not in what or self.times == 0:
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(frozen=True, slots=True)
class Upload:
    urn: str
    name: str
    mime_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Event:
    operation: Operation
    what: str


@dataclass(slots=True)
class Storage:
    """One platform: what it holds, what was sent to it, and in which order."""

    url: str
    artifacts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    queue: list[str] = field(default_factory=list[str])
    """URNs that are not acknowledged; the first is handed out until it is."""
    faults: list[Fault] = field(default_factory=list[Fault])
    uploads: list[Upload] = field(default_factory=list[Upload])
    aspects: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    events: list[Event] = field(default_factory=list[Event])
    """Operations that were done, in order."""
    takes_acknowledgements: bool = True
    when_taken: Callable[[int], None] | None = None
    """Called with the number of images taken before."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, name: str, content: bytes, *, queued: bool = False) -> str:
        urn = f"urn:ivcap:artifact:{name}"
        self.artifacts[urn] = content
        if queued:
            self.queue.append(urn)
        return urn

    def records(self, schema: str) -> list[dict[str, Any]]:
        return [aspect for aspect in self.aspects if aspect["$schema"] == schema]

    def done(self, operation: Operation) -> list[str]:
        return [event.what for event in self.events if event.operation == operation]

    @property
    def masks(self) -> dict[str, bytes]:
        """Name to content; a name that was stored twice fails."""
        named = [each for each in self.uploads if each.name.endswith(".pseudo.png")]
        assert len({each.name for each in named}) == len(named), [each.name for each in named]
        return {each.name: each.content for each in named}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "DataProxy"  # type: ignore[assignment]

    def log_message(self, format: str, *args: object) -> None:
        """Silence: the tests read what was asked from the storage."""

    def do_HEAD(self) -> None:
        with self._operation("look", self._urn) as storage:
            if storage is not None:
                content = storage.artifacts.get(self._urn)
                self._answer(404 if content is None else 200, length=len(content or b""))

    def do_GET(self) -> None:
        if ":queue:" in self._urn:
            self._take()
            return
        with self._operation("read", self._urn) as storage:
            if storage is not None:
                content = storage.artifacts.get(self._urn)
                self._answer(404 if content is None else 200, content or b"")

    def _take(self) -> None:
        with self._operation("take", self._urn) as storage:
            if storage is None:
                return
            if storage.when_taken is not None:
                storage.when_taken(len(storage.done("take")) - 1)
            if storage.queue:
                first = storage.queue[0]
                headers = {"Location": f"{storage.url}/{first}", "X-Ack-Token": f"token-of-{first}"}
                self._answer(307, headers=headers)
            else:
                self._answer(204)

    def do_DELETE(self) -> None:
        urn = self._body().decode().removeprefix("token-of-")
        with self._operation("acknowledge", urn) as storage:
            if storage is not None:
                known = urn in storage.queue and storage.takes_acknowledgements
                if known:
                    storage.queue.remove(urn)
                self._answer(200 if known else 404)

    def do_POST(self) -> None:
        content = self._body()
        schema = self.headers.get("X-Meta-Data-Schema")
        if schema is None:
            self._upload(content)
            return
        entity = self.headers["X-Meta-Data-For-Entity"]
        with self._operation("annotate", f"{schema} {entity}") as storage:
            if storage is not None:
                aspect = json.loads(content)
                fits = aspect.get("$schema") == schema
                if fits:
                    storage.aspects.append({**aspect, "$entity": entity})
                self._answer(200 if fits else 400)

    def _upload(self, content: bytes) -> None:
        name = self.headers["X-Name"].encode("latin-1").decode()
        with self._operation("upload", name) as storage:
            if storage is not None:
                urn = f"urn:ivcap:artifact:out-{len(storage.uploads)}"
                storage.uploads.append(Upload(urn, name, self.headers["Content-Type"], content))
                body = json.dumps({"id": urn, "size": len(content)}).encode()
                self._answer(201, body, headers={"Location": f"{storage.url}/stored/{len(storage.uploads)}"})

    @property
    def _urn(self) -> str:
        return self.path.split("/", 2)[2]

    @contextmanager
    def _operation(self, operation: Operation, what: str) -> Generator[Storage | None]:
        """The storage to work on, or None where a fault took the place of the operation."""
        storage = self.server.storages[self.path.split("/")[1]]
        with storage.lock:
            fault = next((each for each in storage.faults if each.strikes(operation, what)), None)
        kind = None if fault is None else fault.kind
        self._cut = kind == "truncated"
        if kind is None or kind == "truncated":
            with storage.lock:
                storage.events.append(Event(operation, what))
                yield storage
            return
        if kind == "500" or kind == "404":
            self._answer(int(kind))
        elif kind == "slow":
            time.sleep(SLOW_S)
        else:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            socket.close(self.connection.detach())
        self.close_connection = True
        yield None

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(
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


class DataProxy(ThreadingHTTPServer):
    """The server; a context manager."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silence about connections that were cut, by the server or by an impatient client."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.storages: dict[str, Storage] = {}
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def storage(self) -> Storage:
        """A new, empty platform."""
        name = f"platform-{len(self.storages)}"
        self.storages[name] = Storage(f"http://127.0.0.1:{self.server_port}/{name}")
        return self.storages[name]
