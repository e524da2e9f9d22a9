"""What is written of a prediction: pictures, JSON records, a table of cover."""

import os
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine import ClassCover, Failed, OptionError, Prediction, Provenance, Segmented, SourceImage
from engine.images import Capture, real_path
from engine.quantities import rounded_area
from engine.rasters.options import STYLE_SUFFIX, is_polygon_format
from engine.rasters.result import Result, SegmentedRaster
from engine.segmentation.confidence import Confidence
from engine.segmentation.palette import (
    Mask,
    OverlayOptions,
    composite,
    mask_png,
    overlay_jpeg,
    palette_for,
    planes_npz,
    pseudo_color_png,
)
from engine.segmentation.steps import RegionCover
from engine.system.files import write_atomically
from engine.system.text import composed, csv_table
from service.request import SaveKind, require_apart
from service.results.totals import counts_nothing, valid_pixels

_STEM_BYTES = 180
_CM2_PER_M2 = 10_000
_M2_DECIMALS, _CM2_DECIMALS = 4, 2


@dataclass(slots=True)
class Stems:
    """Gives every image a stem of its own for its output files, as the images come.

    `taken` is without letter case and with composed accents, since some file systems ignore both, and holds the last
    number given behind a stem.
    """

    taken: dict[str, int] = field(default_factory=dict[str, int])

    def take(self, wanted: str) -> str:
        """Return the stem, or with `-2`, `-3`, … behind it if it was taken."""
        folded = _as_some_file_systems(wanted)
        stem, number = wanted, self.taken.get(folded, 1)
        while _as_some_file_systems(stem) in self.taken:
            number += 1
            stem = f"{wanted}-{number}"
        self.taken[folded] = number
        self.taken.setdefault(_as_some_file_systems(stem), 1)
        return stem


def _as_some_file_systems(name: str) -> str:
    return composed(name).casefold()


def short_stem(stem: str) -> str:
    """Cut a stem to 180 bytes, so that the names of an image's results fit in the 255 that file systems allow."""
    while len(os.fsencode(stem)) > _STEM_BYTES:
        stem = stem[:-1]
    return stem


def distinct_stems(
    images: Sequence[Path], subfolders: Mapping[Path, PurePath] | None = None, pages: Sequence[int | None] | None = None
) -> list[str]:
    """Give every image a stem of its own for its output files: cut by `short_stem`, and told apart by `-2`, `-3`, ….

    Neither letter case nor the form of accents tells stems apart, since some file systems ignore it. A stem begins with
    the sub-folder in which the image's results lie, and ends with `.p2`, say, where a page was asked for.

    >>> distinct_stems([Path("a/x.jpg"), Path("b/x.png"), Path("x-2.jpg"), Path("X.jpg")])
    ['x', 'x-2', 'x-2-2', 'X-3']
    """
    stems = Stems()
    folders = subfolders or {}
    chosen = pages or [None] * len(images)
    ends = ["" if page is None else f".p{page}" for page in chosen]
    wanted = [
        folders.get(image, PurePath()) / (short_stem(image.stem) + end) for image, end in zip(images, ends, strict=True)
    ]
    return [stems.take(str(each)) for each in wanted]


class Labelled(Protocol):
    """A source that people know by a name."""

    @property
    def label(self) -> str: ...


@dataclass(frozen=True, slots=True)
class ImageTask:
    """One image of a run. Its stem includes the sub-folder of its results.

    `page` counts the pages of a TIFF from 1; None: the first, and nobody asked for it.
    """

    path: Path
    stem: str
    page: int | None = None

    @property
    def label(self) -> str:
        return str(self.path) if self.page is None else f"{self.path} (page {self.page})"


MAP_SUFFIX = ".tif"
"""Of the mask of a raster, which lies on the same ground."""

_SUFFIXES: Mapping[SaveKind, tuple[str, ...]] = {
    "mask": (".mask.png", ".mask.npz"),
    "pseudo": (".pseudo.png",),
    "overlay": (".overlay.jpg",),
    "confidence": (".confidence.png",),
}


