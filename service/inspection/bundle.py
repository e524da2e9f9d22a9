"""What a bundle holds, and its known problems."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

from engine import Bundle, BundleError, ModelLoadError, OnnxModel, OptionError, Precision
from engine.bundle.bundle import CERTIFICATE, PaddleModel
from engine.images.quality import require_reference
from engine.runtimes.profile import PROFILE_NAME, read_profile
from engine.runtimes.programs.input_bands import input_bands
from engine.runtimes.programs.last_operator import LastOperator, last_operator
from engine.runtimes.programs.onnx_files import require_whole_model
from engine.segmentation.steps import cleanup_of
from engine.transforms import describe


def warnings_of(bundle: Bundle) -> list[str]:
    """Find what will surprise a user of the bundle."""
    from converters.exporting.bundle_files import meta_of
    from converters.exporting.evaluation_settings import stated_evaluation

    found = list(bundle.notes)
    if not bundle.classes:
        found.append("meta.json names no classes: covers are reported as class-0, class-1, …; add them to meta.json")
    for field, values in (
        ("name", [each.name for each in bundle.classes]),
        ("id", [each.id for each in bundle.classes]),
    ):
        repeated = [value for value, count in Counter(values).items() if count > 1]
        if repeated:
            found.append(
                f"several classes have the same {field} ({', '.join(repeated[:3])}): in tables only their index tells "
                f"them apart; give each class a {field} of its own in meta.json"
            )
    colors = Counter(each.color for each in bundle.classes if each.color is not None)
    for color, count in colors.items():
        if count > 1:
            names = ", ".join(each.name for each in bundle.classes if each.color == color)
            found.append(f"colour {list(color)} is used by {names}: they look alike in pictures; change def_color")
    colorless = [each.name for each in bundle.classes if each.color is None]
    if colorless:
        found.append(f"no def_color for {', '.join(colorless)}: PaddleSeg's default colours are used")
    try:
        cleanup_of(bundle)
    except BundleError as error:
        found.append(f"{error}: correct it, or remove it; no image is segmented before")
    try:
        stated_evaluation(meta_of(bundle), str(bundle.source))
    except BundleError as error:
        found.append(f"{error}: correct it, or remove it; no mask depends on it")
    if bundle.paddle is None:
        found.append("holds no Paddle program: it runs on ONNX Runtime only")
    elif bundle.paddle.kind == "pdmodel":
        found.append("no model.json beside the .pdmodel: Paddle 3 still reads it; a new export writes a PIR program")
    if bundle.paddle is not None and bundle.onnx_model(Precision.FP32) is None:
        found.append("holds no ONNX model: it is converted at first use; `pseg convert` does that once for all")
    found += [
        f"onnx/{each.precision}/model.onnx was made of another network, as its certificate says, and is not run: make "
        "it again with `pseg convert --replace`"
        for each in bundle.onnx
        if bundle.is_made_of_another(each)
    ]
    for each in bundle.onnx:
        try:
            require_whole_model(each.path)
        except ModelLoadError as error:
            found.append(str(error))
    model = bundle.paddle or bundle.onnx_model(Precision.FP32)
    if model is not None and _ending(model) == LastOperator.ARGMAX:
        found.append(
            "ends in argmax: masks are enlarged by nearest neighbour; `pseg convert --scores` makes a bundle "
            "without it, whose borders are finer"
        )
    return found


def inspection(bundle: Bundle) -> dict[str, Any]:
    """Describe an open bundle as JSON values, its known problems among them."""
    from converters.exporting.bundle_files import meta_of

    paddle, meta = bundle.paddle, meta_of(bundle)
    return {
        "name": bundle.name,
        "source": str(bundle.source),
        "digest": bundle.digest,
        "derived_from": bundle.derived_from,
        "lineage": list(_lineage(meta)),
        "license": _text(meta.get("license")),
        "classes": [
            {"index": index, "id": each.id, "name": each.name, "color": each.color}
            for index, each in enumerate(bundle.classes)
        ],
        "transforms": [describe(each) for each in bundle.transforms],
        "paddle": None
        if paddle is None
        else {
            "kind": paddle.kind,
            "program": paddle.program.name,
            "program_bytes": paddle.program.stat().st_size,
            "params": paddle.params.name,
            "params_bytes": paddle.params.stat().st_size,
            "digest": paddle.digest,
            "ends_in": _ending(paddle),
            "input_bands": _bands(paddle),
        },
        "onnx": [
            {
                "precision": each.precision.value,
                "bytes": each.path.stat().st_size,
                "digest": each.digest,
                "ends_in": _ending(each),
                "input_bands": _bands(each),
                "certificate": _certificate(bundle, each),
                "unread_certificate": _has_unread_certificate(bundle, each),
            }
            for each in bundle.onnx
        ],
        "declared": {
            "input_shape": bundle.declared.input_shape,
            "output_op": bundle.declared.output_op,
            "output_dtype": bundle.declared.output_dtype,
        },
        "profile": _profile(bundle),
        "statistics": _statistics(bundle),
        "multilabel": bundle.multilabel,
        "cleanup": dict(bundle.cleanup),
        "evaluation": _evaluation(bundle, meta),
        "warnings": warnings_of(bundle),
    }


def _lineage(meta: dict[str, Any]) -> Iterator[dict[str, str | None]]:
    """The bundles that `meta.json` says this one was made from, the nearest first, and what was changed each time."""
    origin = meta.get("derived_from")
    while isinstance(origin, dict):
        told = cast("dict[str, object]", origin)
        yield {name: _text(told.get(name)) for name in ("bundle", "change")}
        origin = told.get("derived_from")


def _evaluation(bundle: Bundle, meta: dict[str, Any]) -> dict[str, object]:
    """Options by which pictures are seen as by PaddleSeg's evaluation; empty where nothing usable is stated."""
    from converters.exporting.evaluation_settings import stated_evaluation

    with suppress(BundleError):
        return stated_evaluation(meta, str(bundle.source)).record()
    return {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _statistics(bundle: Bundle) -> dict[str, Any] | None:
    """How many pictures photographs are compared with, and why they are not; None where the bundle names none."""
    try:
        reference = require_reference(bundle.folder)
    except OptionError as error:
        return {"pictures": None, "ignored": str(error)}
    return None if reference is None else {"pictures": len(reference.pictures), "ignored": None}


def _profile(bundle: Bundle) -> dict[str, Any] | None:
    """What a carried profile chooses, and why it is not used here; None where the bundle carries none."""
    path = bundle.folder / PROFILE_NAME
    if not path.is_file():
        return None
    try:
        profile = read_profile(path)
    except OptionError as error:
        return {"digest": None, "ignored": str(error)}
    return {
        "digest": profile.digest,
        "provider": profile.provider,
        "precision": profile.precision.value,
        "threads": profile.threads,
        "streams": profile.streams,
        "batch_size": profile.batch_size,
        "ignored": profile.mismatch(bundle),
    }


def _certificate(bundle: Bundle, model: OnnxModel) -> dict[str, Any] | None:
    """How the model was compared with the bundle's network; None where no certificate of both lies beside it."""
    from converters.conversion import read_certificate

    certificate = read_certificate(model)
    if certificate is None or bundle.is_made_of_another(model):
        return None
    report = certificate.report
    return {
        "images": report.images,
        "compared_on": certificate.compared_on,
        "mismatched_ppm": report.mismatched_ppm,
        "min_class_iou": report.min_class_iou,
        "max_cover_error": report.max_cover_error,
    }


def _has_unread_certificate(bundle: Bundle, model: OnnxModel) -> bool:
    """Whether a certificate lies beside the model that is of another one, or in the form of another version."""
    return model.path.with_name(CERTIFICATE).is_file() and _certificate(bundle, model) is None


def _ending(model: PaddleModel | OnnxModel) -> str | None:
    """The operator that decides what scores are; None where the file cannot be read, which loading it will tell."""
    try:
        return last_operator(model).value
    except ModelLoadError:
        return None


def _bands(model: PaddleModel | OnnxModel) -> int | None:
    """Of the images that the network takes; None where the file leaves it open or cannot be read."""
    try:
        return input_bands(model)
    except ModelLoadError:
        return None
