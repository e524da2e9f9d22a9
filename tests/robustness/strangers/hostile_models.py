"""Makers of bundles whose archive is fine and whose model is not: made on purpose, cut short, or with flipped bits."""

# onnx's generated message types are not known to pyright.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false

import json
import random
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.robustness.strangers.hostile import Hostile, deploy, good_files, tgz

DEMO = Path(__file__).parents[3] / "demo" / "demo_seagrass.tgz"
FLIPPED_BITS = (1, 1, 1, 2, 4, 8, 16, 64)
ONNX_FILE = r"onnx/fp32/model\.onnx"


# ---- ONNX, made on purpose --------------------------------------------------------------------------------------


def network(
    nodes: Sequence[Any],
    tensors: Sequence[Any] = (),
    *,
    functions: Sequence[Any] = (),
    domains: Sequence[str] = (),
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """From `x` to `y`."""
    graph = helper.make_graph(
        list(nodes),
        "network",
        [helper.make_tensor_value_info("x", kind, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(tensors),
    )
    operator_sets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=operator_sets, functions=list(functions), ir_version=8)


def adding(*nodes: Any, tensors: Sequence[Any] = (), weights: str = "w") -> onnx.ModelProto:
    """The sum of a tensor is added to the image."""
    summed = helper.make_node("ReduceSum", [weights], ["sum"], keepdims=0)
    return network([*nodes, summed, helper.make_node("Add", ["x", "sum"], ["y"])], tensors)


def constant(name: str, values: Any, kind: type[np.generic] = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.array(values, kind), name)


def elsewhere(location: str, **entries: int) -> onnx.ModelProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[16], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return adding(tensors=[tensor])


def claiming(*dims: int) -> onnx.ModelProto:
    """Weights that claim a shape and hold four bytes."""
    return adding(tensors=[TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"1234")])


def sparse(position: int, size: int) -> onnx.ModelProto:
    model = adding()
    model.graph.sparse_initializer.add(
        values=constant("w", [1], np.float32), indices=constant("at", [position]), dims=[size]
    )
    return model


def function(name: str, *called: str) -> onnx.FunctionProto:
    """A function of this model that calls others, one after the other."""
    values = ["a", *(f"v{index}" for index in range(len(called) - 1)), "b"]
    nodes = [helper.make_node(each, [values[i]], [values[i + 1]], domain="own") for i, each in enumerate(called)]
    nodes = nodes or [helper.make_node("Relu", ["a"], ["b"])]
    return helper.make_function(
        "own", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    )


def calling(name: str, *functions: Any) -> onnx.ModelProto:
    return network([helper.make_node(name, ["x"], ["y"], domain="own")], functions=functions, domains=["own"])


def endless_loop() -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Identity", ["a"], ["b"])],
        "body",
        [info("turn", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), info("a", TensorProto.FLOAT, None)],
        [info("goes", TensorProto.BOOL, []), info("b", TensorProto.FLOAT, None)],
    )
    loop = helper.make_node("Loop", ["turns", "go", "x"], ["y"], body=body)
    return network([loop], [constant("turns", 2**62), constant("go", True, np.bool_)])


def of_shape(*shape: int) -> onnx.ModelProto:
    return adding(helper.make_node("ConstantOfShape", ["shape"], ["w"]), tensors=[constant("shape", shape)])


