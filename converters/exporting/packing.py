"""Write a bundle's files as one archive: the same bytes whenever names and contents are the same, whole or absent."""

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from engine.errors import ConversionError, OptionError
from engine.system.files import atomic_file

ARCHIVE_ENDINGS = (".tgz", ".tar.gz")
_PUBLIC_FILE = 0o644
_OTHER_KINDS: Mapping[str, str] = {
    ".onnx": "an ONNX file (the model is in the bundle, as onnx/PRECISION/model.onnx; `pseg pack` writes it as a file)",
    ".zip": "a ZIP archive",
    ".tar": "a tar without compression",
    **dict.fromkeys((".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar"), "an archive of this kind"),
    **dict.fromkeys((".pdmodel", ".pdiparams", ".pdparams"), "a file of Paddle"),
    **dict.fromkeys((".json", ".yaml", ".yml"), "a text"),
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".tif", ".tiff"), "a picture"),
}


def require_bundle_name(destination: Path) -> None:
    """Refuse, with an OptionError, a name that promises another kind of file than the gzipped tar that is written."""
    other = _OTHER_KINDS.get(destination.suffix.lower())
    if other is not None:
        raise OptionError(
            f"{destination}: a bundle is written as a gzipped tar, not as {other}: "
            f"give a name that ends in {ARCHIVE_ENDINGS[0]}, such as {destination.with_suffix(ARCHIVE_ENDINGS[0]).name}"
        )


def pack(files: Mapping[str, Path | bytes], destination: Path) -> None:
    """Write a gzipped tar of members, contents or files that hold them; what was there is replaced in one step.

    OptionError: the destination is called like another kind of file. ConversionError: it cannot be written, or the name
    of a member is too long for an archive.
    """
    require_bundle_name(destination)
    try:
        _write(files, destination)
    except OSError as error:
        raise ConversionError(f"{destination}: cannot be written ({error}): make room, or name another file") from error


def _write(files: Mapping[str, Path | bytes], destination: Path) -> None:
    with (
        atomic_file(destination) as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in sorted(files.items(), key=lambda item: item[0]):
            member = tarfile.TarInfo(name)
            member.mode = _PUBLIC_FILE
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as opened:
                member.size = opened.seek(0, io.SEEK_END)
                opened.seek(0)
                try:
                    archive.addfile(member, opened)
                except ValueError as error:  # the format's limits, for names above all
                    raise ConversionError(f"{name}: does not go into an archive ({error}): rename the file") from error
