"""Makers of hostile bundles; each is a good bundle with one thing in it that is not.

Headers that `tarfile` would not write are written by hand.
"""

import bz2
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import yaml

from tests.service.bundles import CLASSES, NORMALIZE, strongest_band_network

Files = Mapping[str, bytes]
BLOCK = 512
END = bytes(2 * BLOCK)

NETWORK = strongest_band_network()
META = json.dumps({"name": "good", "classes": [dict(each) for each in CLASSES]}).encode()


def deploy(**entries: object) -> bytes:
    """A good deploy.yaml, with other entries."""
    return yaml.safe_dump({"Deploy": {"transforms": [dict(each) for each in NORMALIZE], **entries}}).encode()


def good_files() -> dict[str, bytes]:
    """A bundle that opens and loads."""
    return {"deploy.yaml": deploy(), "meta.json": META, "onnx/fp32/model.onnx": NETWORK}


@dataclass(frozen=True, slots=True)
class Hostile:
    """One hostile bundle.

    Attributes:
        name: what is hostile in it.
        make: its bytes.
        message: what the error must say; None: what is hostile is left out and the bundle opens.
        runtime: the runtime that must refuse it; None: it is refused before any model is touched.
        may_open: versions of Python differ, or chance decides: it may open or load as well.
    """

    name: str
    make: Callable[[], bytes] = field(repr=False)
    message: str | None
    runtime: str | None = None
    may_open: bool = False


# ---- tar, by hand -----------------------------------------------------------------------------------------------


def header(
    name: bytes,
    size: int | bytes = 0,
    kind: bytes = b"0",
    link: bytes = b"",
    *,
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    checksum: bytes | None = None,
) -> bytes:
    """A header of 512 bytes; every field may be nonsense."""
    octal = size if isinstance(size, bytes) else b"%011o\0" % size
    fields = [
        name.ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" * 2,
        octal.ljust(12, b"\0"),
        b"00000000000\0",
        b" " * 8,
        kind,
        link.ljust(100, b"\0"),
        magic.ljust(8, b"\0"),
        bytes(32 + 32),
        b"0000000\0" * 2,
        prefix.ljust(155, b"\0"),
    ]
    block = bytearray(b"".join(fields).ljust(BLOCK, b"\0"))
    block[148:156] = b"%06o\0 " % sum(block) if checksum is None else checksum
    return bytes(block)


def member(name: str | bytes, content: bytes = b"", kind: bytes = b"0", link: bytes = b"") -> bytes:
    """A header and its content."""
    raw = name.encode(errors="surrogateescape") if isinstance(name, str) else name
    return header(raw, len(content), kind, link) + padded(content)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def pax(records: Mapping[str, str] | bytes, kind: bytes = b"x") -> bytes:
    """An extended header before the next member."""
    content = records if isinstance(records, bytes) else b"".join(map(pax_record, records.items()))
    return header(b"pax", len(content), kind) + padded(content)


def pax_record(record: tuple[str, str]) -> bytes:
    body = b" %s=%s\n" % (record[0].encode(), record[1].encode(errors="surrogateescape"))
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    """GNU's way to a name of any length."""
    return header(b"././@LongLink", len(name) + 1, kind, magic=b"ustar  \0") + padded(name + b"\0")


def tar_of(files: Files, *others: bytes) -> bytes:
    return b"".join(member(name, content) for name, content in files.items()) + b"".join(others) + END


def tgz(*others: bytes, files: Files | None = None) -> bytes:
    """A good bundle and members more."""
    return gzip.compress(tar_of(good_files() if files is None else files, *others), 1)


def first(*others: bytes) -> bytes:
    """Members, and a good bundle after them."""
    return gzip.compress(b"".join(others) + tar_of(good_files()), 1)


def with_files(**changes: bytes) -> bytes:
    """A good bundle with other content; `__` stands for a dot, `_0_` for a slash."""
    named = {name.replace("_0_", "/").replace("__", "."): content for name, content in changes.items()}
    return tgz(files={**good_files(), **named})


