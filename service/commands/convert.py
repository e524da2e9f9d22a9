"""`pseg convert`: a bundle that also holds ONNX."""

import json
from pathlib import Path
from typing import Annotated

import typer

from converters.conversion import convert as convert_bundle
from converters.conversion import write_bundle
from converters.paddle_to_onnx import OPSET
from engine import OptionError, open_bundle
from service.commands.terminal import (
    BundleArgument,
    CacheOption,
    JsonOption,
    errors_end_the_command,
    messages,
    print_json,
)
from service.request import require_writable_file
from service.session import caches_at


def convert(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Option(help="the archive to write; the bundle itself is not changed")],
    opset: Annotated[int, typer.Option(help="ONNX operator set")] = OPSET,
    json_output: JsonOption = False,
    cache_dir: CacheOption = None,
) -> None:
    """Write a copy of a bundle that also holds onnx/fp32/model.onnx."""
    with errors_end_the_command():
        require_writable_file(out)
        if out.resolve() == bundle.resolve():
            raise OptionError(
                f"{out} is the bundle itself, which is never changed in place: name another file with --out"
            )
        with open_bundle(bundle) as opened, messages().status("converting", spinner="line"):
            caches = caches_at(cache_dir)
            conversion = convert_bundle(opened, caches.conversions, opset=opset, ledger=caches.ledger)
            write_bundle(opened, conversion, out)
            size_bytes = conversion.model.path.stat().st_size
            certificate = json.loads(conversion.certificate.read_text())
    if json_output:
        record = {"bundle": str(out), "precision": conversion.model.precision, "opset": opset, "size_bytes": size_bytes}
        print_json({**record, "parity": certificate})
    else:
        typer.echo(
            f"{out}: onnx/{conversion.model.precision}/model.onnx, {size_bytes / 1e6:.1f} MB, opset {opset}, "
            f"{certificate['mismatched_ppm']:.1f} mismatched pixels per million against Paddle"
        )
