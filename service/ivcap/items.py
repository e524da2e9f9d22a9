"""Images and bundles of orders and jobs: local files, downloads, and what cannot be reached."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from engine import EngineError
from engine.errors import message_of
from engine.images import find_images, real_path
from service.ivcap.names import ArtifactName, product_stem
from service.ivcap.transfer.limits import Allowance
from service.ivcap.transfer.transport import receiving

_log = logging.getLogger(__name__)
LOCAL_URN = "urn:file://"


class FetchError(EngineError):
    """An image or a bundle, by the name that people know, could not be fetched."""

    def __init__(self, label: str, reason: str) -> None:
        super().__init__(f"{label}: cannot be fetched ({reason})")


class SourceError(EngineError):
    """The list of images, by the URN of collection or queue, cannot be read on; nobody knows how many are left."""

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"{source} {problem}")


class StorageError(EngineError):
    """A result could not be stored: `what` is the name of the file, or the schema of the aspect."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: not stored ({reason})")


def cause_of(error: BaseException) -> str:
    """Find what is behind an error of a platform's library, which may end the process and log the reason only."""
    if isinstance(error, SystemExit):
        behind = error.__context__
        return "the platform refused it, see the log" if behind is None else cause_of(behind)
    return message_of(error)


@contextmanager
def storage_errors(what: str) -> Generator[None]:
    """Turn whatever a platform's library raises, or ends the process with, into a `StorageError`."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise StorageError(what, cause_of(error)) from error


class Item(Protocol):
    """One image or bundle, wherever it lies."""

    @property
    def name(self) -> ArtifactName:
        """What it is called."""
        ...

    def fetch(self) -> Path:
        """Make it a local file; called in a worker thread. Raises FetchError."""
        ...

    def release(self) -> None:
        """Remove what `fetch` made, and nothing else."""
        ...


@contextmanager
def bundle_by_its_name(bundle: Item, path: Path) -> Generator[None]:
    """Put the name of a bundle into errors, in place of the file that it lies in for a while."""
    try:
        yield
    except EngineError as error:
        error.args = (str(error).replace(str(path), bundle.name.label),)
        raise


class ImageSource(Protocol):
    """The images of an order or a job."""

    @property
    def one_at_a_time(self) -> bool:
        """Whether taking an image acknowledges the one before."""
        ...

    @property
    def sample(self) -> Sequence[Path]:
        """Images that can be looked at before the model opens; empty where there are none."""
        ...

    def __iter__(self) -> Iterator[Item]:
        """Hand out the images; SourceError where the list cannot be read on."""
        ...

    def acknowledge(self) -> bool:
        """Acknowledge the image that was handed out last, where no other one will be taken.

        Returns whether it is known that there are no others.
        """
        ...


@dataclass(slots=True)
class LocalItem:
    """The user's own file, which is read where it lies and never removed."""

    path: Path

    @property
    def name(self) -> ArtifactName:
        return ArtifactName(f"{LOCAL_URN}{real_path(self.path)}", self.path.name)

    def fetch(self) -> Path:
        return self.path

    def release(self) -> None:
        pass


@dataclass(slots=True)
class DownloadedItem:
    """An artifact that is downloaded into a folder below `work`, and removed afterwards."""

    name: ArtifactName
    download: Callable[[Path], None]
    work: Path
    allowance: Allowance
    _folder: Path | None = field(default=None, init=False)

    def fetch(self) -> Path:
        try:
            self._folder = Path(tempfile.mkdtemp(dir=self.work))
            path = self._folder / product_stem(self.name.label)
            with receiving(self.allowance, self._folder):
                self.download(path)
        except (Exception, SystemExit) as error:
            raise FetchError(self.name.label, cause_of(error)) from error
        return path

    def release(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class UnreachableItem:
    """An artifact that is named and cannot be reached."""

    name: ArtifactName
    reason: str

    def fetch(self) -> Path:
        raise FetchError(self.name.label, self.reason)

    def release(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class ImageList:
    """Images that are all known from the start, so that they may be read ahead; `sample` are local files."""

    items: Sequence[Item]
    sample: Sequence[Path]
    one_at_a_time: bool = field(default=False, init=False)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def acknowledge(self) -> bool:
        return False


def photographs_in(folder: str) -> list[Path]:
    """List the photographs of a local folder, a glob or a file, sorted; what is not taken is logged.

    Raises ImageError where there are none, or the folder may not be listed.
    """
    found = find_images([folder])
    for remark in found.remarks():
        _log.warning("%s", remark)
    return found.images
