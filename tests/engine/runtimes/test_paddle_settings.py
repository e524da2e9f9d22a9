"""What is called on Paddle's configuration, checked without a GPU, and what is read from a program's text."""
# pyright: reportPrivateUsage=false

import importlib
import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.bundle.bundle import PaddleModel, ProgramKind
from engine.errors import ModelLoadError, OptionError
from engine.options import (
    Device,
    DynamicShapeProfile,
    GpuOptions,
    PaddleOptions,
    Precision,
    ShapeRange,
    TensorRtFiles,
    TensorRtPreparation,
)
from engine.runtimes import TensorSpec
from engine.runtimes import paddle as paddle_runtime
from engine.runtimes.paddle import (
    ConfigCall,
    PirTensorRtArguments,
    PrecisionMode,
    calibration_tables,
    configuration,
    engine_key,
    keep_program,
    pir_tensorrt_arguments,
    prepare_calibration,
)
from engine.runtimes.programs.paddle_programs import pir_tensor_specs

SEEN = ShapeRange((1, 3, 256, 256), (1, 3, 512, 640), (4, 3, 1024, 1024))
PROFILE = DynamicShapeProfile((("x", SEEN),))
RANGES = Path("/cache/ranges.pbtxt")
CACHE = Path("/cache/engines")
GPU: dict[str, Any] = {"device": Device.GPU}
TRT: dict[str, Any] = {**GPU, "tensorrt": True, "tensorrt_files": TensorRtFiles(PROFILE)}


def files(*, shapes: DynamicShapeProfile | None = PROFILE, **named: Path) -> dict[str, Any]:
    """The option that names what TensorRT is given."""
    return {"tensorrt_files": TensorRtFiles(shapes, **named)}


Call = tuple[Any, ...]
OPTIMISED: list[Call] = [("switch_ir_optim", True), ("enable_memory_optim",)]
PIR: list[Call] = [("enable_new_executor",), ("enable_new_ir", True)]
FLOAT32, HALF, INT8 = PrecisionMode("Float32"), PrecisionMode("Half"), PrecisionMode("Int8")
ON_GPU: Call = ("enable_use_gpu", 256, 0, FLOAT32)
SHAPES: Call = (
    "set_trt_dynamic_shape_info",
    {"x": [1, 3, 256, 256]},
    {"x": [4, 3, 1024, 1024]},
    {"x": [1, 3, 512, 640]},
)
TUNED: Call = ("enable_tuned_tensorrt_dynamic_shape", "/cache/ranges.pbtxt", True)


def engine(batch: int = 4, nodes: int = 3, mode: PrecisionMode = FLOAT32, static: bool = False) -> Call:
    """The call that turns TensorRT on: calibration goes with INT8 alone."""
    return ("enable_tensorrt_engine", 1 << 30, batch, nodes, mode, static, mode == INT8)


