"""The entry point of IVCAP jobs: the service as a worker that does one job after another.

The model stays open between jobs that use the same bundle with the same options. A job in which nothing succeeds, or
whose results are not all stored, ends as an error that names every failure.

`--test-file FILE` does the one job in the file. The platform's library ends it with status 0 even if the job fails;
here it ends with 1 then. If the file names a bundle of this machine, the job is done without a platform; if it names an
artifact, IVCAP_URL and IVCAP_JWT lead to the platform. `--print-service-description` and `--print-tool-description`
print what the platform registers.

Settings for whoever runs it: those of `service.order`; DOCKER_IMG and IVCAP_SERVICE_ID go into the description,
IVCAP_RESOURCES_FILE names what the worker needs, PSEG_SERVICE_CONTACT and PSEG_SERVICE_EMAIL say who answers for it.
On the platform IVCAP_BASE_URL names the sidecar that hands out jobs.
"""

# The platform's library looks at the annotations themselves: they must not be postponed in this file.

# The platform's library states few types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from types import FrameType
from typing import Any, Literal, NoReturn

import ivcap_service.service as batch
from ivcap_service import JobContext, Service, start_batch_service
from ivcap_service.events import EventReporter, GenericEvent
from ivcap_service.service_definition import create_batch_service_definition
from ivcap_service.types import ExecutionError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine import Device, EngineError, OptionError, Predictor
from engine.errors import message_of
from engine.options import DEVICE_PATTERN
from engine.system.files import scratch_folder
from service.ivcap.description import completed, request_schema, service_from, tool_from
from service.ivcap.items import Item
from service.ivcap.job_files import JobStore, images_of_job, open_item, with_limits
from service.ivcap.model_cache import ModelCache
from service.ivcap.parameters import ServiceRequest, build_service_request, problems_of
from service.ivcap.platform_job import ExitStatus, Outcome, run_platform_job
from service.ivcap.redaction import keep_secrets_out_of_logs, without_secrets
from service.ivcap.transfer.limits import RetryPolicy, Sizes, retry_policy_from, sizes_from
from service.ivcap.transfer.transport import limited_requests
from service.logs import set_up_logs
from service.request import PredictRequest
from service.results.records import ProvenanceRecord
from service.results.summary_records import Failure, ImageCounts, JobMask, Products, TotalShare
from service.session import caches_at
from service.version import banner

_log = logging.getLogger("service.job")
_ROOT = Path(__file__).parents[1]
REQUEST_SCHEMA = "urn:ibenthos:schema:paddle.seg.job-request.1"
RESULT_SCHEMA = "urn:ibenthos:schema:paddle.seg.job-result.1"
VARIANT = Device.GPU if os.environ.get("PSEG_SERVICE_DEVICE") == Device.GPU else Device.CPU
_MOST_FAILURES_TOLD = 100
_PROGRESS_EVENTS = 20
_OPENING, _SEGMENTING, _STORING = "open model", "segment images", "store results"