def one_node(kind: str, *tensors: TensorProto, domain: str = "", **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(kind, ["x", *(each.name for each in tensors)], ["y"], domain=domain, **attributes)
    return network([node], tensors, domains=[domain] if domain else [])


def nested_graphs(levels: int) -> bytes:
    """Graphs within graphs, written by hand, because the onnx package refuses to."""

    def varint(value: int) -> bytes:
        low = value & 0x7F
        return bytes([low]) if value == low else bytes([low | 0x80]) + varint(value >> 7)

    graph = b""
    for _ in range(levels):
        for number in (6, 5, 1):  # graph of an attribute, attribute of a node, node of a graph
            graph = varint(number << 3 | 2) + varint(len(graph)) + graph
    return varint(7 << 3 | 2) + varint(len(graph)) + graph


def with_onnx(content: bytes) -> bytes:
    return tgz(files={**good_files(), "onnx/fp32/model.onnx": content})


def onnx_of(
    name: str, make: Callable[[], onnx.ModelProto | bytes], message: str = "", *, may_open: bool = False
) -> Hostile:
    def content() -> bytes:
        model = make()
        return with_onnx(model if isinstance(model, bytes) else model.SerializeToString())

    return Hostile(f"ONNX: {name}", content, ONNX_FILE + f".*{message}", "onnx", may_open)


def paddle_of(operator: str) -> Hostile:
    """A PIR program with one operator more, which does more than compute."""

    def content() -> bytes:
        files = {name: each for name, each in files_of(DEMO).items() if not name.startswith("onnx/")}
        program = json.loads(files["model.json"])
        (block,) = program["program"]["regions"][0]["blocks"]
        block["ops"].insert(-1, {"#": operator, "A": [], "I": [], "O": [], "OA": []})
        return tgz(files={**files, "model.json": json.dumps(program).encode()})

    name = re.escape(operator)
    return Hostile(f"Paddle: {operator}", content, f"model\\.json holds the operator '{name}'", "paddle")


OTHER_FILES = "keeps tensors in other files"
EVIL = {"library": "./evil.so", "custom_op_library": "./evil.so"}
QUICK = [
    onnx_of("weights in a file above", lambda: elsewhere("../../../../../../etc/passwd"), OTHER_FILES),
    onnx_of("an operator from a library", lambda: one_node("Evil", domain="evil.example", **EVIL), "Evil"),
    onnx_of("weights of 10^9 values that are not there", lambda: claiming(10**9)),
    onnx_of("a tensor of 10^9 values a side", lambda: of_shape(10**9, 10**9)),
    onnx_of("graphs in graphs, 5000 deep", lambda: nested_graphs(5_000), "damaged"),
]
ON_PURPOSE = [
    onnx_of("weights by a whole path", lambda: elsewhere("/etc/passwd"), OTHER_FILES),
    onnx_of("weights in a device", lambda: elsewhere("/dev/zero"), OTHER_FILES),
    onnx_of("weights in another file of the bundle", lambda: elsewhere("../../deploy.yaml"), OTHER_FILES),
    onnx_of("weights at an address", lambda: elsewhere("*/_ORT_MEM_ADDR_/*", offset=4096, length=64), OTHER_FILES),
    onnx_of("an operator that runs Python", lambda: one_node("PyOp", domain="pyopadd", module="os"), "PyOp"),
    onnx_of("weights of 10^27 values", lambda: claiming(10**9, 10**9, 10**9)),
    onnx_of("weights of -5 values", lambda: claiming(-5)),
    onnx_of("8 GB of zeros", lambda: of_shape(2 * 10**9), "ConstantOfShape"),
    onnx_of("a tensor of 2^62 values", lambda: of_shape(2**62)),
    onnx_of("tiles of 40 GB", lambda: one_node("Tile", constant("by", [1, 1, 1, 200_000])), "Tile"),
    onnx_of("a frame of 2^62 pixels", lambda: one_node("Pad", constant("by", [0] * 6 + [2**62] * 2))),
    onnx_of(
        "an image 10^18 times as large", lambda: one_node("Upsample", constant("by", [1, 1, 1e9, 1e9], np.float32))
    ),
    onnx_of("a value from beyond a tensor", lambda: one_node("Gather", constant("at", [2**40]))),
    onnx_of("a shape of 2^64", lambda: one_node("Reshape", constant("to", [2**62, 4]))),
    onnx_of(
        "groups without end", lambda: one_node("Conv", constant("w", np.zeros((4, 3, 3, 3)), np.float32), group=2**31)
    ),
    onnx_of("steps of 0", lambda: one_node("MaxPool", kernel_shape=[3, 3], strides=[0, 0])),
    onnx_of("blocks of 0", lambda: one_node("SpaceToDepth", blocksize=0)),
    onnx_of(
        "texts for an image", lambda: network([helper.make_node("Identity", ["x"], ["y"])], kind=TensorProto.STRING)
    ),
    onnx_of("a sparse value from beyond", lambda: sparse(2**40, 4)),
    onnx_of("a sparse tensor of 10^10", lambda: sparse(0, 10**10)),
    onnx_of("a function that calls itself", lambda: calling("F", function("F", "F"))),
    onnx_of("functions that call each other", lambda: calling("F", function("F", "G"), function("G", "F"))),
    onnx_of(
        "functions of 2^40 nodes",
        lambda: calling("F40", function("F0"), *(function(f"F{n}", *[f"F{n - 1}"] * 2) for n in range(1, 41))),
    ),
    onnx_of("a loop without end", endless_loop, "did not finish loading"),
    onnx_of(
        "a circle",
        lambda: network(
            [
                helper.make_node("Add", ["x", "b"], ["a"]),
                helper.make_node("Relu", ["a"], ["b"]),
                helper.make_node("Identity", ["a"], ["y"]),
            ]
        ),
    ),
    onnx_of(
        "a compiled model in a file above",
        lambda: one_node("EPContext", domain="com.microsoft", embed_mode=0, ep_cache_context="../../../etc/passwd"),
    ),
    onnx_of("nothing", lambda: b"", "is empty"),
    onnx_of("a number without end", lambda: b"\xff" * 4_000, "damaged"),
    onnx_of("graphs in graphs, 10^5 deep", lambda: nested_graphs(30_000), "damaged"),
]

MORE_THAN_ARITHMETIC = [
    paddle_of(each)
    for each in (
        "1.save_combine", "1.load_combine", "1.read_file", "1.print", "1.check_numerics", "1.py_func", "1.run_program",
        "1.tensorrt_engine", "1.send_v2", "1.ap_variadic", "pd_op.save_combine", "3.custom", "cinn_op.add",
    )
]  # fmt: skip

# ---- cut short, flipped -----------------------------------------------------------------------------------------


@cache
def files_of(archive: Path) -> dict[str, bytes]:
    """The files of a bundle."""
    with tarfile.open(archive) as opened:
        streams = [(each.name.removeprefix("./"), opened.extractfile(each)) for each in opened]
        return {name: stream.read() for name, stream in streams if stream is not None}


def spoiled(archive: Path, file: str, what: str, content: Callable[[bytes], bytes], *, may_open: bool) -> Hostile:
    """A bundle whose one file is spoiled; what the other runtime runs is left out."""
    onnx_runs = file.endswith(".onnx")

    def make() -> bytes:
        kept = {name: each for name, each in files_of(archive).items() if name.startswith("onnx/") == onnx_runs}
        if onnx_runs:
            kept["deploy.yaml"] = deploy()
        else:
            kept["deploy.yaml"] = files_of(archive)["deploy.yaml"]
        return tgz(files={**kept, file: content(kept[file])})

    message = file.rpartition("/")[2].replace(".", r"\.")
    return Hostile(f"{archive.stem}: {file} {what}", make, message, "onnx" if onnx_runs else "paddle", may_open)


def shortened(archive: Path, file: str) -> Iterator[Hostile]:
    """Cut at every tenth of the length, and one byte before the end."""

    def cut(tenths: int) -> Callable[[bytes], bytes]:
        return lambda content: content[: len(content) * tenths // 10 if tenths < 10 else -1]

    for tenths in range(11):
        what = f"cut at {tenths} tenths" if tenths < 10 else "without its last byte"
        yield spoiled(archive, file, what, cut(tenths), may_open=False)


def flipped(archive: Path, file: str) -> Iterator[Hostile]:
    """Some bits flipped, always the same ones."""

    def flip(seed: int, bits: int) -> Callable[[bytes], bytes]:
        def changed(content: bytes) -> bytes:
            chance, spoilt = random.Random(seed), bytearray(content)  # noqa: S311 - the same every time
            for _ in range(bits):
                spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
            return bytes(spoilt)

        return changed

    for seed, bits in enumerate(FLIPPED_BITS):
        yield spoiled(archive, file, f"with {bits} flipped bits ({seed})", flip(seed, bits), may_open=True)