def picture_names(stem: str, save: Iterable[SaveKind], *, planes: bool) -> tuple[str, ...]:
    """Name the pictures of an image, the most exact first: mask, pseudo-colour, overlay, confidence.

    With `planes` classes overlap, and the mask is an array of planes.

    >>> picture_names("q7", ["mask", "pseudo"], planes=True)
    ('q7.mask.npz', 'q7.pseudo.png')
    """
    kinds = set(save)
    return tuple(f"{stem}{suffixes[-1 if planes else 0]}" for kind, suffixes in _SUFFIXES.items() if kind in kinds)


def holds_mask(name: str) -> bool:
    """Whether a picture or map of an image tells the class of each pixel.

    >>> [holds_mask(name) for name in ("q7.pseudo.png", "q7.tif", "q7.confidence.png", "q7.overlay.jpg")]
    [True, True, False, False]
    """
    return name.endswith((*_SUFFIXES["mask"], *_SUFFIXES["pseudo"], MAP_SUFFIX))


def map_names(stem: str, save: Iterable[SaveKind]) -> tuple[str, ...]:
    """Name the maps of a raster: that of the mask, and that of its confidence where it is asked for.

    >>> map_names("q7", ["pseudo", "confidence"])
    ('q7.tif', 'q7.confidence.tif')
    """
    return (f"{stem}{MAP_SUFFIX}", *([f"{stem}.confidence{MAP_SUFFIX}"] if "confidence" in save else []))


def polygons_of(task: ImageTask, vectors: str) -> str:
    """Name the file of a raster's polygons, in the folder of the results or by an absolute path.

    `vectors` is `gpkg`, `geojson`, or a file of its own.
    """
    return f"{task.stem}.{vectors}" if is_polygon_format(vectors) else str(Path(vectors).absolute())


def require_inputs_kept(tasks: Sequence[ImageTask], folder: Path, save: frozenset[SaveKind]) -> None:
    """Refuse (OptionError) a run whose results would take the place of its images."""
    suffixes = [suffix for kind in save for suffix in _SUFFIXES[kind]]
    require_apart(
        [(f"the result of {task.path}", folder / f"{task.stem}{suffix}") for task in tasks for suffix in suffixes],
        {"one of the images": [task.path for task in tasks]},
        advice="name another folder with --out",
    )


def result_paths(
    tasks: Sequence[ImageTask], folder: Path, vectors: str | None, called: Iterable[Path]
) -> Iterator[Path]:
    """Find the files among the results to come that other files (`called`) could be; of a link that is any.

    These are pictures of every kind, maps, and polygons where they are files of their own; `vectors` as for
    `polygons_of`.
    """
    files = list(called)
    names = {path.name.casefold() for path in files}
    linked = any(path.is_symlink() or (path.exists() and path.stat().st_nlink > 1) for path in files)
    for name in _result_names(tasks, vectors):
        if linked or name.casefold() in names:
            yield folder / name


def _result_names(tasks: Sequence[ImageTask], vectors: str | None) -> Iterator[str]:
    for task in tasks:
        yield from map_names(task.stem, ["confidence"])
        for suffix in (suffix for suffixes in _SUFFIXES.values() for suffix in suffixes):
            yield f"{task.stem}{suffix}"
        if vectors is not None and is_polygon_format(vectors):
            yield polygons_of(task, vectors)
            yield f"{task.stem}{STYLE_SUFFIX}"


def other_results(folder: Path, own: Container[str], kept_apart: Callable[[Path], bool]) -> list[str]:
    """Find the results in a folder that are not among those of a run, such as those of images left out of it.

    Args:
        folder: where the results of the run lie.
        own: names of its results, as seen from there, with `/`.
        kept_apart: says of a sub-folder that what lies in it has a record of its own.

    Returns:
        Names as seen from the folder, sorted: masks, overlays, maps.
    """
    suffixes = *(suffix for each in _SUFFIXES.values() for suffix in each), MAP_SUFFIX
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not kept_apart(Path(place, name))]
        names = (Path(place, name).relative_to(folder).as_posix() for name in files if name.endswith(suffixes))
        found += [name for name in names if name not in own]
    return sorted(found)


def require_results_apart(arguments: Sequence[str], folder: Path) -> None:
    """Refuse (OptionError) a run that its own results would join: the next one would take them for photographs.

    `arguments` are the files, folders or globs that name the images.
    """
    home = real_path(folder)
    for argument in arguments:
        # Compared first: nobody looks for files of impossible names.
        if real_path(Path(argument)) == home and home.is_dir():
            raise OptionError(
                f"{argument} holds the images, and the results would lie among them, where the next run takes them for "
                "images: name another folder with --out"
            )


