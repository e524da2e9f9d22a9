"""Which results of earlier runs hold for this one: the same rules for the ledgers of folders and of clusters."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from engine import EngineError


class LedgerError(EngineError):
    """A ledger cannot be read, written, or joined with others, or its results would be replaced.

    `place` is the ledger, or the result; `line` counts from 1, None where it is none in particular; `problem` says what
    to do, too.
    """

    def __init__(self, place: Path | str, problem: str, *, line: int | None = None) -> None:
        super().__init__(f"{place} {problem}" if line is None else f"{place}: line {line} {problem}")
        self.place = place
        self.line = line

    @classmethod
    def of_another_run(cls, place: Path | str, images: int, differences: str) -> "LedgerError":
        """Say that results of another run would be replaced, and where they lie."""
        return cls(
            place,
            f"holds the results of another run, {images} images ({differences}): name another folder, give the options "
            "of that run, or replace its results: all at once with --overwrite, or image by image with --resume",
        )


class Image(Protocol):
    """An image that is to be done."""

    @property
    def label(self) -> str:
        """What people call it."""
        ...

    @property
    def stem(self) -> str:
        """Of its results."""
        ...


class Entry(Protocol):
    """What a ledger says of an image."""

    @property
    def source(self) -> str:
        """The image's path or URI."""
        ...

    @property
    def stem(self) -> str:
        """Of its results."""
        ...

    @property
    def digest(self) -> str:
        """Of bundle and options."""
        ...

    @property
    def failed(self) -> bool:
        """Whether the image was not segmented."""
        ...

    @property
    def picture(self) -> str | None:
        """Its first picture; None if it has none."""
        ...

    @property
    def modified_ns(self) -> int | None:
        """When the image was last changed, if that is known."""
        ...


CLUSTER_LEDGER = "ledger.parquet"
"""The ledger that `pseg scale` writes."""

OTHER_OPTIONS = "bundle or options are not the same"
"""Why a result that is there does not hold for a run."""

_Entry = TypeVar("_Entry", bound=Entry)
_Image = TypeVar("_Image", bound=Image)


@dataclass(frozen=True, slots=True)
class Resumed(Generic[_Entry]):
    """What earlier entries are worth for a run.

    `finished` are those that hold, by the position of their image; `again` says why images are done again, and how
    many; `images` is how many the run has.
    """

    finished: Mapping[int, _Entry]
    again: Mapping[str, int]
    images: int

    def notes(self) -> list[str]:
        """Say what is not done again, and why the rest is."""
        done = f"{len(self.finished)} of {self.images} images were done earlier"
        return [done, *(f"{number} done again: {reason}" for reason, number in self.again.items())]


def resume(
    images: Sequence[tuple[int, _Image]],
    digest: str,
    entries_of: Callable[[_Image], Sequence[_Entry]],
    changed: Callable[[_Entry, _Image], str | None] = lambda _entry, _image: None,
) -> Resumed[_Entry]:
    """Find the entries that hold for a run, and why the rest does not.

    `changed` says what else has changed since an entry was made; None: nothing.
    """
    finished: dict[int, _Entry] = {}
    again: Counter[str] = Counter()
    for position, image in images:
        reason = None
        for entry in entries_of(image):
            reason = _reason_to_repeat(entry, image, digest) or changed(entry, image)
            if reason is None:
                finished[position] = entry
                break
        if reason is not None:
            again[reason] += 1
    return Resumed(finished, again, len(images))


def _reason_to_repeat(entry: Entry, image: Image, digest: str) -> str | None:
    if entry.failed:
        return "failed before"
    if entry.digest != digest:
        return OTHER_OPTIONS
    if entry.stem != image.stem:
        return "another image takes the names of its pictures"
    return None


def require_pictures_kept(strangers: Iterable[Entry], pending: Iterable[Image], place: Callable[[str], str]) -> None:
    """Refuse (LedgerError) a run that would replace pictures of images that are not its own."""
    owners = {entry.stem.casefold(): entry for entry in strangers if entry.picture is not None}
    for image in pending:
        owner = owners.get(image.stem.casefold())
        if owner is not None and owner.picture is not None:
            raise LedgerError(
                place(owner.picture),
                f"is the result of {owner.source}, which is not among these images, and that of {image.label} would "
                "take its place: name another folder with --out, or give all images at once",
            )


def supersedes(entry: Entry, known: Entry) -> bool:
    """Tell whether an entry counts more than one that is known of the same image.

    What one machine could not read another one perhaps could, and an image may have been mended since.
    """
    return known.failed or (not entry.failed and (entry.modified_ns or 0) > (known.modified_ns or 0))