def zeros(name: str, size: int) -> bytes:
    """A gzip stream of a member of so many zeros; made a piece at a time."""
    compressor = zlib.compressobj(9, wbits=31)
    pieces = [compressor.compress(tar_of(good_files())[: -len(END)] + header(name.encode(), size))]
    piece = bytes(1 << 24)
    pieces += [compressor.compress(piece) for _ in range(size >> 24)]
    return b"".join([*pieces, compressor.compress(END), compressor.flush()])


def million_members() -> bytes:
    """A gzip stream of a million notes; gzip streams may be put one after the other."""
    thousand = gzip.compress(b"".join(member(f"notes/{number}.txt") for number in range(1000)), 9)
    return gzip.compress(tar_of(good_files())[: -len(END)], 1) + thousand * 1000 + gzip.compress(END)


def sparse_header(real_size: int, spans: list[tuple[int, int]]) -> bytes:
    """A member of the old GNU sparse kind."""
    block = bytearray(header(b"model.json", sum(size for _, size in spans), b"S", magic=b"ustar  \0"))
    for index, (offset, size) in enumerate(spans[:4]):
        block[386 + 24 * index : 410 + 24 * index] = b"%011o\0%011o\0" % (offset, size)
    block[483:495] = b"%011o\0" % real_size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def sparse_pax(**records: str) -> bytes:
    prefix = "GNU.sparse."
    return pax({prefix + name.replace("_", "."): value for name, value in records.items()})


def xz_of_dictionary(byte: int) -> bytes:
    """An .xz whose only block asks for another dictionary: 40 is 4 GiB."""
    content = bytearray(lzma.compress(tar_of(good_files()), preset=0))
    header = slice(12, 12 + 4 * content[12] + 4)
    block = content[header]
    block[block.index(b"\x21\x01") + 2] = byte
    block[-4:] = zlib.crc32(block[:-4]).to_bytes(4, "little")
    content[header] = block
    return bytes(content)


def gzip_named(name: bytes, flags: int = 8) -> bytes:
    """A good bundle in gzip, with a name or a comment in its header."""
    plain = tgz()
    return plain[:3] + bytes([flags]) + plain[4:10] + name + plain[10:]


def sparse_above() -> bytes:
    """A sparse member whose name is in its sparse records."""
    content = b"0\n".ljust(BLOCK, b"\0")
    return sparse_pax(major="1", minor="0", name="../a.json", realsize="0") + member("a.json", content)


# ---- archives ---------------------------------------------------------------------------------------------------

OUTSIDE = "points outside the bundle"
LINK = "is a link to"
NO_FILE = "neither a file nor a folder"
DAMAGED = r"not a readable \.tgz or \.tar"
TWICE = "is in the archive twice"
CAP = "takes the archive over its cap"

NAMES_OUTSIDE = (
    "/deploy.yaml",
    "//server/share/deploy.yaml",
    "/proc/self/environ",
    "../deploy.yaml",
    "../../../../../../../../tmp/deploy.yaml",
    "good/../../deploy.yaml",
    "./../deploy.yaml",
    "good/..",
    "..",
    "..\\deploy.yaml",
    "good\\..\\..\\deploy.yaml",
    "C:\\deploy.yaml",
    "C:/deploy.yaml",
    "c:deploy.yaml",
    "\\\\server\\share\\deploy.yaml",
    "\uff0e\uff0e/deploy.yaml",  # full-width dots
    "\u2025/deploy.yaml",  # one character of two dots
    "good/\u2025/\u2025/deploy.yaml",
    "\uff0fetc\uff0fdeploy.yaml",  # full-width slashes
    "..\uff0fdeploy.yaml",
    "..\uff3cdeploy.yaml",  # full-width backslash
)
"""Names of members that leave the folder of the bundle, on some system."""


def hostile_name(name: str) -> Hostile:
    return Hostile(f"path {name!r}", lambda: tgz(member(name, b"x")), OUTSIDE)


def of_kind(name: str, kind: bytes, message: str = NO_FILE) -> Hostile:
    return Hostile(name, lambda: tgz(member("model.json", b"", kind)), message)