def encoded_pictures(
    stem: str,
    save: frozenset[SaveKind],
    image: SourceImage,
    prediction: Prediction,
    overlays: OverlayOptions = OverlayOptions(),
) -> Iterator[tuple[str, bytes]]:
    """Encode the pictures of an image: name and content, the most exact first, as `picture_names` has them."""
    planes = prediction.mask.ndim == 3
    indices, palette = shown_mask(prediction.mask), class_palette(prediction.covers)
    names = [each.segmentation_class.name for each in prediction.covers]
    makers: dict[SaveKind, Callable[[], bytes]] = {
        "mask": (lambda: planes_npz(prediction.mask.astype(np.bool_))) if planes else (lambda: mask_png(indices)),
        "pseudo": lambda: pseudo_color_png(indices, palette),
        "overlay": lambda: overlay_jpeg(image.pixels, indices, palette, overlays, names),
        "confidence": lambda: mask_png(_confidence_plane(prediction)),
    }
    kinds: list[SaveKind] = [kind for kind in _SUFFIXES if kind in save]
    for kind, name in zip(kinds, picture_names(stem, kinds, planes=planes), strict=True):
        yield name, makers[kind]()


@dataclass(frozen=True, slots=True)
class ResultWriter:
    """Writes the pictures of predictions."""

    folder: Path
    save: frozenset[SaveKind]
    overlays: OverlayOptions = OverlayOptions()

    def write(self, task: ImageTask, image: SourceImage, prediction: Prediction) -> Path | None:
        """Write the pictures of one image, and return the most exact one; None if none was asked for."""
        written: list[Path] = []
        for name, content in encoded_pictures(task.stem, self.save, image, prediction, self.overlays):
            path = self.folder / name
            write_atomically(path, content, within=self.folder)
            written.append(path)
        return written[0] if written else None


def shown_mask(mask: NDArray[np.uint8 | np.uint16 | np.bool_]) -> Mask:
    """Make a mask, class indices `[H, W]` or bool[K, H, W], the class indices `[H, W]` that pictures show.

    Of planes, the last class of a pixel is shown; a pixel of no class has the index K, which a palette of K classes
    shows black.
    """
    if mask.ndim == 3:
        return composite(mask.astype(np.bool_))
    return mask.astype(np.uint16 if mask.dtype == np.uint16 else np.uint8, copy=False)


def _confidence_plane(prediction: Prediction) -> NDArray[np.uint8]:
    if prediction.confidence is None:
        raise OptionError("the predictor was not asked for the confidence", option="save")
    return prediction.confidence.plane


def class_palette(covers: tuple[ClassCover, ...]) -> NDArray[np.uint8]:
    """Choose the colours that all pictures and files of a mask have, uint8[K, 3], RGB."""
    return palette_for([each.segmentation_class.color for each in covers], len(covers))


def cover_records(covers: tuple[ClassCover, ...]) -> list[dict[str, Any]]:
    """Write covers as JSON values, `{"id", "name", "color": [r, g, b], "cover"}` a class.

    `"area_m2"` is there where it is known, and of a class that is left out `"excluded"`, its share of all pixels.
    """
    palette = class_palette(covers).tolist()
    return [
        {
            "id": each.segmentation_class.id,
            "name": each.segmentation_class.name,
            "color": color,
            "cover": round(each.cover, 6),
            **({} if each.area_m2 is None else {"area_m2": rounded_area(each.area_m2, _M2_DECIMALS)}),
            **({} if each.excluded is None else {"excluded": round(each.excluded, 6)}),
        }
        for each, color in zip(covers, palette, strict=True)
    ]


def provenance_record(provenance: Provenance) -> dict[str, Any]:
    """Write the provenance of a predictor or a mask as a JSON value.

    `profile`, `tiling`, `averaging`, `scale_range`, `derived_from` and `measuring` are there only where there was one,
    `streams` only of several.
    """
    record = asdict(provenance)
    for name in ("profile", "tiling", "averaging", "scale_range", "derived_from", "measuring"):
        if record[name] is None:
            del record[name]
    if record["streams"] == 1:
        del record["streams"]
    return record


_Source = TypeVar("_Source", bound=Labelled)
_Encoded = TypeVar("_Encoded")


