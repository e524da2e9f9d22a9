"""Unpacking a model archive from a stranger: regular files of known names, below stated caps, nothing else."""

# What leaves the folder (links, devices, absolute or parent paths) refuses the whole archive. Unknown regular files are
# skipped up to a cap, since exporters leave notes beside their models.

import bz2
import errno
import gzip
import io
import lzma
import re
import tarfile
import unicodedata
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from tarfile import HeaderError, ReadError, TarFile, TarInfo
from typing import IO, Any, Self, cast
from zipfile import BadZipFile

from isal import igzip_threaded, isal_zlib

from engine.bundle.archive_member import ArchiveMember, shown_name
from engine.errors import BundleError

_KNOWN_FILE = re.compile(r"[^/]+\.(ya?ml|json|pdmodel|pdiparams)|onnx/(fp32|fp16|int8)/[^/]+\.(onnx|json)")
_DRIVE = re.compile(r"[A-Za-z]:")
_COPY_BYTES = 1 << 20
_INFLATE_ERROR = cast("type[Exception]", isal_zlib.error)
_DAMAGED = (
    *(tarfile.TarError, BadZipFile, gzip.BadGzipFile, lzma.LZMAError, zlib.error, _INFLATE_ERROR),
    *(EOFError, ValueError, OverflowError, RecursionError),
)
_NAME_BYTES = 1 << 16
_NAME_KEPT = 1000
_XZ_MEMORY_BYTES = 128 << 20
"""Twice what `xz -9` asks for."""
_ZIP_STARTS = {b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"}
"""A member, the end of an empty archive, the mark of a split one."""
_NAMING_TYPES = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """Caps on what an archive may hold."""

    members: int = 10_000  # entries of any kind
    known_bytes: int = 4 << 30  # all files of known names together
    skipped_bytes: int = 64 << 20  # all other regular files together


def is_bundle_file(name: str) -> bool:
    """Whether a file of this name, relative to the bundle's folder, belongs to a bundle."""
    hidden = any(part.startswith(".") for part in PurePosixPath(name).parts)
    return not hidden and _KNOWN_FILE.fullmatch(name) is not None


def known_path(member_name: str) -> PurePosixPath | None:
    """Say where a member belongs in the bundle's folder; None for a file that no bundle needs.

    BundleError: the name would leave the folder.

    >>> known_path("./seagrass/deploy.yaml"), known_path("onnx/fp32/model.onnx"), known_path("notes.txt")
    (PurePosixPath('seagrass/deploy.yaml'), PurePosixPath('onnx/fp32/model.onnx'), None)
    """
    path = PurePosixPath(member_name)
    # In the compatible form characters that only look like dots and slashes become these.
    if _leaves_folder(member_name) or _leaves_folder(unicodedata.normalize("NFKC", member_name)):
        raise BundleError(
            f"member {shown_name(member_name)} points outside the bundle: the archive is refused; "
            "pack it again from its folder"
        )
    if any(part.startswith(".") for part in path.parts):
        return None
    within = [path, PurePosixPath(*path.parts[1:])]
    return path if any(is_bundle_file(str(candidate)) for candidate in within) else None


def _leaves_folder(name: str) -> bool:
    path = PurePosixPath(name)
    return "\0" in name or "\\" in name or path.is_absolute() or ".." in path.parts or bool(_DRIVE.match(name))


class _StrictMember(tarfile.TarInfo):
    """A member's header; nothing but the end mark ends the archive."""

    # `tarfile` takes a damaged or missing header for the end, so that a cut archive merely seems to hold less. It also
    # reads the blocks that carry long names into memory, whatever their size.

    @classmethod
    def fromtarfile(cls, tarfile: TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile)
        except HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":
                raise
            raise ReadError(str(error)) from error

    def _proc_member(self, tarfile: TarFile) -> TarInfo:
        # Some versions of tarfile read a name's block by other ways than `fromtarfile`, all of them by this one.
        if self.type in _NAMING_TYPES and self.size > _NAME_BYTES:
            raise ReadError(f"a member's name takes {self.size} bytes")
        return cast("TarInfo", cast("Any", super())._proc_member(tarfile))


class _XzStream(io.RawIOBase):
    """What is in an .xz file, of one stream or several; `lzma` alone takes the dictionary that the file asks for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - typeshed's Buffer exists for type checkers only
        while (packed := self._packed()) is not None:
            piece = self._decompressed(packed, len(buffer))
            if piece:
                buffer[: len(piece)] = piece
                return len(piece)
        return 0

    def _packed(self) -> bytes | None:
        """What the decoder is to be given next; None at the end of the last stream."""
        if not self._decoder.eof:
            packed = self._file.read(_COPY_BYTES) if self._decoder.needs_input else b""
            if not packed and self._decoder.needs_input:
                raise EOFError("the compressed stream ends before its end mark")
            return packed
        # Streams may follow each other, with zeros between them.
        following = self._decoder.unused_data.lstrip(b"\0")
        while not following:
            packed = self._file.read(_COPY_BYTES)
            if not packed:
                return None
            following = packed.lstrip(b"\0")
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_BYTES)
        return following

    def _decompressed(self, packed: bytes, most_bytes: int) -> bytes:
        try:
            return self._decoder.decompress(packed, most_bytes)
        except lzma.LZMAError as error:
            if "Memory usage limit" not in str(error):
                raise
            raise BundleError(
                f"is compressed with a dictionary that takes more than {_XZ_MEMORY_BYTES >> 20} MiB to read: "
                "pack its files as .tgz"
            ) from error


@contextmanager
def decompressed(archive_path: Path) -> Generator[IO[bytes]]:
    """Open what is compressed with gzip, bzip2 or xz, or not at all.

    Unlike `tarfile`'s own streams, these find a damaged or missing end.
    """
    with archive_path.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        if start.startswith(b"\x1f\x8b"):
            # Inflated in a thread of its own, at most 3 MiB ahead, while what is there is written to the disk.
            opened = igzip_threaded.open(file, "rb", threads=1)  # pyright: ignore[reportUnknownMemberType] - no types
        elif start.startswith(b"BZh"):
            opened = bz2.open(file)
        elif start.startswith(b"\xfd7zXZ\0"):
            opened = io.BufferedReader(_XzStream(file), _COPY_BYTES)
        else:
            opened = file
        with opened as stream:
            yield cast("IO[bytes]", stream)


def _refuse_unsafe(member: tarfile.TarInfo) -> None:
    if member.issym() or member.islnk():
        raise BundleError(
            f"member {shown_name(member.name)} is a link to {shown_name(member.linkname)}: pack the files themselves"
        )
    if not (member.isreg() or member.isdir()):
        raise BundleError(
            f"member {shown_name(member.name)} is neither a file nor a folder: leave it out of the archive"
        )


def _tar_members(archive: tarfile.TarFile) -> Iterator[ArchiveMember]:
    for member in archive:
        _refuse_unsafe(member)
        yield ArchiveMember(member.name, member.size, member.isdir(), partial(_pieces, archive, member))


def _pieces(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    content = archive.extractfile(member)
    if content is None:  # pragma: no cover - only links and devices have no content, and they were refused
        raise BundleError(f"member {shown_name(member.name)} has no content")
    while piece := content.read(_COPY_BYTES):
        yield piece


def unpack(archive_path: Path, folder: Path, limits: ArchiveLimits | None = None) -> tuple[str, ...]:
    """Unpack a `.tgz`, `.tar` or `.zip` of a model bundle, as its content tells, into an empty folder.

    Returns the names of the files that the archive holds, also of those that no bundle needs. BundleError: not a
    readable archive, unsafe members, or more than the caps allow.
    """
    limits = limits or ArchiveLimits()
    container, remedy = ".tgz or .tar", "fetch it again"
    try:
        with archive_path.open("rb") as file:
            if file.read(4) in _ZIP_STARTS:
                from engine.bundle.zip_members import zip_members

                container, remedy = ".zip", "fetch it again, or pack its files as .tgz"
                return _unpack_members(zip_members(file, limits.members), folder, limits)
        with decompressed(archive_path) as stream:
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictMember) as archive:
                names = _unpack_members(_tar_members(archive), folder, limits)
            _read_to_end(stream, limits)
        return names
    except BundleError as error:
        raise BundleError(f"{archive_path}: {error}") from error
    except _DAMAGED as error:
        raise BundleError(
            f"{archive_path}: not a readable {container} ({error}): it is damaged or truncated, {remedy}"
        ) from error
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        advice = f": make room on the disk of {folder}, or set TMPDIR to another folder" if full else ""
        raise BundleError(f"{archive_path}: cannot be unpacked ({error.strerror or error}){advice}") from error


def _read_to_end(stream: IO[bytes], limits: ArchiveLimits) -> None:
    """Read what follows the tar's end mark: only at its end does a compressed stream prove to be whole."""
    padding = 0
    while chunk := stream.read(_COPY_BYTES):
        padding += len(chunk)
        if padding > limits.skipped_bytes:
            raise BundleError(f"more than {limits.skipped_bytes} bytes follow the last member: pack the folder again")


def _unpack_members(members: Iterator[ArchiveMember], folder: Path, limits: ArchiveLimits) -> tuple[str, ...]:
    known_bytes = skipped_bytes = 0
    seen: set[str] = set()
    names: list[str] = []
    for count, member in enumerate(members, start=1):
        if count > limits.members:
            raise BundleError(f"more than {limits.members} members: this is not a model bundle")
        relative = known_path(member.name)
        if member.is_folder:
            continue
        names.append(member.name[:_NAME_KEPT])
        if relative is None:
            skipped_bytes += member.size
        else:
            known_bytes += member.size
        if skipped_bytes > limits.skipped_bytes or known_bytes > limits.known_bytes:
            raise BundleError(
                f"member {shown_name(member.name)} takes the archive over its cap ({limits.known_bytes} bytes of model "
                f"files, {limits.skipped_bytes} of others): pack the model files alone"
            )
        if relative is None:
            continue
        if str(relative).casefold() in seen:
            raise BundleError(f"member {shown_name(member.name)} is in the archive twice: pack it once")
        seen.add(str(relative).casefold())
        _copy(member, folder / relative)
    return tuple(names)


def _copy(member: ArchiveMember, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with destination.open("xb") as out:
        for piece in member.content():
            written += out.write(piece)
    if written != member.size:
        raise BundleError(
            f"member {shown_name(member.name)} ends after {written} of {member.size} bytes: the archive is truncated"
        )