def link_to(target: str, kind: bytes, name: str = "model.pdiparams") -> Hostile:
    word = {b"1": "hard", b"2": "symbolic"}[kind]
    return Hostile(f"{word} link {name} to {target}", lambda: tgz(member(name, b"", kind, target.encode())), LINK)


PATHS = [
    *map(hostile_name, NAMES_OUTSIDE),
    Hostile("pax path to a parent", lambda: tgz(pax({"path": "../deploy.yaml"}), member("model.json", b"x")), OUTSIDE),
    Hostile("pax path with NUL", lambda: tgz(pax({"path": "good.json\0.txt"}), member("model.json", b"x")), OUTSIDE),
    Hostile("global pax path", lambda: first(pax({"path": "/deploy.yaml"}, b"g"), member("model.json", b"x")), OUTSIDE),
    Hostile("GNU long name to a parent", lambda: tgz(long_name(b"../" * 80 + b"a.json"), member("a", b"x")), OUTSIDE),
    Hostile("ustar prefix to a parent", lambda: tgz(header(b"deploy.yaml", 0, prefix=b"../../..") + b""), OUTSIDE),
    Hostile(
        "pax path of 5000 bytes",
        lambda: tgz(pax({"path": "a" * 5000 + ".json"}), member("a", b"x")),
        "cannot be unpacked",
    ),
    Hostile("name that is no UTF-8", lambda: tgz(member(b"\xff\xfe\xc0\xaf.txt", b"x")), None),
    Hostile("name that turns the line round", lambda: tgz(member("\u202elmay.yolped", b"x")), None),
    Hostile("name of terminal commands", lambda: tgz(member("\x1b[2J\x07.txt", b"x")), None),
    Hostile("folder of a parent", lambda: tgz(member("../out", b"", b"5")), OUTSIDE),
]

KINDS = [
    link_to("/etc/passwd", b"2"),
    link_to("../../../../etc/passwd", b"2"),
    link_to("deploy.yaml", b"2"),
    link_to("/", b"2", "good"),
    link_to("..", b"2", "notes.txt"),
    link_to("model.pdiparams", b"2"),
    link_to("/etc/passwd", b"1"),
    link_to("deploy.yaml", b"1"),
    Hostile(
        "folder that is a link, and a file in it",
        lambda: tgz(member("good", b"", b"2", b"/tmp"), member("good/a.json", b"x")),
        LINK,
    ),
    Hostile(
        "pax linkpath",
        lambda: tgz(pax({"linkpath": "/etc/shadow"}), member("model.json", b"", b"2", b"deploy.yaml")),
        "is a link to '/etc/shadow'",
    ),
    Hostile("GNU long link", lambda: tgz(long_name(b"/" + b"a" * 300, b"K"), member("a.json", b"", b"2")), LINK),
    of_kind("character device", b"3"),
    of_kind("block device", b"4"),
    of_kind("named pipe", b"6"),
    of_kind("a kind that nobody knows", b"Z"),
    of_kind("GNU's volume label", b"V"),
    of_kind("GNU's folder dump", b"D"),
    of_kind("continuation of another archive", b"M"),
]

