"""The pictures of a survey: what one or several ledgers say of them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.bundle import class_of_index
from engine.errors import OptionError
from engine.images import Capture
from engine.segmentation.prediction import MaskSize
from engine.system.text import counted, legible
from service.collections.sharding import parse_shard
from service.results.ledger import Entry, LedgerContent, file_and_page, read_ledger
from service.results.resuming import LedgerError, supersedes
from service.results.runs import Run, mixture
from service.results.totals import NOTHING_COUNTS, counts_nothing, valid_pixels


@dataclass(frozen=True, slots=True)
class SurveyClass:
    """A class whose cover is reported, by its URN, the bundle's name of it, and RGB, 0–255 each."""

    id: str
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class SurveyPicture:
    """A picture that has a mask; its path is absolute, its `folder` is the ledger's, from which pictures are named.

    `covers` is `float64[classes]`, 0–1, inside the region of interest, where there is one; `areas_cm2` the same on the
    ground, None where nothing tells them; `confidence` the network's mean, 0–1, None where it was not asked for.
    `at_full_size`: its mask is of the picture's size.
    """

    path: str
    covers: NDArray[np.float64]
    capture: Capture
    confidence: float | None
    entry: Entry
    folder: Path
    at_full_size: bool
    areas_cm2: NDArray[np.float64] | None = None

    @property
    def file(self) -> Path:
        """The file of the picture; several pictures may be pages of one."""
        return file_and_page(self.path)[0]

    @property
    def page(self) -> int | None:
        """The page of the file, counted from 1; None where the file is one picture."""
        return file_and_page(self.path)[1]


@dataclass(frozen=True, slots=True)
class SurveyPictures:
    """What the ledgers say: the pictures that have a cover, in their order.

    `failures` are path and reason of those that have none, `missing` counts images that no ledger knows; `notes` are
    for people. `names` are what the runs called the images, path to name; `runs` those of the ledgers, in their order.
    """

    classes: Sequence[SurveyClass]
    pictures: Sequence[SurveyPicture]
    failures: Mapping[str, str]
    missing: int
    notes: Sequence[str]
    names: Mapping[str, str]
    runs: Sequence[Run]

    def told(self, reasons: Mapping[str, str]) -> list[str]:
        """Say why of images, path to reason: each by its name, once."""
        return [named_reason(self.names[path], reason) for path, reason in reasons.items()]

    def files(self) -> dict[str, list[Path]]:
        """What no command that reads the ledgers may replace, in words, and the files."""
        return {
            "one of the images": [file_and_page(path)[0] for path in self.names],
            "one of the masks": [each.folder / name for each in self.pictures for name in each.entry.pictures],
        }

    def require_files(self) -> None:
        """Refuse pages of a file, which programs for labels cannot be told of, with an OptionError."""
        page = next((each for each in self.pictures if each.page is not None), None)
        if page is not None:
            raise OptionError(
                f"{self.names[page.path]}: is a page of a file, and people label files: save each page as a picture "
                "of its own, and predict these"
            )


def read_pictures(ledgers: Sequence[Path], *, as_masks: bool = False) -> SurveyPictures:
    """Read ledgers, at least one, whose pictures belong to one survey; a picture that several know counts once.

    With `as_masks` the classes are those of the masks, by their values, and covers those of whole pictures; otherwise
    classes that were left out are no classes, and covers are those of the region of interest. Raises LedgerError where
    one cannot be read, contradicts another one of its folder, its classes are not those of the others, or no picture
    has a cover.
    """
    contents = [read_ledger(path) for path in ledgers]
    chosen, repeated = _entry_of_each(contents)
    classes: list[SurveyClass] | None = None
    pictures: list[SurveyPicture] = []
    failures: dict[str, str] = {}
    names = {entry.path: entry.name for _, entry in chosen}
    for content, entry in chosen:
        covers = _covers_of(entry.record, as_masks=as_masks)
        if isinstance(covers, str):
            failures[entry.path] = covers
            continue
        found = [SurveyClass(each["id"], each["name"], tuple(each["color"])) for each in covers]
        if classes is None:
            classes = found
        elif _are_one_list(classes, found):
            classes = max(classes, found, key=len)
        else:
            raise LedgerError(
                content.path,
                f"has other classes than {ledgers[0]} ({_difference(found, classes)}): "
                "summarize what one bundle has made",
            )
        pictures.append(_picture(content, entry, covers))
    if classes is None:
        reasons = [named_reason(names[path], reason) for path, reason in failures.items()]
        raise LedgerError(ledgers[0], _without_masks(reasons, _missing(contents)))
    pictures = [_with_classes(each, len(classes)) for each in pictures]
    runs = [content.run for content in contents]
    mixed = mixture([each.entry.record["provenance"] for each in pictures])
    notes = [*_notes(contents, repeated), *([] if mixed is None else [mixed])]
    return SurveyPictures(classes, pictures, failures, _missing(contents), notes, names, runs)


