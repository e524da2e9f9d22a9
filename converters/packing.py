"""Write a bundle's files as one archive: the same bytes whenever names and contents are the same, whole or absent."""

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from engine.files import atomic_file

_PUBLIC_FILE = 0o644


def pack(files: Mapping[str, Path | bytes], destination: Path) -> None:
    """Write a gzipped tar; whatever was at the destination is replaced in one step.

    Args:
        files: member name to its content, or to the file that holds it.
        destination: the archive.

    Raises:
        OSError: the folder cannot be written to.
    """
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
                archive.addfile(member, opened)