FORMS = [
    Hostile("sparse: a terabyte in one block", lambda: tgz(sparse_header(1 << 40, [(0, 0)])), CAP),
    Hostile(
        "sparse: spans below zero",
        lambda: tgz(sparse_pax(map="-1,5", size="9", numblocks="1"), member("a.json", b"12345")),
        DAMAGED,
        may_open=True,
    ),
    Hostile(
        "sparse: a map of nonsense",
        lambda: tgz(sparse_pax(major="1", minor="0", name="a.json", realsize="9"), member("a.json", b"x" * 512)),
        DAMAGED,
    ),
    Hostile(
        "sparse: a map of a million spans",
        lambda: tgz(
            sparse_pax(major="1", minor="0", name="a.json", realsize="9"), member("a.json", b"1000000\n0\n".ljust(512))
        ),
        DAMAGED,
    ),
    Hostile(
        "sparse: a terabyte by pax",
        lambda: tgz(
            sparse_pax(major="1", minor="0", name="a.json", realsize=str(1 << 40)),
            member("a.json", b"0\n".ljust(512, b"\0")),
        ),
        CAP,
    ),
    Hostile("pax size over what is there", lambda: tgz(pax({"size": "99999999"}), member("a.json", b"x")), DAMAGED),
    Hostile(
        "pax size of many digits", lambda: tgz(pax({"size": "9" * 5000}), member("a.json", b"x")), "a", may_open=True
    ),
    Hostile("pax size of a petabyte", lambda: tgz(pax({"size": str(1 << 50)}), member("a.json", b"x")), CAP),
    Hostile("pax without a length", lambda: tgz(pax(b"path=a.json\n"), member("a", b"x")), "a", may_open=True),
    Hostile("pax of length 0", lambda: tgz(pax(b"0 path=a.json\n"), member("a", b"x")), DAMAGED),
    Hostile("pax of length 10^20", lambda: tgz(pax(b"99999999999999999999 path=a.json\n"), member("a", b"x")), DAMAGED),
    Hostile("pax of 1 GiB", lambda: tgz(header(b"pax", 1 << 30, b"x")), "a member's name takes 1073741824 bytes"),
    Hostile(
        "GNU name of 8 GiB", lambda: tgz(header(b"L", b"\x80" + (8 << 30).to_bytes(11, "big"), b"L")), "name takes"
    ),
    Hostile("pax upon pax", lambda: tgz(pax({"comment": "x"}) * 3000, member("a.json", b"x")), DAMAGED),
    Hostile("size below zero", lambda: tgz(header(b"a.json", b"\xff" * 12)), "a", may_open=True),
    Hostile("size that is no number", lambda: tgz(header(b"a.json", b"nonsense")), DAMAGED),
    Hostile("checksum of another header", lambda: tgz(header(b"a.json", checksum=b"0000000\0")), DAMAGED),
    Hostile(
        "member cut short",
        lambda: gzip.compress(tar_of(good_files())[: -len(END)] + header(b"a.json", 1 << 20) + b"x" * 999),
        DAMAGED,
    ),
    Hostile(
        "skipped member cut short",
        lambda: gzip.compress(tar_of(good_files())[: -len(END)] + header(b"a.txt", 1 << 20) + b"x" * 999),
        DAMAGED,
    ),
    Hostile("no end", lambda: gzip.compress(tar_of(good_files())[: -len(END)] + b"x" * 100), DAMAGED),
    Hostile("gzip checksum wrong", lambda: tgz()[:-8] + bytes(8), DAMAGED),
    Hostile("gzip length wrong", lambda: tgz()[:-4] + b"\1\2\3\4", DAMAGED),
    Hostile("gzip cut short", lambda: tgz()[:-20], DAMAGED),
    Hostile("rubbish after the gzip", lambda: tgz() + b"rubbish", DAMAGED),
    Hostile("nothing", lambda: b"", "is empty"),
    Hostile("pax name of a sparse file above", lambda: tgz(sparse_above()), OUTSIDE),
    Hostile("pax header with 10^4 records", lambda: tgz(pax({f"k{n}": "v" for n in range(10_000)})), "name takes"),
    Hostile(
        "global pax size below zero",
        lambda: first(pax({"size": "-1"}, b"g"), member("a.json", b"x")),
        "a",
        may_open=True,
    ),
    Hostile("base-256 size of 2^80", lambda: tgz(header(b"a.json", b"\x80" + b"\xff" * 11)), CAP),
    Hostile(
        "Solaris header with a parent", lambda: tgz(pax({"path": "../a.json"}, b"X"), member("a.json", b"x")), OUTSIDE
    ),
    Hostile("gzip with a name of 1 MiB", lambda: gzip_named(b"n" * (1 << 20) + b"\0"), "a", may_open=True),
    Hostile("gzip with a name that does not end", lambda: gzip_named(b"")[:10] + b"n" * 70_000, DAMAGED),
    Hostile("gzip with reserved flags", lambda: gzip_named(b"", 0xE0), "a", may_open=True),
    Hostile("a second bundle in a second gzip stream", lambda: tgz() + tgz(files={"../a.json": b"x"}), None),
    Hostile("xz that asks for 4 GiB of memory", lambda: xz_of_dictionary(40), "takes more than 128 MiB to read"),
    Hostile("the same member twice", lambda: tgz(member("deploy.yaml", deploy())), TWICE),
    Hostile("the same member by another way", lambda: tgz(member("./deploy.yaml", deploy())), TWICE),
    Hostile(
        "the same member in capitals",
        lambda: tgz(member("Deploy.YAML".lower().title().replace("Yaml", "yaml"), deploy())),
        TWICE,
    ),
    Hostile("a file that is a folder, too", lambda: tgz(member("deploy.yaml/a.json", b"x")), "cannot be unpacked"),
    Hostile(
        "two bundles",
        lambda: tgz(member("a/deploy.yaml", deploy()), member("b/deploy.yaml", deploy())),
        "holds several models",
    ),
]

