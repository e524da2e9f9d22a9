"""Convert a bundle: FP32 first, INT8 or FP16 made from that, each certified before anybody gets it."""

# What is made is kept in a cache (`converters.repository`) with its certificate; the limits are held against the
# certificate at every call, so that a model that missed yesterday's limits is not made again to miss today's.

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import TypeAdapter

from converters.exporting.packing import pack
from converters.paddle_to_onnx import LEAST_OPSET, MOST_OPSET, OPSET, TIMEOUT_S, export_in_child
from converters.parity import (
    MOST_GENERATED_PIXELS,
    ParityLimits,
    ParityReport,
    compare,
    named_pictures,
    open_original,
    require_parity,
)
from converters.progress import Advance, ignore_progress
from converters.repository import RefusedError, Repository, entry_digest
from converters.rewriting import RewritingError
from engine.bundle.archive import is_bundle_file
from engine.bundle.bundle import CERTIFICATE, Bundle, OnnxModel, PaddleModel, file_digest
from engine.declaration import Options, option
from engine.errors import CalibrationError, ConversionError, ImageError, ModelLoadError, OptionError, TrialError
from engine.gpu.calibration import MIN_CALIBRATION_IMAGES
from engine.images import ImageLimits, SourceImage, read_image, real_path
from engine.images.quality import LEAST_PICTURES, MOST_PICTURES, STATISTICS_NAME, statistics_json
from engine.images.statistics import PictureStatistics, picture_statistics
from engine.options import OnnxOptions, Precision
from engine.runtimes import Tensor
from engine.runtimes.programs.input_bands import input_size
from engine.runtimes.programs.onnx_files import opset_of
from engine.runtimes.programs.quantized_form import symmetric_problem
from engine.runtimes.trial import prove_onnx_loadable
from engine.segmentation.opening import open_runtime
from engine.segmentation.predictor import Predictor
from engine.system.libraries import installed_version
from engine.system.machine.cores import usable_cores
from engine.system.process import is_out_of_memory
from engine.system.settings_files import read_text
from engine.system.text import json_text

_RECIPE = 8
"""Raised whenever another model is made of the same program: older cache entries retire."""
_REWRITER_PACKAGES = ("onnx", "onnxruntime", "ml-dtypes", "numpy", "protobuf")
_CONVERTER_PACKAGES = ("paddle2onnx", "paddlepaddle", *_REWRITER_PACKAGES)

_HELD_OUT_STEP = 4
_INT8_OPSET = 13
"""From this operator set on, weights can have a scale for each channel."""
_INT8_NEEDS = f"INT8 needs operator set {_INT8_OPSET} or later"

ComparedOn = Literal["generated", "calibration", "held-out", "verification"]


class Target(StrEnum):
    """What an INT8 model is made for: each takes another kind."""

    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, slots=True)
