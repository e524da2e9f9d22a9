"""The entry point of IVCAP orders: the service as that platform knows it.

Settings for whoever runs it: PSEG_CACHE_DIR is the folder of converted models, PSEG_LOG_FORMAT (see `service.logs`)
is `text` or `json`, PSEG_HTTP_* (see `service.ivcap.transfer.limits`) limit the platform's requests, PSEG_SERVICE_*
(see `describe`) shape the description; PSEG_VERSION, PSEG_COMMIT and PSEG_BUILD_DATE are shown when it starts.
"""

# The platform's library states no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import argparse
import logging
import os
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any, Literal, Protocol, get_args, get_origin

from ivcap_sdk_service import Option, Parameter, PythonWorkflow, Service, Type, register_service
from pydantic.fields import FieldInfo

from engine import Device, EngineError, OptionError, Predictor
from engine.system.files import scratch_folder
from service.ivcap.description import DESCRIPTION, service_name
from service.ivcap.items import Item, bundle_by_its_name
from service.ivcap.order_files import (
    OrderStore,
    images_of_order,
    name_of,
    open_item,
    platform_hosts,
    require_platform_name,
)
from service.ivcap.parameters import ServiceRequest, build_service_request
from service.ivcap.platform_job import ExitStatus, run_platform_job
from service.ivcap.redaction import keep_secrets_out_of_logs
from service.ivcap.transfer.limits import Sizes, retry_policy_from, sizes_from
from service.ivcap.transfer.transport import limited_requests
from service.logs import set_up_logs
from service.request import PredictRequest
from service.session import caches_at, open_session

_log = logging.getLogger("service.order")
_BANNER = {
    "IVCAP_SERVICE_VERSION": "PSEG_VERSION",
    "IVCAP_SERVICE_COMMIT": "PSEG_COMMIT",
    "IVCAP_SERVICE_BUILD": "PSEG_BUILD_DATE",
}


_ARTIFACTS = {"model": Type.ARTIFACT, "image": Type.ARTIFACT, "images": Type.COLLECTION}
_NUMBERS = {int: Type.INT, float: Type.FLOAT}


def _parameter(name: str, field: FieldInfo, default: object) -> Parameter:
    told: dict[str, Any] = {"name": name.replace("_", "-"), "description": field.description}
    if name in _ARTIFACTS:
        return Parameter(type=_ARTIFACTS[name], optional=not field.is_required(), **told)
    if choices := _choices(field.annotation):
        options = [Option(value=each, name=each) for each in choices]
        return Parameter(type=Type.OPTION, options=options, default=str(default), **told)
    if field.annotation is bool:
        # A flag: the library would read a default as a text, and take any text for true.
        return Parameter(type=Type.BOOL, **told)
    for kind, parameter_type in _NUMBERS.items():
        if field.annotation is kind:
            return Parameter(type=parameter_type, default=str(default), **told)
        if field.annotation == kind | None:
            return Parameter(type=parameter_type, optional=True, **told)
    if default is not None:
        return Parameter(type=Type.STRING, default=str(default), **told)
    return Parameter(type=Type.STRING, optional=True, **told)


def _choices(kind: Any) -> tuple[str, ...]:  # noqa: ANN401
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(map(str, kind)) if isinstance(kind, type) and issubclass(kind, StrEnum) else ()


def _parameters(device: Device) -> list[Parameter]:
    return [
        _parameter(name, field, device if name == "device" else field.default)
        for name, field in ServiceRequest.model_fields.items()
    ]


def describe(environment: Mapping[str, str]) -> Service:
    """Describe the service to the platform.

    PSEG_SERVICE_DEVICE chooses the variant: `cpu` (default), or `gpu`, which asks for a GPU; OptionError for another
    one. Its needs can be set by PSEG_SERVICE_MEMORY, PSEG_SERVICE_CPU, PSEG_SERVICE_STORAGE and PSEG_SERVICE_GPU_TYPE.
    """
    variant = environment.get("PSEG_SERVICE_DEVICE", "cpu")
    if variant not in set(Device):
        raise OptionError(f"PSEG_SERVICE_DEVICE is {variant!r}: give cpu or gpu")
    device = Device(variant)
    needs: dict[str, Any] = {
        "min_memory": environment.get("PSEG_SERVICE_MEMORY") or "4Gi",
        "min_cpu": environment.get("PSEG_SERVICE_CPU") or "2",
        "min_ephemeral_storage": environment.get("PSEG_SERVICE_STORAGE") or "8Gi",
    }
    if device is Device.GPU:
        needs |= {"gpu_type": environment.get("PSEG_SERVICE_GPU_TYPE") or "nvidia-tesla-t4", "gpu_number": 1}
    return _with_guarded_parameters(
        Service(
            name=service_name(device),
            description=DESCRIPTION,
            parameters=_parameters(device),
            workflow=PythonWorkflow(**needs),
        )
    )