def result_record(result: Result[_Source, _Encoded], provenance: Provenance) -> dict[str, Any]:
    """Write a result, whose `encoded` is where its mask lies, as a JSON value: one line of `--json`.

    `mask` is None for a failure; `notes` and `flags` are there only if there are any, `raster` only of a raster.
    """
    if isinstance(result, Failed):
        return {
            "image": result.source.label,
            "status": "failed",
            "error": {"type": type(result.error).__name__, "message": str(result.error)},
            "mask": None,
            "cover": [],
            "provenance": provenance_record(provenance),
            "timings_ms": {},
            "network_size": None,
        }
    size = result.network_size
    return {
        "image": result.source.label,
        "status": "ok",
        "error": None,
        "mask": {
            "path": None if result.encoded is None else str(result.encoded),
            "width": result.width,
            "height": result.height,
        },
        "cover": cover_records(result.covers),
        "provenance": provenance_record(replace(provenance, tiling=result.tiling)),
        "timings_ms": {stage: round(elapsed, 3) for stage, elapsed in result.timings_ms.items()},
        "network_size": None if size is None else {"width": size[0], "height": size[1]},
        **measured_record(result.confidence, None if isinstance(result, SegmentedRaster) else result.region),
        **({"notes": list(result.notes)} if result.notes else {}),
        **(flags_record(result.prediction) if isinstance(result, Segmented) else {}),
        **({"raster": raster_record(result)} if isinstance(result, SegmentedRaster) else {}),
    }


def flags_record(prediction: Prediction) -> dict[str, list[str]]:
    """Write what a photograph may suffer from as JSON values: `flags`, only if there are any."""
    return {"flags": [str(each) for each in prediction.flags]} if prediction.flags else {}


def measured_record(confidence: Confidence | None, region: RegionCover | None) -> dict[str, Any]:
    """Write what is told of a mask besides its cover, where it was asked for: `confidence` and `roi`.

    The confidence's `unsure` is the share of the pixels below its `limit`.
    """
    told: dict[str, Any] = {}
    if confidence is not None:
        means = {"mean": round(confidence.mean, 6), "unsure": round(confidence.unsure, 6)}
        told["confidence"] = {**means, "limit": confidence.limit}
    if region is not None:
        told["roi"] = region_record(region)
    return told


def region_record(region: RegionCover) -> dict[str, Any]:
    """Write the cover inside a region as JSON values.

    Areas are in square centimetres, and there only where the size of the region is known.
    """
    covers = [
        {**told, "area_cm2": rounded_area(each.area_m2 * _CM2_PER_M2, _CM2_DECIMALS)}
        if each.area_m2 is not None
        else told
        for told, each in zip(
            cover_records(tuple(replace(each, area_m2=None) for each in region.covers)), region.covers, strict=True
        )
    ]
    return {
        "method": region.method.value,
        "error": region.error,
        "polygon": [[round(x, 2), round(y, 2)] for x, y in region.polygon],
        "cover": covers,
        **({} if region.area_m2 is None else {"area_cm2": rounded_area(region.area_m2 * _CM2_PER_M2, _CM2_DECIMALS)}),
        "quality": dict(region.quality),
    }


def region_error(record: Mapping[str, Any]) -> str | None:
    """Say why the region of interest of an image was not found; None if it was, or was not asked for."""
    return record.get("roi", {}).get("error")


def raster_record(raster: SegmentedRaster[Any, Any]) -> dict[str, Any]:
    """Write where a raster lies as JSON values.

    `bounds` are smallest x, smallest y, largest x, largest y; both they and `crs` are None where the file names no
    coordinate reference system. Covers are shares of `valid_pixels`.
    """
    bounds = raster.bounds
    return {"crs": raster.crs, "bounds": None if bounds is None else list(bounds), "valid_pixels": raster.valid_pixels}


_Cover = tuple[str, float | None, float | None]
"""A class's name, its share of what counts (None: it is left out, or nothing counts), and its area if it is known."""


_OF_CLASSES = ("cover_", "area_m2_", "roi_cover_", "roi_area_cm2_")
"""How columns begin of which there is one for each class."""


