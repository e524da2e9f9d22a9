"""What is given in place of a bundle: the message says what it is, and what to do."""

import bz2
import gzip
import json
import os
import pickle
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from engine.bundle.bundle import open_bundle
from engine.errors import BundleError
from tests.service.bundles import bundle_folder, packed, strongest_band_network


def message_of(path: Path) -> str:
    """What is said when a path is opened as a bundle."""
    with pytest.raises(BundleError) as caught:
        with open_bundle(path):
            pass
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message) < 1000
    return message.removeprefix(f"{path}: ")


def saved(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def picture(kind: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, kind)
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
PIR = json.dumps({"base_code": {"magic": "pir", "version": 1}, "program": {}}).encode()
WEIGHTS = pickle.dumps({"conv.weight": [0.5]}, protocol=2)
OLD_PYTORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
FILES = [
    ("pp_liteseg.yml", b"batch_size: 4\nmodel:\n  type: PPLiteSeg\n", "the trained weights with `pseg export`"),
    ("pp_liteseg.yaml", b"_base_: ../base.yml\n", "is a training configuration of PaddleSeg"),
    ("deploy.yaml", b"Deploy:\n  model: model.json\n", "settings of a bundle: name the folder that it lies in, /"),
    ("deploy.yaml", b"\xef\xbb\xbfGlobal: {}\r\nDeploy: {}\r\n", "settings of a bundle: name the folder"),
    ("best.pdparams", WEIGHTS, "holds trained weights.*to `pseg export`"),
    ("weights", WEIGHTS, "is a pickle of Python, perhaps trained weights"),
    ("model.pdopt", WEIGHTS, "state of a training's optimizer"),
    ("model.json", PIR, "is one file of a bundle: name the folder"),
    ("meta.json", b'{"classes": []}', "is one file of a bundle"),
    ("model.pdmodel", b"\x0a\x80\x01", "is one file of a bundle"),
    ("model.pdiparams", bytes(40), "is one file of a bundle"),
    ("__model__", b"\x0a\x80\x01", "is one file of a bundle"),
    ("quadrat.jpg", picture("JPEG"), r"is a picture: .*pseg predict model\.tgz photo\.jpg"),
    ("quadrat.tgz", picture("PNG"), "is a picture"),
    ("quadrat.tif", picture("TIFF"), "is a picture"),
    ("quadrat.webp", picture("WEBP"), "is a picture"),
    ("quadrat.bmp", picture("BMP"), "is a picture"),
    ("model.onnx", strongest_band_network(), "is an ONNX model without settings: .*onnx/fp32/model.onnx"),
    ("model.bin", strongest_band_network(), "is an ONNX model without settings"),
    ("model.engine", b"ptrt" + bytes(20), "is a TensorRT engine"),
    ("model.pth", OLD_PYTORCH, "weights of PyTorch, which is another framework's"),
    ("model.h5", b"\x89HDF\r\n\x1a\n", "HDF5"),
    ("model.tflite", b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
    ("model.safetensors", struct.pack("<Q", 9) + b'{"a": {}}', "safetensors"),
    ("model.tgz", b"\n<!DOCTYPE html><html>", "is a web page: fetch the archive itself"),
    ("model.tgz", b"<?xml version='1.0'?><Error/>", "is an XML text"),
    ("model.tgz", b'{"error": "not found"}', "is a text, not an archive .it begins with '{\"error"),
    ("model.tgz", b"404: Not Found", "is a text, not an archive"),
    ("model.tgz", LFS, "is a Git LFS pointer .*git lfs pull"),
    ("model.tgz", b"/annex/objects/MD5E-s12--0.tgz\n", "is a git-annex pointer .*git annex get"),
    ("model.tgz", b"", "is empty: fetch it again"),
    ("model.7z", b"7z\xbc\xaf\x27\x1c", r"7-Zip archive, which is not read: .*pack the files as \.tgz"),
    ("model.rar", b"Rar!\x1a\x07\x01\0", "RAR archive, which is not read"),
    ("model.tar.zst", b"\x28\xb5\x2f\xfd", "Zstandard, which is not read"),
    ("model.exe", b"MZ" + bytes(60), "is a program, perhaps an archive that unpacks itself"),
    ("model.tgz", gzip.compress(gzip.compress(bytes(1024))), "is compressed twice: unpack it once"),
    ("model.tgz", bz2.compress(gzip.compress(bytes(1024))), "is compressed twice"),
    ("model.tgz", gzip.compress(picture("PNG")), "what is compressed in it is a picture"),
    ("model.tgz", bytes(range(256)) * 8, "not a readable .tgz or .tar .*: it is damaged or truncated"),
]


@pytest.mark.parametrize(
    ("name", "content", "message"), FILES, ids=[f"{name}-{at}" for at, (name, *_) in enumerate(FILES)]
)
def test_a_file_of_the_wrong_kind(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    told = message_of(saved(tmp_path, name, content))
    assert re.search(message, told), told


FOLDERS: list[tuple[list[str], str]] = [
    ([], "it is empty"),
    (["__model__", "__params__"], "model of Paddle 1 .*model.pdmodel .*model.pdiparams, and add a deploy.yaml"),
    (
        ["inference.pdmodel", "inference.pdiparams"],
        r"a Paddle program \(inference.pdmodel\) without settings: add the inf",
    ),
    (["best/model.pdparams", "best/model.pdopt"], "to `pseg export`"),
    (["model.onnx"], r"model.onnx is an ONNX model without settings"),
    (["a.jpg", "b.JPG", "notes.txt"], r"it holds pictures \(2 of 3 files\): the bundle is named first"),
    (["a.tgz", "b.tgz"], r"it holds archives \(a.tgz, b.tgz\): name one of them"),
    (["x/y/deploy.yaml"], "it lies deeper, in x/y: name that folder"),
    (["saved_model.pb"], "is a model of TensorFlow"),
    (["notes.txt"], r"this is not an exported PaddleSeg model \(it holds notes.txt\)"),
]


@pytest.mark.parametrize(("names", "message"), FOLDERS, ids=[" ".join(names) or "nothing" for names, _ in FOLDERS])
def test_a_folder_of_the_wrong_kind(names: list[str], message: str, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    for name in names:
        saved(given, name, b"x")
    with pytest.raises(BundleError, match=message):
        with open_bundle(given):
            pass


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"archive/data.pkl": b"", "archive/data/0": b""}, "it holds weights of PyTorch"),
        ({"word/document.xml": b""}, "this is not an exported PaddleSeg model .it holds word/document.xml"),
        ({"model.onnx": b""}, "model.onnx is an ONNX model without settings"),
        ({"inner/model.tgz": b""}, "it holds archives .inner/model.tgz.: unpack it and name one of them"),
        ({"a/b/deploy.yaml": b""}, "it lies deeper, in a/b: pack that folder"),
    ],
)
def test_an_archive_of_something_else(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=message):
        with open_bundle(saved(tmp_path, "model.zip", zipped(files))):
            pass


