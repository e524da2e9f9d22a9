"""`pseg manifest`: the list of a collection for `pseg scale`."""

from pathlib import Path
from typing import Annotated

import typer

from engine.system.files import write_atomically
from engine.system.text import legible
from service.collections.manifest import image_uris, manifest_bytes
from service.collections.storage import local_path
from service.commands.named_pictures import RecursiveOption, require_folders
from service.commands.terminal import errors_end_the_command, flag_of, tell
from service.request import require_apart, require_writable_file, written_by


def manifest(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE…", help="Files, folders, globs or URIs.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")] = Path("manifest.parquet"),
    recursive: RecursiveOption = False,
) -> None:
    """List images for `pseg scale` in a Parquet file, with each image once in the column uri."""
    with errors_end_the_command():
        require_folders(images, recursive=recursive)
        uris = image_uris(images, recursive=recursive, option_name=flag_of)
        images_here = [path for path in map(local_path, uris) if path is not None]
        require_apart(written_by({"--out": out}), {"one of the images": images_here})
        require_writable_file(out)
        write_atomically(out, manifest_bytes(uris))
    tell(f"{len(uris)} images -> {legible(str(out))}")
