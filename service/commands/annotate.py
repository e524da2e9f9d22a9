"""`pseg annotate`: masks in the formats of the tools in which people annotate."""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from benchmarks.accuracy.annotations import LabelledPoint
from benchmarks.accuracy.labels import Labels
from engine.declaration import Options, option
from engine.errors import ImageError, OptionError
from engine.quantities import Extent, parse_length
from engine.rasters.outlines import require_simplification
from engine.system.files import make_folder, write_atomically
from engine.system.text import counted, csv_cell, legible
from service.collections.merging import find_ledgers
from service.commands.flags import with_flags
from service.commands.terminal import ExitStatus, say, tell
from service.request import require_apart, require_writable
from service.results.pictures import Stems
from service.surveys.annotations import (
    AnnotationFormat,
    CocoDataset,
    Placement,
    class_mapping,
    coralnet_csv,
    labelled_points,
    labelme_record,
    read_mask,
    squidle_records,
    taglab_colors,
    taglab_dictionary,
    taglab_map,
)
from service.surveys.pictures import SurveyPicture, SurveyPictures, read_pictures
from service.surveys.sampling import read_sample

_MAPPING = "class_mapping"
_DICTIONARY = "taglab_labels"
_MOST_POINTS = 1000
_OF_POINTS = ("coralnet", "squidle")
_OF_ALL: dict[str, str] = {"coralnet": "annotations.csv", "squidle": "annotations.json", "coco": "annotations.json"}
"""The file of formats that have one for all pictures."""


def _labels(text: str) -> dict[str, str]:
    pairs = [each.partition("=") for each in text.split(",")]
    labels = {name.strip(): label.strip() for name, _, label in pairs}
    if not all(name and label for name, label in labels.items()) or len(labels) < len(pairs):
        raise ValueError("give pairs such as seagrass=SG,sand=S, each class once")
    return labels


def _grid(text: str) -> tuple[int, int]:
    rows, _, columns = text.partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and 0 < int(rows) * int(columns) <= _MOST_POINTS):
        raise ValueError(f"give rows and columns such as 10x10, at most {_MOST_POINTS} points")
    return int(rows), int(columns)


@dataclass(frozen=True, slots=True)
class _AnnotationOptions(Options):
    """What is written, and where."""

    title: ClassVar[str] = "Annotations"

    kind: AnnotationFormat = option(
        MISSING,
        "coralnet: labels of points, one CSV; squidle: labels of points, one JSON; labelme: polygons, one JSON per "
        "picture; coco: regions, one JSON; taglab: coloured label maps, one PNG per picture, and the dictionary of "
        "labels.",
        name="format",
        metavar="FORMAT",
    )
    out: Path = option(Path("annotations"), "Folder to write to.")
    labels: Mapping[str, str] | None = option(
        None,
        "Label for each class, such as seagrass=SG,sand=S; CoralNet identifies labels by their short codes. By "
        "default the names of the classes.",
        metavar="CLASS=LABEL,…",
        parse=_labels,
    )
    grid: tuple[int, ...] | None = option(
        None,
        "CoralNet, Squidle+: points on a grid with this number of rows and columns. By default 10x10.",
        parse=_grid,
    )
    points: int | None = option(
        None, "CoralNet, Squidle+: this number of random points instead of the grid.", minimum=1, maximum=_MOST_POINTS
    )
    seed: int | None = option(None, "CoralNet, Squidle+: seed of the random points. By default 0.", minimum=0)
    sample: Path | None = option(
        None, "Table of `pseg sample`: only its pictures are annotated. By default all pictures.", metavar="CSV"
    )
    labelled: Path | None = option(
        None,
        "Table of an earlier, smaller sample, whose pictures people have labelled: they are left out.",
        metavar="CSV",
    )
    simplify: Extent | None = option(
        None,
        "labelme: simplify the polygons by leaving out corners that stand out by less than about this, such as 2px. "
        "Neighbours keep their common outline.",
        metavar="LENGTH",
        parse=parse_length,
    )
    overwrite: bool = option(
        False, "Replace the annotations in the folder, including the corrections that people made in them."
    )

    def __post_init__(self) -> None:
        Options.__post_init__(self)
        placing = {"grid": self.grid, "points": self.points, "seed": self.seed}
        given = [name for name, value in placing.items() if value is not None]
        if given and self.kind not in _OF_POINTS:
            raise OptionError("it places points, which only coralnet and squidle have: leave it out", option=given[0])
        if self.simplify is not None and self.kind != "labelme":
            problem = "it leaves out corners of polygons, which only --format labelme has: leave it out"
            raise OptionError(problem, option="simplify")
        if self.simplify is not None and self.simplify.pixels is None:
            raise OptionError("nothing tells how large photographs are on the ground: give it in px", option="simplify")
        if self.grid is not None and self.points is not None:
            raise OptionError("points lie on a grid or at random: leave it or --points out", option="grid")
        if self.labelled is not None and self.sample is None:
            raise OptionError("an earlier sample is a part of a larger one: name that with --sample", option="labelled")
        if self.seed is not None and self.points is None:
            raise OptionError("it is of points at random: leave it out, or add --points", option="seed")


