"""`pseg export`: what PaddleSeg trained becomes a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from converters.exporting.bundle_files import side_file_of
from converters.exporting.cv_config import CvConfig, read_cv_config
from converters.exporting.export import OutputOp
from converters.exporting.paddleseg_config import export_config
from engine import OptionError
from engine.system.text import legible
from service.commands.bundle_facts import as_flags
from service.commands.terminal import CvConfigOption, JsonOption, errors_end_the_command, messages, print_json, tell
from service.request import require_apart, require_writable, written_by

_FREE = -1


def export(
    out: Annotated[Path, typer.Option(help="Bundle to write: a .tgz archive or a new folder.")],
    config: Annotated[
        Path | None,
        typer.Option(help="Training configuration of PaddleSeg, .yml. By default the one that --cv-config names."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Trained weights, .pdparams. By default those that --cv-config names.")
    ] = None,
    cv_config: CvConfigOption = None,
    output_op: Annotated[
        OutputOp,
        typer.Option(
            help="Last operator of the program. none gives logits, with which borders of masks are finer and tiles "
            "can be blended."
        ),
    ] = "none",
    input_shape: Annotated[
        tuple[int, int, int, int] | None,
        typer.Option(
            metavar="N C H W",
            help="Sizes of the input's axes; -1 leaves an axis free. By default -1 C -1 -1, with C from the "
            "configuration.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model. By default the name of the configuration.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Export a PaddleSeg configuration and its trained weights as a bundle, and run the bundle once."""
    with errors_end_the_command():
        pipeline = read_cv_config(cv_config) if cv_config else CvConfig()
        network, trained = config or pipeline.config, weights or pipeline.weights
        if network is None or trained is None:
            raise OptionError("a configuration and weights are needed: --config CFG.yml and --weights W.pdparams")
        require_apart(
            [*written_by({"--out": out}), ("the file beside the bundle", side_file_of(out))],
            {
                "the configuration": [network],
                "the weights": [trained],
                "the file of --cv-config": [cv_config] if cv_config else [],
            },
        )
        require_writable(out.parent)
        with messages().status("exporting", spinner="line"):
            exported = export_config(
                network,
                trained,
                out,
                name=name,
                classes=pipeline.classes,
                output_op=output_op,
                input_shape=_axes(input_shape),
                multilabel=pipeline.multilabel,
            )
    if json_output:
        adapters = [each.record for each in exported.adapters]
        print_json(
            {
                "bundle": str(out),
                "side_file": str(exported.side_file),
                "adapters": adapters,
                "evaluation": exported.evaluation,
            }
        )
    else:
        tell(legible(f"{out}: written, and run once; {exported.side_file} describes it"))
        for each in exported.adapters:
            tell(legible(f"changed for the export: {each.name}: {each.reason}"))
        if exported.evaluation:
            tell(
                f"PaddleSeg evaluates this network with {as_flags(exported.evaluation)}; pseg predict does so only if "
                "it is given these options"
            )


def _axes(numbers: tuple[int, int, int, int] | None) -> tuple[int | None, ...] | None:
    """NCHW as the exporter takes it; None where nothing is asked for."""
    if numbers is None:
        return None
    if numbers[1] == _FREE or not all(each == _FREE or each > 0 for each in numbers):
        raise OptionError(
            f"--input-shape {' '.join(map(str, numbers))}: four numbers N C H W, of which N, H and W may be -1 (free)"
        )
    return tuple(None if each == _FREE else each for each in numbers)
