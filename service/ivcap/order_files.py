"""Files and queues of IVCAP orders as a source of images, and the platform as a store for results.

In the cluster an order names what the platform keeps, by URN, and what lies elsewhere only if the platform fetches it
through its cache: no file of this machine and no host of its network. `require_platform_name` proves the parameters,
and `platform_hosts` says which hosts the library's requests may go to.

The platform's library ends the process where an upload or a queue fails, drops what JSON cannot hold, and lets a failed
write of a local file pass. Here each of these is an error, and what was stored locally is looked at again.
"""

# The platform's library states no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportPrivateUsage=false

import glob
import json
import logging
import re
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

import requests
from ivcap_sdk_service import get_config, get_order_id, publish_artifact, publish_aspect
from ivcap_sdk_service.cio.utils import download as get_file
from ivcap_sdk_service.ivcap import DELIVERED

from engine.system.files import remove_abandoned_parts, write_atomically
from service.collections.sharding import Shard, share_of
from service.ivcap.items import (
    LOCAL_URN,
    DownloadedItem,
    ImageList,
    ImageSource,
    Item,
    LocalItem,
    SourceError,
    StorageError,
    UnreachableItem,
    cause_of,
    photographs_in,
    storage_errors,
)
from service.ivcap.names import ArtifactName, is_platform_urn
from service.ivcap.publishing import Aspect, Product, require_json
from service.ivcap.redaction import without_secrets
from service.ivcap.transfer.limits import Allowance, TransferError
from service.ivcap.transfer.transport import PIECE_BYTES

_log = logging.getLogger(__name__)
_FEW_REPEATS = 100
_MOST_ROUNDS = 3
_RESULT_SUFFIXES = frozenset({".png", ".tif", ".gpkg", ".geojson", ".csv", ".html"})
_ADDRESS = re.compile(r"(urn:)?https?://[^\s\x00-\x1f\x7f-\x9f]{1,4000}", re.IGNORECASE)


class Readable(Protocol):
    """What the platform hands over for an artifact."""

    @property
    def name(self) -> str:
        """File name, URN or URL."""
        ...

    @property
    def urn(self) -> str:
        """URN; `urn:file://…` for a local file."""
        ...

    def as_local_file(self) -> str:
        """Path of a local file: the user's own, or a download that nobody else removes."""
        ...


class Downloadable(Readable, Protocol):
    """What the platform hands over for an artifact that lies elsewhere."""

    @property
    def _download_url(self) -> str: ...


class Collection(Protocol):
    """What the platform hands over for a collection."""

    @property
    def name(self) -> str:
        """Path, URN or URL."""
        ...

    @property
    def urn(self) -> str:
        """URN; `urn:file://…` for a local folder."""
        ...

    def __iter__(self) -> Iterator[Downloadable]:
        """Hand out the artifacts."""
        ...


def downloaded(readable: Downloadable, work: Path, allowance: Allowance) -> DownloadedItem:
    """Take an artifact that is downloaded into a folder."""

    def download(path: Path) -> None:
        # `as_local_file` would download into a temporary file that stays where the download fails.
        with path.open("wb") as file:
            get_file(readable._download_url, file, chunk_size=PIECE_BYTES, close_fhdl=False)

    # The name is taken now: the library appends the cache's number to it once the content is there.
    return DownloadedItem(name_of(readable), download, work, allowance)


def name_of(readable: Readable | Collection) -> ArtifactName:
    """Find what an artifact is called; one that comes through the platform's cache has its own address."""
    return remote_name(f"urn:{readable.name}" if _ADDRESS.fullmatch(readable.name) else readable.urn)


def remote_name(urn: str) -> ArtifactName:
    """Find the name of a remote artifact: URN, and the same or the address as label.

    What is secret in an address stays out of both.

    >>> remote_name("urn:http://artifact.local/urn:ivcap:artifact:7").label
    'urn:ivcap:artifact:7'
    >>> remote_name("urn:https://host/dive/q7.jpg").label
    'https://host/dive/q7.jpg'
    """
    urn = without_secrets(urn)
    last = urn.rpartition("/")[2]
    if last.startswith("urn:"):
        return ArtifactName(last, last)
    return ArtifactName(urn, urn.removeprefix("urn:") if "://" in urn else urn)