def _with_guarded_parameters(service: Service) -> Service:
    """Have the library prove what its parameters name, in the cluster, before it opens anything."""
    usual = service.append_arguments

    def append_arguments(ap: argparse.ArgumentParser) -> argparse.ArgumentParser:
        usual(ap)
        # argparse hands them out in no other way.
        for action in ap._actions:  # pyright: ignore[reportPrivateUsage]
            if action.dest in _ARTIFACTS:
                action.type = partial(_guarded, action.type)
        return ap

    # The library writes descriptions of this class alone, not of one that is derived from it.
    service.append_arguments = append_arguments
    return service


def _guarded(usual: Any, value: str) -> Any:  # noqa: ANN401  (what the library makes of it)
    return usual(require_platform_name(value))


class Arguments(Protocol):
    """The service's parameters, a field each."""

    def _asdict(self) -> dict[str, Any]: ...


def handle(sizes: Sizes, arguments: Arguments, _: logging.Logger) -> int:
    """Do the order that the platform handed over."""
    given: dict[str, Any] = arguments._asdict()  # pyright: ignore[reportPrivateUsage]  (a named tuple's)
    urns = {name: name_of(given[name]).urn for name in ("model", "image", "images") if given[name] is not None}
    with scratch_folder("order") as work, _stop_on_sigterm() as stop:
        try:
            request = build_service_request(**{**given, "image": None, "images": None, **urns})
            source = images_of_order(given["image"], given["images"], work, sizes.image, request.share())
        except EngineError as error:
            _log.error("refused: %s", error)
            return ExitStatus.WRONG_REQUEST
        model = open_item(given["model"], work, sizes.bundle)
        store = OrderStore()
        store.remove_abandoned()
        outcome = run_platform_job(request, partial(_session, model, source.sample), source, store, stop=stop)
    _log.info("%d done, %d failed", len(outcome.published), len(outcome.failed))
    return outcome.exit_status


@contextmanager
def _session(model: Item, sample: Sequence[Path], options: PredictRequest) -> Generator[Predictor]:
    root = os.environ.get("PSEG_CACHE_DIR")
    caches = caches_at(Path(root) if root else None)
    path = model.fetch()
    with bundle_by_its_name(model, path), open_session(path, options, caches, sample) as predictor:
        model.release()
        yield predictor


@contextmanager
def _stop_on_sigterm() -> Generator[Event]:
    """An event that SIGTERM sets, so that the image in hand is finished."""
    stop = Event()

    def set_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    usual = signal.signal(signal.SIGTERM, set_stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, usual)


def main() -> None:
    # What the library caches of an interrupted download poisons the next run.
    os.environ.setdefault("IVCAP_CACHE_DIR", "")
    # ONNX Runtime carries a client that reports usage to its makers; it is read when the library is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    for theirs, ours in _BANNER.items():
        os.environ.setdefault(theirs, os.environ.get(ours) or "?")
    keep_secrets_out_of_logs()
    try:
        set_up_logs(os.environ, sys.stdout)
        for name in ("ivcap", "service"):
            logger = logging.getLogger(name)
            # Where the library's own handler writes these already, and it would write every header.
            logger.propagate = not logger.handlers
            logger.setLevel(logging.INFO)
        policy, sizes = retry_policy_from(os.environ), sizes_from(os.environ)
        with limited_requests(policy, sizes, partial(platform_hosts, os.environ)):
            # The library states other types than it hands over.
            register_service(describe(os.environ), partial(handle, sizes))  # pyright: ignore[reportArgumentType]
    except OptionError as error:
        _log.error("%s", error)
        sys.exit(ExitStatus.WRONG_REQUEST)
    except SystemExit as error:
        if error.code not in {None, *ExitStatus}:
            # The library's own failures end with 255.
            sys.exit(ExitStatus.INCOMPLETE)
        raise


if __name__ == "__main__":
    main()
