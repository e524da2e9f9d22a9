"""Artifacts and collections of IVCAP jobs, as images to be done and as an outlet for results.

On the platform they are reached through `ivcap_client`, whose requests have no limits of time or size and no retries:
here they have all three. Without a platform the same library keeps results in a local folder, and images are local
files.
"""

# The platform's library states few types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false

import io
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ivcap_client.artifact import Artifact
from ivcap_client.ivcap import IVCAP, LocalIVCAP

from engine import OptionError
from engine.errors import message_of
from engine.system.cores import usable_cores
from service.collections.sharding import share_of
from service.ivcap.fulfilment import FetchError, Item, SupplyError
from service.ivcap.known_images import LocalItem, UnreachableItem, photographs_in
from service.ivcap.patient_httpx import PatientClient
from service.ivcap.publishing import (
    ARTIFACT_URN,
    COLLECTION_SCHEMA,
    Aspect,
    Product,
    SourceName,
    StorageError,
    is_platform_urn,
    product_stem,
    require_json,
)
from service.ivcap.transfer_limits import Allowance, Patience, Sizes, TransferError
from service.ivcap.transport import receiving
from service.request import ServiceRequest

COLLECTION_ITEM_SCHEMA = "urn:ivcap:schema:collection-item.1"
# An upload that was cut off is resumed from where the platform says it has come.
_RESUMPTIONS = 2


def patient(ivcap: IVCAP, patience: Patience, sizes: Sizes) -> IVCAP:
    """Impose limits and retries on a client's requests.

    Args:
        ivcap: the client; uploads are its only requests that `service.ivcap.transport` has to care for.
        patience: limits of time, and retries.
        sizes: limits of bodies.

    Returns:
        The same client.
    """
    if not isinstance(ivcap, LocalIVCAP):
        usual = ivcap._client.get_httpx_client()
        ivcap._client.set_httpx_client(PatientClient(patience, sizes, base_url=usual.base_url, headers=usual.headers))
        usual.close()
    return ivcap