def _entry_of_each(contents: Sequence[LedgerContent]) -> tuple[Sequence[tuple[LedgerContent, Entry]], int]:
    """The entry that counts of every image, with its ledger, and how many images have masks in several places."""
    real_folder = cache(Path.resolve)
    chosen: dict[tuple[Path, int | None], tuple[LedgerContent, Entry]] = {}
    repeated: set[tuple[Path, int | None]] = set()
    for content in contents:
        for entry in content.entries:
            identity = _identity(entry.path, real_folder)
            if identity not in chosen:
                chosen[identity] = content, entry
                continue
            other, known = chosen[identity]
            if not known.failed and not entry.failed:
                if content.folder != other.folder or entry.path != known.path:
                    repeated.add(identity)
                elif entry.digest != known.digest:
                    raise _contradiction(other, content, entry)
            if supersedes(entry, known):
                chosen[identity] = content, entry
    return list(chosen.values()), len(repeated)


def _picture(content: LedgerContent, entry: Entry, covers: Sequence[Mapping[str, Any]]) -> SurveyPicture:
    confidence = entry.record.get("confidence")
    return SurveyPicture(
        entry.path,
        np.array([each["cover"] for each in covers], np.float64),
        entry.capture,
        None if confidence is None else float(confidence["mean"]),
        entry,
        content.path.parent,
        content.run.options.get("mask_size", MaskSize.ORIGINAL) == MaskSize.ORIGINAL,
        _areas_of(covers),
    )


def _identity(path: str, real_folder: Callable[[Path], Path]) -> tuple[Path, int | None]:
    """The place of a picture without links, and its page: one photograph may be there by several paths."""
    file, page = file_and_page(path)
    if os.path.islink(file):  # noqa: PTH114 (of names that no file can have, it is false)
        return file.resolve(), page
    return real_folder(file.parent) / file.name, page


def _contradiction(one: LedgerContent, other: LedgerContent, entry: Entry) -> LedgerError:
    """The mask is that of the later run, and nothing tells which of the two that is."""
    return LedgerError(
        one.path,
        f"and {other.path} both tell of {entry.name}, made otherwise ({'; '.join(one.run.differences(other.run))}), "
        "and one run has replaced the masks of the other: name the ledger of the later run, or predict again with "
        "--overwrite",
    )


def named_reason(name: str, reason: str) -> str:
    """Name an image before a reason, unless the reason begins with its name.

    >>> named_reason("a.jpg", "is empty"), named_reason("a.jpg", "a.jpg: is empty")
    ('a.jpg: is empty', 'a.jpg: is empty')
    """
    return reason if reason.startswith(name) else f"{name}: {reason}"


def _without_masks(failures: Sequence[str], missing: int) -> str:
    again = "give the command of the run (`pseg predict` with its options) again, with --resume"
    if not failures:
        return f"has no image with a mask: the run ended before one of its {missing} images was done: {again}"
    return f"has no image with a mask: {len(failures)} failed, the first for this reason: {failures[0]}; then {again}"


def _covers_of(record: Mapping[str, Any], *, as_masks: bool) -> Sequence[Mapping[str, Any]] | str:
    """The covers of an image, or why it has none."""
    if record["status"] != "ok":
        return str(record["error"]["message"])
    if as_masks:
        return record["cover"]
    region = record.get("roi")
    if region is not None and region["error"] is not None:
        return f"no region of interest: {region['error']}"
    covers: Sequence[Mapping[str, Any]] = (record if region is None else region)["cover"]
    if counts_nothing(valid_pixels(record), covers):
        return NOTHING_COUNTS
    return [each for each in covers if "excluded" not in each]