def test_neither_file_nor_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert message_of(tmp_path / "pipe") == "is neither a file nor a folder: save the bundle as a file first"
    (tmp_path / "link.tgz").symlink_to(".git/annex/objects/x")
    assert message_of(tmp_path / "link.tgz").startswith("is a link to .git/annex/objects/x, which is not there")


# ---- what the messages advise works -----------------------------------------------------------------------------


def as_folder(path: Path) -> None:
    """An ONNX model in a folder with settings."""
    model = path / "onnx" / "fp32" / "model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(strongest_band_network())
    (path / "deploy.yaml").write_text("Deploy: {transforms: [{type: Normalize}]}")


def as_tgz(path: Path) -> None:
    """A folder packed as the message says."""
    as_folder(path.with_name("folder"))
    with tarfile.open(path, "w:gz") as archive:
        archive.add(path.with_name("folder"), ".")


def unpacked_once(path: Path) -> None:
    """What is compressed twice, unpacked once."""
    good = packed(bundle_folder(path.with_name("good")), path.with_name("good.tgz"))
    path.write_bytes(gzip.decompress(gzip.compress(good.read_bytes())))


@pytest.mark.parametrize("follow", [as_folder, as_tgz, unpacked_once])
def test_the_advice_works(follow: Callable[[Path], None], tmp_path: Path) -> None:
    follow(tmp_path / "given")
    with open_bundle(tmp_path / "given") as bundle:
        assert len(bundle.onnx) == 1
