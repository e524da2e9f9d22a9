"""The members of a ZIP archive, read so that no two programs could see different ones."""

# A ZIP says everything twice, in its directory at the end and before each member, and readers differ in what they
# believe. Here both must agree; the members must lie one after the other from the first byte on, without gaps and
# without overlaps; and the archive must end where its directory's end record says. `zipfile` reads the directory; what
# it does not compare is compared here.

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final
from zipfile import BadZipFile, ZipFile, ZipInfo

from engine.bundle.archive_member import ArchiveMember, shown_name
from engine.errors import BundleError

_END: Final = struct.Struct("<4sHHHHIIH")
_END_64: Final = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR_64: Final = struct.Struct("<4sIQI")
_LOCAL: Final = struct.Struct("<4sHHHHHIIIHH")
_LONGEST_COMMENT_BYTES: Final = (1 << 16) - 1
_MOST_DIRECTORY_BYTES: Final = 2 << 20
_PIECE_BYTES: Final = 1 << 18
_UNKNOWN_32: Final = 0xFFFF_FFFF
_ZIP_64_EXTRA: Final = 1

_ENCRYPTED: Final = 1 << 0 | 1 << 6 | 1 << 13
_DESCRIPTOR: Final = 1 << 3
_PATCH: Final = 1 << 5
_UTF_8: Final = 1 << 11
_LEVEL: Final = 0b110
"""How hard the writer tried; some state it in one of the two places only."""
_REPARSE_POINT: Final = 0x400
_METHODS: Final = {
    1: "Shrink", 6: "Implode", 9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 97: "WavPack",
    98: "PPMd", 99: "encryption (AES)",
}  # fmt: skip
_PACK_AGAIN: Final = "pack the bundle again, as .tgz or as an ordinary .zip"


def zip_members(file: IO[bytes], most_members: int) -> Iterator[ArchiveMember]:
    """List regular files and folders in the order in which they lie in the archive.

    A file is inflated, and its length and checksum compared with what the archive states, while it is read.
    BundleError: a member is a link, a device, encrypted or compressed in another way than Deflate; the archive is
    split, or holds too many members. BadZipFile: the archive is damaged, or its parts contradict each other.
    """
    members_end, count = _directory(file, most_members)
    try:
        with ZipFile(file) as archive:
            listed = sorted(archive.infolist(), key=lambda info: info.header_offset)
    except (NotImplementedError, struct.error) as error:
        raise BadZipFile(str(error)) from error
    if len(listed) != count:
        raise BadZipFile(f"its directory lists {len(listed)} members and its end record {count}")
    end = 0
    for info in listed:
        _refuse_unsafe(info)
        content = _Content(file, info, _place(file, info, starts_at=end, members_end=members_end))
        end = content.place.end
        yield ArchiveMember(info.orig_filename, info.file_size, _is_folder(info), content.pieces)
        content.check()
    if end != members_end:
        raise BadZipFile(f"{members_end - end} bytes before the directory belong to no member that it lists")


def _directory(file: IO[bytes], most_members: int) -> tuple[int, int]:
    """Find where the directory starts and how many members it lists, before any of it is read into memory."""
    size = file.seek(0, 2)
    tail_start = max(0, size - _END.size - _LONGEST_COMMENT_BYTES)
    file.seek(tail_start)
    tail = file.read()
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < _END.size:
        raise BadZipFile("its directory, which lies at the end, is missing")
    end_record = tail_start + found
    _, disk, first_disk, here, count, length, start, comment = _END.unpack_from(tail, found)
    if found + _END.size + comment != len(tail):
        raise BadZipFile("bytes that belong to no archive follow its end, or its comment holds a second end")
    directory_end = end_record
    if end_record >= _LOCATOR_64.size + _END_64.size:
        file.seek(end_record - _LOCATOR_64.size)
        mark, _, record, disks = _LOCATOR_64.unpack(file.read(_LOCATOR_64.size))
        if mark == b"PK\x06\x07":
            directory_end = end_record - _LOCATOR_64.size - _END_64.size
            file.seek(directory_end)
            mark, rest, _, _, disk, first_disk, here, count, length, start = _END_64.unpack(file.read(_END_64.size))
            if mark != b"PK\x06\x06" or record != directory_end or rest != _END_64.size - 12 or disks > 1:
                raise BadZipFile("its end records (ZIP64) contradict each other")
    if disk or first_disk or here != count:
        raise BundleError(f"is one part of a split archive: {_PACK_AGAIN}")
    if count > most_members:
        raise BundleError(f"more than {most_members} members: this is not a model bundle")
    if length > _MOST_DIRECTORY_BYTES:
        raise BundleError(f"a directory of {length} bytes: this is not a model bundle")
    if start + length != directory_end:
        raise BadZipFile("its directory does not lie where its end record says; something was put before or after it")
    return start, count


def _is_folder(info: ZipInfo) -> bool:
    return info.orig_filename.endswith("/")