class ConversionRequest(Options):
    """What is to be made of a bundle."""

    title: ClassVar[str] = "The ONNX model"

    precision: Precision = option(Precision.FP32, "Number format of the ONNX model.")
    target: Target = option(
        Target.CPU,
        "What the INT8 model is for: CPUs take values with a zero point, GPUs values that are symmetric around zero.",
    )
    opset: int = option(
        OPSET,
        "Version of the ONNX operator set. A network that needs a newer one than the default gets that.",
        minimum=LEAST_OPSET,
        maximum=MOST_OPSET,
    )
    # of the only input that the model is to take; None: any
    input_shape: tuple[int, int] | None = option(
        None, "Height and width of the input, in pixels. By default any size is accepted.", metavar="H W", minimum=1
    )
    calibration: tuple[Path, ...] = ()  # pictures that tell the ranges of activations; for INT8, at least eight
    # pictures that the certificate is made with; empty: the calibration's, or generated ones
    verification: tuple[Path, ...] = ()
    bands: tuple[int, ...] | None = None  # of TIFFs among these pictures, from 1; None: the colours
    images: ImageLimits = ImageLimits()  # how these pictures are read: as those that the model will see
    limits: ParityLimits | None = None  # how far masks may differ; None: `default_limits`
    timeout_s: float = TIMEOUT_S  # that the converter may take

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        if self.target is Target.GPU and self.precision is not Precision.INT8:
            raise OptionError(f"it goes with precision int8; a model in {self.precision} runs on both", option="target")
        if self.input_shape is not None and (pixels := math.prod(self.input_shape)) > MOST_GENERATED_PIXELS:
            raise OptionError(
                f"a picture of {pixels} pixels is too large to compare masks on: at most {MOST_GENERATED_PIXELS}",
                option="input_shape",
            )
        if self.precision is Precision.INT8 and self.opset < _INT8_OPSET:
            raise OptionError(f"{self.opset}: {_INT8_NEEDS}", option="opset")

    def read(self, path: Path) -> SourceImage:
        return read_image(path, **self.images.values(), bands=self.bands)

    @property
    def held_out(self) -> tuple[Path, ...]:
        """Every fourth picture of the calibration: INT8 is judged on it instead, if enough are left."""
        rest = len(self.calibration) - len(self.calibration[::_HELD_OUT_STEP])
        enough = self.precision is Precision.INT8 and not self.verification and rest >= MIN_CALIBRATION_IMAGES
        return self.calibration[::_HELD_OUT_STEP] if enough else ()

    @property
    def compared_files(self) -> tuple[Path, ...]:
        """The pictures that masks are compared on; generated ones if there are none."""
        return self.verification or self.held_out or self.calibration

    @property
    def compared_on(self) -> ComparedOn:
        """What the pictures of the comparison are; of a verification with one of the calibration: "calibration"."""
        if self.verification:
            calibrated_on = {*map(real_path, self.calibration)}
            return "verification" if calibrated_on.isdisjoint(map(real_path, self.verification)) else "calibration"
        if self.held_out:
            return "held-out"
        return "calibration" if self.calibration else "generated"


