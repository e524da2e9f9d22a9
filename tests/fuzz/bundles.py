"""Fuzz what reads a bundle: `python -m tests.fuzz.bundles -runs=10000`, or with the name of a file that crashed.

The first byte of an input says which reader the rest is for. Nothing but the project's own errors may come out.
"""

# atheris comes without types.
# pyright: reportUnknownMemberType=false, reportMissingTypeStubs=false, reportAttributeAccessIssue=false

import contextlib
import gzip
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import atheris

INSTRUMENTED = [
    "tarfile",
    "zipfile",
    "yaml",
    "json",
    "engine.bundle.archive",
    "engine.bundle.bundle",
    "engine.bundle.deploy_yaml",
]
READ_WITH = [
    "engine.bundle.deploy_yaml",
    "engine.bundle.zip_members",
    "engine.bundle.kinds",
    "engine.system.settings_files",
]
with atheris.instrument_imports(include=[*INSTRUMENTED, *READ_WITH, "engine.runtimes.profile", "engine.runtimes"]):
    importlib.import_module("engine.bundle.zip_members")  # otherwise loaded with the first ZIP, and not instrumented
    from engine.bundle.archive import ArchiveLimits, unpack
    from engine.bundle.bundle import PaddleModel, read_bundle
    from engine.errors import EngineError
    from engine.runtimes.profile import PROFILE_NAME, read_profile
    from engine.runtimes.programs.onnx_files import require_whole_model
    from engine.runtimes.programs.paddle_files import require_whole_weights
    from engine.runtimes.programs.paddle_programs import pir_tensor_specs
    from tests.fuzz.harness import fuzz, scratch_folder
    from tests.robustness.strangers import hostile, hostile_zips
LIMITS = ArchiveLimits(members=100, known_bytes=1 << 20, skipped_bytes=1 << 20)
MOST_BYTES = 1 << 15


def read_archive(content: bytes, folder: Path) -> None:
    archive, within = folder / "fuzzed.tgz", folder / "within"
    archive.write_bytes(content)
    within.mkdir()
    before = set(folder.iterdir())
    try:
        unpack(archive, within, LIMITS)
    finally:
        assert set(folder.iterdir()) == before, "something was written outside"


def read_with(name: str) -> Callable[[bytes, Path], None]:
    """Read a bundle that is good but for one file."""

    def read(content: bytes, folder: Path) -> None:
        files = {"deploy.yaml": hostile.deploy(), "meta.json": hostile.META, "onnx/fp32/model.onnx": b"onnx"}
        for path, good in {**files, name: content}.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(good)
        read_bundle(folder, folder)

    return read


def read_onnx(content: bytes, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(content)
    require_whole_model(folder / "model.onnx")


def read_weights(content: bytes, folder: Path) -> None:
    (folder / "model.pdiparams").write_bytes(content)
    require_whole_weights(PaddleModel(folder / "model.pdmodel", folder / "model.pdiparams", "digest"))


def read_pir(content: bytes, _folder: Path) -> None:
    with contextlib.suppress(UnicodeDecodeError):
        pir_tensor_specs(content.decode())


def read_tuned_profile(content: bytes, folder: Path) -> None:
    (folder / PROFILE_NAME).write_bytes(content)
    read_profile(folder / PROFILE_NAME)


READERS: tuple[Callable[[bytes, Path], None], ...] = (
    read_archive,
    read_with("deploy.yaml"),
    read_with("meta.json"),
    read_onnx,
    read_weights,
    read_pir,
    read_tuned_profile,
)


def try_one(data: bytes, folder: Path) -> None:
    """Give an input to its reader, and a new folder that goes afterwards."""
    if not data:
        return
    folder.mkdir()
    try:
        READERS[data[0] % len(READERS)](data[1:], folder)
    except EngineError as error:
        assert str(error)
    finally:
        shutil.rmtree(folder)


def seeds() -> list[bytes]:
    """Good and hostile inputs of every reader."""
    archives = [each.make() for each in (*hostile.PATHS, *hostile.KINDS, *hostile.FORMS)]
    zips = [each.make() for each in (*hostile_zips.PATHS, *hostile_zips.KINDS, *hostile_zips.FORMS)]
    tars = [gzip.decompress(each) for each in archives if _is_whole_gzip(each)]
    network = hostile.good_files()["onnx/fp32/model.onnx"]
    image = {"TT": {"D": [{"#": "0.t_f32"}, [-1, 3, -1, -1], "NCHW", [], 0]}}
    operation = {"#": "1.data", "A": [{"N": "name", "AT": {"D": "x"}}], "O": [image]}
    pir = json.dumps({"program": {"regions": [{"blocks": [{"ops": [operation]}]}]}}).encode()
    weights = bytes(4) + bytes(8) + bytes(4) + b"\x06\0\0\0" + b"\x08\x05\x10\x02\x10\x02" + bytes(16)
    texts = [hostile.deploy(), hostile.LAUGHS.encode(), b"Deploy: {transforms: [{type: Resize, target_size: [8, 8]}]}"]
    return [
        *(b"\0" + each[:MOST_BYTES] for each in (*archives[::8], *tars, *zips)),
        *(b"\1" + each for each in texts),
        b"\2" + hostile.META,
        b"\3" + network,
        b"\4" + weights,
        b"\5" + pir,
        b"\6" + b'{"schema": 1, "host": {}, "runtime": "onnx", "threads": 2}',
    ]


def _is_whole_gzip(content: bytes) -> bool:
    with contextlib.suppress(OSError, EOFError):
        return bool(gzip.decompress(content))
    return False


if __name__ == "__main__":
    with scratch_folder() as scratch:
        fuzz(lambda data: try_one(data, Path(scratch) / "input"), seeds(), most_bytes=MOST_BYTES)
