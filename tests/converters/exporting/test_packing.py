"""Archives: the same bytes for the same content, whole or absent."""

import os
import tarfile
import time
from pathlib import Path

import pytest

from converters.exporting.bundle_files import require_free
from converters.exporting.packing import pack
from engine import ConversionError, OptionError


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "files"
    (folder / "onnx").mkdir(parents=True)
    contents = {"deploy.yaml": b"Deploy: {}\n", "model.json": os.urandom(70_000), "onnx/model.onnx": b"", "a": b"a"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def test_content_comes_back(files: dict[str, Path], tmp_path: Path) -> None:
    pack(files, tmp_path / "bundle.tgz")
    with tarfile.open(tmp_path / "bundle.tgz") as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == sorted(files)
        for member in members:
            content = archive.extractfile(member)
            assert content is not None
            assert content.read() == files[member.name].read_bytes()
            assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
    assert (tmp_path / "bundle.tgz").stat().st_mode & 0o777 == 0o644


def test_same_bytes_twice(files: dict[str, Path], tmp_path: Path) -> None:
    pack(files, tmp_path / "first.tgz")
    for path in files.values():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    later = time.time() + 5
    (tmp_path / "folder").mkdir()
    pack(dict(reversed(files.items())), tmp_path / "folder" / "second.tgz")
    os.utime(tmp_path / "first.tgz", (later, later))
    assert (tmp_path / "first.tgz").read_bytes() == (tmp_path / "folder" / "second.tgz").read_bytes()


def test_other_content_is_other_bytes(files: dict[str, Path], tmp_path: Path) -> None:
    pack(files, tmp_path / "first.tgz")
    files["a"].write_bytes(b"b")
    pack(files, tmp_path / "second.tgz")
    assert (tmp_path / "first.tgz").read_bytes() != (tmp_path / "second.tgz").read_bytes()


@pytest.mark.parametrize("before", [None, b"an older archive"])
def test_failure_leaves_what_was_there(files: dict[str, Path], tmp_path: Path, before: bytes | None) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    destination = folder / "bundle.tgz"
    if before is not None:
        destination.write_bytes(before)
    with pytest.raises(ConversionError, match="cannot be written"):
        pack({**files, "z": tmp_path / "absent"}, destination)
    assert (destination.read_bytes() if destination.exists() else None) == before
    assert list(folder.iterdir()) == ([] if before is None else [destination])


def test_replaces_what_was_there(files: dict[str, Path], tmp_path: Path) -> None:
    destination = tmp_path / "bundle.tgz"
    destination.write_bytes(b"an older archive")
    pack(files, destination)
    with tarfile.open(destination) as archive:
        assert len(archive.getnames()) == len(files)


def test_absent_folder(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="cannot be written"):
        pack(files, tmp_path / "absent" / "bundle.tgz")


def test_file_may_be_packed_into_its_own_folder(files: dict[str, Path], tmp_path: Path) -> None:
    destination = tmp_path / "files" / "bundle.tgz"
    pack(files, destination)
    before = destination.read_bytes()
    pack(files, destination)
    assert destination.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.onnx", "an ONNX file"),
        ("X.ZIP", "a ZIP archive"),
        ("x.tar", "a tar without compression"),
        ("x.tar.zst", "an archive of this kind"),
        ("x.pdparams", "a file of Paddle"),
        ("x.json", "a text"),
        ("x.png", "a picture"),
    ],
)
def test_a_name_of_another_kind_is_refused(name: str, kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=rf"{name}: a bundle is written as a gzipped tar, not as {kind}.*\.tgz, such"):
        pack(files, tmp_path / name)
    with pytest.raises(OptionError, match="gzipped tar"):
        require_free(tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["x.tgz", "x.tar.gz", "x", "model.v2"])
def test_other_names_are_taken(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    pack(files, tmp_path / name)
    with tarfile.open(tmp_path / name, "r:gz") as archive:
        assert len(archive.getmembers()) == len(files)
