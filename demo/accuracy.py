"""Write docs/accuracy.md: what the trained bundles score on images that they never saw: ``python -m demo.accuracy``."""

# Every bundle runs on Paddle Inference (without oneDNN), on ONNX Runtime in FP32 and, if it holds such a model, in
# INT8. ``--nuclei DIR`` names the folder whose ``test`` holds ``images`` and ``masks``; the scenes of the demo are
# rendered.

import argparse
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.evaluation import Evaluation, LabelledImage, Score, evaluate
from benchmarks.results.markdown import Table, markdown
from converters.parity import compare
from demo.nuclei import read_labelled_folder
from demo.train import held_out_scenes
from engine import OnnxOptions, PaddleOptions, Precision, Predictor, SourceImage, open_bundle, open_runtime
from engine.images import Capture
from engine.system.machine.cores import usable_cores

HERE = Path(__file__).parent
_Labelled = Callable[[], Iterable[LabelledImage]]


@dataclass(frozen=True, slots=True)
class Column:
    """What one runtime scores against the labels; pixels of another class than Paddle's are per million."""

    label: str
    score: Score
    mismatched_ppm: float


@dataclass(frozen=True, slots=True)
class Measured:
    """A bundle on its images; classes are in index order."""

    title: str
    classes: tuple[str, ...]
    columns: tuple[Column, ...]
    versions: dict[str, str]


def measure(title: str, bundle_path: Path, labelled: _Labelled) -> Measured:
    """Run a bundle, with a Paddle program and an FP32 ONNX model, on all runtimes and precisions of this machine."""
    threads = usable_cores()
    with open_bundle(bundle_path) as bundle, ExitStack() as opened:
        precisions = [each for each in (Precision.FP32, Precision.INT8) if bundle.onnx_model(each) is not None]
        options = [
            PaddleOptions(threads=threads),
            *(OnnxOptions(precision=each, threads=threads) for each in precisions),
        ]
        predictors = [opened.enter_context(Predictor(bundle, open_runtime(bundle, each))) for each in options]
        evaluation = evaluate(predictors, labelled())
        ppm = [_mismatched_ppm(predictors[0], each, labelled()) for each in predictors[1:]]
        labels = ["Paddle FP32", *(f"ONNX {each.upper()}" for each in precisions)]
        versions = {name: each for one in predictors for name, each in one.provenance.versions.items()}
        return _measured(title, evaluation, labels, [0.0, *ppm], versions)


def _mismatched_ppm(reference: Predictor, candidate: Predictor, labelled: Iterable[LabelledImage]) -> float:
    return compare(reference, candidate, ((each.name, each.image) for each in labelled)).mismatched_ppm


def _measured(
    title: str, evaluation: Evaluation, labels: Sequence[str], ppm: Sequence[float], versions: dict[str, str]
) -> Measured:
    columns = tuple(
        Column(label, score, mismatched)
        for label, score, mismatched in zip(labels, evaluation.scores, ppm, strict=True)
    )
    return Measured(title, tuple(each.name for each in evaluation.classes), columns, versions)


def scenes() -> Iterator[LabelledImage]:
    """Render the scenes that the demo's training holds back."""
    for seed, scene in held_out_scenes():
        height, width = scene.labels.shape
        image = SourceImage(scene.image, width, height, Capture())
        yield LabelledImage(f"scene {seed}", image, f"labels of scene {seed}", scene.labels)


def page(measured: Sequence[Measured]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(measured[0].versions.items()))
    head = (
        "# Accuracy of the trained bundles\n\n"
        "This page is for readers who want to know how ONNX and INT8 affect accuracy. It compares the two trained\n"
        "bundles of this repository on images that were not used for their training. INT8 is measured only for the\n"
        "bundle that holds an INT8 model, that of the nuclei. IoU is calculated over all pixels of all images. The\n"
        "cover error is the difference between the true cover of a class in an image and the cover that was found,\n"
        "averaged over the images (largest value in brackets), for the class with the largest average. The last\n"
        "column counts the pixels whose class differs from Paddle's, per million.\n\n"
        "`make accuracy NUCLEI=DIR` writes this page. "
        f"Measured on {platform.machine()} with {versions}.\n"
    )
    return head + "".join(_section(each) for each in measured)


def _section(measured: Measured) -> str:
    first = measured.columns[0].score
    titles = ("runs on", "mean IoU", "against Paddle", *(f"IoU {name}" for name in measured.classes))
    header = (*titles, "pixel accuracy", "cover error", "mismatched ppm")
    table = markdown(Table(header, tuple(_cells(column, first) for column in measured.columns)))
    return f"\n## {measured.title}\n\n{first.images} images, {first.pixels / 1e6:.1f} million pixels.\n\n{table}\n"


def _cells(column: Column, first: Score) -> tuple[str, ...]:
    score = column.score
    worst = max(score.cover_error, key=lambda each: each.mean)
    return (
        column.label,
        f"{score.miou:.4f}",
        "" if score is first else f"{100 * (score.miou - first.miou):+z.2f} points",
        *("-" if iou is None else f"{iou:.4f}" for iou in score.class_iou),
        f"{score.accuracy:.4f}",
        f"{worst.mean:.4f} ({worst.max:.4f})",
        "" if score is first else f"{column.mismatched_ppm:.1f}",
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo.accuracy", description="Measure the trained bundles.")
    parser.add_argument("--nuclei", type=Path, required=True, help="folder whose test/ holds images/ and masks/")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "accuracy.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    test: Path = options.nuclei / "test"
    nuclei = measure("Nuclei, PP-LiteSeg", HERE / "nuclei.tgz", lambda: read_labelled_folder(test))
    seagrass = measure("Rendered quadrats, FCN on HRNet", HERE / "demo_seagrass.tgz", scenes)
    text = page([nuclei, seagrass])
    options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