def default_limits(precision: Precision) -> ParityLimits:
    """Choose the limits that a conversion must keep where the user names none.

    At most 100 mismatched pixels per million for FP32. The others are judged by class and cover, since a rare class can
    vanish while almost all pixels agree: INT8 0.97 of class IoU, FP16 0.99, both half a per cent of cover.
    """
    match precision:
        case Precision.FP32:
            return ParityLimits()
        case Precision.FP16:
            return ParityLimits(max_mismatched_ppm=None, min_class_iou=0.99, max_cover_error=0.005)
        case Precision.INT8:
            return ParityLimits(max_mismatched_ppm=None, min_class_iou=0.97, max_cover_error=0.005)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is known of a converted model; written beside it."""

    precision: Precision
    opset: int
    input_shape: tuple[int, int] | None  # the only height and width that it takes; None: any
    excluded_nodes: tuple[str, ...]  # that stayed in floating point
    model_digest: str  # SHA-256 of the ONNX file
    compared_on: ComparedOn
    report: ParityReport  # `candidate` says what ran the model, a CPU as a rule
    target: Target = Target.CPU  # of an INT8 model
    # of the FP32 model on these pictures, for FP16: a CPU does not show where FP16 overflows
    largest_activation: float | None = None
    max_img_size: int | None = None  # pixels that the compared files were shrunk to; None: none were compared


_CERTIFICATE = TypeAdapter(Certificate)
_CERTIFICATE_BYTES = 1 << 20


def read_certificate(model: OnnxModel) -> Certificate | None:
    """Read the certificate that lies beside a model; None if there is none, or it is damaged or of another model."""
    try:
        text = read_text(model.path.with_name(CERTIFICATE), _CERTIFICATE_BYTES)
        certificate = _CERTIFICATE.validate_json(text)
    except ValueError:
        return None
    return certificate if certificate.model_digest == model.digest else None


@dataclass(frozen=True, slots=True)
class Conversion:
    """A converted model, in the cache, and its certificate."""

    model: OnnxModel
    certificate: Certificate


def convert(
    bundle: Bundle,
    repository: Repository,
    request: ConversionRequest | None = None,
    *,
    load_marks: Path | None = None,
    advance: Advance = ignore_progress,
) -> Conversion:
    """Make an ONNX model of a bundle, or find it in the cache; without a request, FP32 with dynamic input.

    The original is the bundle's Paddle program, run by Paddle without oneDNN; where the bundle holds none, its FP32
    ONNX model. A model that ONNX Runtime does not run counts as not converted.

    ParityError: the masks differ by more than the limits; it carries the report. CalibrationError: calibration pictures
    are too few or cannot be read. ConversionError: the bundle has no Paddle program, the converter is absent, fails,
    aborts or takes too long, or its result does not run. ModelLoadError: the bundle's own ONNX model, which INT8 or
    FP16 is to be made of, does not load.
    """
    request = request or ConversionRequest()
    work = _Work(bundle, repository, request, load_marks, advance)
    try:
        conversion = work.fp32() if request.precision is Precision.FP32 else work.from_fp32()
    except ConversionError as error:
        if not str(error).startswith(f"{bundle.source}: "):
            error.args = (f"{bundle.source}: {error}",)
        raise
    limits = request.limits or default_limits(request.precision)
    require_parity(conversion.certificate.report, limits, where=str(bundle.source))
    return conversion


@dataclass(frozen=True, slots=True)
class _Work:
    """One conversion."""

    bundle: Bundle
    repository: Repository
    request: ConversionRequest
    load_marks: Path | None
    advance: Advance

    def fp32(self) -> Conversion:
        """The plain conversion, certified on generated pictures, and on the user's own where there are some."""
        found = self._fetch(self._fp32_key(), Precision.FP32, self._make_fp32)
        if self.request.precision is not Precision.FP32 or not self.request.compared_files:
            return found
        with open_original(self.bundle, self.load_marks) as original:
            report = self._compared(original, Precision.FP32, self._pictures(original), found.model.path)
        certificate = replace(
            found.certificate,
            compared_on=self.request.compared_on,
            report=report,
            max_img_size=self.request.images.max_img_size,
        )
        return Conversion(found.model, certificate)

    def from_fp32(self) -> Conversion:
        """INT8 or FP16, made of the FP32 model."""
        # Told before the FP32 model is made, which may take minutes.
        if self.request.precision is Precision.INT8 and len(self.request.calibration) < MIN_CALIBRATION_IMAGES:
            raise CalibrationError(
                f"{self.bundle.source}: INT8 is calibrated on at least {MIN_CALIBRATION_IMAGES} pictures like those "
                f"that it will see, {len(self.request.calibration)} were given: name more to calibrate on"
            )
        base = None
        if self.bundle.paddle is None:
            self._require_defaults()
            base = self.bundle.onnx_model(Precision.FP32)
        base = base or self.fp32().model
        self._require_loadable(base)
        if self.request.precision is Precision.INT8 and (has := opset_of(base.path)) < _INT8_OPSET:
            raise ConversionError(
                f"{self.bundle.source}: {_INT8_NEEDS}, and its ONNX model has {has}: export the network again with a "
                "later one, or use FP32"
            )
        key = self._derived_key(base)
        if self.request.precision is Precision.FP16:
            return self._fetch(key, Precision.FP16, partial(self._make_fp16, base))
        from converters.precision.quantization import QuantizationError

        try:
            return self._fetch(key, Precision.INT8, partial(self._make_int8, base))
        except RefusedError as error:
            if isinstance(error, QuantizationError) or error.details is None:
                raise
            # Remembered from an earlier call.
            raise QuantizationError.recalled(error) from error

    def _require_defaults(self) -> None:
        """What the bundle's own ONNX model decides cannot be asked for."""
        for name, asked, default in (
            ("opset", self.request.opset, OPSET),
            ("input_shape", self.request.input_shape, None),
        ):
            if asked != default:
                raise OptionError(
                    f"{self.bundle.source}: holds no Paddle program; its ONNX model, which another is made of, decides "
                    "this: leave it out",
                    option=name,
                )

    def _require_loadable(self, model: OnnxModel) -> None:
        """What is to be rewritten is tried first: what never ends when it is loaded never ends when it is rewritten."""
        try:
            prove_onnx_loadable(model, OnnxOptions(precision=model.precision), self.load_marks)
        except ModelLoadError as error:
            raise type(error)(f"{self.bundle.source}: {error}") from error

    def _fetch(self, key: str, precision: Precision, make: Callable[[Path], Certificate]) -> Conversion:
        def make_with_certificate(destination: Path) -> None:
            certificate = make(destination)
            (destination.parent / CERTIFICATE).write_bytes(_certificate_json(certificate))

        def read(path: Path) -> Conversion | None:
            # The digest is that of the file which runs, whatever the certificate says.
            model = OnnxModel(path=path, precision=precision, digest=entry_digest(path))
            certificate = read_certificate(model)
            return None if certificate is None else Conversion(model, certificate)

        return self.repository.fetch(key, make_with_certificate, read)

    def _make_fp32(self, destination: Path) -> Certificate:
        from converters.graph_optimization import fold_constants

        program = self._program()
        self.advance("converting", 0, 3)
        plain = destination.with_name("plain.onnx")
        export_in_child(
            program,
            plain,
            self.request.opset,
            self.request.timeout_s,
            where=str(self.bundle.source),
            input_shape=self.request.input_shape,
        )
        self.advance("folding constants", 1, 3)
        try:
            fold_constants(plain, destination)
        except RewritingError:
            raise
        except ConversionError as error:
            kind = ConversionError if is_out_of_memory(str(error)) else RefusedError
            raise kind(f"{error}; run it with runtime paddle, or auto") from error
        plain.unlink()
        self.advance("comparing with Paddle", 2, 3)
        with open_original(self.bundle, self.load_marks) as original:
            pictures, compared_on = self._pictures_for_fp32(original)
            report = self._compared(original, Precision.FP32, pictures, destination)
        return self._certificate(Precision.FP32, destination, report, compared_on)

    def _pictures_for_fp32(self, original: Predictor) -> tuple[Iterable[tuple[str, SourceImage]], ComparedOn]:
        """Generated ones, so that all users of the cache have one certificate; the user's where none of them fits."""
        try:
            return self._generated(original), "generated"
        except ConversionError:
            if not self.request.compared_files:
                raise
            return self._pictures(original), self.request.compared_on

    def _make_int8(self, base: OnnxModel, destination: Path) -> Certificate:
        from converters.precision.quantization import quantize

        # The search asks often: it is judged by the FP32 model, which is many times faster than Paddle without oneDNN.
        with self._opened(base) as floating:
            quantized = quantize(
                base.path,
                destination,
                partial(self._feeds, floating),
                lambda path: self._compared(floating, Precision.INT8, self._pictures(floating), path),
                self.request.limits or default_limits(Precision.INT8),
                where=str(self.bundle.source),
                symmetric=self.request.target is Target.GPU,
                advance=self.advance,
            )
        if self.request.target is Target.GPU and (problem := symmetric_problem(destination)) is not None:
            raise ConversionError(f"the INT8 model is not of the kind that GPUs take ({problem}): use FP16")
        return self._compared_with_original(Precision.INT8, destination, quantized.excluded_nodes)

    def _make_fp16(self, base: OnnxModel, destination: Path) -> Certificate:
        from converters.precision.half_precision import to_half

        self.advance("halving", 0, 2)
        with self._opened(base) as floating:
            feeds = self._feeds_for_fp16(floating)
            halved = to_half(base.path, destination, feeds, where=str(self.bundle.source))
        self.advance("comparing with the original", 1, 2)
        certificate = self._compared_with_original(Precision.FP16, destination, halved.kept_nodes)
        return replace(certificate, largest_activation=halved.largest_activation)

    def _compared_with_original(
        self, precision: Precision, path: Path, excluded_nodes: tuple[str, ...] = ()
    ) -> Certificate:
        with open_original(self.bundle, self.load_marks) as original:
            report = self._compared(original, precision, self._pictures(original), path)
        return self._certificate(precision, path, report, self.request.compared_on, excluded_nodes)

    def _certificate(
        self,
        precision: Precision,
        path: Path,
        report: ParityReport,
        compared_on: ComparedOn,
        excluded_nodes: tuple[str, ...] = (),
    ) -> Certificate:
        model = OnnxModel(path=path, precision=precision, digest=file_digest(path))
        return Certificate(
            precision=precision,
            opset=opset_of(path),
            input_shape=input_size(model),
            excluded_nodes=excluded_nodes,
            model_digest=model.digest,
            compared_on=compared_on,
            report=report,
            target=self.request.target,
            max_img_size=None if compared_on == "generated" else self.request.images.max_img_size,
        )

    def _opened(self, model: OnnxModel) -> Predictor:
        bundle = self.bundle.with_onnx(model)
        options = OnnxOptions(threads=usable_cores(), precision=model.precision)
        return Predictor(bundle, open_runtime(bundle, options, load_marks=self.load_marks))

    def _compared(
        self, reference: Predictor, precision: Precision, pictures: Iterable[tuple[str, SourceImage]], path: Path
    ) -> ParityReport:
        try:
            candidate = self._opened(OnnxModel(path=path, precision=precision, digest=file_digest(path)))
        except TrialError as error:
            # It may have been the machine, out of memory for instance: nothing that is to be remembered.
            raise ConversionError(f"the converted model could not be tried: {error}") from error
        except ModelLoadError as error:
            reason = str(error).removeprefix(f"{self.bundle.source}: ")
            kind = ConversionError if is_out_of_memory(reason) else RefusedError
            raise kind(
                f"the conversion gives a model that ONNX Runtime does not run ({reason}); run the bundle with "
                "runtime paddle, or auto"
            ) from error
        with candidate:
            return compare(reference, candidate, pictures)

    def _pictures(self, reference: Predictor) -> Iterable[tuple[str, SourceImage]]:
        files = self.request.compared_files
        if files:
            # The certificate travels with the bundle: it names pictures, not folders of this machine.
            return ((path.name, self.request.read(path)) for path in files)
        return self._generated(reference)

    def _generated(self, reference: Predictor) -> list[tuple[str, SourceImage]]:
        if self.request.input_shape is None:
            return named_pictures(reference)
        height, width = self.request.input_shape
        return named_pictures(reference, ((width, height),))

    def _feeds_for_fp16(self, predictor: Predictor) -> Iterator[Mapping[str, Tensor]]:
        """The pictures of the comparison, which leaves out those that the network does not take."""
        for _, image in self._pictures(predictor):
            with suppress(ImageError):
                yield {predictor.network.input_name: predictor.prepare(image).tensor[None]}

    def _feeds(self, predictor: Predictor) -> Iterator[Mapping[str, Tensor]]:
        """The calibration pictures as the network gets them, one at a time."""
        held_out = set(self.request.held_out)
        for path in self.request.calibration:
            if path in held_out:
                continue
            try:
                prepared = predictor.prepare(self.request.read(path))
            except ImageError as error:
                raise CalibrationError(f"{path}: cannot be used for calibration ({error}): leave it out") from error
            yield {predictor.network.input_name: prepared.tensor[None]}

    def _program(self) -> PaddleModel:
        if self.bundle.paddle is None:
            raise ConversionError(f"{self.bundle.source}: holds no Paddle program to convert")
        return self.bundle.paddle

    def _fp32_key(self) -> str:
        program = self._program()
        return self._key(Precision.FP32, program.kind, program.digest)

    def _derived_key(self, base: OnnxModel) -> str:
        pictures = [
            [file_digest(path) for path in each] for each in (self.request.calibration, self.request.verification)
        ]
        # The search for nodes to leave in floating point ends where the limits are met.
        limits = asdict(self.request.limits or default_limits(self.request.precision))
        read = [self.request.bands, asdict(self.request.images)]
        return self._key(self.request.precision, base.digest, pictures, read, limits, self.request.target)

    def _key(self, precision: Precision, *content: object) -> str:
        packages = _CONVERTER_PACKAGES if precision is Precision.FP32 else _REWRITER_PACKAGES
        versions = {name: _version_of(name) for name in packages}
        # The certificate names classes and bundle, and planes are compared otherwise than masks.
        bundle = [self.bundle.digest, self.bundle.multilabel, repr(self.bundle.transforms)]
        known = [*bundle, self.request.opset, self.request.input_shape, versions, _RECIPE]
        text = json.dumps([*content, *known], sort_keys=True)
        return f"{precision}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def packed_files(bundle: Bundle) -> dict[str, Path]:
    """List the files that a copy of a bundle holds, by their names in it; its folder may hold anything besides."""
    found = [*bundle.folder.glob("*"), *bundle.folder.glob("onnx/*/*")]
    named = {path.relative_to(bundle.folder).as_posix(): path for path in found if path.is_file()}
    return {name: path for name, path in named.items() if is_bundle_file(name)}