class JobRequest(ServiceRequest):
    """Segment images with a PaddleSeg model."""

    jschema: Literal["urn:ibenthos:schema:paddle.seg.job-request.1"] = Field(REQUEST_SCHEMA, alias="$schema")
    device: str = Field(
        VARIANT.value, description=ServiceRequest.model_fields["device"].description, pattern=DEVICE_PATTERN
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_as_an_order(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """What is wrong is told in our words, and before anything is fetched."""
        # Parameters that are kept as an aspect come with what the platform says of it.
        parameters = {name: value for name, value in given.items() if not name.startswith("$") and name != "jschema"}
        build_service_request(**{"device": VARIANT, **parameters})
        return {**parameters, "$schema": given.get("$schema", REQUEST_SCHEMA)}


class JobResult(BaseModel):
    """What became of a job."""

    model_config = ConfigDict(populate_by_name=True, extra="forbid")

    jschema: Literal["urn:ibenthos:schema:paddle.seg.job-result.1"] = Field(RESULT_SCHEMA, alias="$schema")
    job: str = Field(description="URN of the job")
    model: str = Field(description="URN of the model bundle")
    images: ImageCounts = Field(description="how many images the job had")
    masks: list[JobMask] = Field(description="one for each image that succeeded")
    failures: list[Failure] = Field(description="one for each image that failed")
    cover: list[TotalShare] = Field(description="of every class over all images, by two rules")
    products: Products = Field(description="what is stored for the job as a whole")
    provenance: ProvenanceRecord = Field(description="of the masks: bundle, runtime, provider, precision, versions")

    def __str__(self) -> str:
        """Keep it short: the platform's library logs results."""
        return f"{self.images['succeeded']} masks, {self.images['failed']} failures"


class JobError(EngineError):
    """A job in which nothing succeeded, or whose results are not all stored."""


@dataclass(slots=True)
class Progress:
    """Tells the platform how far a job is; images are done whether they went well or not."""

    report: EventReporter
    total: int = 0
    done: int = 0
    _step: str = ""

    @contextmanager
    def images(self) -> Generator[None]:
        """The steps in which images are segmented, and what is made of all of them is stored."""
        self._begin(_SEGMENTING, f"{self.total} images")
        yield
        self.report.step_finished(self._step, f"{self.done} of {self.total} images are done")

    def image_done(self) -> None:
        """Count an image; told for some of them."""
        self.done += 1
        if self.done % -(-self.total // _PROGRESS_EVENTS) == 0:
            self.report.emit(GenericEvent(name=self._step, options={"done": self.done, "total": self.total}))
        if self.done == self.total:
            self.report.step_finished(self._step, f"{self.done} images are done")
            self._begin(_STORING, "table, report, collection")

    def _begin(self, step: str, message: str) -> None:
        self._step = step
        self.report.step_started(step, message)


@dataclass(slots=True)
class Worker:
    """Does jobs, one after another.

    `policy` and `sizes` limit the platform's requests; `stop` is set when the process is asked to end; `failed` tells
    whether the last job did.
    """

    folder: Path
    policy: RetryPolicy
    sizes: Sizes
    models: ModelCache
    stop: Event
    failed: bool = field(default=False, init=False)

    def segment(self, request: JobRequest, context: JobContext) -> JobResult:
        """Segments images with a PaddleSeg model and publishes masks and the cover of every class."""
        self.failed = True
        ivcap = with_limits(context.ivcap, self.policy, self.sizes)
        progress = Progress(context.report)
        job = context.job_id if context.job_id.startswith("urn:") else f"urn:ivcap:job:{context.job_id}"
        with TemporaryDirectory(prefix="job-", dir=self.folder) as work:
            bundle = open_item(request.model, ivcap, self.folder, self.sizes.bundle)
            named = request.model_copy(update={"model": bundle.name.urn})
            source = images_of_job(named, ivcap, Path(work), self.sizes.image, progress.image_done)
            progress.total = len(source.urns)
            store = JobStore(ivcap, job, self.policy.pause_s)
            open_model = partial(self._session, bundle, source.sample, progress)
            outcome = run_platform_job(named, open_model, source, store, stop=self.stop)
        summary = outcome.summary(job, named.model)
        require_done(outcome, summary)
        self.failed = False
        return result_of(summary)

    @contextmanager
    def _session(
        self, bundle: Item, sample: Sequence[Path], progress: Progress, options: PredictRequest
    ) -> Generator[Predictor]:
        with progress.report.step(_OPENING, bundle.name.urn) as step:
            predictor, kept = self.models.predictor(bundle, options, sample)
            step.finished("open from an earlier job" if kept else "opened", kept=kept)
        with progress.images():
            yield predictor


def require_done(outcome: Outcome, summary: Mapping[str, Any]) -> None:
    """Raise what an order would end with another status than 0 for.

    OptionError: the request cannot be honoured here. JobError: nothing succeeded, or something could not be stored.
    """
    if outcome.refused:
        raise OptionError("; ".join(summary["problems"]))
    if outcome.exit_status is ExitStatus.DONE:
        return
    counts, failures = summary["images"], summary["failures"]
    told = [f"{each['name']}: {each['reason']}" for each in failures[:_MOST_FAILURES_TOLD]]
    if len(failures) > len(told):
        told.append(f"and {len(failures) - len(told)} more, see the summary of {summary['order']}")
    stored = [f"stored: {kind} {urn}" for kind, urn in outcome.products.items()]
    head = f"{counts['succeeded']} of {counts['total']} images succeeded"
    raise JobError("\n".join([head, *summary["problems"], *told, *stored]))


def result_of(summary: Mapping[str, Any]) -> JobResult:
    return JobResult.model_validate(
        {
            **{
                name: summary[name]
                for name in ("model", "images", "masks", "failures", "cover", "products", "provenance")
            },
            "job": summary["order"],
        }
    )


def _arguments(worker: Worker, service: Service, parser: argparse.ArgumentParser) -> argparse.Namespace:
    given, unknown = parser.parse_known_args()
    if unknown:
        parser.error(
            f"{' '.join(unknown)}: unknown to jobs, whose parameters stand in the file that --test-file names; an "
            "order has at least one argument that begins with --ivcap:"
        )
    if given.print_service_description or given.print_tool_description:
        end_with(_described_service(worker, service) if given.print_service_description else _described_tool(service))
    try:
        _choose_platform(given.test_file)
        if given.test_file is not None:
            # The library would end with a trace of what is wrong with it.
            JobRequest(**_content_of(given.test_file))
    except ValidationError as error:
        parser.error(problems_of(error))
    except OptionError as error:
        parser.error(str(error))
    return given


def end_with(described: Mapping[str, Any]) -> NoReturn:
    """Print what the platform registers, and end the process."""
    # What hides secrets in all other output takes the signature of a function for that of an address.
    print(json.dumps(described, indent=2), file=sys.__stdout__)
    sys.exit(ExitStatus.DONE)


def _described_service(worker: Worker, service: Service) -> dict[str, Any]:
    described = create_batch_service_definition(service, worker.segment)
    return completed(described, VARIANT, request_schema(JobRequest))


def _described_tool(service: Service) -> dict[str, Any]:
    schema = request_schema(JobRequest)
    return tool_from(os.environ, service.name, schema, JobResult.__name__).model_dump(by_alias=True)


def _choose_platform(job_file: str | None) -> None:
    """Prove that there is work, and that the platform that it needs can be reached; keep a local job from it."""
    address, sidecar = os.environ.get("IVCAP_URL"), os.environ.get("IVCAP_BASE_URL")
    if job_file is None:
        if not sidecar:
            raise OptionError(
                "there is no work: IVCAP_BASE_URL names the platform's sidecar, which hands out jobs; to do one job "
                "here, name its file with --test-file"
            )
    elif not _content_of(job_file)["model"].startswith("urn:ivcap:"):
        if address:
            _log.info("the model is a file of this machine: the job is done here, and nothing is sent to %s", address)
            # The platform's library decides by it.
            del os.environ["IVCAP_URL"]
        return
    elif not (address or sidecar):
        raise OptionError(
            f"the model in {job_file} is an artifact: IVCAP_URL has to name the platform, and IVCAP_JWT to hold a token"
        )
    if address and not os.environ.get("IVCAP_JWT"):
        raise OptionError(
            f"IVCAP_URL is {address} and IVCAP_JWT is not set: set it to what `ivcap context get access-token` prints"
        )


def _content_of(job_file: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(job_file).read_text(encoding="utf-8"))["in-content"]
        return {**content, "model": str(content["model"])}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise OptionError(
            f"{job_file} holds no job with a model ({message_of(error)}): docs/jobs.md shows one"
        ) from error


@contextmanager
def _stop_on_sigterm() -> Generator[Event]:
    """An event that SIGTERM sets, so that the image in hand is finished; who waits for a job ends at once."""
    stop, waiting = Event(), Event()

    def end() -> NoReturn:
        _log.info("asked to stop")
        raise SystemExit(ExitStatus.DONE)

    def set_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()
        if waiting.is_set():
            end()

    usual_fetch, usual_handler = batch.fetch_job, signal.signal(signal.SIGTERM, set_stop)

    def fetch_job(url: str, logger: logging.Logger) -> tuple[Any, str | None]:
        waiting.set()
        try:
            if stop.is_set():
                end()
            return usual_fetch(url, logger)
        finally:
            waiting.clear()

    # The library asks for the next job for ever, and lets nobody say no.
    batch.fetch_job = fetch_job
    try:
        yield stop
    finally:
        batch.fetch_job = usual_fetch
        signal.signal(signal.SIGTERM, usual_handler)


@contextmanager
def _errors_without_secrets() -> Generator[None]:
    """Keep secrets out of the errors that are sent to the platform: the library writes these, with their traces."""
    usual = batch.push_result  # pyright: ignore[reportPrivateImportUsage]

    def push_result(result: Any, job_id: str, authorization: str | None = None) -> None:  # noqa: ANN401
        if isinstance(result, ExecutionError):
            told = {"error": without_secrets(result.error), "traceback": without_secrets(result.traceback or "")}
            result = result.model_copy(update=told)
        usual(result, job_id, authorization)

    batch.push_result = push_result  # pyright: ignore[reportPrivateImportUsage]
    try:
        yield
    finally:
        batch.push_result = usual  # pyright: ignore[reportPrivateImportUsage]


@contextmanager
def open_worker(policy: RetryPolicy, sizes: Sizes, stop: Event) -> Generator[Worker]:
    """A worker until the block ends, with a folder and a model of its own."""
    root = os.environ.get("PSEG_CACHE_DIR")
    with scratch_folder("worker") as folder:
        worker = Worker(folder, policy, sizes, ModelCache(caches_at(Path(root) if root else None)), stop)
        try:
            yield worker
        finally:
            worker.models.close()


def prepared(module: str) -> tuple[Service, RetryPolicy, Sizes]:
    """Prepare this process for requests of the platform: logs, secrets, settings. Wrong settings end the process."""
    # ONNX Runtime sends usage data over the network, from its import on.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("ENTRYPOINT", json.dumps(["python", "-m", module]))
    os.environ.setdefault("IVCAP_RESOURCES_FILE", str(_ROOT / "resources.json"))
    keep_secrets_out_of_logs()
    try:
        set_up_logs(os.environ, sys.stderr)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        _log.info("%s", banner())
        if os.environ.get("PSEG_SERVICE_DEVICE", VARIANT) != VARIANT:
            raise OptionError(f"PSEG_SERVICE_DEVICE is {os.environ['PSEG_SERVICE_DEVICE']!r}: give cpu or gpu")
        return service_from(os.environ, VARIANT), retry_policy_from(os.environ), sizes_from(os.environ)
    except OptionError as error:
        _log.error("%s", error)
        sys.exit(ExitStatus.WRONG_REQUEST)


def main() -> None:
    service, policy, sizes = prepared("service.job")
    with (
        limited_requests(policy, sizes),
        _stop_on_sigterm() as stop,
        _errors_without_secrets(),
        open_worker(policy, sizes, stop) as worker,
    ):
        start_batch_service(service, worker.segment, custom_args=partial(_arguments, worker, service))
        if worker.failed:
            # Only a job from a file comes here.
            sys.exit(ExitStatus.INCOMPLETE)


if __name__ == "__main__":
    main()
