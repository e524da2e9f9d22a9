"""Makers of hostile ZIP archives: what is hostile in the tars, and what only a ZIP can be.

They are written by hand, since no tool writes them: a member's own header and the directory may say different things.
"""

import bz2
import gzip
import lzma
import stat
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.robustness.strangers.hostile import (
    CAP,
    LINK,
    NAMES_OUTSIDE,
    NO_FILE,
    OUTSIDE,
    TWICE,
    Hostile,
    deploy,
    good_files,
    tgz,
)

DAMAGED = r"not a readable \.zip"
STORED, DEFLATED = 0, 8
UTF_8 = 1 << 11
LATER = 1 << 3


@dataclass(frozen=True)
class Entry:
    """A member as it is written twice; every field may be nonsense in either place.

    Attributes:
        name: raw.
        content: what it holds.
        method: how it is packed.
        flags: of both headers.
        attributes: external; the file mode of Unix in its upper half.
        packed: in place of the packed content.
        local: fields of its own header that differ: name, flags, method, crc, packed_size, size, extra.
        central: the same in the directory, and offset, disk.
        after: bytes between it and the next one.
    """

    name: bytes
    content: bytes = b""
    method: int = STORED
    flags: int = UTF_8
    attributes: int = (stat.S_IFREG | 0o644) << 16
    packed: bytes | None = None
    local: Mapping[str, int | bytes] = field(default_factory=dict[str, "int | bytes"])
    central: Mapping[str, int | bytes] = field(default_factory=dict[str, "int | bytes"])
    after: bytes = b""

    @property
    def body(self) -> bytes:
        if self.packed is not None:
            return self.packed
        return deflated(self.content) if self.method == DEFLATED else self.content

    def fields(self, changes: Mapping[str, int | bytes]) -> dict[str, int | bytes]:
        plain: dict[str, int | bytes] = {
            "name": self.name,
            "flags": self.flags,
            "method": self.method,
            "crc": zlib.crc32(self.content),
            "packed_size": len(self.body),
            "size": len(self.content),
            "extra": b"",
            "disk": 0,
        }
        return plain | dict(changes)


def deflated(content: bytes) -> bytes:
    compressor = zlib.compressobj(9, wbits=-15)
    return compressor.compress(content) + compressor.flush()


def local_header(entry: Entry) -> bytes:
    found = entry.fields(entry.local)
    name, extra = found["name"], found["extra"]
    assert isinstance(name, bytes) and isinstance(extra, bytes)
    sizes = (found["crc"], found["packed_size"], found["size"], len(name), len(extra))
    return struct.pack("<4s5H3I2H", b"PK\3\4", 20, found["flags"], found["method"], 0, 33, *sizes) + name + extra


def central_header(entry: Entry, offset: int) -> bytes:
    found = {"offset": offset} | entry.fields(entry.central)
    name, extra = found["name"], found["extra"]
    assert isinstance(name, bytes) and isinstance(extra, bytes)
    sizes = (found["crc"], found["packed_size"], found["size"], len(name), len(extra), 0)
    head = struct.pack("<4s6H3I3H", b"PK\1\2", 3 << 8 | 20, 20, found["flags"], found["method"], 0, 33, *sizes)
    return head + struct.pack("<2H2I", found["disk"], 0, entry.attributes, found["offset"]) + name + extra


def end_record(count: int, length: int, start: int, comment: bytes = b"", *, disk: int = 0) -> bytes:
    return struct.pack("<4s4H2IH", b"PK\5\6", disk, disk, count, count, length, start, len(comment)) + comment


def zip_of(entries: Sequence[Entry], *, before: bytes = b"", gap: bytes = b"", comment: bytes = b"") -> bytes:
    """An archive of members; `gap` lies before the directory, `before` before everything."""
    members, directory = b"", b""
    for entry in entries:
        directory += central_header(entry, len(members))
        members += local_header(entry) + entry.body + entry.after
    members += gap
    return before + members + directory + end_record(len(entries), len(directory), len(members), comment)


def good_entries(method: int = DEFLATED) -> list[Entry]:
    return [Entry(name.encode(), content, method) for name, content in good_files().items()]


