"""`pseg reproduce`: images of an earlier run are segmented again, and the masks are compared."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from engine import (
    ConversionError,
    Failed,
    ImageError,
    ModelLoadError,
    OptionError,
    RuntimeName,
    RuntimeUnavailableError,
    Segmented,
    open_bundle,
)
from engine.declaration import assembled, declared_options
from engine.rasters.geotiff import differing_pixels
from engine.rasters.options import TileOptions
from engine.rasters.result import SegmentedRaster
from engine.system.files import scratch_folder
from engine.system.machine.cores import usable_cores
from engine.system.text import legible
from service.commands.groups import ResultOptions, SessionOptions
from service.commands.predict import PredictRun
from service.commands.terminal import CacheOption, ExitStatus, JsonOption, errors_end_the_command, print_json, say, tell
from service.request import PredictRequest
from service.results.ledger import Entry, LedgerContent, begun_ledgers, file_and_page, read_ledger
from service.results.pictures import MAP_SUFFIX, ImageTask, holds_mask
from service.results.runs import Listing
from service.session import caches_at, open_session

_ONEDNN = {"paddle-onednn": "on", "paddle-cpu": "off"}
_ON_GPU = frozenset({"paddle-gpu", "paddle-tensorrt"})


def reproduce(
    ledger: Annotated[
        Path, typer.Argument(metavar="LEDGER", help="Ledger of `pseg predict`, or the folder that holds it.")
    ],
    bundle: Annotated[Path, typer.Option(help="The model bundle that the run used; its digest is compared.")],
    image: Annotated[
        list[str] | None,
        typer.Option(help="Name of an image, or the end of its path. May be repeated. By default all images."),
    ] = None,
    json_output: JsonOption = False,
    cache_dir: CacheOption = None,
) -> None:
    """Segment images of an earlier run again, from the record of how their masks were made, and compare the masks.

    The exit status is 1 if a mask differs or cannot be made again.
    """
    equal = compared = 0
    with errors_end_the_command():
        content = _ledger_of(ledger)
        with open_bundle(bundle) as opened:
            if opened.digest != content.run.bundle:
                raise OptionError(
                    f"{bundle} has the digest {opened.digest[:12]}, and {content.path} was made with "
                    f"{content.run.bundle[:12]}: name the bundle of that run",
                    option="bundle",
                )
        for each in _compared(content, bundle, _chosen(content, image or []), cache_dir):
            compared += 1
            equal += each.is_same
            if json_output:
                print_json(each.record())
            else:
                tell(f"{legible(each.image)}: {legible(each.said)}")
    if not json_output:
        say(f"{equal} of {compared} masks are the same")
    if equal < compared:
        raise typer.Exit(ExitStatus.INCOMPLETE)


@dataclass(frozen=True, slots=True)
class _Comparison:
    image: str
    pixels: int
    differing_pixels: int
    problem: str | None = None

    @property
    def is_same(self) -> bool:
        return self.problem is None and not self.differing_pixels

    @property
    def said(self) -> str:
        if self.problem is not None:
            return self.problem
        if not self.differing_pixels:
            return "the same mask"
        return f"{self.differing_pixels} of {self.pixels} pixels differ"

    def record(self) -> dict[str, object]:
        return {
            "image": self.image,
            "same": self.is_same,
            "pixels": self.pixels,
            "differing_pixels": self.differing_pixels,
            "problem": self.problem,
        }


def _ledger_of(named: Path) -> LedgerContent:
    if not named.is_dir():
        return read_ledger(named)
    found = begun_ledgers(named)
    if len(found) > 1:
        raise OptionError(f"{named} holds {len(found)} ledgers: name one of them")
    return read_ledger(found[0])


def _chosen(content: LedgerContent, named: Sequence[str]) -> list[Entry]:
    done = [entry for entry in content.entries if not entry.failed and entry.pictures]
    if not done:
        raise OptionError(f"{content.path} has no mask to compare: name the ledger of a run that wrote masks")
    idle = [each for each in named if not any(_is_called(entry, each) for entry in done)]
    if idle:
        raise OptionError(f"{content.path} has no mask of {idle[0]}: name one of its images", option="image")
    return [entry for entry in done if not named or any(_is_called(entry, each) for each in named)]


def _is_called(entry: Entry, name: str) -> bool:
    names = {entry.path, str(_task(entry).path)}
    return any(path == name or path.endswith(f"/{name.removeprefix('./')}") for path in names)


def _compared(
    content: LedgerContent, bundle: Path, entries: Sequence[Entry], cache_dir: Path | None
) -> Iterator[_Comparison]:
    """Images that were made alike run together, in the order of the ledger."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        made_by = entry.record["provenance"]
        ran = [made_by[name] for name in ("runtime", "provider", "precision")]
        groups.setdefault(json.dumps([*ran, asdict(_tiles(made_by))]), []).append(entry)
    for alike in groups.values():
        try:
            yield from _made_again(content, bundle, alike, cache_dir)
        except (RuntimeUnavailableError, ModelLoadError, ConversionError) as error:
            # What made these masks is not here; others may be made again.
            yield from (_Comparison(entry.path, 0, 0, str(error)) for entry in alike)


