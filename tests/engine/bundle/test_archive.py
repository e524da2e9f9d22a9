"""Archives from strangers: what is unpacked, what is refused, and that nothing lands outside the folder."""

import bz2
import contextlib
import gzip
import io
import lzma
import resource
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.bundle.archive import ArchiveLimits, known_path, unpack
from engine.errors import BundleError
from tests.robustness.strangers import hostile_zips

MODEL: Mapping[str, bytes] = {
    "m/deploy.yaml": b"Deploy: {}",
    "m/model.json": b"{}" * 400,
    "m/model.pdiparams": bytes(range(256)) * 4,
    "m/onnx/fp32/model.onnx": b"onnx",
    "m/meta.json": b"{}",
}


def member(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", pax: Mapping[str, str] | None = None
) -> tarfile.TarInfo:
    """A header without content."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, link, dict(pax or {})
    return info


def tar_of(files: Mapping[str, bytes], *others: tarfile.TarInfo) -> bytes:
    """A plain tar of files, then of bare headers."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in others:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return buffer.getvalue()


Unpacked = Callable[..., dict[str, bytes]]


@pytest.fixture
def unpacked(tmp_path: Path) -> Unpacked:
    """Unpack bytes; whatever happens, nothing outside the folder may change."""

    def run(content: bytes, limits: ArchiveLimits | None = None) -> dict[str, bytes]:
        outer = tmp_path / "outer"
        folder = outer / "within"
        shutil.rmtree(outer, ignore_errors=True)
        folder.mkdir(parents=True)
        archive = tmp_path / "model.tgz"
        archive.write_bytes(content)
        (outer / "deploy.yaml").write_text("sentinel")
        try:
            unpack(archive, folder, limits)
        except BundleError as error:
            assert str(error).startswith(f"{archive}: ")
            raise
        finally:
            assert {path.name for path in tmp_path.iterdir()} == {"outer", "model.tgz"}
            assert {path.name for path in outer.iterdir()} == {"deploy.yaml", "within"}
            assert (outer / "deploy.yaml").read_text() == "sentinel"
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return run


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_compression_is_found_out_from_the_content(compress: Callable[[bytes], bytes], unpacked: Unpacked) -> None:
    assert unpacked(compress(tar_of(MODEL))) == MODEL


def test_unneeded_files_and_folders_are_left_in_the_archive(unpacked: Unpacked) -> None:
    others = {"m/notes.txt": b"n", "m/._deploy.yaml": b"AppleDouble", ".git/meta.json": b"{}", "m/a/b/meta.json": b"{}"}
    folder = member("m", tarfile.DIRTYPE)
    assert unpacked(tar_of({**MODEL, **others}, folder, folder)) == MODEL


@pytest.mark.parametrize("name", ["model.pdmodel", "m/inference.yml", "onnx/int8/a.json", "m/onnx/fp16/model.onnx"])
def test_known_names(name: str) -> None:
    assert str(known_path(name)) == name


@pytest.mark.parametrize("name", ["", ".", "m", "onnx/fp64/model.onnx", "a/b/deploy.yaml", "model.onnx", "m/.yaml"])
def test_unknown_names(name: str) -> None:
    assert known_path(name) is None


HOSTILE = [
    *[
        (member(name), "points outside the bundle.*pack it again")
        for name in ("/deploy.yaml", "../deploy.yaml", "m/../../deploy.yaml", "..\\deploy.yaml", "C:\\deploy.yaml")
    ],
    (member("x", pax={"path": "m/deploy.yaml\0.txt"}), "points outside the bundle"),
    (member("../out", tarfile.DIRTYPE), "points outside the bundle"),
    (member("m/model.json", tarfile.SYMTYPE, "/etc/passwd"), "link to '/etc/passwd': pack the files"),
    (member("notes.txt", tarfile.SYMTYPE, ".."), "link to '..'"),
    (member("m/model.json", tarfile.LNKTYPE, "../deploy.yaml"), "link to '../deploy.yaml'"),
    *[
        (member("m/model.json", kind), "'m/model.json' is neither a file nor a folder")
        for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    ],
]


@pytest.mark.parametrize(("info", "message"), HOSTILE, ids=lambda value: getattr(value, "name", ""))
def test_unsafe_members_refuse_the_archive(info: tarfile.TarInfo, message: str, unpacked: Unpacked) -> None:
    with pytest.raises(BundleError, match=message):
        unpacked(tar_of({}, info))