def with_entries(*entries: Entry) -> bytes:
    """A good bundle and members more."""
    return zip_of([*good_entries(), *entries])


def zipped_name(name: str | bytes, message: str | None = OUTSIDE) -> Hostile:
    raw = name if isinstance(name, bytes) else name.encode(errors="surrogateescape")
    return Hostile(f"zip: path {name!r}", lambda: with_entries(Entry(raw, b"x")), message)


def of_mode(name: str, mode: int, message: str, member: bytes = b"model.json", content: bytes = b"") -> Hostile:
    return Hostile(f"zip: {name}", lambda: with_entries(Entry(member, content, attributes=mode << 16)), message)


def zipped(name: str, entry: Entry, message: str | None = DAMAGED) -> Hostile:
    return Hostile(f"zip: {name}", lambda: with_entries(entry), message)


PATHS = [
    *map(zipped_name, NAMES_OUTSIDE),
    *map(zipped_name, ("good\\deploy.yaml", "good.json\0.txt", "a/\0.json", "../" * 80 + "a.json")),
    zipped("folder of a parent", Entry(b"../out/", attributes=stat.S_IFDIR << 16), OUTSIDE),
    zipped_name("a" * 5000 + ".json", "cannot be unpacked"),
    zipped_name("", None),
    zipped_name(b"\xff\xfe\xc0\xaf.txt", DAMAGED),
    zipped_name("\u202elmay.yolped", None),
    zipped_name("\x1b[2J\x07.txt", None),
    Hostile(
        "zip: name of another encoding",
        lambda: with_entries(Entry(b"\x9aber.txt", b"x", flags=0)),
        None,
    ),
    Hostile(
        "zip: name that is harmless before the member and not in the directory",
        lambda: with_entries(Entry(b"model.json", b"x", central={"name": b"../../a.json"})),
        "outside the bundle|in its own header",
    ),
    Hostile(
        "zip: name that is harmless in the directory and not before the member",
        lambda: with_entries(Entry(b"model.json", b"x", local={"name": b"../../a.json"})),
        "in its own header",
    ),
]

KINDS = [
    of_mode("symbolic link to /etc/passwd", stat.S_IFLNK | 0o777, LINK.replace(" to", ""), content=b"/etc/passwd"),
    of_mode("symbolic link for a folder", stat.S_IFLNK | 0o777, "is a link", b"good", b"/tmp"),
    of_mode("symbolic link for a note", stat.S_IFLNK | 0o777, "is a link", b"notes.txt", b".."),
    of_mode("symbolic link called a folder", stat.S_IFLNK | 0o777, "is a link", b"good/"),
    of_mode("character device", stat.S_IFCHR, NO_FILE),
    of_mode("block device", stat.S_IFBLK, NO_FILE),
    of_mode("named pipe", stat.S_IFIFO, NO_FILE),
    of_mode("socket", stat.S_IFSOCK, NO_FILE),
    of_mode("a kind that nobody knows", 0xF000, NO_FILE),
    of_mode("a folder called a file", stat.S_IFDIR, NO_FILE),
    of_mode("a file called a folder", stat.S_IFREG, NO_FILE, b"good/"),
    zipped("reparse point of Windows", Entry(b"model.json", b"x", attributes=0x400), "is a link"),
]

QUOTED = local_header(Entry(b"meta.json", b"{}")) + b"{}"


def overlapping() -> bytes:
    """Two members of the directory that are the same bytes."""
    shared = Entry(b"a.json", b"x" * 9)
    twin = Entry(b"b.json", b"x" * 9)
    members = local_header(shared) + shared.body
    directory = central_header(shared, 0) + central_header(twin, 0)
    return members + directory + end_record(2, len(directory), len(members))