BOMBS = [
    Hostile("a million members", million_members, "more than 10000 members"),
    Hostile(
        "ten thousand folders",
        lambda: tgz(*(member(f"f{n}", b"", b"5") for n in range(10_001))),
        "more than 10000 members",
    ),
    Hostile("gzip bomb in a note", lambda: zeros("notes.txt", 1 << 28), CAP),
    Hostile("gzip bomb in a model file", lambda: tgz(header(b"model.pdiparams", b"%011o\0" % (5 << 30))), CAP),
    Hostile(
        "gzip bomb behind the end",
        lambda: gzip.compress(tar_of(good_files()) + bytes(80 << 20), 9),
        "bytes follow the last member",
    ),
    Hostile("gzip in gzip in gzip", lambda: gzip.compress(gzip.compress(tgz())), "is compressed twice"),
    Hostile("a thousand gzip streams of nothing", lambda: tgz() + gzip.compress(b"") * 1000, None),
    Hostile("bzip2 bomb", lambda: bz2.compress(tar_of(good_files()) + bytes(80 << 20)), "bytes follow the last member"),
    Hostile(
        "xz bomb",
        lambda: lzma.compress(tar_of(good_files()) + bytes(80 << 20), preset=0),
        "bytes follow the last member",
    ),
    Hostile("archive in the archive", lambda: tgz(member("inner.tgz", zeros("notes.txt", 1 << 26))), None),
    Hostile("64 MiB of notes and one byte", lambda: zeros("notes.txt", (64 << 20) + (1 << 24)), CAP),
]

# ---- texts ------------------------------------------------------------------------------------------------------


def yaml_of(name: str, text: str | bytes, message: str) -> Hostile:
    content = text if isinstance(text, bytes) else text.encode()
    return Hostile(f"deploy.yaml: {name}", lambda: with_files(deploy__yaml=content), message)


def deploy_of(name: str, message: str, **entries: object) -> Hostile:
    return Hostile(f"deploy.yaml: {name}", lambda: with_files(deploy__yaml=deploy(**entries)), message)


def transform_of(name: str, text: str, message: str) -> Hostile:
    return yaml_of(name, f"Deploy:\n  transforms:\n  - {text}\n", message)


def meta_of(name: str, text: str | bytes, message: str) -> Hostile:
    content = text if isinstance(text, bytes) else text.encode()
    return Hostile(f"meta.json: {name}", lambda: with_files(meta__json=content), message)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9))
NO_YAML = r"deploy\.yaml is not valid YAML"
INVALID = r"deploy\.yaml: transforms\[0\]"
OWN_FOLDER = r"deploy\.yaml: (model|params): .*must be the name of a file in the bundle's own folder"

