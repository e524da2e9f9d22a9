"""The entry point of requests over HTTP, one picture each, on the platform's library for lambda services.

- `POST /`, `GET /jobs/{job}`, `GET /`: the platform's way, by its library. The request is that of a job, with one
  image that is an artifact; an answer that takes longer than five seconds is fetched later.
- `POST /masks` and `POST /results`: for people without the platform. The body is the picture, the parameters stand in
  the address, the model is the server's own (`--model`). The answer is the file of the mask, or all results as JSON.
- `GET /healthz`: whether the server takes requests, and how many it has.

One request runs at a time; the others wait, up to a limit, and those beyond it are turned away with status 429. On
SIGTERM no request is taken any more, and those that were taken are finished.

Settings for whoever runs it: those of `service.job` and `service.ivcap.uploads`; PSEG_LAMBDA_HOST is the address to
listen at, 127.0.0.1 unless set, as container images do.
"""

# The platform's library looks at the annotations themselves: they must not be postponed in this file.

# The platform's library states few types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import argparse
import asyncio
import logging
import math
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from threading import Event, Lock
from typing import Any, TypeVar

import ivcap_lambda.server as library
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from ivcap_lambda import add_tool_api_route, start_lambda_server
from ivcap_lambda.builder import ErrorModel, ToolOptions, tools
from ivcap_lambda.executor import Executor
from ivcap_lambda.service_definition import create_rest_service_definition
from ivcap_service import JobContext, Service, set_service_log_config
from pydantic import model_validator
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine import EngineError, InferenceError, OptionError, Predictor
from engine.errors import message_of, reason_of
from engine.system.text import legible
from engine.system.validation import fault_of
from service.ivcap.description import EXAMPLE, PICTURE_DESCRIPTION, completed, request_schema, tool_from
from service.ivcap.items import LocalItem
from service.ivcap.names import ARTIFACT_URN, is_platform_urn
from service.ivcap.platform_job import ExitStatus
from service.ivcap.redaction import without_secrets
from service.ivcap.transfer.transport import limited_requests
from service.ivcap.uploads import (
    SegmentedUpload,
    UploadLimits,
    UploadRequest,
    build_upload_request,
    segment_upload,
    upload_limits_from,
)
from service.job import VARIANT, JobRequest, JobResult, Worker, end_with, open_worker, prepared, require_done, result_of
from service.request import PredictRequest

_log = logging.getLogger("service.lambda_server")
_Answer = TypeVar("_Answer")
_RECORD_BYTES = 1 << 20
_MOST_DIGITS = 6
# Also of clients that went away, who get no answer: they are no fault of the server.
_ANSWERED = (EngineError, TimeoutError, ClientDisconnect)
_KEPT_RESULTS, _KEPT_S = 256, 3600
_LEFT_OUT = ("images", "shard")
_UPLOADS = ("/masks", "/results")
_PICTURE_EXAMPLE = {"model": EXAMPLE["model"], "image": EXAMPLE["images"][0]}


class QueueFullError(EngineError):
    """As many requests run and wait as the server takes."""


class TooLargeError(EngineError):
    """A body is larger than the server takes."""


class DiskError(EngineError):
    """There is no room on the disk for a body."""


class OtherSiteError(EngineError):
    """A page of another web site asks, through the browser of somebody who can reach the server."""


class BoundedExecutor(ThreadPoolExecutor):
    """One thread, and a limited number of places for what runs and waits."""

    def __init__(self, places: int) -> None:
        super().__init__(1, "segment")
        self.places, self.taken = places, 0
        self._counting = Lock()

    def take_place(self) -> None:
        """Take a place for what is submitted later; QueueFullError if there is none."""
        with self._counting:
            self.require_place()
            self.taken += 1

    def require_place(self) -> None:
        """Raise QueueFullError if there is no place."""
        if self.taken == self.places:
            raise QueueFullError(f"{self.places} requests run or wait, the most that are taken: try again later")

    def give_place_back(self, _: object = None) -> None:
        with self._counting:
            self.taken -= 1

    def submit_to_place(self, task: Callable[[], _Answer]) -> "Future[_Answer]":
        """Submit a task, for which whoever calls has a place and gives it back."""
        return super().submit(task)

    def submit(self, fn: Callable[..., _Answer], /, *args: Any, **kwargs: Any) -> "Future[_Answer]":  # noqa: ANN401 - as in the library
        """Submit a task to a place of its own; QueueFullError if there is none."""
        self.take_place()
        future = self.submit_to_place(partial(fn, *args, **kwargs))
        future.add_done_callback(self.give_place_back)
        return future


