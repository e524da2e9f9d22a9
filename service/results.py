"""What is written of a prediction: pictures, JSON records, a table of cover."""

import csv
import io
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine import ClassCover, Failed, OptionError, Prediction, Provenance, Segmented, SourceImage
from engine.palette import Mask, composite, mask_png, overlay_jpeg, palette_for, planes_npz, pseudo_color_png
from service.request import SaveKind


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is whole or absent.

    Args:
        path: replaced if it exists.
        content: the bytes.
    """
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path) -> Generator[BinaryIO]:
    """Write a file, piece by piece, that is whole or absent: temporary name, fsync, rename.

    Args:
        path: replaced if it exists, when the block ends without an error.

    Yields:
        The file to write to.
    """
    descriptor, partial = tempfile.mkstemp(prefix=".pseg-", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(partial).chmod(0o644)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


@dataclass(slots=True)
class Stems:
    """Gives every image a stem of its own for its output files, as the images come.

    Attributes:
        taken: what was given away, without letter case: some file systems ignore it.
    """

    taken: set[str] = field(default_factory=set[str])

    def take(self, wanted: str) -> str:
        """Take a stem.

        Args:
            wanted: the image's own.

        Returns:
            The same, or with `-2`, `-3`, … behind it if it was taken.
        """
        stem, number = wanted, 1
        while stem.casefold() in self.taken:
            number += 1
            stem = f"{wanted}-{number}"
        self.taken.add(stem.casefold())
        return stem


def distinct_stems(images: Iterable[Path]) -> list[str]:
    """Give every image a stem of its own for its output files.

    Args:
        images: in the order of the run.

    Returns:
        A stem an image; equal ones are told apart by `-2`, `-3`, … in order. Letter case does not tell stems apart,
        since some file systems ignore it.

    >>> distinct_stems([Path("a/x.jpg"), Path("b/x.png"), Path("x-2.jpg"), Path("X.jpg")])
    ['x', 'x-2', 'x-2-2', 'X-3']
    """
    stems = Stems()
    return [stems.take(image.stem) for image in images]


class Labelled(Protocol):
    """A source that people know by a name."""

    @property
    def label(self) -> str:
        """What tables and reports call it."""
        ...


@dataclass(frozen=True, slots=True)
class ImageTask:
    """One image of a run and where its results go.

    Attributes:
        path: the image.
        stem: stem of its output files.
    """

    path: Path
    stem: str

    @property
    def label(self) -> str:
        """What tables and reports call it."""
        return str(self.path)


_SUFFIXES: Mapping[SaveKind, tuple[str, ...]] = {
    "mask": (".mask.png", ".mask.npz"),
    "pseudo": (".pseudo.png",),
    "overlay": (".overlay.jpg",),
}


def require_inputs_kept(tasks: Sequence[ImageTask], folder: Path, save: frozenset[SaveKind]) -> None:
    """Refuse a run whose results would take the place of its images.

    Args:
        tasks: images and the stems of their results.
        folder: where the results go.
        save: which pictures are written.

    Raises:
        OptionError: an image lies where a result would be written.
    """
    images = {task.path.resolve() for task in tasks}
    for task in tasks:
        for suffix in (suffix for kind in save for suffix in _SUFFIXES[kind]):
            result = folder / f"{task.stem}{suffix}"
            if result.resolve() in images:
                raise OptionError(
                    f"{result} is one of the images, and the result of {task.path} would take its place: "
                    "name another folder with --out"
                )


@dataclass(frozen=True, slots=True)
class ResultWriter:
    """Writes the pictures of predictions.

    Attributes:
        folder: where they go.
        save: which ones.
    """

    folder: Path
    save: frozenset[SaveKind]

    def write(self, task: ImageTask, image: SourceImage, prediction: Prediction) -> Path | None:
        """Write the pictures of one image.

        Args:
            task: names the files.
            image: the photograph, for the overlay.
            prediction: mask and cover.

        Returns:
            The most exact file written: the mask, else the pseudo-colour picture, else the overlay; None if none was
            asked for.
        """
        planes = prediction.mask.ndim == 3
        indices, palette = shown_mask(prediction)
        makers: dict[SaveKind, tuple[str, Callable[[], bytes]]] = {
            "mask": (".mask.npz", lambda: planes_npz(prediction.mask.astype(np.bool_)))
            if planes
            else (".mask.png", lambda: mask_png(indices)),
            "pseudo": (".pseudo.png", lambda: pseudo_color_png(indices, palette)),
            "overlay": (".overlay.jpg", lambda: overlay_jpeg(image.pixels, indices, palette)),
        }
        written: list[Path] = []
        for kind, (suffix, make) in makers.items():
            if kind in self.save:
                path = self.folder / f"{task.stem}{suffix}"
                write_atomically(path, make())
                written.append(path)
        return written[0] if written else None


def shown_mask(prediction: Prediction) -> tuple[Mask, NDArray[np.uint8]]:
    """Make a prediction's mask what pictures show of it.

    Args:
        prediction: mask and cover.

    Returns:
        Class indices `[H, W]` and their palette `uint8[K, 3]`, RGB. Planes of a multilabel bundle are flattened: the
        last class of a pixel is shown, and a pixel of no class has the palette's last entry, black.
    """
    planes = prediction.mask.ndim == 3
    indices = composite(prediction.mask.astype(np.bool_)) if planes else _as_indices(prediction)
    return indices, _with_black(class_palette(prediction.covers)) if planes else class_palette(prediction.covers)


def _as_indices(prediction: Prediction) -> Mask:
    if prediction.mask.dtype == np.uint16:
        return prediction.mask.astype(np.uint16, copy=False)
    return prediction.mask.astype(np.uint8, copy=False)


def class_palette(covers: tuple[ClassCover, ...]) -> NDArray[np.uint8]:
    """Choose the colours that all pictures and files of a mask have.

    Args:
        covers: one a class, in index order.

    Returns:
        uint8[K, 3], RGB.
    """
    return palette_for([each.segmentation_class.color for each in covers], len(covers))


def _with_black(palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.vstack([palette, np.zeros((1, 3), np.uint8)])


def cover_records(covers: tuple[ClassCover, ...]) -> list[dict[str, Any]]:
    """Write covers as JSON values, with the colours that the pictures have.

    Args:
        covers: one a class.

    Returns:
        `{"id", "name", "color": [r, g, b], "cover"}` a class, and `"area_m2"` where it is known.
    """
    palette = class_palette(covers).tolist()
    return [
        {
            "id": each.segmentation_class.id,
            "name": each.segmentation_class.name,
            "color": color,
            "cover": round(each.cover, 6),
            **({} if each.area_m2 is None else {"area_m2": round(each.area_m2, 4)}),
        }
        for each, color in zip(covers, palette, strict=True)
    ]


def provenance_record(provenance: Provenance) -> dict[str, Any]:
    """Write a provenance as a JSON value.

    Args:
        provenance: of a predictor.

    Returns:
        Its fields; `profile`, `tiling` and `averaging` only where there was one.
    """
    record = asdict(provenance)
    for name in ("profile", "tiling", "averaging"):
        if record[name] is None:
            del record[name]
    return record


def result_record(
    result: Segmented[ImageTask, Path | None] | Failed[ImageTask], provenance: Provenance
) -> dict[str, Any]:
    """Write a result as a JSON value.

    Args:
        result: from the pipeline.
        provenance: of the predictor.

    Returns:
        The record of one line of `--json`; `mask` is None for a failure.
    """
    if isinstance(result, Failed):
        return {
            "image": str(result.source.path),
            "status": "failed",
            "error": {"type": type(result.error).__name__, "message": str(result.error)},
            "mask": None,
            "cover": [],
            "provenance": provenance_record(provenance),
            "timings_ms": {},
        }
    return {
        "image": str(result.source.path),
        "status": "ok",
        "error": None,
        "mask": {
            "path": None if result.encoded is None else str(result.encoded),
            "width": result.prediction.width,
            "height": result.prediction.height,
        },
        "cover": cover_records(result.prediction.covers),
        "provenance": provenance_record(provenance),
        "timings_ms": {stage: round(elapsed, 3) for stage, elapsed in result.timings_ms.items()},
    }


_Source = TypeVar("_Source", bound=Labelled)
_Encoded = TypeVar("_Encoded")


@dataclass(slots=True)
class CoverTable:
    """A row per image: size, time and place of the photograph, cover per class, or why it failed.

    Attributes:
        rows: in the order of the run.
    """

    rows: list[dict[str, object]] = field(default_factory=list[dict[str, object]])

    def add(self, result: Segmented[_Source, _Encoded] | Failed[_Source]) -> None:
        """Add an image.

        Args:
            result: from the pipeline.
        """
        row: dict[str, object] = {"image": result.source.label}
        if isinstance(result, Failed):
            self.rows.append({**row, "status": "failed", "error": str(result.error)})
            return
        capture = result.image.capture
        self.rows.append(
            {
                **row,
                "status": "ok",
                "width": result.prediction.width,
                "height": result.prediction.height,
                "taken_at": "" if capture.taken_at is None else capture.taken_at.isoformat(),
                "latitude_deg": capture.latitude_deg,
                "longitude_deg": capture.longitude_deg,
                **_cover_columns(result.prediction.covers),
            }
        )

    def to_csv(self) -> bytes:
        """Write the table.

        Returns:
            UTF-8 CSV with a header line; a cell without a value is empty. A file name that is no UTF-8 keeps its bytes.
        """
        fixed = ["image", "status", "width", "height", "taken_at", "latitude_deg", "longitude_deg"]
        covers = dict.fromkeys(name for row in self.rows for name in row if name not in {*fixed, "error"})
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [*fixed, *covers, "error"], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue().encode(errors="surrogateescape")


def _cover_columns(covers: tuple[ClassCover, ...]) -> dict[str, object]:
    names = [each.segmentation_class.name for each in covers]
    columns: dict[str, object] = {}
    for index, (name, each) in enumerate(zip(names, covers, strict=True)):
        column = f"cover_{name}" if names.count(name) == 1 else f"cover_{name}_{index}"
        while column in columns:
            column += "_"
        columns[column] = round(each.cover, 6)
        if each.area_m2 is not None:
            columns[column.replace("cover_", "area_m2_", 1)] = round(each.area_m2, 4)
    return columns