def _made_again(
    content: LedgerContent, bundle: Path, entries: Sequence[Entry], cache_dir: Path | None
) -> Iterator[_Comparison]:
    made_by = entries[0].record["provenance"]
    request = _request(content.run.options, made_by)
    tasks = [_task(entry) for entry in entries]
    with scratch_folder("reproduce") as folder:
        for task in tasks:
            (folder / task.stem).parent.mkdir(parents=True, exist_ok=True)
        results, session = ResultOptions(out=folder), SessionOptions(cache_dir=cache_dir)
        run = PredictRun(bundle, Listing(tasks), request, _tiles(made_by), results, session)
        with open_session(bundle, request, caches_at(cache_dir)) as predictor:
            for entry, (_, result) in zip(entries, run.results_of(predictor), strict=True):
                if isinstance(result, Segmented | SegmentedRaster) and result.encoded is not None:
                    yield _comparison(entry, content.path.parent / entry.pictures[0], result.encoded)
                else:
                    reason = str(result.error) if isinstance(result, Failed) else "was not segmented"
                    yield _Comparison(entry.path, 0, 0, reason)


def _tiles(made_by: Mapping[str, Any]) -> TileOptions:
    """The tiles that a mask was made of, as its record states them: they depend on the memory of that day."""
    tiling = made_by.get("tiling")
    if tiling is None:
        return TileOptions(as_photograph=True)
    width, height = tiling["tile"]
    bands = tiling.get("bands")
    return TileOptions(
        tile=True,
        # Other tiles than squares are the only ones that the network takes.
        side=width if width == height else None,
        overlap=tiling["overlap"],
        bands=None if bands is None else tuple(bands),
    )


def _comparison(entry: Entry, stored: Path, made: Path) -> _Comparison:
    mask = entry.record["mask"]
    if not holds_mask(stored.name):
        return _Comparison(entry.path, 0, 0, f"only {stored.name} was kept, which is not the mask")
    pixels = mask["width"] * mask["height"]
    try:
        return _Comparison(entry.path, pixels, _differing_pixels(stored, made, pixels))
    except (OSError, ImageError) as error:
        return _Comparison(entry.path, pixels, pixels, f"the mask cannot be read: {error}")


def _differing_pixels(stored: Path, made: Path, pixels: int) -> int:
    if stored.suffix == MAP_SUFFIX:
        return differing_pixels(stored, made)
    before, now = _classes(stored), _classes(made)
    if before.shape != now.shape:
        return pixels
    return int((before != now).reshape(-1, *before.shape[-2:]).any(axis=0).sum())


def _classes(path: Path) -> NDArray[Any]:
    if path.suffix == ".npz":
        with np.load(path) as planes:
            return planes["planes"]
    with Image.open(path) as picture:
        return np.asarray(picture)


def _task(entry: Entry) -> ImageTask:
    path, page = file_and_page(entry.path)
    return ImageTask(path, entry.stem, page)


def _request(options: Mapping[str, Any], made_by: Mapping[str, Any]) -> PredictRequest:
    known = {each.name for each in declared_options(PredictRequest)}
    told = {name: value for name, value in options.items() if name in known}
    averaging = {name: _immutable(value) for name, value in options.get("averaging", {}).items()}
    asked = assembled(PredictRequest, {**told, **averaging, "save": ",".join(options["save"]) or "none"})
    runs = {
        "runtime": made_by["runtime"],
        "provider": made_by["provider"] if made_by["runtime"] == RuntimeName.ONNX else None,
        "precision": made_by["precision"],
        "device": "gpu" if made_by["provider"] in _ON_GPU else told.get("device"),
        "mkldnn": _ONEDNN.get(made_by["provider"], "auto"),
        "threads": min(made_by["threads"], usable_cores()),
    }
    return replace(asked, network=assembled(type(asked.network), {**told, **runs}))


def _immutable(value: object) -> object:
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value
