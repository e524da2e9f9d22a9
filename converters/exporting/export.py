"""PaddleSeg network in, model bundle out."""

# The program is exported the way PaddleSeg's own ``tools/export.py`` does it: the network and its last operator in one
# layer, traced with free axes, saved by Paddle 3 as a PIR program (``model.json``). The archive is the same bytes
# whenever program and weights are: members sorted, no times, no owners. (Paddle numbers what it traces, so a second
# export in one process is another program.)
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Paddle ships no type information.

import json
import sysconfig
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from converters.exporting.adapters import Adapter, adapted, adapters_for, fixed_axes
from converters.exporting.bundle_files import (
    DEPLOY,
    FREE_AXES,
    META,
    WEIGHTS,
    Description,
    ExportClass,
    bundle_in_one_step,
    deploy_text,
    meta_record,
    meta_text,
)
from engine.errors import ConversionError

if TYPE_CHECKING:
    from paddle import Tensor
    from paddle.nn import Layer

OutputOp = Literal["none", "softmax", "argmax"]
Transform = Mapping[str, object]
"""One entry of ``transforms`` in deploy.yaml: ``{"type": "Normalize"}`` with its arguments beside it."""

PROGRAM = "model.json"
_AXES = ("N", "C", "H", "W")


def export_bundle(
    network: "Layer",
    destination: Path,
    *,
    name: str,
    classes: Sequence[ExportClass],
    transforms: Sequence[Transform] | None,
    output_op: OutputOp = "none",
    input_shape: Sequence[int | None] = FREE_AXES,
    model_record: Mapping[str, object] | None = None,
) -> Path:
    """Export a PaddleSeg network as a bundle, in one step: the destination is whole or absent.

    The network, as PaddleSeg builds it, takes float32 NCHW and returns a list of logits (float32 NCHW), of which the
    first counts; its mode (training or evaluation) is the same afterwards. `classes` are in the order of the output
    channels, `transforms` those of ``deploy.yaml``, in order; None is written as null. The program ends in `output_op`:
    ``none`` gives logits, ``softmax`` probabilities (float32 NCHW), ``argmax`` class indices (int32 NHW). In
    `input_shape`, NCHW, None is a free axis. `model_record` is what ``meta.json`` says in ``model`` about the model's
    origin; its ``license`` is the bundle's.

    Raises ConversionError where the destination is not what `require_free` allows, Paddle cannot trace the network, or
    a path of this machine would stay in the program.
    """
    with bundle_in_one_step(destination) as folder:
        write_files(
            network,
            folder,
            Description(name, classes, model_record or {}),
            transforms=transforms,
            output_op=output_op,
            input_shape=input_shape,
        )
    return destination


def write_files(
    network: "Layer",
    folder: Path,
    description: Description,
    *,
    transforms: Sequence[Transform] | None,
    output_op: OutputOp,
    input_shape: Sequence[int | None],
) -> tuple[Adapter, ...]:
    """Export a PaddleSeg network as the files of a bundle; arguments and errors as of `export_bundle`.

    Returns the adapters that it needed, which are also added to ``adapters`` of the description's model.
    """
    adapters = adapters_for(network)
    input_shape = _input_shape(input_shape, network, adapters)
    _save_program(network, folder, output_op, input_shape, adapters)
    record = dict(description.model_record)
    if adapters:
        before = cast("list[object]", record.get("adapters", []))
        record["adapters"] = [*before, *(each.record for each in adapters)]
    _refuse_local_paths(folder / PROGRAM)
    deploy = {
        "model": PROGRAM,
        "params": WEIGHTS,
        "transforms": None if transforms is None else [dict(transform) for transform in transforms],
        "input_shape": list(input_shape),
        "output_op": output_op,
        "output_dtype": "int32" if output_op == "argmax" else "float32",
    }
    (folder / DEPLOY).write_text(deploy_text({"Deploy": deploy}), encoding="utf-8")
    (folder / META).write_text(
        meta_text(meta_record(replace(description, model_record=record), input_shape)), encoding="utf-8"
    )
    return adapters


def _input_shape(asked: Sequence[int | None], network: "Layer", adapters: Sequence[Adapter]) -> Sequence[int | None]:
    """NCHW of the program, with the sizes that adapters fix."""
    shape = list(asked)
    for axis, size in fixed_axes(network, adapters).items():
        if shape[axis] not in {None, size}:
            raise ConversionError(
                f"input-shape asks for {_AXES[axis]} {shape[axis]}, and this network is exported for {size} only: "
                f"give {size}, or -1"
            )
        shape[axis] = size
    return shape


def _save_program(
    network: "Layer",
    folder: Path,
    output_op: OutputOp,
    input_shape: Sequence[int | None],
    adapters: Sequence[Adapter],
) -> None:
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

    with _evaluation_mode(network), adapted(network, adapters):
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