@with_flags()
def annotate(
    ledgers: Annotated[list[Path], typer.Argument(metavar="DIR_OR_LEDGER…", help="Folders of results, or ledgers.")],
    options: _AnnotationOptions,
) -> None:
    """Write the masks of photographs as annotations for CoralNet, Squidle+, labelme, TagLab or tools that read COCO.

    The masks are read from the files that `pseg predict --save mask` (or pseudo) wrote. class_mapping.json says which
    label stands for which class. The exit status is 1 if a picture has no mask that can be read (docs/surveys.md).
    """
    if options.simplify is not None:
        require_simplification()
    paths = find_ledgers(ledgers)
    found = read_pictures(paths, as_masks=True)
    found.require_files()
    if options.sample is not None:
        found = _sampled(found, options.sample, options.labelled)
    mapping = class_mapping(found.classes, options.labels or {})
    unknown = set(options.labels or {}) - {each.name for each in found.classes}
    if unknown:
        raise OptionError(
            f"no class is called {legible(min(unknown))}: there are {', '.join(each.name for each in found.classes)}",
            option="labels",
        )
    labels = [str(each["label"]) for each in mapping.values()]
    targets = _targets(found.pictures, options)
    if options.kind in _OF_POINTS:
        _require_names_apart(found.pictures, "CoralNet" if options.kind == "coralnet" else "Squidle+")
    if options.kind == "coralnet":
        _require_names_in_tables([*(Path(each.path).name for each in found.pictures), *labels])
    beside = {f"{_MAPPING}.json": mapping}
    if options.kind == "taglab":
        beside[f"{_DICTIONARY}.json"] = taglab_dictionary(taglab_colors(found.classes), labels)
    written = {*targets.values(), *(options.out / name for name in beside)}
    require_apart(
        [(f"{path.name}", path) for path in sorted(written)],
        {"a ledger": paths, "the sample": [*filter(None, (options.sample, options.labelled))], **found.files()},
        advice="name another folder with --out",
    )
    if not options.overwrite:
        _require_new(written)
    require_writable(options.out)
    refused = _write(found, targets, labels, options)
    for name, record in beside.items():
        write_atomically(options.out / name, _json(record), within=options.out)
    done = len(found.pictures) - len(refused)
    tell(f"{done} of {done + len(refused) + len(found.failures)} pictures -> {legible(str(options.out))}")
    for reason in found.told({**found.failures, **refused}):
        say(f"failed: {reason}", "red")
    if found.missing:
        say(f"missing: {counted(found.missing, 'image is', 'images are')} in no ledger", "red")
    if refused or found.failures or found.missing:
        raise typer.Exit(ExitStatus.INCOMPLETE)


def _sampled(found: SurveyPictures, sample: Path, labelled: Path | None) -> SurveyPictures:
    """The pictures of a sample alone, in its order, without those of an earlier sample that are labelled already."""
    known = {each.path: each for each in found.pictures}
    names = [str(row.image) for row in read_sample(sample)]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise OptionError(
            f"{sample}: {legible(unknown[0])} is a picture of the sample, and has no mask in the ledgers "
            f"({len(unknown)} of {len(names)} have none): give the ledgers that the sample was drawn from",
            option="sample",
        )
    done = set[str]() if labelled is None else {str(row.image) for row in read_sample(labelled)}
    if not done <= set(names):
        raise OptionError(
            f"{labelled}: {legible(min(done - set(names)))} is not in {sample}, so that its labels would be lost: draw "
            "the larger sample with the same survey, --by and --seed",
            option="labelled",
        )
    if len(done) == len(names):
        raise OptionError(f"all pictures of {sample} are labelled: draw a larger sample", option="labelled")
    return replace(found, pictures=[known[name] for name in names if name not in done], failures={}, missing=0)