def open_item(readable: Downloadable, work: Path, allowance: Allowance) -> Item:
    # In the cluster the platform's answers decide what it is called: no name makes it a file of this machine.
    if not _in_cluster() and readable.urn.startswith(LOCAL_URN):
        return LocalItem(Path(readable.as_local_file()))
    return downloaded(readable, work, allowance)


def _in_cluster() -> bool:
    return bool(get_config().STORAGE_URL)


def require_platform_name(name: str) -> str:
    """Prove, in the cluster, that a parameter names nothing of this machine and its network; to be called by argparse.

    Raises ArgumentTypeError where it names a file or an address that would be opened or asked from here.
    """
    config = get_config()
    if not _in_cluster() or is_platform_urn(name, config.SCHEMA_PREFIX):
        return name
    prefix = config.SCHEMA_PREFIX
    # What begins with the storage's own address the library would ask there, whatever follows.
    if not _ADDRESS.fullmatch(name) or name.removeprefix("urn:").startswith(config.STORAGE_URL):
        raise ArgumentTypeError(
            f"{name[:80]!r} is nothing that the platform keeps: give a URN that begins with {prefix}"
        )
    if not config.CACHE_PROXY_URL:
        raise ArgumentTypeError(
            f"{without_secrets(name)[:80]!r} is not fetched from here, and the platform names no cache "
            f"(IVCAP_CACHE_URL) that would: upload it, and give its URN, which begins with {prefix}"
        )
    return name


def platform_hosts(environment: Mapping[str, str]) -> frozenset[str] | None:
    """Find which hosts may be asked: in the cluster those of storage and cache, else None, which is all.

    Ports are there where they are stated.
    """
    if not _in_cluster():
        return None
    config = get_config()
    own = {urlsplit(each).netloc for each in (config.STORAGE_URL, config.CACHE_PROXY_URL) if each}
    others = {each.strip() for each in environment.get("PSEG_HTTP_HOSTS", "").split(",")}
    return frozenset(each.lower() for each in own | others if each)


@dataclass(slots=True)
class QueuedImages:
    """A collection in the cluster, served by a queue.

    The share that is handed out goes by the hash of the URN, since nobody knows the list; what belongs to another one
    is acknowledged and left alone. `work` is the folder for downloads.
    """

    collection: Collection
    work: Path
    allowance: Allowance
    shard: Shard | None = None
    sample: Sequence[Path] = field(default=(), init=False)
    one_at_a_time: bool = field(default=True, init=False)
    _iterator: Iterator[Downloadable] = field(init=False)

    def __post_init__(self) -> None:
        self._iterator = iter(self.collection)

    def __iter__(self) -> Iterator[Item]:
        known: set[str] = set()
        repeats = 0
        while (item := self._next()) is not None:
            urn = item.name.urn
            if urn not in known:
                known.add(urn)
                repeats = 0
                if self.shard is None or self.shard.holds_name(urn):
                    yield item
                continue
            # A collection may name an image many times; a queue that takes no acknowledgement has nothing else left.
            repeats += 1
            if repeats > max(_FEW_REPEATS, _MOST_ROUNDS * len(known)):
                problem = f"hands out {urn} again and again: it takes no acknowledgement"
                raise SourceError(self.collection.urn, problem)
            _log.warning("%s was delivered again: it is done already", urn)

    def acknowledge(self) -> bool:
        """Acknowledge the last image: the library does that when it asks for the next one, which stays in the queue."""
        try:
            return self._next() is None
        except SourceError as error:
            _log.warning("the last image is not acknowledged: %s", error)
            return False

    def _next(self) -> Item | None:
        try:
            readable = next(self._iterator, None)
        except (Exception, SystemExit) as error:
            address = _unreachable_address(error)
            if address is None:
                raise SourceError(self.collection.urn, f"broke off ({cause_of(error)})") from error
            return UnreachableItem(remote_name(f"urn:{address}"), cause_of(error))
        return None if readable is None else open_item(readable, self.work, self.allowance)


def _unreachable_address(error: BaseException) -> str | None:
    """The item's address, if it was the look at the item that failed; the queue itself ends the process instead."""
    if isinstance(error, TransferError):
        return error.address
    if isinstance(error, requests.RequestException):
        return None if error.request is None else str(error.request.url)
    # The library's own error has no type and names the address last.
    text = str(error)
    return text.rpartition(" ")[2] if type(error) is Exception and text.startswith("cannot get HEAD") else None


