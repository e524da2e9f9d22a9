"""What was given in place of a bundle, in words, with what to do about it."""

# A file is told by its first bytes, and by its suffix where they say nothing; a folder or archive without settings by
# the names of its files.

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from engine.bundle.archive import decompressed
from engine.images.formats import IMAGE_SUFFIXES, PREFIX_BYTES, foreign_kind, is_readable_kind
from engine.system.files import open_to_read

SETTINGS_NAMES: Final = ("deploy.yaml", "deploy.yml", "inference.yml", "inference.yaml")
"""What the settings of a bundle may be called, the first that is there counts."""

_HEAD_BYTES: Final = 1 << 16
_SHOWN_CHARACTERS: Final = 60
_SHOWN_NAMES: Final = 4
_MOST_NAMES: Final = 10_000
_DEEPEST: Final = 3

_PACK: Final = "unpack it and name the folder, or pack the files as .tgz (tar czf model.tgz -C FOLDER .)"
_PICTURE: Final = "is a picture: the bundle is named first and the pictures after it (pseg predict model.tgz photo.jpg)"
_OTHER_FRAMEWORK: Final = "which is another framework's: only models of PaddleSeg, and ONNX models, become bundles"
_MINIMAL: Final = '"Deploy: {transforms: [{type: Normalize}]}"'
_ONNX: Final = (
    "is an ONNX model without settings: make a folder that holds it as onnx/fp32/model.onnx and, beside the folder "
    f"onnx, a deploy.yaml with the transforms of the training, such as {_MINIMAL}; name that folder"
)
_FETCH: Final = "fetch the archive itself; a link may ask for a login, or lead to a page about the file"
_TRAINED: Final = "trained weights, which a bundle is made of: give them and their configuration to `pseg export`"

