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

Below `cache/` it is the platform's cache, which knows `addresses`.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tests.published import problem_of
from tests.standins.faulty_server import Fault, FaultKind, FaultyHandler, FaultyServer, Platform

__all__ = ["DataProxy", "Fault", "FaultKind", "Operation", "Storage", "Upload"]

Operation = Literal["read", "look", "take", "acknowledge", "upload", "annotate"]


@dataclass(frozen=True, slots=True)
class Upload:
    urn: str
    name: str
    mime_type: str
    content: bytes


@dataclass(slots=True)
class Storage(Platform):
    """One platform: what it holds, what was sent to it, and in which order."""

    artifacts: dict[str, bytes] = field(default_factory=dict[str, bytes])
    addresses: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """What lies elsewhere and is fetched by the platform's cache."""
    elsewhere: dict[str, str] = field(default_factory=dict[str, str])
    """URNs in the queue that are handed out with another address than the storage's."""
    queue: list[str] = field(default_factory=list[str])
    """URNs that are not acknowledged; the first is handed out until it is."""
    uploads: list[Upload] = field(default_factory=list[Upload])
    takes_acknowledgements: bool = True
    when_taken: Callable[[int], None] | None = None
    """Called with the number of images taken before."""

    @property
    def cache_url(self) -> str:
        return f"{self.url}/cache"

    def content_of(self, name: str) -> bytes | None:
        """Of an artifact, or of an address as the library writes it for the cache."""
        if name.startswith("cache/"):
            coded = name.removeprefix("cache/")
            name = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode()
        return self.artifacts.get(name, self.addresses.get(name))

    def put(self, name: str, content: bytes, *, queued: bool = False) -> str:
        urn = f"urn:ivcap:artifact:{name}"
        self.artifacts[urn] = content
        if queued:
            self.queue.append(urn)
        return urn

    @property
    def masks(self) -> dict[str, bytes]:
        """Name to content; a name that was stored twice fails."""
        named = [each for each in self.uploads if each.name.endswith(".pseudo.png")]
        assert len({each.name for each in named}) == len(named), [each.name for each in named]
        return {each.name: each.content for each in named}


class _Handler(FaultyHandler[Storage]):
    def do_HEAD(self) -> None:
        with self.operation("look", self._urn) as storage:
            if storage is not None:
                content = storage.content_of(self._urn)
                self.answer(404 if content is None else 200, length=len(content or b""))

    def do_GET(self) -> None:
        if ":queue:" in self._urn:
            self._take()
            return
        with self.operation("read", self._urn) as storage:
            if storage is not None:
                content = storage.content_of(self._urn)
                self.answer(404 if content is None else 200, content or b"")

    def _take(self) -> None:
        with self.operation("take", self._urn) as storage:
            if storage is None:
                return
            if storage.when_taken is not None:
                storage.when_taken(len(storage.done("take")) - 1)
            if storage.queue:
                first = storage.queue[0]
                headers = {
                    "Location": storage.elsewhere.get(first, f"{storage.url}/{first}"),
                    "X-Ack-Token": f"token-of-{first}",
                }
                self.answer(307, headers=headers)
            else:
                self.answer(204)

    def do_DELETE(self) -> None:
        urn = self.body().decode().removeprefix("token-of-")
        with self.operation("acknowledge", urn) as storage:
            if storage is not None:
                known = urn in storage.queue and storage.takes_acknowledgements
                if known:
                    storage.queue.remove(urn)
                self.answer(200 if known else 404)

    def do_POST(self) -> None:
        content = self.body()
        schema = self.headers.get("X-Meta-Data-Schema")
        if schema is None:
            self._upload(content)
            return
        entity = self.headers["X-Meta-Data-For-Entity"]
        with self.operation("annotate", f"{schema} {entity}") as storage:
            if storage is not None:
                aspect = json.loads(content)
                fits = aspect.get("$schema") == schema and problem_of(aspect) is None
                if fits:
                    storage.aspects.append({**aspect, "$entity": entity})
                self.answer(200 if fits else 400)

    def _upload(self, content: bytes) -> None:
        name = self.headers["X-Name"].encode("latin-1").decode()
        with self.operation("upload", name) as storage:
            if storage is not None:
                urn = f"urn:ivcap:artifact:out-{len(storage.uploads)}"
                storage.uploads.append(Upload(urn, name, self.headers["Content-Type"], content))
                body = json.dumps({"id": urn, "size": len(content)}).encode()
                self.answer(201, body, headers={"Location": f"{storage.url}/stored/{len(storage.uploads)}"})

    @property
    def _urn(self) -> str:
        return self.path.split("/", 2)[2]


class DataProxy(FaultyServer[Storage]):
    """The server; a context manager."""

    def __init__(self) -> None:
        super().__init__(_Handler, Storage)

    def storage(self) -> Storage:
        """A new, empty platform."""
        return self.platform()
