"""PaddleSeg network in, model bundle out.

The program is exported the way PaddleSeg's own ``tools/export.py`` does it: the network and its last operator in one
layer, traced with free axes, saved by Paddle 3 as a PIR program (``model.json``). The archive is the same bytes
whenever program and weights are: members sorted, no times, no owners.
"""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Paddle ships no type information.

import json
import re
import shutil
import sysconfig
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from converters.packing import pack
from engine.errors import ConversionError

if TYPE_CHECKING:
    from paddle import Tensor
    from paddle.nn import Layer

OutputOp = Literal["none", "softmax", "argmax"]
Color = tuple[int, int, int]
Transform = Mapping[str, object]
"""One entry of ``transforms`` in deploy.yaml: ``{"type": "Normalize"}`` with its arguments beside it."""

PROGRAM, WEIGHTS, DEPLOY, META = "model.json", "model.pdiparams", "deploy.yaml", "meta.json"
_ARCHIVE_ENDINGS = (".tgz", ".tar.gz")
_PUBLIC_FILE, _PUBLIC_FOLDER = 0o644, 0o755


@dataclass(frozen=True, slots=True)
class ExportClass:
    """A class of the network, in the order of its output channels.

    Attributes:
        name: What people call it; its identifier in ``meta.json`` is made from it.
        color: ``def_color``, RGB, 0-255; None leaves it out, and the reader's palette decides.
    """

    name: str
    color: Color | None = None

    @property
    def urn(self) -> str:
        """The identifier in ``meta.json``.

        >>> ExportClass("Other bottom").urn
        'urn:ibenthos:segmentation:class:other-bottom'
        """
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return f"urn:ibenthos:segmentation:class:{slug}"