def _refuse_unsafe(info: ZipInfo) -> None:
    name = shown_name(info.orig_filename)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK or info.external_attr & _REPARSE_POINT:
        raise BundleError(f"member {name} is a link: pack the files themselves")
    if kind not in {0, stat.S_IFDIR if _is_folder(info) else stat.S_IFREG}:
        raise BundleError(f"member {name} is neither a file nor a folder: leave it out of the archive")
    if info.flag_bits & _ENCRYPTED:
        raise BundleError(f"member {name} is encrypted: pack it without a password")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
        raise BundleError(f"member {name} is compressed with {method}, and only Deflate is read: {_PACK_AGAIN}")
    if info.flag_bits & _PATCH:
        raise BundleError(f"member {name} is a patch of another file: pack the file itself")
    if _is_folder(info) and info.file_size:
        raise BadZipFile(f"folder {name} holds {info.file_size} bytes")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a member lies: its compressed bytes from `start` on, and whatever comes next from `end` on."""

    start: int
    end: int


def _place(file: IO[bytes], info: ZipInfo, *, starts_at: int, members_end: int) -> _Place:
    """Compare a member's own header with the directory; they may say only the same."""
    name = shown_name(info.orig_filename)
    if info.header_offset < starts_at:
        raise BadZipFile(f"member {name} overlaps the one before it")
    if info.header_offset > starts_at:
        raise BadZipFile(f"{info.header_offset - starts_at} bytes before member {name} belong to no member")
    file.seek(info.header_offset)
    head = file.read(_LOCAL.size)
    if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
        raise BadZipFile(f"no header precedes member {name}")
    _, _, flags, method, _, _, checksum, packed, size, name_length, extra_length = _LOCAL.unpack(head)
    raw_name, extra = file.read(name_length), file.read(extra_length)
    size, packed = _sizes_64(extra, size, packed)
    encoding = "utf-8" if info.flag_bits & _UTF_8 else "cp437"
    if raw_name != info.orig_filename.encode(encoding):
        raise BadZipFile(f"member {name} is called {raw_name[:80]!r} in its own header")
    later = bool(flags & _DESCRIPTOR)
    ignored = _LEVEL | _DESCRIPTOR | (_UTF_8 if raw_name.isascii() else 0)
    stated = ((checksum, info.CRC), (packed, info.compress_size), (size, info.file_size))
    if (
        (flags ^ info.flag_bits) & ~ignored
        or method != info.compress_type
        or any(here != there and not (later and here in {0, _UNKNOWN_32}) for here, there in stated)
    ):
        raise BadZipFile(f"the header of member {name} contradicts the directory")
    start = info.header_offset + _LOCAL.size + name_length + extra_length
    end = start + info.compress_size
    if later:
        end += _descriptor_length(file, info, end)
    if end > members_end:
        raise BadZipFile(f"member {name} reaches into the directory")
    return _Place(start, end)


def _sizes_64(extra: bytes, size: int, packed: int) -> tuple[int, int]:
    """Find the sizes in a header's extra fields, where they have 64 bits."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        content, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _ZIP_64_EXTRA:
            if size == _UNKNOWN_32 and len(content) >= 8:
                size, content = int.from_bytes(content[:8], "little"), content[8:]
            if packed == _UNKNOWN_32 and len(content) >= 8:
                packed = int.from_bytes(content[:8], "little")
    return size, packed


def _descriptor_length(file: IO[bytes], info: ZipInfo, position: int) -> int:
    """Find how long the descriptor after a member is: checksum and sizes, with or without a mark, of 32 or 64 bits."""
    file.seek(position)
    found = file.read(24)
    for mark in (b"PK\x07\x08", b""):
        for layout in ("<IQQ", "<III"):  # of an empty member, the short one is how the long one begins
            try:
                expected = mark + struct.pack(layout, info.CRC, info.compress_size, info.file_size)
            except struct.error:  # a size of more than 32 bits
                continue
            if found.startswith(expected):
                return len(expected)
    raise BadZipFile(f"what follows member {shown_name(info.orig_filename)} contradicts the directory")


class _Content:
    """The bytes of a member: exactly those that are stated must come out of exactly those that are stated."""

    def __init__(self, file: IO[bytes], info: ZipInfo, place: _Place) -> None:
        self.place = place
        self._file = file
        self._info = info
        self._asked_for = False

    def pieces(self) -> Iterator[bytes]:
        self._asked_for = True
        info, name = self._info, shown_name(self._info.orig_filename)
        length = checksum = 0
        for piece in self._inflated() if info.compress_type else self._packed():
            length += len(piece)
            if length > info.file_size:
                raise BadZipFile(f"member {name} unfolds to more than the {info.file_size} bytes that are stated")
            checksum = zlib.crc32(piece, checksum)
            yield piece
        if length != info.file_size:
            raise BadZipFile(f"member {name} ends after {length} of {info.file_size} bytes")
        if checksum != info.CRC:
            raise BadZipFile(f"member {name} has another checksum (CRC) than is stated")

    def check(self) -> None:
        """Read them if nobody did: a damaged archive is refused whichever of its members is damaged."""
        if not self._asked_for:
            for _ in self.pieces():
                pass

    def _packed(self) -> Iterator[bytes]:
        self._file.seek(self.place.start)
        left = self._info.compress_size
        while left and (piece := self._file.read(min(_PIECE_BYTES, left))):
            left -= len(piece)
            yield piece

    def _inflated(self) -> Iterator[bytes]:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        for packed in self._packed():
            if inflater.eof:
                break
            waiting = packed
            while waiting and not inflater.eof:
                yield inflater.decompress(waiting, _PIECE_BYTES)
                waiting = inflater.unconsumed_tail
        while not inflater.eof and (piece := inflater.decompress(inflater.unconsumed_tail, _PIECE_BYTES)):
            yield piece
        read_bytes = self._file.tell() - self.place.start
        if not inflater.eof or inflater.unused_data or read_bytes != self._info.compress_size:
            raise BadZipFile(
                f"the compressed bytes of member {shown_name(self._info.orig_filename)} do not end where it is stated"
            )