CASES: list[tuple[str, dict[str, Any], ProgramKind, list[Call]]] = [
    (
        "cpu",
        {"threads": 2},
        "pdmodel",
        [("disable_gpu",), ("set_cpu_math_library_num_threads", 2), ("disable_mkldnn",), *OPTIMISED],
    ),
    (
        "cpu, PIR",
        {"threads": 2},
        "pir",
        [("disable_gpu",), ("set_cpu_math_library_num_threads", 2), ("disable_mkldnn",), *OPTIMISED, *PIR],
    ),
    (
        "oneDNN, PIR",
        {"onednn": True, "threads": 8},
        "pir",
        [
            ("disable_gpu",),
            ("set_cpu_math_library_num_threads", 8),
            ("enable_mkldnn",),
            ("set_mkldnn_cache_capacity", 10),
            *OPTIMISED,
            *PIR,
        ],
    ),
    ("gpu", GPU, "pdmodel", [ON_GPU, *OPTIMISED]),
    (
        "gpu, fp16, PIR",
        {**GPU, "precision": Precision.FP16, "device_id": 1},
        "pir",
        [
            ("enable_use_gpu", 256, 1, HALF),
            ("exp_disable_mixed_precision_ops", {"feed", "fetch"}),
            ("set_optimization_level", 3),
            *OPTIMISED,
            *PIR,
        ],
    ),
    ("TensorRT", TRT, "pdmodel", [ON_GPU, *OPTIMISED, engine(), SHAPES]),
    (
        "min_subgraph_size",
        {**TRT, "gpu": GpuOptions(min_subgraph_size=9)},
        "pdmodel",
        [ON_GPU, *OPTIMISED, engine(nodes=9), SHAPES],
    ),
    (
        "TensorRT, fp16",
        {**TRT, "precision": Precision.FP16},
        "pdmodel",
        [ON_GPU, *OPTIMISED, engine(mode=HALF), SHAPES],
    ),
    (
        "TensorRT, int8, kept engines",
        {**TRT, "precision": Precision.INT8, **files(engine_cache=CACHE)},
        "pdmodel",
        [ON_GPU, *OPTIMISED, engine(mode=INT8, static=True), SHAPES],
    ),
    (
        "TensorRT, int8, writing the table",
        {
            **TRT,
            "precision": Precision.INT8,
            **files(engine_cache=CACHE, shape_range_file=RANGES),
            "preparation": TensorRtPreparation.CALIBRATION,
        },
        "pdmodel",
        [ON_GPU, *OPTIMISED, engine(mode=INT8, static=True), TUNED],
    ),
    (
        "TensorRT, fp16, kept engines",
        {**TRT, "precision": Precision.FP16, **files(engine_cache=CACHE)},
        "pdmodel",
        [ON_GPU, *OPTIMISED, engine(mode=HALF, static=True), ("set_optim_cache_dir", "/cache/engines"), SHAPES],
    ),
    (
        "TensorRT, ranges of inner tensors come first",
        {**TRT, **files(shape_range_file=RANGES)},
        "pdmodel",
        [ON_GPU, *OPTIMISED, engine(), TUNED],
    ),
    (
        "TensorRT, ranges alone",
        {**TRT, **files(shapes=None, shape_range_file=RANGES)},
        "pdmodel",
        [ON_GPU, *OPTIMISED, engine(batch=1), TUNED],
    ),
    (
        "collecting runs without TensorRT",
        {
            **TRT,
            **files(shapes=None, shape_range_file=RANGES),
            "preparation": TensorRtPreparation.SHAPE_RANGES,
        },
        "pdmodel",
        [ON_GPU, *OPTIMISED, ("collect_shape_range_info", "/cache/ranges.pbtxt")],
    ),
    *[
        (
            f"TensorRT, PIR, {precision}",
            {**TRT, "precision": precision},
            "pir",
            [ON_GPU, *OPTIMISED, *PIR],
        )
        for precision in (Precision.FP32, Precision.FP16)
    ],
]