def quoted_overlap(layers: int = 50) -> bytes:
    """Members that lie in one another: each quotes the header of the next one, and all end in one kernel of zeros.

    This is how the densest ZIP bombs are made: every byte of the kernel is unfolded once for each member.
    """
    entry = Entry(b"%05d.json" % layers, bytes(1 << 20), DEFLATED)
    header, rest = local_header(entry), local_header(entry) + entry.body
    listed = [(entry.fields({}), len(rest))]
    for number in reversed(range(layers)):
        packed = struct.pack("<BHH", 0, len(header), 0xFFFF ^ len(header)) + rest
        entry = Entry(b"%05d.json" % number, header + entry.content, DEFLATED, packed=packed)
        header = local_header(entry)
        rest = header + packed
        listed.append((entry.fields({}), len(rest)))
    directory = b"".join(
        central_header(Entry(b"", central=fields), len(rest) - from_end) for fields, from_end in reversed(listed)
    )
    return rest + directory + end_record(len(listed), len(directory), len(rest))


def zip_64(entries: Sequence[Entry], **changes: int) -> bytes:
    """An archive whose end is written with 64 bits, whatever its size."""
    plain = zip_of(entries)
    _, _, _, _, count, length, start, _ = struct.unpack("<4s4H2IH", plain[-22:])
    found = {"rest": 44, "disk": 0, "count": count, "length": length, "start": start, "record": len(plain) - 22}
    found |= changes
    record = struct.pack(
        "<4sQ2H2I4Q",
        b"PK\6\6",
        found["rest"],
        45,
        45,
        found["disk"],
        found["disk"],
        found["count"],
        found["count"],
        found["length"],
        found["start"],
    )
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, found["record"], 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return plain[:-22] + record + locator + end


def later(content: bytes, descriptor: bytes | None = None, *, size: int = 0) -> Entry:
    """A member whose checksum and sizes follow it."""
    packed = deflated(content)
    told = struct.pack("<4s3I", b"PK\7\x08", zlib.crc32(content), len(packed), len(content))
    return Entry(
        b"a.json",
        content,
        DEFLATED,
        flags=UTF_8 | LATER,
        local={"crc": 0, "packed_size": 0, "size": size},
        after=told if descriptor is None else descriptor,
    )


def encrypted(flag: int) -> Hostile:
    return zipped(f"encrypted, flag {flag:#x}", Entry(b"model.json", b"x", flags=UTF_8 | flag), "is encrypted")


def of_method(method: int, word: str, packed: bytes = b"x") -> Hostile:
    return zipped(f"packed with {word}", Entry(b"model.json", b"x", method, packed=packed), f"compressed with {word}")


