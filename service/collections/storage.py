"""Files by URI, local or in an object store, and tables in Parquet: the only file that imports pyarrow.

A file that is written is whole or absent: local ones get their name at the end, an object store shows an object once it
is complete. `file`, `s3` and `gs` are read and written by pyarrow, with the credentials of the environment; `http` and
`https` are read within the limits of `service.ivcap.transfer.transport`. Nothing is read without a limit of its size.
"""

# pyarrow states no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import io
import os
import re
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from engine import EngineError, OptionError
from engine.system.files import write_atomically
from service.ivcap.names import address_path
from service.ivcap.transfer.limits import Allowance, TransferError, retry_policy_from
from service.results.records import MOST_IMAGES

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_FILE = "file://"
_STORES = ("s3", "gs")
_WEB = ("http", "https")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_PIECE_BYTES = 1 << 20
# The ledger of a million images has some hundred million bytes.
_MOST_TABLE_BYTES = 1 << 32
_TABLE = Allowance(_MOST_TABLE_BYTES, "split the collection")
_URI_SIGNS = "%:/?[]@!$&'()*+,;=~"


class StoreError(EngineError):
    """A file cannot be read from its URI or written to it."""


def is_uri(name: str) -> bool:
    """Tell a URI from a path.

    >>> is_uri("s3://bucket/q7.jpg"), is_uri("dive/q7.jpg")
    (True, False)
    """
    return _SCHEME.match(name) is not None


def local_path(name: str) -> Path | None:
    """Find the path that is meant; None if it is not a local one. OptionError where it is one of another machine.

    `#` and `?` are parts of names.

    >>> local_path("file:///a/b%20c#1.png")
    PosixPath('/a/b c#1.png')
    """
    if name.lower().startswith(_FILE):
        host, slash, path = name[len(_FILE) :].partition("/")
        if not slash or host.lower() not in {"", "localhost"}:
            raise OptionError(
                f"{name}: names a machine, {host}, and no path of this one: write file:///, then the path"
            )
        # Names of files are bytes, and not all of them are UTF-8.
        return Path(os.fsdecode(unquote_to_bytes(slash + path)))
    return None if is_uri(name) else Path(name)


def named_place(uri: str) -> str:
    """Write a URI as all that name the same file are written; web addresses stay as they are.

    >>> named_place("file:///a/b%20c.png") == named_place("file://localhost/a/./b c.png"), named_place("s3://b/a%20b")
    (True, 's3://b/a b')
    """
    path = local_path(uri)
    if path is not None:
        return str(path)
    return uri if uri.startswith(_WEB) else unquote(uri)


def stem_of(uri: str) -> str:
    """Name the pictures of an image by the stem of its path, as people read it.

    Signs that no file's name can hold, or no terminal takes, are left out.

    >>> stem_of("file:///dive/M%C3%BCll%201.jpg"), stem_of("https://reef.org/get?file=a.jpg"), stem_of("https://reef.org/")
    ('Müll 1', 'get', 'image')
    """
    # Only a web address has a fragment, and of the others only one of a store has a query.
    signs = "" if uri.startswith(_WEB) else "#?" if uri.startswith(_FILE) else "#"
    address = uri.translate({ord(sign): quote(sign) for sign in signs})
    return PurePosixPath(_CONTROL.sub("_", unquote(address_path(address)))).stem or "image"


def copy_to(file: BinaryIO, name: str, allowance: Allowance) -> None:
    """Read what a URI or a path names into a file.

    Raises StoreError where it is larger than allowed, cannot be read, or nothing here reads such a URI.
    """
    with _store_errors(name, "read"):
        if urlsplit(name).scheme in _WEB:
            _copy_from_web(file, name, allowance)
        else:
            _copy_from_store(file, name, allowance)


@contextmanager
def _store_errors(name: str, done: str) -> Generator[None]:
    try:
        yield
    except (StoreError, OptionError):
        raise
    except TransferError as error:
        raise StoreError(f"{name}: {error}") from error
    except Exception as error:  # every store has errors of its own
        raise StoreError(f"{name}: cannot be {done} ({_reason(error)})") from error


def _copy_from_web(file: BinaryIO, name: str, allowance: Allowance) -> None:
    from service.ivcap.transfer.transport import limited_session, receiving

    session = limited_session(retry_policy_from(os.environ))
    with session, receiving(allowance), session.get(name, stream=True) as answer:
        answer.raise_for_status()
        for piece in answer.iter_content(_PIECE_BYTES):
            file.write(piece)


def _copy_from_store(file: BinaryIO, name: str, allowance: Allowance) -> None:
    path = local_path(name)
    if path is not None:
        stated_bytes, source = path.stat().st_size, path.open("rb")
    else:
        filesystem, place = object_place(name)
        stated_bytes, source = filesystem.get_file_info(place).size, filesystem.open_input_stream(place)
    copied_bytes = 0
    with source:
        # Some stores do not know.
        allowance.require(stated_bytes or 0, name)
        while piece := source.read(_PIECE_BYTES):
            copied_bytes += len(piece)
            allowance.require(copied_bytes, name)
            file.write(piece)


def read_bytes(name: str, allowance: Allowance = _TABLE) -> bytes:
    """Read what a URI or a path names; errors as of `copy_to`."""
    content = io.BytesIO()
    copy_to(content, name, allowance)
    return content.getvalue()