@pytest.mark.parametrize(("options", "kind", "calls"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_configuration(options: dict[str, Any], kind: ProgramKind, calls: list[Call]) -> None:
    expected = tuple(ConfigCall(method, arguments) for method, *rest in calls for arguments in [tuple(rest)])
    assert configuration(PaddleOptions(**options, verbose=True), kind) == expected
    assert configuration(PaddleOptions(**options), kind) == (ConfigCall("disable_glog_info"), *expected)


def fits(call: ConfigCall, signature: str) -> bool:
    """Hold the arguments of a call against the signature that Paddle's binding states: `name: type`, `= default`."""
    found = re.match(rf"{call.method}\(self: [\w.]+(?:, )?(.*)\) -> None", signature)
    assert found is not None, signature
    stated = re.findall(r"(?:^|, )\w+: ([\w.]+)(?:\[.*?\]+)?( = )?", found[1])
    kinds = [kind.rpartition(".")[2] for kind, _ in stated]
    required = [default for _, default in stated].count("")
    given = [{"PrecisionMode": "Precision"}.get(type(each).__name__, type(each).__name__) for each in call.arguments]
    alike = all(kind == of or (kind, of) == ("bool", "int") for kind, of in zip(given, kinds, strict=False))
    return required <= len(given) <= len(kinds) and alike


@pytest.mark.parametrize("arguments", [(), ("256", 0), (256, 0, 1, 2)])
def test_a_call_that_does_not_fit_is_seen(arguments: tuple[object, ...]) -> None:
    signature = "enable_use_gpu(self: paddle.Config, memory_pool_init_size_mb: int, device_id: int = 0) -> None"
    assert fits(ConfigCall("enable_use_gpu", (256, 0)), signature)
    assert not fits(ConfigCall("enable_use_gpu", arguments), signature)


def test_the_installed_paddle_knows_every_call() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inference: Any = importlib.import_module("paddle.inference")
    calls = [call for _, options, kind, _ in CASES for call in configuration(PaddleOptions(**options), kind)]
    assert [call for call in calls if not fits(call, getattr(inference.Config, call.method).__doc__)] == []
    modes = {each.name for call in calls for each in call.arguments if isinstance(each, PrecisionMode)}
    assert modes == {"Float32", "Half", "Int8"}
    assert [mode for mode in modes if not hasattr(inference.PrecisionType, mode)] == []


def test_tensorrt_needs_shapes() -> None:
    options = PaddleOptions(device=Device.GPU, tensorrt=True)
    with pytest.raises(OptionError, match=r"TensorRT needs to know the shapes.*ask for auto-tune-shapes"):
        configuration(options, "pdmodel")
    with pytest.raises(OptionError, match=r"TensorRT needs to know the shapes.*ask for auto-tune-shapes"):
        pir_tensorrt_arguments(options)


@pytest.mark.parametrize(("precision", "mode"), [(Precision.FP32, "FP32"), (Precision.FP16, "FP16")])
def test_a_pir_program_is_converted_for_tensorrt(precision: Precision, mode: str) -> None:
    options = PaddleOptions(**TRT, precision=precision, gpu=GpuOptions(min_subgraph_size=5))
    assert pir_tensorrt_arguments(options) == PirTensorRtArguments(
        inputs=(
            {
                "name": "x",
                "min_input_shape": (1, 3, 256, 256),
                "optim_input_shape": (1, 3, 512, 640),
                "max_input_shape": (4, 3, 1024, 1024),
                "input_data_type": "float32",
            },
        ),
        min_subgraph_size=5,
        precision_mode=mode,
        workspace_size=1 << 30,
    )


# ---- the calibration table of INT8 ----


def test_a_pir_program_takes_no_calibration_table() -> None:
    options = PaddleOptions(**TRT | files(engine_cache=CACHE), precision=Precision.INT8)
    for refused in (lambda: configuration(options, "pir"), lambda: pir_tensorrt_arguments(options)):
        with pytest.raises(OptionError, match=r"calibration table for a \.pdmodel only.*runtime onnx"):
            refused()


def test_engines_and_tables_are_kept_apart_by_all_that_they_depend_on(tmp_path: Path) -> None:
    ranges, others = tmp_path / "ranges.pbtxt", tmp_path / "others.pbtxt"
    ranges.write_bytes(b"ranges")
    others.write_bytes(b"others")
    model = PaddleModel(Path("model.pdmodel"), Path("model.pdiparams"), "a")
    versions = {"paddlepaddle": "3.2.2", "tensorrt": "10.14"}

    def key(versions: dict[str, str] = versions, gpu: str = "L4 8.9", digest: str = "a", **changed: Any) -> str:
        options = PaddleOptions(**TRT | files(engine_cache=CACHE) | changed)
        return engine_key(replace(model, digest=digest), options, versions, gpu).digest

    keys = [
        key(),
        key(digest="b"),
        key(gpu="H100 9.0"),
        key({**versions, "paddlepaddle": "3.3.1"}),
        key({**versions, "tensorrt": "10.15"}),
        key(precision=Precision.FP16),
        key(precision=Precision.INT8),
        key(**files(engine_cache=CACHE, shape_range_file=ranges)),
        key(**files(engine_cache=CACHE, shape_range_file=others)),
        key(**files(engine_cache=CACHE, shapes=None)),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_a_program_is_copied_once_to_where_paddle_may_write(tmp_path: Path) -> None:
    source = tmp_path / "bundle"
    source.mkdir()
    (source / "net.pdmodel").write_bytes(b"program")
    (source / "net.weights").write_bytes(b"weights")
    model = PaddleModel(source / "net.pdmodel", source / "net.weights", "digest")
    kept = keep_program(model, tmp_path / "cache" / "key")
    # Paddle looks for the weights by the program's stem.
    assert (kept.program.name, kept.params.name, kept.digest) == ("model.pdmodel", "model.pdiparams", "digest")
    assert (kept.program.read_bytes(), kept.params.read_bytes()) == (b"program", b"weights")
    shutil.rmtree(source)
    assert keep_program(model, tmp_path / "cache" / "key") == kept
    assert {path.name for path in kept.program.parent.iterdir()} == {"model.pdmodel", "model.pdiparams"}


def test_int8_runs_with_a_table_or_writes_a_new_one(tmp_path: Path) -> None:
    run = PaddleOptions(**TRT | files(engine_cache=tmp_path), precision=Precision.INT8)
    with pytest.raises(OptionError, match=r"no calibration table.*auto-tune-shapes on at least 8"):
        prepare_calibration(tmp_path, run)
    table = tmp_path / "_opt_cache" / "trt_calib_4711"
    table.parent.mkdir()
    # An engine alone is no table.
    (table.parent / "trt_serialized_4711").write_bytes(b"engine")
    with pytest.raises(OptionError, match="no calibration table"):
        prepare_calibration(tmp_path, run)
    table.write_bytes(b"table")
    prepare_calibration(tmp_path, run)
    assert calibration_tables(tmp_path) == (table,)
    # Paddle would take the old table instead of writing a new one.
    prepare_calibration(tmp_path, replace(run, preparation=TensorRtPreparation.CALIBRATION))
    assert calibration_tables(tmp_path) == ()


# ---- programs ---------------------------------------------------------------------------------------------------


def operation(kind: str, name: str, dtype: str, axes: list[Any]) -> dict[str, Any]:
    """One operation of a PIR program, as Paddle 3.2.2 writes it."""
    return {
        "#": f"1.{kind}",
        "A": [{"AT": {"#": "0.a_str", "D": name}, "N": "name"}, {"AT": {"#": "1.a_place"}, "N": "place"}],
        "I": [],
        "O": [{"%": 1, "TT": {"#": "0.t_dtensor", "D": [{"#": f"0.t_{dtype}"}, axes, "NCHW", [], 0]}}],
    }


def program(*operations: object) -> str:
    """Text of a PIR program."""
    blocks = [{"#": "block_0", "args": [], "ops": list(operations)}]
    regions = [{"#": "region_0", "blocks": blocks}]
    return json.dumps({"base_code": {"magic": "pir", "version": 1}, "program": {"regions": regions}})


@pytest.mark.parametrize(
    ("dtype", "numpy"), [("f32", np.float32), ("f16", np.float16), ("i32", np.int32), ("ui8", np.uint8)]
)
@pytest.mark.parametrize("feed", ["data", "feed"])
def test_inputs_and_outputs_of_a_pir_program(dtype: str, numpy: type[np.generic], feed: str) -> None:
    text = program(
        {"#": "p", "A": [0, 1, 1, "conv.w_0"], "O": {"%": 3}},
        operation(feed, "x", "f32", [-1, 3, -1, 512]),
        operation("conv2d", "conv", "f32", [-1, 8, -1, -1]),
        operation("fetch", "fetch_name_0", dtype, [-1, -1, 512]),
    )
    inputs, outputs = pir_tensor_specs(text)
    assert inputs == (TensorSpec("x", np.dtype(np.float32), (None, 3, None, 512)),)
    assert outputs == (TensorSpec("fetch_name_0", np.dtype(numpy), (None, None, 512)),)


NAMELESS: dict[str, Any] = {**operation("data", "x", "f32", [1]), "A": []}
GARBAGE = [
    "",
    "null",
    "[]",
    "{}",
    "not JSON",
    "[" * 100_000,
    "9" * 5000,
    '{"program": {"regions": []}}',
    '{"program": {"regions": [{"blocks": [{"ops": 3}]}]}}',
    program("data"),
    program({"#": 3}),
    program({"#": "1.data"}),
    program(NAMELESS),
    program({**NAMELESS, "A": [3]}),
    program(operation("data", "x", "complex", [1])),
    program(operation("data", "x", "f32", ["wide"])),
    program({**operation("fetch", "y", "f32", [1]), "O": []}),
]


@pytest.mark.parametrize("text", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_no_pir_program(text: str) -> None:
    with pytest.raises(ModelLoadError, match=r"the program is not PIR JSON of Paddle 3 .*export the model again"):
        pir_tensor_specs(text)


def test_a_limit_on_the_gpu_s_memory_reaches_paddle(monkeypatch: pytest.MonkeyPatch) -> None:
    # The flag exists in Paddle's builds for GPUs only (3.2.2, ``paddle/common/flags.cc``).
    flags: dict[str, int] = {}
    monkeypatch.setattr(paddle_runtime, "_import_paddle", lambda: SimpleNamespace(set_flags=flags.update))
    limited = PaddleOptions(device=Device.GPU, tensorrt=True, gpu=GpuOptions(memory_bytes=512 << 20))
    paddle_runtime._limit_memory(replace(limited, gpu=GpuOptions()))
    assert flags == {}
    paddle_runtime._limit_memory(limited)
    assert flags == {"FLAGS_gpu_memory_limit_mb": 512}
    shaped = replace(limited, tensorrt_files=TensorRtFiles(PROFILE))
    (engine,) = (each for each in configuration(shaped, "pdmodel") if each.method == "enable_tensorrt_engine")
    assert engine.arguments[0] == 512 << 20
    assert pir_tensorrt_arguments(shaped).workspace_size == 512 << 20
