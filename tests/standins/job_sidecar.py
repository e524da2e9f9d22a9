"""A stand-in for the sidecar of jobs and the platform's interface behind it: a real HTTP server on loopback.

It answers what the platform's two libraries really ask. Faults are injected operation by operation:

| operation | request |
| --- | --- |
| next | GET /next_job |
| event | POST /events/{job} |
| result | POST /results/{job} |
| create | POST /1/artifacts: an artifact without content |
| send | PATCH /1/artifacts/{id}/blob: content, by the tus protocol |
| offset | HEAD /1/artifacts/{id}/blob: how much of it is there |
| look | GET /1/artifacts/{id} |
| read | GET /1/artifacts/{id}/blob |
| annotate | POST /1/aspects |
| list | GET /1/aspects, two a page |
| order | POST /1/services2/{service}/jobs: a job is created |
| state | GET /1/services2/{service}/jobs/{job}: its state, and its result when there is one |

With a `token` the platform answers only who brings it, as it does outside of its own containers.
"""

import base64
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.published import problem_of
from tests.standins.faulty_server import Fault, FaultyHandler, FaultyServer, Platform

JOB_DONE = {"$schema": "urn:ivcap:schema.service.batch.done.1"}
_CREATED = "2026-01-02T03:04:05+00:00"
_PAGE = 2


@dataclass(slots=True)
class Artifact:
    urn: str
    name: str
    mime_type: str
    size: int
    content: bytes = b""

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.urn,
            "name": self.name,
            "mime-type": self.mime_type,
            "size": self.size,
            "status": "ready" if len(self.content) == self.size else "pending",
            # The host is not the one that the worker reaches the platform by.
            "data-href": f"https://platform.example/1/artifacts/{self.urn}/blob",
            "links": [],
        }


@dataclass(frozen=True, slots=True)
class Result:
    job: str
    is_error: bool
    content: dict[str, Any]


@dataclass(slots=True)
class JobPlatform(Platform):
    jobs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    artifacts: dict[str, Artifact] = field(default_factory=dict[str, Artifact])
    stored: list[Artifact] = field(default_factory=list[Artifact])
    """Those that the worker made, whole or not."""
    results: list[Result] = field(default_factory=list[Result])
    progress: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    faults_in: dict[str, list[Fault]] = field(default_factory=dict[str, list[Fault]])
    """What goes wrong in a job, from the moment when it is handed out."""
    takes_at_most: int | None = None
    """After so many bytes of an upload the connection breaks, once."""
    when_read: Callable[[str], None] | None = None
    """Called with the URN of an artifact that is downloaded."""
    raw_answers: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """URN of an artifact or a collection to what is sent, headers included, when it is read."""
    asked: threading.Event = field(default_factory=threading.Event)
    """Set when a job was asked for and there was none."""
    jobs_named: set[str | None] = field(default_factory=set[str | None])
    """The jobs in whose name artifacts and aspects were asked for or stored; None: a request named none."""
    token: str | None = None
    """What has to be in the header of every request for artifacts, aspects and jobs."""
    keeps_waiting: bool = False
    """Whether a worker is left without an answer when there is no job."""

    def put(self, name: str, content: bytes) -> str:
        artifact = Artifact(
            f"urn:ivcap:artifact:{len(self.artifacts):04}", name, "application/octet-stream", len(content), content
        )
        self.artifacts[artifact.urn] = artifact
        return artifact.urn

    def submit(self, *faults: Fault, **parameters: Any) -> str:
        job = f"urn:ivcap:job:{len(self.jobs):04}"
        self.faults_in[job] = list(faults)
        self.jobs.append({"id": job, "in-content-type": "application/json", "in-content": parameters})
        return job

    def whole(self, suffix: str) -> list[Artifact]:
        return [each for each in self.stored if each.name.endswith(suffix) and len(each.content) == each.size]

    def names(self, what: str) -> str:
        """An artifact by its name, which faults are told by."""
        artifact = self.artifacts.get(what)
        return what if artifact is None else f"{artifact.name} {what}"