def _require_new(written: Collection[Path]) -> None:
    known = sorted(path for path in written if os.path.lexists(path))
    if known:
        raise OptionError(
            f"{known[0]} exists, and people may have corrected it ({len(known)} of {len(written)} files exist): name "
            "another folder, or replace them with --overwrite",
            option="out",
        )


def _targets(pictures: Sequence[SurveyPicture], options: _AnnotationOptions) -> dict[str, Path]:
    """The file that each picture's annotations go to, by the path of the picture."""
    if options.kind in _OF_ALL:
        return {each.path: options.out / _OF_ALL[options.kind] for each in pictures}
    stems = Stems()
    stems.take(_MAPPING)
    suffix = ".json" if options.kind == "labelme" else ".png"
    return {each.path: options.out / f"{stems.take(each.entry.stem)}{suffix}" for each in pictures}


def _write(
    found: SurveyPictures, targets: Mapping[str, Path], labels: Sequence[str], options: _AnnotationOptions
) -> dict[str, str]:
    """Write the annotations of all pictures; returns those that have none, with the reason."""
    refused: dict[str, str] = {}
    masks = _masks(found.pictures, refused)
    if options.kind in {"labelme", "taglab"}:
        for picture, mask in masks:
            path = targets[picture.path]
            make_folder(path.parent, within=options.out)
            content = (
                _json(labelme_record(picture, mask, labels, path.parent.absolute(), options.simplify))
                if options.kind == "labelme"
                else taglab_map(mask, taglab_colors(found.classes))
            )
            write_atomically(path, content, within=options.out)
    elif options.kind == "coco":
        folder = Path(os.path.commonpath([Path(each.path).parent for each in found.pictures]))
        dataset = CocoDataset(labels, folder)
        for picture, mask in masks:
            dataset.add(picture, mask)
        write_atomically(options.out / _OF_ALL["coco"], _json(dataset.record()), within=options.out)
    else:
        write_atomically(
            options.out / _OF_ALL[options.kind], _points(masks, refused, labels, options), within=options.out
        )
    return refused


def _points(
    masks: Iterable[tuple[SurveyPicture, Labels]],
    refused: dict[str, str],
    labels: Sequence[str],
    options: _AnnotationOptions,
) -> bytes:
    rows, columns = options.grid or (10, 10)
    placement = Placement(rows, columns, options.points, options.seed or 0)
    named: list[tuple[str, LabelledPoint]] = []
    records: list[dict[str, object]] = []
    for picture, mask in masks:
        name = Path(picture.path).name
        try:
            points = labelled_points(picture, mask, labels, placement)
        except ImageError as error:
            refused[picture.path] = str(error)
            continue
        named += [(name, each) for each in points]
        records += squidle_records(name, mask, points)
    return coralnet_csv(named) if options.kind == "coralnet" else _json(records)


def _masks(pictures: Sequence[SurveyPicture], refused: dict[str, str]) -> Iterator[tuple[SurveyPicture, Labels]]:
    for picture in pictures:
        try:
            mask = read_mask(picture)
        except ImageError as error:
            refused[picture.path] = str(error)
        else:
            yield picture, mask


def _require_names_apart(pictures: Sequence[SurveyPicture], tool: str) -> None:
    known: dict[str, str] = {}
    for each in pictures:
        other = known.setdefault(Path(each.path).name.casefold(), each.path)
        if other != each.path:
            raise OptionError(
                f"{other} and {each.path} have one name, by which {tool} knows pictures: write labelme or coco, which "
                "name their folders, or give each its own name and predict again",
                option="format",
            )


def _require_names_in_tables(names: Sequence[str]) -> None:
    """Refuse names that a table holds in another form: CoralNet leaves out rows whose picture it does not know."""
    changed = next((name for name in names if csv_cell(name) != name), None)
    if changed is not None:
        raise OptionError(
            f"{legible(changed)}: a table holds this name as {csv_cell(changed)}, so that no program reads it as a "
            "formula, and CoralNet would not know it: give the picture another name and predict again, the class "
            "another label with --labels, or write squidle, labelme or coco",
            option="format",
        )


def _json(record: object) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