_POINTER_BYTES: Final = 64
_POINTERS: Final = (
    (rb"version https://git-lfs", "is a Git LFS pointer in place of the file: fetch it with git lfs pull"),
    (rb"[./]*(git)?/annex/objects/", "is a git-annex pointer in place of the file: fetch it with git annex get"),
)
_CONTENTS: Final = (
    (rb"BM.{4}\0\0\0\0", _PICTURE),
    (rb"7z\xbc\xaf\x27\x1c", f"is a 7-Zip archive, which is not read: {_PACK}"),
    (rb"Rar!\x1a\x07", f"is a RAR archive, which is not read: {_PACK}"),
    (rb"\x28\xb5\x2f\xfd", f"is compressed with Zstandard, which is not read: {_PACK}"),
    (rb"\x04\x22\x4d\x18", f"is compressed with LZ4, which is not read: {_PACK}"),
    (rb"LZIP|\x1f\x9d|\x89LZO|MSCF", f"is an archive of a kind that is not read: {_PACK}"),
    (rb"MZ|\x7fELF", f"is a program, perhaps an archive that unpacks itself: {_PACK}"),
    (rb"%PDF", "is a PDF document: name the model bundle"),
    (rb"\s*(<!doctype html|<html|<head|<body)", f"is a web page: {_FETCH}"),
    (rb"\s*<\?xml.*<net ", "is a model of OpenVINO's own format: give the ONNX or Paddle model it was made from"),
    (rb"\s*<\?xml|\s*<error", f"is an XML text, perhaps a server's answer: {_FETCH}"),
    (rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", f"holds weights of PyTorch, {_OTHER_FRAMEWORK}"),
    (rb"\x89HDF\r\n\x1a\n", f"is an HDF5 file, perhaps weights of Keras, {_OTHER_FRAMEWORK}"),
    (rb".{4}TFL3", f"is a TensorFlow Lite model, {_OTHER_FRAMEWORK}"),
    (rb".{8}\{\s*\"", f"holds weights as safetensors, {_OTHER_FRAMEWORK}"),
    (rb"GGUF", f"holds weights as GGUF, {_OTHER_FRAMEWORK}"),
    (rb"ptrt|ftrt", "is a TensorRT engine, which runs on one kind of GPU only: name the bundle it was made from"),
    (rb"\x08[\x01-\x1f](\x12|\x1a|\x22|:|B)", _ONNX),
)
"""First bytes, upper or lower case as they are in the first line of a text; the first that fits counts."""

_NAME_ITS_FOLDER: Final = "name the folder that it lies in, {folder}"
_ONE_FILE: Final = f"is one file of a bundle: {_NAME_ITS_FOLDER}"
_SUFFIXES: Final = {
    ".pdmodel": _ONE_FILE,
    ".pdiparams": _ONE_FILE,
    ".pdparams": f"holds {_TRAINED}",
    ".pdopt": "is the state of a training's optimizer: the weights are in the .pdparams file beside it",
    ".onnx": _ONNX,
    ".engine": "is a TensorRT engine, which runs on one kind of GPU only: name the bundle it was made from",
    ".trt": "is a TensorRT engine, which runs on one kind of GPU only: name the bundle it was made from",
    ".plan": "is a TensorRT engine, which runs on one kind of GPU only: name the bundle it was made from",
    **dict.fromkeys((".pt", ".pth", ".ckpt"), f"holds weights of PyTorch, {_OTHER_FRAMEWORK}"),
    **dict.fromkeys((".h5", ".hdf5", ".keras"), f"holds weights of Keras, {_OTHER_FRAMEWORK}"),
    **dict.fromkeys((".pb", ".tflite"), f"is a model of TensorFlow, {_OTHER_FRAMEWORK}"),
    ".safetensors": f"holds weights as safetensors, {_OTHER_FRAMEWORK}",
}
_ARCHIVE_SUFFIXES: Final = {".tgz", ".tar", ".gz", ".zip", ".bz2", ".xz"}
_TRAINING_KEYS: Final = (
    r"^(_base_|train_dataset|val_dataset|test_dataset|model|optimizer|lr_scheduler|iters|batch_size|loss)\s*:"
)


def explain_file(path: Path) -> str | None:
    """Say what a file is, if it is known to be no archive of a bundle.

    The words, with what to do, go after the file's name in a message; None for an archive, and for what nobody knows.
    """
    try:
        with open_to_read(path) as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return None  # whoever reads it on says why it cannot be
    return _explain(head, path)


def explain_compressed(path: Path) -> str | None:
    """Say what is in a compressed file that could not be unpacked, as `explain_file`; None if it is not compressed."""
    try:
        with open_to_read(path) as file:
            start = file.read(_HEAD_BYTES)
        with decompressed(path) as stream:
            head = stream.read(_HEAD_BYTES)
    except Exception:  # damaged, in whatever way the decompressor puts it: the first error has said it
        return None
    if head[: len(start)] == start or _is_tar(head):
        return None
    if _is_archive(head):
        return "is compressed twice: unpack it once (gunzip, 7-Zip), or pack its files as .tgz"
    told = _explain(head, path.with_suffix(""))
    return None if told is None else f"holds no archive; what is compressed in it {told}"


def explain_contents(names: Iterable[str], folder: Path | None) -> str:
    """Say what a folder, or an archive, is whose files (relative paths) are no settings of a bundle."""
    paths = [PurePosixPath(name) for name in names]
    return f"no deploy.yaml (or inference.yml) at its top or in its single folder: {_explain_contents(paths, folder)}"


def explain_pointer(path: Path) -> str | None:
    """Say if a file of a bundle is only a pointer, which a clone without Git LFS or git-annex leaves in its place.

    The words go after the file's name in a message; None for the file itself.
    """
    with path.open("rb") as file:
        head = file.read(_POINTER_BYTES)
    return next((words for pattern, words in _POINTERS if re.match(pattern, head)), None)


def names_below(folder: Path) -> list[str]:
    """List at most ten thousand files, by relative paths of at most three folders."""
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        within = Path(place).relative_to(folder)
        folders[:] = sorted(folders) if len(within.parts) < _DEEPEST else []
        found += ((within / name).as_posix() for name in sorted(files))
        if len(found) >= _MOST_NAMES:
            break
    return found[:_MOST_NAMES]


def _explain(head: bytes, path: Path) -> str | None:
    if not head:
        return "is empty: fetch it again"
    if _is_archive(head) or _is_tar(head):
        return None
    lower = head[:1024].lower()
    told = _PICTURE if _is_picture(head) else None
    told = told or next(
        (
            words
            for pattern, words in (*_POINTERS, *_CONTENTS)
            if re.match(pattern, head, re.DOTALL) or re.match(pattern, lower, re.DOTALL)
        ),
        None,
    )
    told = told or _explain_text(head, path) or _SUFFIXES.get(path.suffix.lower())
    if told is None and path.name in {"__model__", "__params__"}:
        told = _ONE_FILE
    if told is None and re.match(rb"\x80[\x02-\x05]", head):
        told = f"is a pickle of Python, perhaps {_TRAINED}"
    return told and told.replace("{folder}", str(path.parent))


def _is_picture(head: bytes) -> bool:
    prefix = head[:PREFIX_BYTES]
    kind = foreign_kind(prefix)
    return is_readable_kind(prefix) or (kind is not None and kind.is_picture)


def _is_archive(head: bytes) -> bool:
    return head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"))


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _explain_text(head: bytes, path: Path) -> str | None:
    """What a text is; None for what is none."""
    try:
        text = head.decode("utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig", "ignore")
    except UnicodeDecodeError:  # pragma: no cover - errors are ignored
        return None
    sample = text[:1024].strip()
    if not sample or any(not character.isprintable() and not character.isspace() for character in sample):
        return None
    if re.search(r"^Deploy\s*:", text, re.M):
        return f"holds the settings of a bundle: {_NAME_ITS_FOLDER}"
    if sample.startswith(("{", "[")):
        if re.search(r'"(base_code|program|magic)"', sample) or '"classes"' in text:
            return _ONE_FILE
    elif re.search(_TRAINING_KEYS, text, re.MULTILINE):
        return (
            "is a training configuration of PaddleSeg: make a bundle of it and the trained weights with `pseg export`"
        )
    begins = " ".join(sample.split())[:_SHOWN_CHARACTERS]
    return f"is a text, not an archive (it begins with {begins!r}): name the bundle, or fetch it again"


def _explain_contents(paths: Sequence[PurePosixPath], folder: Path | None) -> str:
    if not paths:
        return "it is empty"
    deeper = sorted({path.parent for path in paths if path.name in SETTINGS_NAMES})
    if deeper:
        return f"it lies deeper, in {_listed(deeper)}: {'pack' if folder is None else 'name'} that folder"
    archives = [path for path in paths if path.suffix.lower() in _ARCHIVE_SUFFIXES]
    if archives:
        return (
            f"it holds archives ({_listed(archives)}): {'unpack it and name' if folder is None else 'name'} one of them"
        )
    names = {path.name for path in paths}
    suffixes = {path.suffix.lower() for path in paths}
    if "data.pkl" in names:
        return f"it holds weights of PyTorch, {_OTHER_FRAMEWORK}"
    if "__model__" in names:
        return (
            "it holds a model of Paddle 1 (__model__): call that file model.pdmodel and its weights (__params__) "
            f"model.pdiparams, and add a deploy.yaml with the transforms of the training, such as {_MINIMAL}"
        )
    programs = sorted(path for path in paths if path.suffix == ".pdmodel" or path.name in _PROGRAM_NAMES)
    if programs:
        return (
            f"it holds a Paddle program ({_listed(programs)}) without settings: add the inference.yml or deploy.yaml "
            "that was published with it, or write a deploy.yaml with the transforms of the training, such as "
            + _MINIMAL
        )
    trained = sorted(path for path in paths if path.suffix == ".pdparams")
    if trained:
        return f"it holds {_TRAINED.replace('{path}', str((folder or Path()) / trained[0]))}"
    models = sorted(path for path in paths if path.suffix.lower() == ".onnx")
    if models:
        return f"{_listed(models)} {_ONNX}"
    other = next((_SUFFIXES[suffix] for suffix in sorted(suffixes & _SUFFIXES.keys())), None)
    if other is not None:
        return f"it {other}"
    pictures = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in paths)
    if pictures > len(paths) // 2:
        return (
            f"it holds pictures ({pictures} of {len(paths)} files): the bundle is named first and the pictures after "
            "it (pseg predict model.tgz FOLDER)"
        )
    return f"this is not an exported PaddleSeg model (it holds {_listed(sorted(paths))})"


_PROGRAM_NAMES: Final = {"model.json", "inference.json"}


def _listed(paths: Sequence[PurePosixPath]) -> str:
    shown = ", ".join(ascii(str(path))[1:-1][:_SHOWN_CHARACTERS] for path in paths[:_SHOWN_NAMES])
    return shown if len(paths) <= _SHOWN_NAMES else f"{shown} and {len(paths) - _SHOWN_NAMES} more"