class _Handler(FaultyHandler[JobPlatform]):
    def do_GET(self) -> None:
        match self._permitted_route():
            case ["next_job"]:
                self._next()
            case ["1", "artifacts", urn]:
                self._look(urn)
            case ["1", "artifacts", urn, "blob"]:
                self._read(urn)
            case ["1", "aspects"]:
                self._list()
            case ["1", "services2", _, "jobs", job]:
                self._state(job)
            case []:
                self.answer(401, b"{}")
            case _:
                self.answer(404, b"{}")

    def do_POST(self) -> None:
        content = self.body()
        match self._permitted_route():
            case ["events", job]:
                with self.operation("event", job) as platform:
                    if platform is not None:
                        platform.progress.append(json.loads(content))
                        self.answer(200)
            case ["results", job]:
                with self.operation("result", job) as platform:
                    if platform is not None:
                        is_error = {"True": True, "False": False}[self.headers["Is-Error"]]
                        platform.results.append(Result(job, is_error, json.loads(content)))
                        self.answer(200)
            case ["1", "artifacts"]:
                self._create()
            case ["1", "aspects"]:
                self._annotate(json.loads(content))
            case ["1", "services2", service, "jobs"]:
                self._order(service, json.loads(content))
            case []:
                self.answer(401, b"{}")
            case _:
                self.answer(404, b"{}")

    def _permitted_route(self) -> list[str]:
        """The parts of the address; none, which no operation has, for who has no right to it."""
        if self._route[:2] in (["1", "artifacts"], ["1", "aspects"]):
            self.platform.jobs_named.add(self.headers["Ivcap-Job-Id"])
        token = self.platform.token
        if token is None or self._route[0] != "1" or self.headers["Authorization"] == f"Bearer {token}":
            return self._route
        return []

    def do_HEAD(self) -> None:
        urn = self._permitted_route()[2]
        with self.operation("offset", self.platform.names(urn)) as platform:
            if platform is not None:
                artifact = platform.artifacts[urn]
                self.answer(200, headers={"Upload-Offset": str(len(artifact.content)), "Tus-Resumable": "1.0.0"})

    def do_PATCH(self) -> None:
        content, urn = self.body(), self._permitted_route()[2]
        with self.operation("send", self.platform.names(urn)) as platform:
            if platform is None:
                return
            artifact = platform.artifacts[urn]
            if self.headers["Content-Type"] != "application/offset+octet-stream":
                self.answer(415)
            elif int(self.headers["Upload-Offset"]) != len(artifact.content):
                self.answer(409)
            elif platform.takes_at_most is not None:
                artifact.content += content[: platform.takes_at_most]
                platform.takes_at_most = None
                self.close_connection = True
            else:
                artifact.content += content
                self.answer(204, headers={"Upload-Offset": str(len(artifact.content)), "Tus-Resumable": "1.0.0"})

    @property
    def _route(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.path).path.split("/")[2:]]

    @property
    def _query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def _json(self, status: int, value: object) -> None:
        self.answer(status, json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    def _next(self) -> None:
        platform = self.platform
        if platform.keeps_waiting and not platform.jobs:
            platform.asked.set()
            time.sleep(10)
        with self.operation("next", "") as platform:
            if platform is not None:
                job = platform.jobs.pop(0) if platform.jobs else JOB_DONE
                platform.faults = platform.faults_in.get(job.get("id", ""), [])
                self._json(200, job)

    def _order(self, service: str, parameters: dict[str, Any]) -> None:
        with self.operation("order", service) as platform:
            if platform is not None:
                job = platform.submit(**parameters)
                location = f"{platform.url}/1/services2/{service}/jobs/{job}"
                self._json(202, {"location": location, "job-id": job, "retry-later": 0.2})

    def _state(self, job: str) -> None:
        with self.operation("state", job) as platform:
            if platform is None:
                return
            [result] = [each for each in platform.results if each.job == job] or [None]
            if result is None:
                self._json(200, {"id": job, "status": "executing"})
            else:
                state = "failed" if result.is_error else "succeeded"
                self._json(200, {"id": job, "status": state, "result-content": result.content})

    def _look(self, urn: str) -> None:
        with self.operation("look", self.platform.names(urn)) as platform:
            if platform is None:
                return
            artifact = platform.artifacts.get(urn)
            if artifact is None:
                self._json(404, {"id": urn, "message": "no such artifact"})
            else:
                self._json(200, artifact.as_json())

    def _read(self, urn: str) -> None:
        if self.platform.when_read is not None:
            self.platform.when_read(urn)
        with self.operation("read", self.platform.names(urn)) as platform:
            if platform is not None and not self._answered_raw(urn):
                self.answer(200, platform.artifacts[urn].content)

    def _answered_raw(self, urn: str) -> bool:
        raw = self.platform.raw_answers.get(urn)
        if raw is not None:
            self.wfile.write(raw)
            self.close_connection = True
        return raw is not None

    def _create(self) -> None:
        name = base64.b64decode(self.headers["X-Name"]).decode()
        with self.operation("create", name) as platform:
            if platform is not None:
                urn = f"urn:ivcap:artifact:out-{len(platform.stored)}"
                size = int(self.headers["X-Content-Length"])
                platform.artifacts[urn] = Artifact(urn, name, self.headers["X-Content-Type"], size)
                platform.stored.append(platform.artifacts[urn])
                self._json(201, platform.artifacts[urn].as_json())

    def _annotate(self, aspect: dict[str, Any]) -> None:
        entity, schema = self._query["entity"], self._query["schema"]
        with self.operation("annotate", f"{schema} {entity}") as platform:
            if platform is None:
                return
            if (aspect["$entity"], aspect["$schema"]) != (entity, schema):
                self._json(400, {"message": "entity or schema differ"})
                return
            if problem := problem_of(aspect):
                self._json(422, {"message": problem})
                return
            platform.aspects.append(aspect)
            self._json(200, {"id": f"urn:ivcap:aspect:{len(platform.aspects):04}"})

    def _list(self) -> None:
        entity, schema = self._query["entity"], self._query["schema"]
        with self.operation("list", f"{schema} {entity}") as platform:
            if platform is None or self._answered_raw(entity):
                return
            found = [each for each in platform.records(schema) if each["$entity"] == entity]
            page = int(self._query.get("page", "0"))
            links = [{"rel": "self", "href": self.path, "type": "application/json"}]
            if len(found) > (page + 1) * _PAGE:
                links.append({"rel": "next", "href": f"/1/aspects?page={page + 1}", "type": "application/json"})
            items = [
                {
                    "id": "urn:ivcap:aspect:1",
                    "entity": entity,
                    "schema": schema,
                    "content": each,
                    "content-type": "application/json",
                    "valid-from": _CREATED,
                }
                for each in found[page * _PAGE : (page + 1) * _PAGE]
            ]
            self._json(200, {"at-time": _CREATED, "items": items, "links": links})


def job_sidecar() -> FaultyServer[JobPlatform]:
    return FaultyServer(_Handler, JobPlatform)