@pytest.mark.parametrize("second", ["m/deploy.yaml", "./m/deploy.yaml", "M/Deploy.yaml"])
def test_a_member_may_come_once(second: str, unpacked: Unpacked) -> None:
    with pytest.raises(BundleError, match=f"member '{second}' is in the archive twice: pack it once"):
        unpacked(tar_of(MODEL, member(second)))


def test_a_file_is_no_folder(unpacked: Unpacked) -> None:
    with pytest.raises(BundleError, match="cannot be unpacked"):
        unpacked(tar_of({"a.json": b"", "a.json/model.json": b""}))


def test_where_room_is_missing_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "large.tar"
    with tarfile.open(archive, "w") as tar:
        large = tarfile.TarInfo("model.pdiparams")
        large.size = 1 << 16
        tar.addfile(large, io.BytesIO(bytes(large.size)))
    (tmp_path / "disk").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, hard))
    try:
        with pytest.raises(BundleError) as caught:
            unpack(archive, tmp_path / "disk")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    told = f"cannot be unpacked (File too large): make room on the disk of {tmp_path / 'disk'}, or set TMPDIR"
    assert told in str(caught.value)


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"gone\.tgz: cannot be unpacked .*No such file"):
        unpack(tmp_path / "gone.tgz", tmp_path)


# ---- caps -------------------------------------------------------------------------------------------------------


def test_caps_are_met_exactly(unpacked: Unpacked) -> None:
    known = sum(map(len, MODEL.values()))
    content = tar_of({**MODEL, "notes.txt": b"12345"})
    assert unpacked(content, ArchiveLimits(members=6, known_bytes=known, skipped_bytes=10_240)) == MODEL


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (ArchiveLimits(members=4), "more than 4 members"),
        (ArchiveLimits(known_bytes=1800), r"'m/model\.pdiparams' takes the archive over its cap \(1800 bytes"),
        (ArchiveLimits(skipped_bytes=4), r"'a\.txt' takes the archive over its cap.*4 of others.*pack the model files"),
        (ArchiveLimits(skipped_bytes=999), "more than 999 bytes follow the last member"),
    ],
)
def test_caps(limits: ArchiveLimits, message: str, unpacked: Unpacked) -> None:
    with pytest.raises(BundleError, match=message):
        unpacked(gzip.compress(tar_of({"a.txt": b"12345", **MODEL}) + bytes(20_000)), limits)