class PictureRequest(JobRequest):
    """Segment one image with a PaddleSeg model."""

    @model_validator(mode="before")
    @classmethod
    def _require_one_artifact(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            raise OptionError("the request is not a JSON object")
        wrong = [f"{name}: one picture per request: give image" for name in _LEFT_OUT if name in given]
        for name in ("model", "image"):
            if name in given and not is_platform_urn(str(given[name]), ARTIFACT_URN):
                wrong.append(f"{name}: it is not an artifact: give a URN that begins with {ARTIFACT_URN}")
        if not wrong and not (os.environ.get("IVCAP_URL") or os.environ.get("IVCAP_BASE_URL")):
            wrong.append("this server has no platform to read artifacts from: POST the picture itself to /masks")
        if wrong:
            raise OptionError("\n".join(wrong))
        return given


@dataclass(slots=True)
class Artifacts:
    """Pictures that are artifacts of the platform.

    `context` is that of the request that is being done: there is one at a time, and it is done in several threads.
    """

    worker: Worker
    context: JobContext | None = field(default=None, init=False)

    def segment(self, request: PictureRequest, context: JobContext) -> JobResult:
        """Segments one image with a PaddleSeg model and publishes its mask and the cover of every class."""
        self.context = context
        try:
            return self.worker.segment(request, context)
        except EngineError as error:
            # The library answers this with status 400, and all others with a trace.
            raise ValueError(without_secrets(message_of(error))) from None
        except Exception:
            _log.exception("%s broke off", context.job_id)
            raise RuntimeError("the request broke off, see the log of the server") from None
        finally:
            self.context = None


@dataclass(frozen=True, slots=True)
class Uploads:
    """Pictures that are the bodies of requests; one thread, the executor's, does everything with the model.

    The worker holds the open model, and the folder for pictures.
    """

    worker: Worker
    executor: BoundedExecutor
    limits: UploadLimits
    model: LocalItem

    def open_ahead(self) -> None:
        """Open the model before the first picture comes, so that what is wrong with it is known at once."""

        def opened() -> None:
            self.worker.models.predictor(self.model, self._request({}).predict_request(), ())

        self.executor.submit(opened).result()

    async def answered(self, request: Request, answer: Callable[[SegmentedUpload], Response]) -> Response:
        """Segment the picture of a request: its body; its query are the parameters.

        Raises EngineError where the request is wrong, or there is no place for it; TimeoutError where it took too long.
        """
        deadline = time.monotonic() + self.limits.answer_s
        self.executor.take_place()
        try:
            with _disk_errors():
                folder = Path(mkdtemp(prefix="upload-", dir=self.worker.folder))
        except DiskError:
            self.executor.give_place_back()
            raise
        ended: Callable[[object], None] = partial(self._end, folder)
        async with asyncio.timeout(self.limits.answer_s):
            try:
                asked = self._request(_parameters(request))
                await _receive(request, folder / "upload", self.limits.upload_bytes)
            except BaseException:
                ended(None)
                raise
            segmented = partial(self._segmented, folder / "upload", asked, answer, deadline)
            future = self.executor.submit_to_place(segmented)
            # Also of a request that nobody waits for any more: a run of the network cannot be interrupted.
            future.add_done_callback(ended)
            return await asyncio.wrap_future(future)

    def _end(self, folder: Path, _: object) -> None:
        rmtree(folder, ignore_errors=True)
        self.executor.give_place_back()

    def _request(self, parameters: Mapping[str, str]) -> UploadRequest:
        return build_upload_request(parameters, self.model.name.label, self.limits.pixels)

    def _segmented(
        self, path: Path, asked: UploadRequest, answer: Callable[[SegmentedUpload], Response], deadline: float
    ) -> Response:
        segmented = segment_upload(path, asked, partial(self._open_model, deadline), self.worker.stop)
        outcome = segmented.outcome
        if outcome.failed:
            return _told(HTTPStatus.UNPROCESSABLE_ENTITY, outcome.failed[0].reason)
        if outcome.refused or not outcome.problems:
            require_done(outcome, segmented.summary(asked.model))
            return answer(segmented)
        status = HTTPStatus.UNPROCESSABLE_ENTITY if outcome.published else HTTPStatus.INTERNAL_SERVER_ERROR
        return _told(status, "\n".join(outcome.problems))

    @contextmanager
    def _open_model(self, deadline: float, options: PredictRequest) -> Generator[Predictor]:
        def require_time() -> None:
            if time.monotonic() > deadline:
                raise InferenceError("the time of the request is up")

        predictor, _ = self.worker.models.predictor(self.model, options, ())
        predictor.network.before_run = require_time
        try:
            yield predictor
        finally:
            predictor.network.before_run = None


def _parameters(request: Request) -> dict[str, str]:
    given = request.query_params.multi_items()
    parameters = {name.replace("_", "-"): value for name, value in given}
    if len(parameters) < len(given):
        raise OptionError("a parameter is given more than once")
    return parameters


@contextmanager
def _disk_errors() -> Generator[None]:
    try:
        yield
    except OSError as error:
        _log.error("a picture is not kept: %s", error)
        raise DiskError(f"the server cannot keep the picture ({reason_of(error)}): try again later") from error


async def _receive(request: Request, path: Path, most_bytes: int) -> None:
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        raise OptionError("the body is a form: send the picture alone, as `curl --data-binary @picture.jpg` does")
    received = 0
    with _disk_errors(), path.open("wb") as file:
        async for part in _parts(request, most_bytes):
            received += file.write(part)
    if received == 0:
        raise OptionError("the body is empty: send the picture, as `curl --data-binary @picture.jpg` does")


async def _parts(request: Request, most_bytes: int) -> AsyncGenerator[bytes]:
    stated, received = request.headers.get("content-length", ""), 0
    if not (stated.isdecimal() and int(stated) > most_bytes):
        async for part in request.stream():
            received += len(part)
            if received > most_bytes:
                break
            yield part
        else:
            return
    raise TooLargeError(f"the body has more than {most_bytes} bytes, the most that is taken")


def _mask(segmented: SegmentedUpload) -> Response:
    return Response(segmented.mask.content, media_type=segmented.mask.mime_type)


def _results(model: str, segmented: SegmentedUpload) -> Response:
    result = result_of(segmented.summary(model))
    return Response(result.model_dump_json(by_alias=True), media_type="application/json")


_STATUSES: Mapping[type[Exception], HTTPStatus] = {
    DiskError: HTTPStatus.INSUFFICIENT_STORAGE,
    OtherSiteError: HTTPStatus.FORBIDDEN,
    QueueFullError: HTTPStatus.TOO_MANY_REQUESTS,
    TooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TimeoutError: HTTPStatus.GATEWAY_TIMEOUT,
}
_HEADERS: Mapping[HTTPStatus, Mapping[str, str]] = {HTTPStatus.TOO_MANY_REQUESTS: {"Retry-After": "1"}}


def _told(status: HTTPStatus, text: str) -> Response:
    return PlainTextResponse(without_secrets(text) + "\n", status, _HEADERS.get(status))


def _refused(request: Request, error: Exception) -> Response:
    """The answer to what is wrong with a request: lines for people, or for the platform what its library answers."""
    if isinstance(error, TimeoutError):
        text = "there was no answer in time: send a smaller picture, or try again later"
    elif isinstance(error, RequestValidationError):
        text = "\n".join(_line(each) for each in error.errors())
    else:
        text = message_of(error)
    status = _STATUSES.get(type(error), HTTPStatus.BAD_REQUEST)
    # Not of its address, which also holds what the client says that the host is.
    if request.scope["path"] in _UPLOADS:
        return _told(status, text)
    told = ErrorModel(message=without_secrets(text), code=status)
    return JSONResponse(told.model_dump(), status, _HEADERS.get(status))


def _line(error: Mapping[str, Any]) -> str:
    # Behind `body`, which is all that comes this way.
    where = ".".join(map(str, error["loc"][1:]))
    if isinstance(error["loc"][-1], str) and where:
        return f"{where}: {fault_of(error)}"
    return fault_of(error) if error["type"] == "value_error" else f"the body {fault_of(error)}"


def _require_own_site(request: Request) -> None:
    """Refuse what a page of another site makes the browser of somebody send who can reach the server."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        raise OtherSiteError("a page of another site sent the request: this server is for programs, and for its own")
    # The owner of a name may let it lead to this machine, and the browser then takes the server for the owner's.
    reached = request.scope["server"][0]
    if _is_address(reached) and ip_address(reached).is_loopback and not _is_local(host):
        raise OtherSiteError("Host is a name: reach the server of this machine as localhost, or by its address")


def _is_local(host: str) -> bool:
    if not host:
        # No browser leaves it out.
        return True
    name = host.rpartition("]")[0].removeprefix("[") or host.partition(":")[0]
    return name == "localhost" or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _require_seconds(request: Request) -> None:
    """What the platform's library makes a number of, for how long a client waits for an answer."""
    given = request.headers.get("timeout", "0")
    if not (given.isdecimal() and len(given) <= _MOST_DIGITS):
        raise OptionError(f"the header Timeout is {legible(given)!r}: give whole seconds, such as 60")


class CheckedRequests:
    """Refuses requests of other sites, and takes the platform's, which are JSON, whole and within limits."""

    def __init__(self, app: ASGIApp, limits: UploadLimits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            _require_own_site(request)
            if scope["method"] == "POST" and scope["path"] not in _UPLOADS:
                _require_seconds(request)
                receive = await self._whole(request)
        except _ANSWERED as error:
            await _refused(request, error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _whole(self, request: Request) -> Receive:
        async with asyncio.timeout(self._limits.answer_s):
            body = b"".join([part async for part in _parts(request, _RECORD_BYTES)])
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await request.receive()

        return replay


def _add_uploads(app: FastAPI, uploads: Uploads | None) -> None:
    async def mask(request: Request) -> Response:
        return await known(uploads).answered(request, _mask)

    async def results(request: Request) -> Response:
        offered = known(uploads)
        return await offered.answered(request, partial(_results, offered.model.name.label))

    def known(uploads: Uploads | None) -> Uploads:
        if uploads is None:
            raise OptionError("this server has no model for uploads: start it with --model")
        return uploads

    for path, answer, summary in (
        ("/masks", mask, "Segments the picture in the body; answers with the file of its mask."),
        ("/results", results, "Segments the picture in the body; answers with all results as JSON."),
    ):
        app.add_api_route(path, answer, methods=["POST"], summary=summary, tags=["Uploads"], response_model=None)


def _run_in_places(jobs: Executor[JobResult], places: BoundedExecutor) -> None:
    """Have the library run its jobs in places; without one it does not take a job for one that is under way.

    For each of these it forgets a result that nobody has fetched.
    """
    take = jobs.execute

    async def execute(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as in the library
        places.require_place()
        # Until the job is submitted it waits for nothing, so that nobody else takes the place.
        return await take(*arguments, **options)

    jobs.execute = execute
    # The library's own has no limit.
    jobs.thread_pool = places


def _arguments(
    service: Service,
    artifacts: Artifacts,
    offer_uploads: Callable[[Path | None], None],
    parser: argparse.ArgumentParser,
) -> argparse.Namespace:
    parser.set_defaults(host=os.environ.get("PSEG_LAMBDA_HOST") or "127.0.0.1")
    parser.add_argument("--model", type=Path, help="bundle for the pictures that are sent to /masks and /results")
    given = parser.parse_args()
    schema = request_schema(PictureRequest, _PICTURE_EXAMPLE)
    for name in _LEFT_OUT:
        del schema["properties"][name]
    schema["required"] = ["model", "image"]
    if given.print_service_description:
        definition = create_rest_service_definition(service, artifacts.segment, path="/")
        end_with(completed(definition, VARIANT, schema, PICTURE_DESCRIPTION))
    if given.print_tool_description:
        tool = tool_from(os.environ, service.name, schema, JobResult.__name__, PICTURE_DESCRIPTION)
        end_with(tool.model_dump(by_alias=True))
    try:
        offer_uploads(given.model)
    except EngineError as error:
        _log.error("%s", error)
        sys.exit(ExitStatus.WRONG_REQUEST)
    return given


def main() -> None:
    service, policy, sizes = prepared("service.lambda_server")
    service = service.model_copy(update={"name": f"{service.name}-lambda"})
    try:
        limits = upload_limits_from(os.environ)
    except OptionError as error:
        _log.error("%s", error)
        sys.exit(ExitStatus.WRONG_REQUEST)
    # The server's library would replace what hides secrets.
    set_service_log_config({"version": 1, "incremental": True})
    with (
        limited_requests(policy, sizes),
        open_worker(policy, sizes, Event()) as worker,
        BoundedExecutor(limits.places) as executor,
    ):
        artifacts, app = Artifacts(worker), library.get_fast_app()
        # The library adds the name and the token of a job to its requests, but in the thread of the job alone. Images
        # are fetched and masks are stored in others.
        context_of_thread = library.get_job_context  # pyright: ignore[reportPrivateImportUsage]
        library.get_job_context = lambda: context_of_thread() or artifacts.context  # pyright: ignore
        cache = {"job_cache_size": _KEPT_RESULTS + limits.places, "job_cache_ttl": _KEPT_S}
        options = ToolOptions.model_validate({"executor_opts": cache})
        # The library's type of workers is not that of those it documents.
        add_tool_api_route(app, "/", artifacts.segment, opts=options)  # pyright: ignore[reportArgumentType]
        _run_in_places(tools[-1].executor, executor)
        for kind in (RequestValidationError, *_ANSWERED):
            app.add_exception_handler(kind, _refused)
        app.add_middleware(CheckedRequests, limits=limits)

        @app.get("/healthz", tags=["System"])
        def health() -> dict[str, object]:  # pyright: ignore[reportUnusedFunction]
            return {"status": "ready", "version": service.version, "taken": executor.taken, "places": executor.places}

        def offer_uploads(model: Path | None) -> None:
            uploads = None if model is None else Uploads(worker, executor, limits, LocalItem(model))
            if uploads is not None:
                uploads.open_ahead()
            _add_uploads(app, uploads)

        start_lambda_server(
            service,
            custom_args=partial(_arguments, service, artifacts, offer_uploads),
            run_opts={"timeout_graceful_shutdown": math.ceil(limits.answer_s)},
        )


if __name__ == "__main__":
    main()