def _are_one_list(one: Sequence[SurveyClass], other: Sequence[SurveyClass]) -> bool:
    """Whether classes are the same, except that one list ends before classes that the bundle does not name.

    Where a network returns class indices, nothing tells how many of those there are besides the ones of an image.
    """
    known = min(len(one), len(other))
    unnamed = [class_of_index((), index).id for index in range(known, max(len(one), len(other)))]
    return one[:known] == other[:known] and [each.id for each in (*one[known:], *other[known:])] == unnamed


def _with_classes(picture: SurveyPicture, count: int) -> SurveyPicture:
    """Give a picture, whose classes may end before, the cover 0 of the others."""
    more = count - len(picture.covers)
    areas = picture.areas_cm2
    if not more:
        return picture
    return replace(
        picture, covers=np.pad(picture.covers, (0, more)), areas_cm2=None if areas is None else np.pad(areas, (0, more))
    )


def _areas_of(covers: Sequence[Mapping[str, Any]]) -> NDArray[np.float64] | None:
    if not all("area_cm2" in each for each in covers):
        return None
    return np.array([each["area_cm2"] for each in covers], np.float64)


def _missing(contents: Sequence[LedgerContent]) -> int:
    lists = [(content, _list_of(content, contents)) for content in contents]
    images = {listed: content.run.images for content, listed in lists}
    known = {(listed, entry.position) for content, listed in lists for entry in content.entries}
    return sum(images.values()) - len(known)


def _list_of(content: LedgerContent, contents: Sequence[LedgerContent]) -> tuple[Path, str]:
    """The list of a ledger's images, which the shards of one run have in common, by the folder of the first of them.

    A list is of names as they were typed: in two folders equal ones may mean different images, unless the ledgers there
    are different shards of one run.
    """
    listing = content.run.listing
    here = [each for each in contents if (each.folder, each.run.listing) == (content.folder, listing)]
    shards = [each for each in here if each.run.shard is not None]
    if shards:
        alike = [each for each in contents if _shards_of(each) == _shards_of(shards[0])]
        if len({each.run.shard for each in alike}) == len(alike):
            return alike[0].folder, listing
    return content.folder, listing


def _shards_of(content: LedgerContent) -> tuple[str, str, int, str] | None:
    """What the shards of one run have in common, also the folder that names were typed from; None of a whole run."""
    run = content.run
    if run.shard is None:
        return None
    typed_from = content.entries[0].path.removesuffix(content.entries[0].name) if content.entries else ""
    return run.listing, run.digest, parse_shard(run.shard).count, typed_from


def _notes(contents: Sequence[LedgerContent], repeated: int) -> list[str]:
    first, *others = contents
    notes = [
        f"{other.path} was not made as {first.path}: {'; '.join(differences)}"
        for other in others
        if (differences := other.run.differences(first.run))
    ]
    if repeated:
        notes.append(
            f"{counted(repeated, 'image is', 'images are')} in more than one ledger, or there by more than one path; "
            f"{'it' if repeated == 1 else 'each'} counts once"
        )
    return notes


def columns_of(classes: Sequence[SurveyClass], what: str) -> list[str]:
    """Name a column for each class, apart also where databases ignore the case of letters.

    >>> columns_of([SurveyClass("urn:1", "Sand", (0, 0, 0)), SurveyClass("urn:2", "sand", (0, 0, 0))], "cover")
    ['cover_Sand', 'cover_sand_1']
    """
    names: dict[str, str] = {}
    for index, each in enumerate(classes):
        name = f"{what}_{legible(each.name)}"
        if name.casefold() in names:
            name += f"_{index}"
        # Another class may have the name that a number makes.
        while name.casefold() in names:
            name += "_"
        names[name.casefold()] = name
    return list(names.values())


def _difference(one: Sequence[SurveyClass], other: Sequence[SurveyClass]) -> str:
    """The names of classes that are not the same, or what else differs where the names do not."""
    described = {
        "": [[each.name for each in classes] for classes in (one, other)],
        "their URNs are ": [[each.id for each in classes] for classes in (one, other)],
        "their colours are ": [
            ["#{:02x}{:02x}{:02x}".format(*each.color) for each in classes] for classes in (one, other)
        ],
    }
    what, (here, there) = next((what, lists) for what, lists in described.items() if lists[0] != lists[1])
    return f"{what}{', '.join(here)}; there {', '.join(there)}"