@dataclass(slots=True)
class ArtifactItem:
    """An artifact that is downloaded, and removed afterwards.

    Attributes:
        artifact: what the platform says of it.
        work: folder for downloads.
        allowance: how large it may be.
        folder: where it lies now.
    """

    artifact: Artifact
    work: Path
    allowance: Allowance
    folder: Path | None = field(default=None, init=False)

    @property
    def source(self) -> SourceName:
        """Its URN and name."""
        return SourceName(self.artifact.id, self.artifact.name or self.artifact.id)

    def fetch(self) -> Path:
        """Download it.

        Returns:
            A file of its own.

        Raises:
            FetchError: it cannot be downloaded, is too large, or is not as large as the platform says.
        """
        self.folder = Path(tempfile.mkdtemp(dir=self.work))
        stated = self.artifact.size
        try:
            if isinstance(stated, int):
                self.allowance.require(stated, self.artifact.id)
            with receiving(self.allowance, self.folder):
                path = self.artifact.as_local_file(self.folder / product_stem(self.source.label))
            came = path.stat().st_size
            # Nothing and less than nothing mean that the platform does not know.
            if isinstance(stated, int) and stated > 0 and came != stated:
                raise TransferError(f"the platform says {stated} bytes, and {came} came", self.artifact.id)
            return path
        except Exception as error:
            raise FetchError(f"{self.source.label}: cannot be fetched ({message_of(error)})") from error

    def release(self) -> None:
        """Remove the download."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _CountedItem:
    item: Item
    done: Callable[[], None]

    @property
    def source(self) -> SourceName:
        return self.item.source

    def fetch(self) -> Path:
        return self.item.fetch()

    def release(self) -> None:
        self.item.release()
        self.done()


@dataclass(frozen=True, slots=True)
class JobImages:
    """The images of a job; what they are called is asked for a little ahead.

    Attributes:
        names: URNs, or local files.
        open_item: finds an image by its name; called in worker threads.
        sample: those that are local files.
        done: called for each image when it is done, well or not.
    """

    names: Sequence[str]
    open_item: Callable[[str], Item]
    sample: Sequence[Path]
    done: Callable[[], None]
    one_at_a_time: bool = field(default=False, init=False)

    def __iter__(self) -> Iterator[Item]:
        """Hand out the images."""
        ahead = usable_cores()
        with ThreadPoolExecutor(ahead, thread_name_prefix="look") as pool:
            opened = (pool.submit(self.open_item, name) for name in self.names)
            opening: deque[Future[Item]] = deque(islice(opened, ahead))
            while opening:
                item = opening.popleft().result()
                opening.extend(islice(opened, 1))
                yield _CountedItem(item, self.done)

    def acknowledge(self) -> None:
        """Nobody waits for it."""


def supply_of(
    request: ServiceRequest, ivcap: IVCAP, work: Path, allowance: Allowance, done: Callable[[], None]
) -> JobImages:
    """Take the images of a job.

    Args:
        request: validated parameters.
        ivcap: the platform, or a local folder.
        work: folder for downloads.
        allowance: how large an image may be.
        done: called for each image when it is done, well or not.

    Returns:
        The images, or the share of them that is asked for. Those of a collection are in its order; those of a local
        folder are sorted, without hidden files and other files than images.

    Raises:
        OptionError: what is named is no image and no collection, or there is none.
        SupplyError: the collection cannot be read.
        ImageError: a local folder holds none.
    """

    def open_one(name: str) -> Item:
        return open_item(name, ivcap, work, allowance)

    given = [request.image] if request.image is not None else request.images or []
    if isinstance(ivcap, LocalIVCAP):
        paths = photographs_in(_local(given)) if isinstance(given, str) else [Path(_local(each)) for each in given]
        names = [str(path) for path in paths]
    else:
        paths = []
        names = _collected(given, ivcap) if isinstance(given, str) else given
        for name in names:
            _require_artifact(name)
    if not names:
        raise OptionError(f"images: {given or 'the list'} names no artifacts")
    shard = request.share()
    return JobImages(share_of(names, shard), open_one, share_of(paths, shard), done)


def open_item(name: str, ivcap: IVCAP, work: Path, allowance: Allowance) -> Item:
    """Find an artifact.

    Args:
        name: URN; without a platform also a path.
        ivcap: the platform, or a local folder.
        work: folder for downloads.
        allowance: how large it may be.

    Returns:
        The image or bundle. One that cannot be found says so when it is fetched.

    Raises:
        OptionError: it is no URN of an artifact.
    """
    if isinstance(ivcap, LocalIVCAP):
        return LocalItem(Path(_local(name)))
    _require_artifact(name)
    try:
        return ArtifactItem(ivcap.get_artifact(name), work, allowance)
    except Exception as error:
        return UnreachableItem(SourceName(name, name), message_of(error))


def _require_artifact(name: str) -> None:
    # A file of this machine is none of the user's, and the content of a data URL would stand for the image everywhere.
    if not is_platform_urn(name, ARTIFACT_URN):
        raise OptionError(f"{name[:80]!r} is no artifact: give URNs that begin with {ARTIFACT_URN}")


def _local(name: str) -> str:
    """The path that is meant.

    >>> _local("urn:file:///a"), _local("file:///a"), _local("a")
    ('/a', '/a', 'a')
    """
    return name.removeprefix("urn:").removeprefix("file://")


def _collected(name: str, ivcap: IVCAP) -> list[str]:
    """The artifacts of a collection, by either way of writing one; an artifact stands for itself."""
    # A collection may have any URN.
    if name.startswith(ARTIFACT_URN) or not name.startswith("urn:"):
        return [name]
    try:
        lists, items = (
            [each.content for each in ivcap.list_aspects(entity=name, schema=schema, limit=None, order_direction="ASC")]
            for schema in (COLLECTION_SCHEMA, COLLECTION_ITEM_SCHEMA)
        )
        members = [urn for each in lists for urn in each["artifacts"]] + [each["item"] for each in items]
    except Exception as error:
        raise SupplyError(f"{name} cannot be read ({message_of(error)})") from error
    return list(dict.fromkeys(map(str, members)))


@dataclass(frozen=True, slots=True)
class JobOutlet:
    """Stores results by the platform's library, on the platform or in a local folder.

    Attributes:
        ivcap: the platform, or a local folder.
        order: URN of the job.
        pause_s: before an upload that was cut off is resumed.
    """

    ivcap: IVCAP
    order: str
    pause_s: float

    def store(self, product: Product) -> str:
        """Store a file and its aspects.

        Args:
            product: the file.

        Returns:
            URN of the stored file.

        Raises:
            StorageError: file or aspects were not stored.
        """
        for aspect in product.aspects:
            require_json(aspect)
        name = product.name
        if isinstance(self.ivcap, LocalIVCAP):
            # A file of the same name is overwritten there: those of other jobs must not be.
            name = f"{product_stem(self.order)}/{name}"
        with _library_errors(product.name):
            artifact = self.ivcap.upload_artifact(
                name=name,
                io_stream=io.BytesIO(product.content),
                content_type=product.mime_type,
                content_size=len(product.content),
                retries=_RESUMPTIONS,
                retry_delay=self.pause_s,  # pyright: ignore[reportArgumentType]  (it sleeps that long)
            )
        for aspect in product.aspects:
            self.attach(artifact.id, aspect)
        return artifact.id

    def attach(self, entity: str, aspect: Aspect) -> None:
        """Attach an aspect.

        Args:
            entity: URN.
            aspect: with its `$schema`.

        Raises:
            StorageError: it was not stored.
        """
        require_json(aspect)
        with _library_errors(str(aspect["$schema"])):
            self.ivcap.add_aspect(entity, dict(aspect))


@contextmanager
def _library_errors(what: str) -> Generator[None]:
    try:
        yield
    except Exception as error:
        raise StorageError(f"{what}: not stored ({message_of(error)})") from error
