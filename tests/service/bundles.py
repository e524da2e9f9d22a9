"""Bundles that need no Paddle to be made or run: the network is one 1×1 convolution that finds the strongest band."""

# onnx's generated message types are not known to pyright.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx.helper as make
import yaml

from converters.exporting.packing import pack

NORMALIZE: Sequence[Mapping[str, Any]] = ({"type": "Normalize", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},)
CLASSES: Sequence[Mapping[str, Any]] = (
    {"id": "urn:ibenthos:segmentation:class:red", "name": "red", "def_color": [200, 10, 10]},
    {"id": "urn:ibenthos:segmentation:class:green", "name": "green", "def_color": [10, 200, 10]},
    {"id": "urn:ibenthos:segmentation:class:blue", "name": "blue", "def_color": [10, 10, 200]},
)


def strongest_band_network(
    height: int | None = None, width: int | None = None, bands: int = 3, classes: int | None = None, opset: int = 17
) -> bytes:
    """An ONNX network whose logits are the bands: class 0 where red is strongest, 1 for green, 2 for blue.

    The logits of classes beyond the bands are 0: where every band is negative, they are the strongest.
    """
    kind = onnx.TensorProto.FLOAT
    classes = classes or bands
    identity = [float(row == column) for row in range(classes) for column in range(bands)]
    graph = make.make_graph(
        [make.make_node("Conv", ["x", "weights"], ["logits"], kernel_shape=[1, 1])],
        "strongest band",
        [make.make_tensor_value_info("x", kind, [None, bands, height, width])],
        [make.make_tensor_value_info("logits", kind, [None, classes, height, width])],
        [make.make_tensor("weights", kind, [classes, bands, 1, 1], identity)],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def bundle_folder(
    folder: Path,
    *,
    transforms: Sequence[Mapping[str, Any]] | None = NORMALIZE,
    classes: Sequence[Mapping[str, Any]] | None = CLASSES,
    network: bytes | None = None,
) -> Path:
    """Write the files of a bundle; `b""` as the network leaves the network out."""
    onnx_file = folder / "onnx" / "fp32" / "model.onnx"
    onnx_file.parent.mkdir(parents=True)
    deploy = {"transforms": None if transforms is None else [dict(each) for each in transforms], "output_op": "none"}
    (folder / "deploy.yaml").write_text(yaml.safe_dump({"Deploy": deploy}))
    meta: dict[str, Any] = {"$schema": "urn:ibenthos:schema:paddle.seg.model.1", "name": "strongest-band"}
    if classes is not None:
        meta["classes"] = [dict(each) for each in classes]
    (folder / "meta.json").write_text(json.dumps(meta))
    content = strongest_band_network() if network is None else network
    if content:
        onnx_file.write_bytes(content)
    return folder


def packed(folder: Path, destination: Path) -> Path:
    """Pack the files of a bundle into an archive."""
    pack({path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}, destination)
    return destination