def test_a_name_of_gigabytes_is_not_read(unpacked: Unpacked) -> None:
    header = member("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    header.size = 1 << 32
    with pytest.raises(BundleError, match="name takes 4294967296 bytes"):
        unpacked(header.tobuf(tarfile.GNU_FORMAT))


def test_names_upon_names_end(unpacked: Unpacked) -> None:
    header = member("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    header.size = 1
    with pytest.raises(BundleError, match="damaged"):
        unpacked((header.tobuf(tarfile.GNU_FORMAT) + b"a".ljust(512, b"\0")) * 2000)


# ---- damage -----------------------------------------------------------------------------------------------------


def test_a_shortened_gzip_is_refused(unpacked: Unpacked) -> None:
    whole = gzip.compress(tar_of(MODEL))
    for length in (*range(20), *range(20, len(whole), 11), *range(len(whole) - 12, len(whole))):
        with pytest.raises(BundleError, match="truncated"):
            unpacked(whole[:length])


def test_a_shortened_tar_is_refused(unpacked: Unpacked) -> None:
    whole = tar_of(MODEL)
    for length in range(0, len(whole.rstrip(b"\0")), 256):
        with pytest.raises(BundleError, match="truncated"):
            unpacked(whole[:length])


@pytest.mark.parametrize("content", [b"", b"deploy: yaml", bytes(range(256)) * 8, b"\x1f\x8b"])
def test_what_is_no_tar(content: bytes, unpacked: Unpacked) -> None:
    with pytest.raises(BundleError, match=r"not a readable \.tgz or \.tar"):
        unpacked(content)


def test_a_damaged_header_is_not_the_end(unpacked: Unpacked) -> None:
    content = bytearray(tar_of(MODEL))
    content[content.index(b"m/meta.json")] ^= 1
    with pytest.raises(BundleError, match="bad checksum"):
        unpacked(bytes(content))


def test_damaged_content_is_found_by_the_checksum(unpacked: Unpacked) -> None:
    stored = bytearray(gzip.compress(tar_of(MODEL), compresslevel=0))
    stored[stored.index(bytes(range(256)))] ^= 1
    with pytest.raises(BundleError, match="CRC"):
        unpacked(bytes(stored))


def test_a_sparse_map_of_nonsense(unpacked: Unpacked) -> None:
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9", "GNU.sparse.name": "a.json"}
    info = member("a.json", pax=pax)
    info.size = 512
    with pytest.raises(BundleError, match="damaged"):
        unpacked(tar_of({}, info))


def test_a_size_below_zero(unpacked: Unpacked) -> None:
    # Newer versions of tarfile pass over such a size themselves and take the header's.
    with contextlib.suppress(BundleError):
        assert unpacked(tar_of({}, member("a.json", pax={"size": "-5"}))) is not None


# ---- ZIP --------------------------------------------------------------------------------------------------------


class Unseekable(io.RawIOBase):
    """Lets `zipfile` write sizes after each member, as it does into a pipe."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self.content += bytes(piece)
        return len(piece)


def zip_of(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED, *, piped: bool = False) -> bytes:
    """An ordinary ZIP; into a pipe, sizes have 64 bits and follow each member."""
    buffer = Unseekable() if piped else io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.comment = b"made by zipfile"
        for name, content in files.items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=piped) as member:
                member.write(content)
    return buffer.content if isinstance(buffer, Unseekable) else buffer.getvalue()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("piped", [False, True])
def test_a_zip_is_found_out_from_the_content(compression: int, piped: bool, unpacked: Unpacked) -> None:
    others = {"m/": b"", "m/notes.txt": b"n", "__MACOSX/m/._deploy.yaml": b"AppleDouble", "m/.git/meta.json": b"{}"}
    assert unpacked(zip_of({**others, **MODEL}, compression, piped=piped)) == MODEL


def test_the_caps_count_in_a_zip_too(unpacked: Unpacked) -> None:
    known = sum(map(len, MODEL.values()))
    content = zip_of({**MODEL, "notes.txt": b"12345"})
    assert unpacked(content, ArchiveLimits(members=6, known_bytes=known, skipped_bytes=5)) == MODEL
    for limits, message in (
        (ArchiveLimits(members=5), "more than 5 members"),
        (ArchiveLimits(known_bytes=known - 1), "takes the archive over its cap"),
        (ArchiveLimits(skipped_bytes=4), r"'notes\.txt' takes the archive over its cap"),
    ):
        with pytest.raises(BundleError, match=message):
            unpacked(content, limits)


def test_a_shortened_zip_is_refused(unpacked: Unpacked) -> None:
    whole = zip_of(MODEL)
    for length in (*range(4, len(whole), 97), *range(len(whole) - 40, len(whole))):
        with pytest.raises(BundleError, match="truncated"):
            unpacked(whole[:length])


def test_no_changed_byte_of_a_zip_changes_what_is_unpacked(unpacked: Unpacked) -> None:
    whole = zip_of({"deploy.yaml": b"Deploy: {}", "meta.json": b"{}"})
    for position in range(len(whole) - len(b"made by zipfile")):
        changed = bytearray(whole)
        changed[position] ^= 0x41
        with contextlib.suppress(BundleError):
            found = unpacked(bytes(changed))
            assert set(found.items()) <= {("deploy.yaml", b"Deploy: {}"), ("meta.json", b"{}")}


HOSTILE_ZIPS = [
    "path '../deploy.yaml'",
    "path 'C:/deploy.yaml'",
    r"path '..\\deploy.yaml'",
    r"path 'a/\x00.json'",
    "name that is harmless in the directory and not before the member",
    "symbolic link to /etc/passwd",
    "named pipe",
    "reparse point of Windows",
    "bytes after its end",
    "bytes before it",
    "an end in its comment",
    "a hidden member between two",
    "two members in the same bytes",
    "members within members",
    "another size before the member",
    "a wrong checksum of a note",
    "bytes after the packed ones",
    "encrypted, flag 0x1",
    "packed with Deflate64",
    "part of a split archive",
    "64 bits, a directory elsewhere",
    "sizes that follow and contradict",
    "the same member twice",
    "bomb in a model file",
]


@pytest.mark.parametrize("name", HOSTILE_ZIPS)
def test_a_hostile_zip_is_refused(name: str, unpacked: Unpacked) -> None:
    made = (*hostile_zips.PATHS, *hostile_zips.KINDS, *hostile_zips.FORMS, *hostile_zips.BOMBS)
    hostile = next(each for each in made if each.name == f"zip: {name}")
    assert hostile.message is not None
    with pytest.raises(BundleError, match=hostile.message):
        unpacked(hostile.make())