FORMS = [
    Hostile("zip: nothing in it", lambda: end_record(0, 0, 0), "it is empty"),
    Hostile("zip: a header and zeros", lambda: b"PK\3\4" + bytes(600), DAMAGED),
    Hostile("zip: cut short", lambda: with_entries()[:-30], DAMAGED),
    Hostile("zip: cut within its end", lambda: with_entries()[:-5], DAMAGED),
    Hostile("zip: bytes after its end", lambda: with_entries() + b"rubbish", DAMAGED),
    Hostile("zip: a tgz after its end", lambda: with_entries() + tgz(), DAMAGED),
    Hostile("zip: a second archive after its end", lambda: with_entries() + with_entries(), DAMAGED),
    Hostile("zip: an end in its comment", lambda: zip_of(good_entries(), comment=end_record(0, 0, 0)), DAMAGED),
    Hostile("zip: a comment", lambda: zip_of(good_entries(), comment=b"made by hand" * 99), None),
    Hostile("zip: an archive that unpacks itself", lambda: b"MZ" + bytes(510) + with_entries(), "is a program"),
    Hostile("zip: bytes before it", lambda: zip_of(good_entries(), before=b"PK\3\4 and more"), DAMAGED),
    Hostile("zip: a hidden member before the directory", lambda: zip_of(good_entries(), gap=QUOTED), DAMAGED),
    zipped("a hidden member between two", Entry(b"a.json", b"x", after=QUOTED)),
    zipped("one byte between member and directory", Entry(b"a.json", b"x", after=b"\0")),
    Hostile("zip: two members in the same bytes", overlapping, "overlaps the one before it"),
    Hostile("zip: members within members", quoted_overlap, "overlaps the one before it"),
    zipped("a member that begins in the one before it", Entry(b"a.json", b"x", central={"offset": 40}), "overlaps"),
    zipped("a member after the end", Entry(b"a.json", b"x", central={"offset": 1 << 30})),
    zipped("a member that reaches into the directory", Entry(b"a.json", b"", local={"packed_size": 9, "size": 9})),
    zipped(
        "packed bytes that reach into the directory",
        Entry(b"a.json", b"x", local={"packed_size": 30}, central={"packed_size": 30}),
    ),
    zipped("another size before the member", Entry(b"a.json", b"xx", local={"size": 1})),
    zipped("another size in the directory", Entry(b"a.json", b"xx", central={"size": 1})),
    zipped("another checksum before the member", Entry(b"a.json", b"xx", local={"crc": 7})),
    zipped("another way of packing before the member", Entry(b"a.json", b"xx", local={"method": DEFLATED})),
    zipped("encrypted before the member only", Entry(b"a.json", b"xx", local={"flags": UTF_8 | 1})),
    zipped("a wrong checksum", Entry(b"a.json", b"xx", local={"crc": 7}, central={"crc": 7}), "checksum"),
    zipped("a wrong checksum of a note", Entry(b"a.txt", b"x", local={"crc": 7}, central={"crc": 7}), "checksum"),
    zipped(
        "a size that is too small",
        Entry(b"a.json", b"x" * 99, DEFLATED, local={"size": 9}, central={"size": 9}),
        "unfolds to more than the 9 bytes",
    ),
    zipped(
        "a size that is too large",
        Entry(b"a.json", b"x" * 9, DEFLATED, local={"size": 99}, central={"size": 99}),
        "ends after 9 of 99 bytes",
    ),
    zipped(
        "bytes after the packed ones", Entry(b"a.json", b"x", DEFLATED, packed=deflated(b"x") + b"more"), "do not end"
    ),
    zipped("packed bytes that do not end", Entry(b"a.json", b"x", DEFLATED, packed=deflated(b"x" * 99)[:-1]), DAMAGED),
    zipped("packed bytes of nonsense", Entry(b"a.json", b"x", DEFLATED, packed=b"\xff" * 20), DAMAGED),
    zipped("no packed bytes", Entry(b"a.json", b"x", DEFLATED, packed=b""), DAMAGED),
    zipped("a folder that holds bytes", Entry(b"good/", b"x", attributes=0), DAMAGED),
    encrypted(1),
    encrypted(1 << 6),
    encrypted(1 << 13),
    zipped("a patch", Entry(b"model.json", b"x", flags=UTF_8 | 1 << 5), "is a patch"),
    of_method(1, "Shrink"),
    of_method(6, "Implode"),
    of_method(9, "Deflate64"),
    of_method(12, "bzip2", bz2.compress(b"x")),
    of_method(14, "LZMA", lzma.compress(b"x")),
    of_method(93, "Zstandard"),
    of_method(95, "XZ"),
    of_method(98, "PPMd"),
    of_method(99, r"encryption \(AES\)"),
    of_method(77, "method 77"),
    Hostile(
        "zip: part of a split archive",
        lambda: with_entries()[:-22] + end_record(3, 1, 1, disk=2),
        "one part of a split archive",
    ),
    Hostile("zip: mark of a split archive", lambda: b"PK\7\x08" + with_entries(), DAMAGED),
    Hostile("zip: more members listed than counted", lambda: with_entries()[:-22] + _recounted(-1), DAMAGED),
    Hostile("zip: fewer members listed than counted", lambda: with_entries()[:-22] + _recounted(1), DAMAGED),
    Hostile("zip: end with 64 bits", lambda: zip_64(good_entries()), None),
    Hostile("zip: 64 bits, a directory elsewhere", lambda: zip_64(good_entries(), start=1 << 40), DAMAGED),
    Hostile("zip: 64 bits, a directory before the file", lambda: zip_64(good_entries(), start=(1 << 64) - 1), DAMAGED),
    Hostile("zip: 64 bits, a record elsewhere", lambda: zip_64(good_entries(), record=5), DAMAGED),
    Hostile("zip: 64 bits, a record of other length", lambda: zip_64(good_entries(), rest=1 << 40), DAMAGED),
    Hostile("zip: 64 bits, 2^40 members", lambda: zip_64(good_entries(), count=1 << 40), "more than 10000 members"),
    Hostile(
        "zip: 64 bits, a directory of a terabyte", lambda: zip_64(good_entries(), length=1 << 40), "a directory of"
    ),
    Hostile(
        "zip: 64 bits, part of a split archive", lambda: zip_64(good_entries(), disk=3), "one part of a split archive"
    ),
    zipped("sizes that follow", later(b"{}" * 99), None),
    zipped("sizes that follow and others before", later(b"{}" * 99, size=5)),
    zipped("sizes that follow and contradict", later(b"{}" * 99, b"PK\7\x08" + bytes(12))),
    zipped("sizes that should follow", later(b"{}" * 99, b"")),
    zipped("extra fields of nonsense", Entry(b"a.json", b"x", central={"extra": b"\1\0\xff\xff1"}), DAMAGED),
    zipped("64-bit sizes that are not there", Entry(b"a.json", b"x", central={"size": 0xFFFFFFFF}), DAMAGED),
    zipped("the same member twice", Entry(b"deploy.yaml", deploy()), TWICE),
    zipped("the same member by another way", Entry(b"./deploy.yaml", deploy()), TWICE),
    zipped("the same member in capitals", Entry(b"Deploy.yaml", deploy()), TWICE),
    zipped("a file that is a folder, too", Entry(b"deploy.yaml/a.json", b"x"), "cannot be unpacked"),
    Hostile(
        "zip: two bundles",
        lambda: with_entries(Entry(b"a/deploy.yaml", deploy()), Entry(b"b/deploy.yaml", deploy())),
        "holds several models",
    ),
]