def export_bundle(
    network: "Layer",
    destination: Path,
    *,
    name: str,
    classes: Sequence[ExportClass],
    transforms: Sequence[Transform] | None,
    output_op: OutputOp = "none",
    input_shape: Sequence[int | None] = (None, 3, None, None),
    model_record: Mapping[str, object] | None = None,
) -> Path:
    """Export a PaddleSeg network as a bundle, in one step: the destination is whole or absent.

    Args:
        network: A network as PaddleSeg builds it: float32 NCHW in, a list of logits (float32 NCHW) out, of which the
            first counts. Its mode (training or evaluation) is the same afterwards.
        destination: Archive to write if the name ends in ``.tgz`` or ``.tar.gz``, replacing what is there; otherwise a
            folder, which must be absent or empty.
        name: Name of the model in ``meta.json``.
        classes: The classes, in the order of the output channels.
        transforms: ``transforms`` of ``deploy.yaml``, in order; None is written as null.
        output_op: What the program ends in: ``none`` gives logits (float32 NCHW), ``softmax`` probabilities (float32
            NCHW), ``argmax`` class indices (int32 NHW).
        input_shape: NCHW; None is a free axis.
        model_record: What ``meta.json`` says in ``model`` about the model's origin.

    Returns:
        The destination.

    Raises:
        ConversionError: If the destination is a folder with files in it, or Paddle cannot trace the network, or a path
            of this machine would stay in the program.
    """
    archived = destination.name.endswith(_ARCHIVE_ENDINGS)
    if not archived and destination.exists() and (destination.is_file() or any(destination.iterdir())):
        raise ConversionError(
            f"{destination}: not an empty folder; remove it or name an archive ({_ARCHIVE_ENDINGS[0]})"
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    # The staging folder lies beside the destination: only within one file system is os.replace a single step.
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        folder = staging / "bundle"
        folder.mkdir()
        _save_program(network, folder, output_op, input_shape)
        _refuse_local_paths(folder / PROGRAM)
        (folder / DEPLOY).write_text(_deploy_text(transforms, output_op, input_shape), encoding="utf-8")
        (folder / META).write_text(_meta_text(name, classes, input_shape, model_record or {}), encoding="utf-8")
        if archived:
            pack({path.name: path for path in folder.iterdir()}, destination)
        else:
            _open_to_all(folder)
            folder.replace(destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return destination


def _save_program(network: "Layer", folder: Path, output_op: OutputOp, input_shape: Sequence[int | None]) -> None:
    """Trace the network in evaluation mode and write ``model.json`` and ``model.pdiparams``."""
    import paddle

    finish = _output_operator(output_op)

    class Deployed(paddle.nn.Layer):
        """The network with its output operator."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        # to_static looks for a receiver of the name self: a bound function or a closure would not do.
        def forward(self, x: "Tensor") -> "Tensor":
            """Return the first output, float32 NCHW or int32 NHW, of ``x``, float32 NCHW."""
            outputs = self.network(x)
            return finish(outputs[0] if isinstance(outputs, list | tuple) else outputs)

    with _evaluation_mode(network):
        deployed = Deployed()
        deployed.eval()
        spec = paddle.static.InputSpec(list(input_shape), "float32", "x")
        try:
            program = paddle.jit.to_static(deployed, input_spec=[spec], full_graph=True)
            paddle.jit.save(program, str(folder / Path(PROGRAM).stem))
        except Exception as error:
            raise ConversionError(
                f"{type(network).__name__}: Paddle cannot export it with input {list(input_shape)}: {error}"
            ) from error
    if not (folder / PROGRAM).is_file():
        raise ConversionError(f"Paddle wrote no {PROGRAM}; Paddle 3 with FLAGS_enable_pir_api=1 does")


def _output_operator(output_op: OutputOp) -> "Callable[[Tensor], Tensor]":
    """The function on logits, float32 NCHW, that ends the program."""
    import paddle

    def keep(logits: "Tensor") -> "Tensor":
        return logits

    def softmax(logits: "Tensor") -> "Tensor":
        return paddle.nn.functional.softmax(logits, axis=1)

    def argmax(logits: "Tensor") -> "Tensor":
        return paddle.argmax(logits, axis=1, dtype="int32")

    return {"none": keep, "softmax": softmax, "argmax": argmax}[output_op]


@contextmanager
def _evaluation_mode(network: "Layer") -> Generator[None]:
    modes = [(layer, layer.training) for layer in network.sublayers(include_self=True)]
    network.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def _refuse_local_paths(program: Path) -> None:
    """Raise if the program carries a path of this machine: traces of Paddle 2 did, in call stacks."""
    content = program.read_bytes()
    for place in (str(Path.cwd()), sysconfig.get_path("purelib"), str(Path.home())):
        if len(place) > 1 and json.dumps(place)[1:-1].encode() in content:
            raise ConversionError(
                f"{program.name}: the exporting machine's path {place} stays in the program; strip it first"
            )


def _deploy_text(transforms: Sequence[Transform] | None, output_op: OutputOp, input_shape: Sequence[int | None]) -> str:
    deploy = {
        "model": PROGRAM,
        "params": WEIGHTS,
        "transforms": None if transforms is None else [dict(transform) for transform in transforms],
        "input_shape": list(input_shape),
        "output_op": output_op,
        "output_dtype": "int32" if output_op == "argmax" else "float32",
    }
    return yaml.safe_dump({"Deploy": deploy}, sort_keys=False, default_flow_style=None)


def _meta_text(
    name: str, classes: Sequence[ExportClass], input_shape: Sequence[int | None], model_record: Mapping[str, object]
) -> str:
    entries: list[dict[str, Any]] = []
    for entry in classes:
        color = {} if entry.color is None else {"def_color": list(entry.color)}
        entries.append({"id": entry.urn, "name": entry.name, **color})
    meta = {
        "$schema": "urn:ibenthos:schema:paddle.seg.model.1",
        "name": name,
        "model": dict(model_record),
        "classes": entries,
        "shape": list(input_shape),
    }
    return json.dumps(meta, indent=2) + "\n"


def _open_to_all(folder: Path) -> None:
    """Give a folder made by mkdtemp's rules the usual rights."""
    folder.chmod(_PUBLIC_FOLDER)
    for path in folder.iterdir():
        path.chmod(_PUBLIC_FILE)