def images_of_order(
    image: Downloadable | None, images: Collection | None, work: Path, allowance: Allowance, shard: Shard | None = None
) -> ImageSource:
    """Find the images of an order: the one `image`, or else a share of a collection.

    Those of a local folder are sorted, without hidden files and other files than images; ImageError if it holds none.
    """
    if image is not None:
        item = open_item(image, work, allowance)
        return ImageList([item], [item.path] if isinstance(item, LocalItem) else [])
    if images is None:
        return ImageList([], [])
    if _in_cluster() or not images.urn.startswith(LOCAL_URN):
        return QueuedImages(images, work, allowance, shard)
    paths = share_of(photographs_in(images.urn.removeprefix(LOCAL_URN)), shard)
    return ImageList([LocalItem(path) for path in paths], paths)


@dataclass(frozen=True, slots=True)
class OrderStore:
    """Stores results by the platform's library, in the cluster or in the local folder of results.

    The library is used by one thread at a time.
    """

    lock: Lock = field(default_factory=Lock)

    @property
    def order(self) -> str:
        return str(get_order_id())

    def store(self, product: Product) -> str:
        # The first aspect goes along with the file and has six keys at least: the library turns smaller ones into a
        # header, where lists become text.
        for aspect in product.aspects:
            require_json(aspect)
        first = dict(product.aspects[0]) if product.aspects else None
        with self.lock, storage_errors(product.name):
            urn = publish_artifact(
                self._wire_name(product.name),
                self._write_whole(product.content),
                product.mime_type,
                metadata=first,
                is_binary=True,
            )
            # The library lists all that it published, for nobody.
            DELIVERED.clear()
        if not urn:
            raise StorageError(product.name, "the platform gave no URN for it")
        if self._is_local:
            _require_written(Path(urn.removeprefix(LOCAL_URN)), product)
        for aspect in product.aspects[1:]:
            self.attach(urn, aspect)
        return urn

    def attach(self, entity: str, aspect: Aspect) -> None:
        require_json(aspect)
        with self.lock, storage_errors(str(aspect["$schema"])):
            name = publish_aspect(entity, dict(aspect), aspect["$schema"])
        if self._is_local:
            folder = Path(get_config().OUT_DIR)
            # Where a file of that name was there before, the library adds a number.
            numbered = folder.glob(f"{glob.escape(str(name).removesuffix('.json'))}-*.json")
            if not any(_holds(path, aspect) for path in chain([folder / name], numbered)):
                raise StorageError(str(folder / name), "the library's log says why")

    def remove_abandoned(self) -> None:
        """Remove what killed orders left half-written in the local folder of results.

        The library makes a result's file, empty, a moment before it is written: an order killed there leaves it so.
        """
        if not self._is_local:
            return
        folder = Path(get_config().OUT_DIR)
        remove_abandoned_parts(folder)
        for path in folder.iterdir():
            if path.suffix in _RESULT_SUFFIXES and path.is_file() and path.stat().st_size == 0:
                path.unlink(missing_ok=True)

    @property
    def _is_local(self) -> bool:
        return not _in_cluster()

    def _write_whole(self, content: bytes) -> Callable[[BinaryIO], None]:
        def write(file: BinaryIO) -> None:
            if self._is_local:
                # The library has made the file, empty, under the result's name, where half of one must never stand.
                Path(file.name).unlink(missing_ok=True)
                write_atomically(Path(file.name), content)
            else:
                file.write(content)
                file.flush()

        return write

    def _wire_name(self, name: str) -> str:
        # Headers are Latin-1 on this side; the other side reads UTF-8.
        return name if self._is_local else name.encode().decode("latin-1")


def _require_written(path: Path, product: Product) -> None:
    try:
        whole = path.read_bytes() == product.content
    except OSError as error:
        raise StorageError(str(path), str(error)) from error
    record = Path(f"{path}-meta.json")
    if not whole or not all(_holds(record, aspect) for aspect in product.aspects[:1]):
        raise StorageError(str(path if not whole else record), "the library's log says why")


def _holds(path: Path, aspect: Aspect) -> bool:
    """Whether a file holds an aspect, and perhaps what the library adds to it."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return {**found, **json.loads(json.dumps(aspect))} == found
