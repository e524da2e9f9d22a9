"""Artifacts and collections of IVCAP jobs as a source of images, and the platform as a store for results.

On the platform they are reached through `ivcap_client`, whose requests have no limits of time or size and no retries:
here they have all three. Without a platform the same library keeps results in a local folder, and images are local
files.
"""

# The platform's library states few types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportPrivateUsage=false

import io
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

from ivcap_client.artifact import Artifact
from ivcap_client.ivcap import IVCAP, LocalIVCAP

from engine import OptionError
from engine.errors import message_of
from engine.images import real_path
from engine.system.machine.cores import usable_cores
from service.collections.sharding import share_of
from service.ivcap.items import (
    DownloadedItem,
    Item,
    LocalItem,
    SourceError,
    UnreachableItem,
    photographs_in,
    storage_errors,
)
from service.ivcap.names import ARTIFACT_URN, ArtifactName, is_platform_urn, product_stem
from service.ivcap.parameters import ServiceRequest
from service.ivcap.publishing import COLLECTION_ITEM_SCHEMA, COLLECTION_SCHEMA, Aspect, Product, require_json
from service.ivcap.transfer.limited_httpx import LimitedClient
from service.ivcap.transfer.limits import Allowance, RetryPolicy, Sizes, TransferError

_log = logging.getLogger(__name__)
_Image = TypeVar("_Image", str, Path)
# An upload that was cut off is resumed from where the platform says it has come.
_RESUMPTIONS = 2


def with_limits(ivcap: IVCAP, policy: RetryPolicy, sizes: Sizes) -> IVCAP:
    """Impose limits and retries on a client's requests; uploads also go through `service.ivcap.transfer.transport`."""
    if not isinstance(ivcap, LocalIVCAP):
        usual = ivcap._client.get_httpx_client()
        ivcap._client.set_httpx_client(LimitedClient(policy, sizes, base_url=usual.base_url, headers=usual.headers))
        usual.close()
    return ivcap


def _downloaded(artifact: Artifact, work: Path, allowance: Allowance) -> DownloadedItem:
    stated = artifact.size

    def download(path: Path) -> None:
        if isinstance(stated, int):
            allowance.require(stated, artifact.id)
        artifact.as_local_file(path)
        came = path.stat().st_size
        # Nothing and less than nothing mean that the platform does not know.
        if isinstance(stated, int) and stated > 0 and came != stated:
            raise TransferError(f"the platform says {stated} bytes, and {came} came", artifact.id)

    return DownloadedItem(ArtifactName(artifact.id, artifact.name or artifact.id), download, work, allowance)


@dataclass(frozen=True, slots=True)
class _CountedItem:
    item: Item
    done: Callable[[], None]

    @property
    def name(self) -> ArtifactName:
        return self.item.name

    def fetch(self) -> Path:
        return self.item.fetch()

    def release(self) -> None:
        self.item.release()
        self.done()


@dataclass(frozen=True, slots=True)
class JobImages:
    """The images of a job; what they are called is asked for a little ahead.

    `open_item` finds an image by its URN, in worker threads; `sample` are local files; `done` is called for each image
    when it is done, well or not.
    """

    urns: Sequence[str]
    open_item: Callable[[str], Item]
    sample: Sequence[Path]
    done: Callable[[], None]
    one_at_a_time: bool = field(default=False, init=False)

    def __iter__(self) -> Iterator[Item]:
        ahead = usable_cores()
        with ThreadPoolExecutor(ahead, thread_name_prefix="look") as pool:
            opened = (pool.submit(self.open_item, urn) for urn in self.urns)
            opening: deque[Future[Item]] = deque(islice(opened, ahead))
            while opening:
                item = opening.popleft().result()
                opening.extend(islice(opened, 1))
                yield _CountedItem(item, self.done)

    def acknowledge(self) -> bool:
        return False


def images_of_job(
    request: ServiceRequest, ivcap: IVCAP, work: Path, allowance: Allowance, done: Callable[[], None]
) -> JobImages:
    """Find the images of a job, or the share of them that is asked for.

    Each is there once, however often it is named. Those of a collection are in its order; those of a local folder are
    sorted, without hidden files and other files than images. Raises OptionError where what is named is no image and no
    collection, or there is none; SourceError where the collection cannot be read; ImageError where a local folder holds
    none.
    """

    def open_one(urn: str) -> Item:
        return open_item(urn, ivcap, work, allowance)

    given = [request.image] if request.image is not None else request.images or []
    if isinstance(ivcap, LocalIVCAP):
        named = photographs_in(_local(given)) if isinstance(given, str) else [Path(_local(each)) for each in given]
        paths = _each_once(named, real_path)
        urns = [str(path) for path in paths]
    else:
        paths = []
        urns = _each_once(_collected(given, ivcap) if isinstance(given, str) else given, str)
        for urn in urns:
            _require_artifact(urn)
    if not urns:
        raise OptionError(f"images: {given or 'the list'} names no artifacts")
    shard = request.share()
    return JobImages(share_of(urns, shard), open_one, share_of(paths, shard), done)


def open_item(urn: str, ivcap: IVCAP, work: Path, allowance: Allowance) -> Item:
    """Find an image or a bundle by its URN, without a platform also by a path; OptionError for another name.

    One that cannot be found says so when it is fetched.
    """
    if isinstance(ivcap, LocalIVCAP):
        return LocalItem(Path(_local(urn)))
    _require_artifact(urn)
    try:
        return _downloaded(ivcap.get_artifact(urn), work, allowance)
    except Exception as error:
        return UnreachableItem(ArtifactName(urn, urn), message_of(error))


def _require_artifact(name: str) -> None:
    # A file of this machine is none of the user's, and the content of a data URL would stand for the image everywhere.
    if not is_platform_urn(name, ARTIFACT_URN):
        raise OptionError(f"{name[:80]!r} is not an artifact: give URNs that begin with {ARTIFACT_URN}")


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
        raise SourceError(name, f"cannot be read ({message_of(error)})") from error
    return list(map(str, members))


def _each_once(images: Sequence[_Image], identity: Callable[[_Image], object]) -> list[_Image]:
    known: dict[object, _Image] = {}
    for image in images:
        known.setdefault(identity(image), image)
    if len(known) < len(images):
        _log.warning("%d images are named more than once: each is done once", len(images) - len(known))
    return list(known.values())


@dataclass(frozen=True, slots=True)
class JobStore:
    """Stores results by the platform's library, on the platform or in a local folder.

    `order` is the URN of the job, `pause_s` is before an upload that was cut off is resumed.
    """

    ivcap: IVCAP
    order: str
    pause_s: float

    def store(self, product: Product) -> str:
        for aspect in product.aspects:
            require_json(aspect)
        name = product.name
        if isinstance(self.ivcap, LocalIVCAP):
            # A file of the same name is overwritten there: those of other jobs must not be.
            name = f"{product_stem(self.order)}/{name}"
        with storage_errors(product.name):
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
        require_json(aspect)
        with storage_errors(str(aspect["$schema"])):
            self.ivcap.add_aspect(entity, dict(aspect))
