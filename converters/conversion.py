"""Convert a bundle: FP32 first, INT8 or FP16 made from that, each certified against Paddle before anybody gets it.

What is made is kept in a cache (`converters.repository`), so that the same conversion is done once.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pydantic import TypeAdapter

from converters.packing import pack
from converters.paddle_to_onnx import OPSET, TIMEOUT_S, export_in_child
from converters.parity import ParityLimits, ParityReport, compare, generated_images, require_parity
from converters.repository import RefusedError, Repository
from engine.bundle import Bundle, OnnxModel, PaddleModel, file_digest
from engine.cores import usable_cores
from engine.errors import ConversionError, ModelLoadError
from engine.images import SourceImage
from engine.opening import open_runtime
from engine.options import OnnxOptions, PaddleOptions, Precision
from engine.predictor import Predictor

CERTIFICATE = "parity.json"
_REPORT = TypeAdapter(ParityReport)
_RECIPE = 3
"""Raised whenever another model is made of the same program: older cache entries retire."""
_CONVERTER_PACKAGES = ("paddle2onnx", "paddlepaddle", "onnx")


@dataclass(frozen=True, slots=True)
class Conversion:
    """A converted model and its certificate.

    Attributes:
        model: the ONNX file, in the cache.
        certificate: the parity report as JSON, beside it.
    """

    model: OnnxModel
    certificate: Path


def convert(
    bundle: Bundle,
    repository: Repository,
    *,
    opset: int = OPSET,
    limits: ParityLimits | None = None,
    timeout_s: float = TIMEOUT_S,
    ledger: Path | None = None,
) -> Conversion:
    """Convert the bundle's Paddle program, or find the conversion in the cache.

    A model that ONNX Runtime does not run, or whose masks differ from Paddle's on generated pictures, counts as not
    converted.

    Args:
        bundle: an open bundle; it is not changed.
        repository: the cache.
        opset: ONNX operator set.
        limits: how far masks may differ; the defaults of `ParityLimits` if None.
        timeout_s: seconds that the converter may take.
        ledger: folder that remembers which Paddle models loaded before.

    Returns:
        The FP32 model and its certificate.

    Raises:
        ParityError: the masks differ by more than the limits; it carries the report.
        ConversionError: the bundle has no Paddle program, the converter is absent, fails, aborts or takes too long, or
            its result does not run.
    """
    program = bundle.paddle
    if program is None:
        raise ConversionError(f"{bundle.source}: holds no Paddle program to convert")
    limits = limits or ParityLimits()

    def make(destination: Path) -> None:
        export_in_child(program, destination, opset, timeout_s, where=str(bundle.source))
        model = OnnxModel(path=destination, precision=Precision.FP32, digest=file_digest(destination))
        report = _certify(bundle.with_onnx(model), ledger)
        require_parity(report, limits, where=str(bundle.source))
        (destination.parent / CERTIFICATE).write_bytes(_REPORT.dump_json(report, indent=2))

    path = repository.fetch(_key(program, bundle, opset, limits), make)
    model = OnnxModel(path=path, precision=Precision.FP32, digest=file_digest(path))
    return Conversion(model=model, certificate=path.with_name(CERTIFICATE))


def _certify(bundle: Bundle, ledger: Path | None) -> ParityReport:
    """Run the original through Paddle and the result through ONNX Runtime on generated pictures."""
    threads = usable_cores()
    try:
        candidate = open_runtime(bundle, OnnxOptions(threads=threads))
    except ModelLoadError as error:
        raise RefusedError(
            f"{bundle.source}: paddle2onnx made a model that ONNX Runtime does not run ({error}); "
            "run it with --runtime paddle, or auto"
        ) from error
    reference = open_runtime(bundle, PaddleOptions(threads=threads), ledger=ledger)
    with Predictor(bundle, reference) as expected, Predictor(bundle, candidate) as actual:
        return compare(expected, actual, named_pictures())


def named_pictures() -> list[tuple[str, SourceImage]]:
    """Make the pictures that a conversion is certified with where a user names none.

    Returns:
        Names that tell the size, and images.
    """
    return [(f"generated {each.width}x{each.height}", each) for each in generated_images()]


def write_bundle(bundle: Bundle, conversion: Conversion, destination: Path) -> None:
    """Write a copy of the bundle that also holds an ONNX model; a Paddle user can still use it.

    Args:
        bundle: an open bundle; it is not changed.
        conversion: the model and its certificate.
        destination: the archive to write; replaced in one step.

    Raises:
        ConversionError: the destination cannot be written.
    """
    kept = {
        path.relative_to(bundle.folder).as_posix(): path
        for path in bundle.folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(bundle.folder).parts)
    }
    folder = f"onnx/{conversion.model.precision}"
    added = {f"{folder}/model.onnx": conversion.model.path, f"{folder}/{CERTIFICATE}": conversion.certificate}
    try:
        pack({**kept, **added}, destination)
    except OSError as error:
        raise ConversionError(f"{destination}: cannot be written ({error})") from error


def _key(program: PaddleModel, bundle: Bundle, opset: int, limits: ParityLimits) -> str:
    versions = {name: _version_of(name) for name in _CONVERTER_PACKAGES}
    text = json.dumps([program.digest, repr(bundle.transforms), opset, repr(limits), versions, _RECIPE], sort_keys=True)
    return "fp32-" + hashlib.sha256(text.encode()).hexdigest()[:32]


def _version_of(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError as error:
        raise ConversionError(
            f"{distribution} is not installed: install the extras `convert` and `paddle`, or use a bundle that holds "
            "onnx/fp32/model.onnx"
        ) from error