def _recounted(by: int) -> bytes:
    """The end of `with_entries`, with another number of members."""
    _, _, _, _, count, length, start, _ = struct.unpack("<4s4H2IH", with_entries()[-22:])
    return end_record(count + by, length, start)


def many(name: bytes, count: int) -> bytes:
    """So many empty members."""
    return zip_of([*good_entries(), *(Entry(name % number, attributes=0) for number in range(count))])


def terabyte() -> bytes:
    """A directory with sizes of 64 bits that are not true."""
    extra = struct.pack("<HHQQ", 1, 16, 1 << 40, 1 << 40)
    stated = {"size": 0xFFFFFFFF, "packed_size": 0xFFFFFFFF, "extra": extra}
    return with_entries(Entry(b"model.json", b"x", local=stated, central=stated))


BOMBS = [
    Hostile("zip: ten thousand members", lambda: many(b"notes/%d.txt", 10_000), "more than 10000 members"),
    Hostile("zip: ten thousand folders", lambda: many(b"f%d/", 10_000), "more than 10000 members"),
    Hostile(
        "zip: a directory of 3 MiB",
        lambda: zip_of([Entry(b"%d/" % number + b"a" * 30_000, attributes=0) for number in range(100)]),
        "a directory of",
    ),
    zipped(
        "80 MiB stated for a note",
        Entry(b"notes.txt", b"x", DEFLATED, local={"size": 80 << 20}, central={"size": 80 << 20}),
        CAP,
    ),
    zipped(
        "bomb in a note",
        Entry(b"notes.txt", bytes(3 << 20), DEFLATED, local={"size": 5 << 10}, central={"size": 5 << 10}),
        "unfolds to more than the 5120 bytes",
    ),
    Hostile(
        "zip: bomb in a model file",
        lambda: with_entries(
            Entry(b"a.json", bytes(3 << 20), DEFLATED, local={"size": 5 << 10}, central={"size": 5 << 10})
        ),
        "unfolds to more than the 5120 bytes",
    ),
    Hostile(
        "zip: 4 GiB stated for each of two model files",
        lambda: with_entries(
            *(
                Entry(name, b"x", DEFLATED, local={"size": 0xFFFFFFF0}, central={"size": 0xFFFFFFF0})
                for name in (b"a.json", b"b.json")
            )
        ),
        f"{CAP}|ends after",
    ),
    Hostile("zip: a terabyte", terabyte, f"{CAP}|{DAMAGED}"),
    Hostile("zip: archive in the archive", lambda: with_entries(Entry(b"inner.zip", with_entries())), None),
    Hostile("zip: in a gzip", lambda: gzip.compress(with_entries()), "is compressed twice"),
]