TEXTS = [
    *[
        yaml_of(f"tag {tag.split()[0]}", f"Deploy: {{model: {tag}}}\n", NO_YAML)
        for tag in (
            "!!python/object/apply:os.system ['touch /tmp/pseg-was-here']",
            "!!python/object:subprocess.Popen {}",
            "!!python/name:os.system",
            "!!python/module:os",
            "!!python/object/new:type [x, [], {}]",
            "!evil x",
            "!!binary a",
            "!!int ''",
            "!!timestamp '9999-99-99'",
        )
    ],
    yaml_of("a billion laughs", f"{LAUGHS}Deploy: {{}}\n", "unfolds to more than"),
    yaml_of("merges of merges", f"{MERGES}Deploy: {{}}\n", "without merges"),
    yaml_of("an anchor within itself", "Deploy: &a {transforms: *a}\n", r"deploy\.yaml"),
    yaml_of("a list within itself", "Deploy: {transforms: &a [*a]}\n", r"deploy\.yaml"),
    yaml_of("the same key twice", "Deploy: {model: a.json, model: b.json}\n", "key 'model' is there twice"),
    yaml_of("the same block twice", "Deploy: {}\nDeploy: {}\n", "key 'Deploy' is there twice"),
    yaml_of("a key that is a list", "Deploy: {? [a] : b}\n", NO_YAML),
    yaml_of("two documents", "Deploy: {}\n---\nDeploy: {}\n", NO_YAML),
    yaml_of("10^5 levels", "Deploy: " + "[" * 100_000, NO_YAML),
    yaml_of("10^5 levels of blocks", "- " * 100_000, NO_YAML),
    yaml_of("too long", "Deploy: {}\n" + "#" * (1 << 20), "is larger than"),
    yaml_of("no text", b"\xff\xfe\x00\x01\x80", "cannot be read as UTF-16"),
    yaml_of("Latin-1", "Deploy: {output_op: größe}".encode("latin-1"), "byte 0xf6 in line 1"),
    yaml_of("UTF-16 without a mark", "Deploy: {}".encode("utf-16-le"), "holds NUL bytes"),
    yaml_of("an octal number", "Deploy: {input_shape: [1, 3, 012, 012]}", "is 10 in YAML 1.1"),
    yaml_of("a number of base 60, small", "Deploy: {input_shape: [1, 3, 1:30, 64]}", "is 90 in YAML 1.1"),
    yaml_of("no for a text", "Deploy: {output_op: no}", r"output_op: .*but it is False"),
    yaml_of("a date for a text", "Deploy: {model: 2001-01-01}", r"deploy\.yaml: model:"),
    yaml_of("a set of a number without end", "Deploy: {model: !!set {0x" + "f" * 9_000 + "}}", "bits"),
    yaml_of("a line of 200 KiB", "Deploy: {output_op: " + "x" * 200_000 + "}", "at most 1000 characters"),
    yaml_of("10^4 transforms", "Deploy: {transforms: [" + "{type: Normalize}," * 10_000 + "]}", "10000 entries"),
    deploy_of("a shape of 10^9", r"deploy\.yaml: input_shape", input_shape=[1, 3, 10**9, 10**9]),
    deploy_of("a shape of no axes", r"deploy\.yaml: input_shape", input_shape=[]),
    yaml_of("NUL", b"Deploy: {}\n\0", NO_YAML),
    yaml_of("nothing", "", "must be a mapping"),
    yaml_of("a list", "[Deploy]", "must be a mapping"),
    yaml_of("a number for the block", "Deploy: 1", "Deploy must be a mapping"),
    yaml_of("a number of 10^5 digits", "Deploy: {input_shape: [" + "9" * 100_000 + "]}", r"deploy\.yaml"),
    yaml_of("a hexadecimal number of 10^5 digits", "Deploy: {x: 0x" + "f" * 100_000 + "}", "bits"),
    yaml_of("a number of base 60", "Deploy: {input_shape: [" + ":59" * 3_000 + "]}", r"deploy\.yaml"),
    deploy_of("a model above", OWN_FOLDER, model="../../etc/passwd"),
    deploy_of("a model by its whole path", OWN_FOLDER, model="/etc/passwd"),
    deploy_of("a model on a drive", OWN_FOLDER, model="C:\\model.pdmodel"),
    deploy_of("weights above", OWN_FOLDER, params="../../etc/passwd"),
    deploy_of("weights by their whole path", OWN_FOLDER, params="/dev/zero"),
    deploy_of("a model that is the folder", OWN_FOLDER, model="."),
    deploy_of("a model with NUL in its name", OWN_FOLDER, model="model\0.json"),
    deploy_of("a model with a name of 10^4 bytes", "too long for the name of a file", model="a" * 10_000),
    deploy_of("a list for the model", r"deploy\.yaml: model:", model=["a"]),
    deploy_of("a text for the transforms", r"deploy\.yaml: transforms:", transforms="Normalize"),
    deploy_of("a shape of texts", r"deploy\.yaml: input_shape", input_shape=["a"]),
    deploy_of("a shape below zero", r"deploy\.yaml: input_shape", input_shape=[1, 3, -7, 5]),
    transform_of("mean of NaN", "{type: Normalize, mean: [.nan]}", INVALID),
    transform_of("mean of infinity", "{type: Normalize, mean: [.inf]}", INVALID),
    transform_of("deviation of 0", "{type: Normalize, std: [0]}", INVALID),
    transform_of("deviation of almost 0", "{type: Normalize, std: [1e-300]}", INVALID),
    transform_of("an image of 10^9 pixels a side", "{type: Resize, target_size: [1000000000, 1000000000]}", INVALID),
    transform_of("an image of no pixels", "{type: Resize, target_size: [0, 5]}", INVALID),
    transform_of("padding to 10^9", "{type: Padding, target_size: [1000000000, 5]}", INVALID),
    transform_of("a ratio of 10^300", "{type: PaddingByAspectRatio, aspect_ratio: 1.0e+300}", INVALID),
    transform_of("a transform of Python", "{type: __import__('os').system}", INVALID),
    transform_of("an argument of a class", "{type: Normalize, __class__: x}", INVALID),
    meta_of("10^5 levels", "[" * 100_000, r"meta\.json is not valid JSON"),
    meta_of("10^5 levels of objects", '{"a":' * 100_000, r"meta\.json is not valid JSON"),
    meta_of("a number of 10^5 digits", '{"name": ' + "9" * 100_000 + "}", r"meta\.json"),
    meta_of("NaN for a colour", '{"classes": [{"def_color": [NaN, 0, 0]}]}', r"meta\.json: classes\.0\.def_color"),
    meta_of(
        "infinity for a colour", '{"classes": [{"def_color": [1e999, 0, 0]}]}', r"meta\.json: classes\.0\.def_color"
    ),
    meta_of("the same key twice", '{"name": "a", "name": "b"}', "key 'name' is there twice"),
    meta_of("a million classes", '{"classes": [' + ", ".join(["{}"] * 1_000_000) + "]}", r"meta\.json: classes"),
    meta_of("a list", "[]", r"meta\.json"),
    meta_of("a number for the name", '{"name": 1}', r"meta\.json: name"),
    meta_of("too long", '{"name": "' + "a" * (5 << 20) + '"}', "is larger than"),
    meta_of("no text", b"\x80abc", "cannot be read as UTF-8"),
    meta_of("half a character in a name", '{"classes": [{"name": "\\ud800"}]}', r"meta\.json: classes\.0\.name"),
    meta_of("half a character in an id", '{"classes": [{"id": "\\udfff"}]}', r"meta\.json: classes\.0\.id"),
    meta_of("an id of 10^6 characters", '{"classes": [{"id": "' + "u" * 1_000_000 + '"}]}', "at most 1000 characters"),
    meta_of("UTF-16 cut short", '{"name": "a"}'.encode("utf-16")[:-1], "cannot be read as UTF-16"),
    meta_of("Latin-1", '{"name": "größe"}'.encode("latin-1"), "byte 0xf6 in line 1"),
    meta_of("cut short", '{"name": "a', r"meta\.json is not valid JSON"),
]