def _certificate_json(certificate: Certificate) -> bytes:
    return json_text(_CERTIFICATE.dump_python(certificate), indent=2).encode()


def calibration_statistics(request: ConversionRequest) -> bytes | None:
    """Measure the pictures of a calibration, so that photographs can be compared with them; the bundle's file of them.

    Of more than `MOST_PICTURES` as many, evenly spread, are measured. None of other numbers of bands than one and
    three, which no photograph has. CalibrationError: they are too few, or one cannot be read.
    """
    pictures = request.calibration
    if len(pictures) < LEAST_PICTURES:
        raise CalibrationError(
            f"{len(pictures)} pictures to calibrate on do not tell what others look like: name {LEAST_PICTURES} or more"
        )
    if len(request.bands or (1,)) not in {1, 3}:
        return None
    found: list[PictureStatistics] = []
    for path in pictures[:: -(-len(pictures) // MOST_PICTURES)]:
        try:
            image = request.read(path)
        except ImageError as error:
            raise CalibrationError(f"{error}: leave it out of the calibration") from error
        found.append(picture_statistics(image.pixels))
    return statistics_json(found)


def write_bundle(bundle: Bundle, conversion: Conversion, destination: Path, statistics: bytes | None = None) -> None:
    """Write a copy of the bundle that also holds an ONNX model; a Paddle user can still use it.

    The model takes the place of one of the same precision. Without `statistics` the copy has those that the bundle
    carries, if it does. ConversionError: the destination cannot be written.
    """
    folder = f"onnx/{conversion.model.precision}"
    added = {
        f"{folder}/model.onnx": conversion.model.path,
        f"{folder}/{CERTIFICATE}": _certificate_json(conversion.certificate),
        **({} if statistics is None else {STATISTICS_NAME: statistics}),
    }
    write_copy(bundle, added, destination)


def write_copy(bundle: Bundle, added: Mapping[str, Path | bytes], destination: Path) -> None:
    """Write a copy of a bundle with further or replaced members; ConversionError if it cannot be written."""
    pack({**packed_files(bundle), **added}, destination)


def _version_of(distribution: str) -> str:
    version = installed_version(distribution)
    if version is None:
        raise ConversionError(
            f"{distribution} is not installed: install the extras `convert` and `paddle` on x86-64 with Python 3.11 or "
            "3.12 (paddle2onnx has no build for others), or use a bundle that holds onnx/fp32/model.onnx"
        )
    return version
