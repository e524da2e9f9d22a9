"""`pseg pack`: what one deployment needs of a bundle, as a slim bundle or as a plain ONNX file."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from converters.deployment import Deployment, write_plain_onnx, write_slim_bundle
from converters.exporting.packing import require_bundle_name
from engine import Bundle, OptionError, open_bundle
from engine.cover.options import CleanupOptions
from engine.segmentation.steps import cleanup_of
from engine.system.text import legible
from engine.transforms import MAX_SIDE
from service.commands.flags import with_flags
from service.commands.terminal import BundleArgument, JsonOption, print_json, tell
from service.request import THE_BUNDLE, require_apart, require_writable_file, written_by

_ONNX = ".onnx"


@with_flags()
def pack(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Option(help="File to write. The bundle itself is not changed.")],
    deployment: Annotated[Deployment, typer.Option("--for", help="What the deployment runs: the model that is kept.")],
    cleanup: CleanupOptions,
    kind: Annotated[
        Literal["bundle", "onnx"],
        typer.Option("--as", help="A slim bundle, or a plain ONNX file with its metadata for other programs."),
    ] = "bundle",
    side: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_SIDE,
            help="With --as onnx: fix the input to a batch of one with this height and width, in pixels.",
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Write a copy of a bundle that holds only what one deployment runs, or its model as an ONNX file.

    Options of the clean-up are written into meta.json, and apply to the masks of everybody who gives no other options.
    """
    require_apart(written_by({"--out": out}), {THE_BUNDLE: [bundle]})
    if kind == "onnx" and out.suffix.lower() != _ONNX:
        raise OptionError(f"{out}: an ONNX file is written: give a name that ends in {_ONNX}", option="out")
    if kind == "bundle":
        require_bundle_name(out)
        if side is not None:
            raise OptionError("a bundle takes images of every size: it needs --as onnx", option="side")
    require_writable_file(out)
    notes: tuple[str, ...] = ()
    with open_bundle(bundle) as opened:
        source = opened.digest
        opened = _with_cleanup(opened, cleanup)
        if kind == "onnx":
            write_plain_onnx(opened, deployment, out, side)
        else:
            notes = write_slim_bundle(opened, deployment, out).notes
    size_bytes = out.stat().st_size
    if json_output:
        print_json(
            {
                "out": str(out),
                "for": deployment,
                "as": kind,
                "derived_from": source,
                "bytes": size_bytes,
                "notes": notes,
            }
        )
        return
    tell(f"{legible(str(out))}: {deployment}, {size_bytes / 2**20:.1f} MiB")
    for note in notes:
        tell(f"note: {legible(note)}")


def _with_cleanup(bundle: Bundle, asked: CleanupOptions) -> Bundle:
    earlier = cleanup_of(bundle).stated()
    if asked.ignore_bundle_cleanup and not earlier:
        raise OptionError("the bundle states no clean-up: leave it out", option="ignore_bundle_cleanup")
    kept = {} if asked.ignore_bundle_cleanup else earlier
    changed = replace(bundle, cleanup={**kept, **asked.stated()})
    cleanup_of(changed)
    return changed
