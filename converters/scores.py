"""A bundle whose network ends in argmax becomes one of the same network that returns scores."""

import shutil
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.conversion import Certificate, Conversion, ConversionRequest, packed_files
from converters.exporting.bundle_files import META, deploy_text, derived_meta, meta_text, read_settings, settings_file
from converters.last_argmax import cut_graph, cut_program
from converters.parity import ParityReport, compare_classes, named_pictures, open_original
from converters.rewriting import rewritten
from engine.bundle.bundle import Bundle, OnnxModel, PaddleModel, read_bundle
from engine.errors import ConversionError
from engine.images import SourceImage
from engine.options import Precision
from engine.quantities import shown_figure
from engine.runtimes.profile import PROFILE_NAME
from engine.runtimes.programs.input_bands import input_size
from engine.runtimes.programs.last_operator import LastOperator, last_operator
from engine.runtimes.programs.onnx_files import opset_of
from engine.system.files import scratch_folder

_CHANGE = "the last argmax was cut off"


@dataclass(frozen=True, slots=True)
class ScoresBundle:
    """A bundle without the last argmax of the one that it was made from."""

    bundle: Bundle  # of the same source; `derived_from` is the digest of the original
    # the classes with the largest score compared with those of the original, at the network's own size; no pixel
    # differs
    report: ParityReport
    left_out: tuple[str, ...]  # files of the original that hold for its masks only: derived models, a tuned profile

    def as_conversion(self, request: ConversionRequest) -> Conversion | None:
        """Certify the FP32 graph that was cut; None where a program was, or the request asks for another model."""
        model = self.bundle.onnx_model(Precision.FP32)
        asked = ConversionRequest(
            limits=request.limits,
            calibration=request.calibration,
            verification=request.verification,
            bands=request.bands,
            images=request.images,
        )
        if model is None or request != asked:
            return None
        certificate = Certificate(
            precision=Precision.FP32,
            opset=opset_of(model.path),
            input_shape=input_size(model),
            excluded_nodes=(),
            model_digest=model.digest,
            compared_on=request.compared_on,
            report=self.report,
            max_img_size=request.images.max_img_size if request.compared_files else None,
        )
        return Conversion(model, certificate)


@contextmanager
def with_scores(
    bundle: Bundle, pictures: Iterable[tuple[str, SourceImage]] = (), *, load_marks: Path | None = None
) -> Generator[ScoresBundle]:
    """Cut the last argmax off a bundle's network, and prove that the classes stay the same.

    The Paddle program is cut in its own format; its weights are the same. Where the bundle holds none, its FP32 ONNX
    graph is. Both networks then run on the same pictures, generated ones if none are given: the class with the largest
    score must be the original's in every pixel. ConversionError: the network does not end in an argmax over classes,
    its classes overlap, or a class differs.
    """
    if bundle.multilabel:
        raise ConversionError(
            f"{bundle.source}: meta.json says that its classes overlap, and an argmax tells them apart: correct "
            "multilabel in meta.json"
        )
    with scratch_folder("scores") as folder:
        try:
            left_out = _write(bundle, folder)
        except ConversionError as error:
            raise type(error)(f"{bundle.source}: {error}") from error
        cut = read_bundle(folder, bundle.source)
        yield ScoresBundle(cut, _require_same_classes(bundle, cut, list(pictures), load_marks), left_out)


def _write(bundle: Bundle, folder: Path) -> tuple[str, ...]:
    """Write the files of the new bundle; tell which of the original it does not hold."""
    base = bundle.paddle or bundle.onnx_model(Precision.FP32)
    if base is None:
        raise ConversionError("holds neither a Paddle program nor onnx/fp32/model.onnx, whose argmax could be cut off")
    replaced = {settings_file(bundle).name, META}
    settings = read_settings(bundle)
    deploy: dict[str, Any] = {key: value for key, value in settings["Deploy"].items() if key != "with_argmax"}
    if isinstance(base, PaddleModel):
        program = base.program.name
        rewritten(cut_program, base.program, folder, program)
        shutil.copyfile(base.params, folder / base.params.name)
        deploy |= {"model": program, "params": base.params.name}
        ending = last_operator(PaddleModel(folder / program, folder / base.params.name, digest=""))
    else:
        target = folder / base.path.relative_to(bundle.folder)
        target.parent.mkdir(parents=True)
        rewritten(cut_graph, base.path, target.parent, target.name)
        ending = last_operator(OnnxModel(target, Precision.FP32, digest=""))
    ends = "softmax" if ending is LastOperator.SOFTMAX else "none"
    settings = {**settings, "Deploy": {**deploy, "output_op": ends, "output_dtype": "float32"}}
    (folder / settings_file(bundle).name).write_text(deploy_text(settings), encoding="utf-8")
    (folder / META).write_text(meta_text(derived_meta(bundle, _CHANGE)), encoding="utf-8")
    return _copy_others(bundle, folder, replaced)


def _copy_others(bundle: Bundle, folder: Path, replaced: set[str]) -> tuple[str, ...]:
    """Copy what is neither a model nor said anew; tell what is not copied."""
    left_out: list[str] = []
    for name, path in packed_files(bundle).items():
        target = folder / name
        if name in replaced or target.exists():
            continue
        if name.startswith("onnx/") or name == PROFILE_NAME or target.suffix == ".pdmodel":
            left_out.append(name)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return tuple(sorted(left_out))


def _require_same_classes(
    original: Bundle, cut: Bundle, pictures: Sequence[tuple[str, SourceImage]], load_marks: Path | None
) -> ParityReport:
    with open_original(original, load_marks) as reference, open_original(cut, load_marks) as candidate:
        report = compare_classes(reference, candidate, pictures or named_pictures(reference))
    if report.mismatched_ppm:
        raise ConversionError(
            f"{original.source}: without its last argmax, the network gives other classes "
            f"({shown_figure(report.mismatched_ppm, 1)} pixels per million, worst on {report.worst_image}): report "
            "this network"
        )
    return report
