"""`pseg import`: a published inference model becomes a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from converters.exporting.bundle_files import side_file_of
from converters.exporting.cv_config import CvConfig, read_cv_config
from converters.exporting.published import import_published
from engine.system.text import legible
from service.commands.terminal import (
    CvConfigOption,
    JsonOption,
    errors_end_the_command,
    messages,
    print_json,
    shown,
    tell,
)
from service.request import require_apart, require_writable, written_by


def import_(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Published model: a folder or an archive.")],
    out: Annotated[Path, typer.Option(help="Bundle to write: a .tgz archive or a new folder.")],
    cv_config: CvConfigOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the model. By default the published name.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Convert an inference model that PaddleX or PaddleSeg publishes into a bundle, and run the bundle once."""
    with errors_end_the_command():
        asked = read_cv_config(cv_config) if cv_config else CvConfig()
        require_apart(
            [*written_by({"--out": out}), ("the file beside the bundle", side_file_of(out))],
            {"the published model": [source], "the file of --cv-config": [cv_config] if cv_config else []},
        )
        require_writable(out.parent)
        with messages().status("importing", spinner="line"):
            imported = import_published(source, out, name=name, classes=asked.classes, multilabel=asked.multilabel)
    if json_output:
        print_json(
            {
                "bundle": str(out),
                "name": imported.name,
                "classes": [each.name for each in imported.classes],
                "side_file": str(imported.side_file),
                "left_out": list(imported.left_out),
            }
        )
        return
    named = ", ".join(shown(each.name) for each in imported.classes) or "not named: add them with --cv-config"
    tell(
        f"{legible(str(out))}: {shown(imported.name)}, written, and run once; classes: {named}; "
        f"{legible(str(imported.side_file))} describes it"
    )
    if imported.left_out:
        tell(f"left out: {legible(', '.join(imported.left_out))}; make converted models and profiles again")