@dataclass(slots=True)
class CoverTable:
    """A row per image: mask, size, time and place, cover per class, what made it, or why it failed."""

    rows: list[dict[str, object]] = field(default_factory=list[dict[str, object]])

    def add(self, record: Mapping[str, Any], capture: Capture) -> None:
        """Add an image by its record, as `result_record` writes it; of a raster, `capture` is at its middle."""
        if record["status"] != "ok":
            self.rows.append({"image": record["image"], "status": "failed", "error": record["error"]["message"]})
            return
        mask, made_by = record["mask"], record["provenance"]
        size: Mapping[str, int] = record.get("network_size") or {}
        sure: Mapping[str, float] | None = record.get("confidence")
        covers = _covers_of(record["cover"], "area_m2", valid_pixels(record))
        cells: dict[str, object] = {
            "image": record["image"],
            "status": "ok",
            "mask": mask["path"],
            "width": mask["width"],
            "height": mask["height"],
            "network_width": size.get("width"),
            "network_height": size.get("height"),
            **capture_record(capture),
            **_cover_columns(covers, "area_m2"),
            **({} if sure is None else {"confidence": sure["mean"], "unsure_share": sure["unsure"]}),
            **_region_columns(record.get("roi")),
            "flags": "; ".join(record.get("flags", ())),
            "bundle": made_by["bundle"],
            "model": made_by["model"],
        }
        self.rows.append(cells)

    def to_csv(self) -> bytes:
        """Write UTF-8 CSV with a header line; a cell without a value is empty."""
        first = ["image", "status", "mask", "width", "height", "network_width", "network_height"]
        first += ["taken_at", "latitude_deg", "longitude_deg"]
        last = ["flags", "bundle", "model", "error"]
        covers = dict.fromkeys(name for row in self.rows for name in row if name not in {*first, *last})
        columns = [*first, *covers, *last]
        return csv_table(columns, ([_cell(row, column) for column in columns] for row in self.rows))


def _cell(row: Mapping[str, object], column: str) -> object:
    """The value of a column; 0 of a class that other images have and this one does not, whose classes end before it."""
    if column in row:
        return row[column]
    kind = next((kind for kind in _OF_CLASSES if column.startswith(kind)), None)
    has_others = kind is not None and any(name.startswith(kind) and row[name] is not None for name in row)
    return 0.0 if has_others else None


def _covers_of(records: Sequence[Mapping[str, Any]], area: str, pixels: int) -> list[_Cover]:
    is_empty = counts_nothing(pixels, records)
    return [
        (each["name"], None if is_empty or "excluded" in each else each["cover"], each.get(area)) for each in records
    ]


def _region_columns(told: Mapping[str, Any] | None) -> dict[str, object]:
    if told is None:
        return {}
    covers = _cover_columns(_covers_of(told["cover"], "area_cm2", 1), "area_cm2")
    quality: Mapping[str, Any] = told["quality"]
    return {
        "roi_method": told["method"],
        "roi_error": told["error"],
        **{f"roi_{name}": value for name, value in covers.items()},
        "roi_area_cm2": told.get("area_cm2"),
        "roi_polygon": " ".join(f"{x:g},{y:g}" for x, y in told["polygon"]),
        "roi_least_shown": min(quality["shown"]) if "shown" in quality else None,
        "roi_residual_px": quality.get("residual_px"),
    }


def _cover_columns(covers: Sequence[_Cover], area: str) -> dict[str, object]:
    names = [name for name, _, _ in covers]
    columns: dict[str, object] = {}
    counts = Counter(names)
    for index, (name, cover, extent) in enumerate(covers):
        column = f"cover_{name}" if counts[name] == 1 else f"cover_{name}_{index}"
        while column in columns:
            column += "_"
        columns[column] = None if cover is None else round(cover, 6)
        if extent is not None:
            columns[column.replace("cover_", f"{area}_", 1)] = extent
    return columns


def capture_record(capture: Capture) -> dict[str, Any]:
    """Write what EXIF says of time and place as JSON values: `taken_at` as ISO 8601; None for what is not known."""
    return {
        "taken_at": None if capture.taken_at is None else capture.taken_at.isoformat(),
        "latitude_deg": capture.latitude_deg,
        "longitude_deg": capture.longitude_deg,
    }


def capture_from(record: Mapping[str, Any]) -> Capture:
    """Read what `capture_record` wrote."""
    taken_at = record["taken_at"]
    return Capture(
        None if taken_at is None else datetime.fromisoformat(taken_at), record["latitude_deg"], record["longitude_deg"]
    )