def object_place(name: str) -> tuple[Any, str]:
    """Find the file system of pyarrow that reads a URI of a store, and the bucket and name of the object there.

    Raises StoreError for other URIs.
    """
    if urlsplit(name).scheme not in _STORES:
        raise StoreError(f"{name}: nothing here reads such a URI: give a path, or file, s3, gs, http or https")
    from pyarrow import fs

    # A blank is no part of a URI, though people write it, and # would end the name of an object.
    return fs.FileSystem.from_uri(quote(name, safe=_URI_SIGNS))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@dataclass(frozen=True, slots=True)
class Folder:
    """A place for results: a path, or a URI of `file`, `s3` or `gs`. What fails raises StoreError."""

    root: str

    def name_of(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{quote(name) if is_uri(self.root) else name}"

    def write(self, name: str, content: bytes) -> str:
        """Write a file that is whole or absent, by a relative name with `/`."""
        whole = self.name_of(name)
        path = local_path(whole)
        with _store_errors(whole, "written"):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content)
            else:
                filesystem, place = object_place(whole)
                with filesystem.open_output_stream(place) as stream:
                    stream.write(content)
        return whole

    def names(self, folder: str) -> list[str]:
        """List the files of a folder here, relative to this place, sorted; none where there is no such folder."""
        whole = self.name_of(folder)
        path = local_path(whole)
        with _store_errors(whole, "listed"):
            if path is not None:
                found = [each.name for each in path.iterdir() if each.is_file()] if path.is_dir() else []
            else:
                from pyarrow import fs

                filesystem, place = object_place(whole)
                infos = filesystem.get_file_info(fs.FileSelector(place, allow_not_found=True))
                found = [info.base_name for info in infos if info.type is fs.FileType.File]
        return sorted(f"{folder}/{name}" for name in found if not name.startswith("."))

    def exists(self, name: str) -> bool:
        whole = self.name_of(name)
        path = local_path(whole)
        if path is not None:
            return path.is_file()
        with _store_errors(whole, "looked at"):
            from pyarrow import fs

            filesystem, place = object_place(whole)
            return filesystem.get_file_info(place).type is fs.FileType.File

    def remove(self, name: str) -> None:
        whole = self.name_of(name)
        path = local_path(whole)
        with _store_errors(whole, "removed"):
            if path is not None:
                path.unlink(missing_ok=True)
            else:
                filesystem, place = object_place(whole)
                filesystem.delete_file(place)


def arrow_tables(columns: Mapping[str, Sequence[str]], rows: int) -> list[Any]:
    import pyarrow as pa

    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    return [table.slice(start, rows) for start in range(0, table.num_rows, rows)]


def table_bytes(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    file = io.BytesIO()
    table = pa.Table.from_pylist(list(rows), schema=pa.schema([(name, _arrow(kind)) for name, kind in columns.items()]))
    parquet.write_table(table, file, compression="zstd")
    return file.getvalue()


def _arrow(kind: str) -> Any:  # noqa: ANN401
    import pyarrow as pa

    if kind != "cover":
        return pa.type_for_alias(kind)
    fields = [("id", pa.string()), ("name", pa.string()), ("color", pa.list_(pa.uint8())), ("cover", pa.float64())]
    return pa.list_(pa.struct(fields))


def _bounded_rows(name: str, file: Any, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    """The rows of a Parquet file, which may repeat one long text a million times and be small."""
    metadata = file.metadata
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    chunks = [group.column(index) for group in groups for index in range(metadata.num_columns)]
    longest = max((chunk.total_uncompressed_size for chunk in chunks), default=0)
    if metadata.num_rows > MOST_IMAGES or longest > _MOST_TABLE_BYTES:
        raise OptionError(
            f"{name}: has {metadata.num_rows} rows and {longest} bytes in a column: a collection has at most "
            f"{MOST_IMAGES} images: cut it into several"
        )
    # No cell is longer than its column is before it is unfolded.
    rows_at_once = max(1, min(1024, _MOST_TABLE_BYTES // (longest + 1)))
    left = _MOST_TABLE_BYTES
    for batch in file.iter_batches(batch_size=rows_at_once, columns=None if columns is None else list(columns)):
        left -= batch.nbytes
        if left < 0:
            raise OptionError(f"{name}: unfolds to more than {_MOST_TABLE_BYTES} bytes: make it with `pseg manifest`")
        yield from batch.to_pylist()


def read_rows(name: str, columns: Sequence[str] | None = None, optional: Collection[str] = ()) -> list[dict[str, Any]]:
    """Read a Parquet file, some columns or all; `optional` ones may be absent, and then are their values, too.

    Raises StoreError where it cannot be read; OptionError where it is no Parquet file, lacks a column, or holds more
    than any collection.
    """
    content = read_bytes(name)
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        there: list[str] = file.schema_arrow.names
        lacking = [column for column in columns or () if column not in {*there, *optional}]
        if lacking:
            known = ", ".join(there) or "none"
            raise OptionError(f"{name}: has no column {lacking[0]} (there are: {known}): make it with `pseg manifest`")
        return list(_bounded_rows(name, file, columns and [column for column in columns if column in there]))
    except (pa.ArrowException, OSError) as error:
        raise OptionError(f"{name}: is not a Parquet file ({_reason(error)}): make it with `pseg manifest`") from error
