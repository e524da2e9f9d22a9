"""Options that contradict themselves are refused with a remedy."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import OptionError
from engine.options import (
    Device,
    DynamicShapeProfile,
    GpuOptions,
    NumberedGpu,
    OnnxOptions,
    PaddleOptions,
    Precision,
    Provider,
    Shape,
    ShapeRange,
    TensorRtPreparation,
    parse_device,
)

GPU = {"device": Device.GPU}


@pytest.mark.parametrize("kind", [OnnxOptions, PaddleOptions])
@pytest.mark.parametrize(("field", "words"), [("threads", "threads"), ("streams", "streams")])
@pytest.mark.parametrize("value", [0, -3])
def test_counts_start_at_one(kind: Any, field: str, words: str, value: int) -> None:
    with pytest.raises(OptionError, match=f"^{words}: {value} is less than 1$"):
        kind(**{field: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"onednn": True, **GPU}, "oneDNN runs on the CPU only: turn mkldnn off with device gpu"),
        ({"tensorrt": True}, "TensorRT needs a GPU: ask for device gpu, too, or leave use-trt out"),
        ({"precision": Precision.FP16}, "fp16 needs a GPU under Paddle Inference: use device gpu or precision fp32"),
        (
            {"precision": Precision.INT8},
            "int8 under TensorRT only: ask for use-trt and device gpu, or for runtime onnx",
        ),
        ({"precision": Precision.INT8, **GPU}, "int8 under TensorRT only: ask for use-trt"),
        ({"preparation": TensorRtPreparation.SHAPE_RANGES}, "needs shape_range_file to write to"),
        (
            {"preparation": TensorRtPreparation.CALIBRATION},
            "a calibration table is for int8, not for fp32: ask for precision int8",
        ),
    ],
)
def test_paddle_combinations_that_cannot_be_honoured(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PaddleOptions(**arguments)


@pytest.mark.parametrize(
    ("options", "label"),
    [
        (OnnxOptions(), "cpu"),
        (OnnxOptions(provider=Provider.OPENVINO), "openvino"),
        (OnnxOptions(provider=Provider.CUDA, precision=Precision.FP16), "cuda"),
        (OnnxOptions(provider=Provider.TENSORRT), "tensorrt"),
        (PaddleOptions(), "paddle-cpu"),
        (PaddleOptions(onednn=True), "paddle-onednn"),
        (PaddleOptions(device=Device.GPU, precision=Precision.FP16), "paddle-gpu"),
        (PaddleOptions(device=Device.GPU, tensorrt=True, precision=Precision.INT8), "paddle-tensorrt"),
    ],
)
def test_labels(options: OnnxOptions | PaddleOptions, label: str) -> None:
    assert options.label == label


def test_subgraphs_have_an_operator() -> None:
    with pytest.raises(OptionError, match=r"^min-subgraph-size: 0 is less than 1$"):
        GpuOptions(min_subgraph_size=0)


@pytest.mark.parametrize(
    ("text", "kind"), [("cpu", Device), ("gpu", Device), ("gpu:0", NumberedGpu), ("gpu:12", NumberedGpu)]
)
def test_a_device_is_read_as_it_is_written(text: str, kind: type) -> None:
    device = parse_device(text)
    assert type(device) is kind
    assert device == text
    assert json.loads(json.dumps(device)) == text


@pytest.mark.parametrize(
    "text", ["gpu:", "gpu:-1", "gpu:01", "gpu:1:2", "cpu:0", "GPU:1", "gpu:1\n", "cuda:0", "", "1", "gpu:1000"]
)
def test_what_is_no_device(text: str) -> None:
    with pytest.raises(ValueError, match="give cpu, gpu, or a GPU by its number, such as gpu:1"):
        parse_device(text)


@pytest.mark.parametrize(
    ("minimum", "optimum", "maximum"),
    [((1, 3), (1, 3, 8), (1, 3, 8)), ((1, 3, 9), (1, 3, 8), (1, 3, 9)), ((1,), (4,), (3,)), ((0,), (1,), (1,))],
)
def test_shape_ranges_ascend(minimum: Shape, optimum: Shape, maximum: Shape) -> None:
    with pytest.raises(OptionError, match=r"dynamic shape profile: .*ascending order"):
        ShapeRange(minimum, optimum, maximum)


@pytest.mark.parametrize("shapes", [[], [(1, 3), (1, 3, 4)]])
def test_a_profile_needs_shapes_of_one_rank(shapes: list[Shape]) -> None:
    with pytest.raises(OptionError, match="input 'x': needs shapes of one rank"):
        DynamicShapeProfile.from_shapes("x", shapes)


@pytest.mark.parametrize(
    ("shapes", "optimum"),
    [
        ([(1, 3, 8, 8), (1, 3, 4, 4), (1, 3, 4, 4)], (1, 3, 4, 4)),
        ([(1, 3, 4, 4), (1, 3, 8, 8)], (1, 3, 8, 8)),
        ([(1, 3, 4, 8), (1, 3, 8, 4)], (1, 3, 8, 4)),
    ],
)
def test_the_optimum_is_the_most_common_then_the_largest(shapes: list[Shape], optimum: Shape) -> None:
    assert DynamicShapeProfile.from_shapes("x", shapes).inputs[0][1].optimum == optimum


@given(st.lists(st.tuples(*[st.integers(1, 50)] * 4), min_size=1, max_size=8))
def test_a_profile_covers_all_that_it_has_seen(shapes: list[Shape]) -> None:
    (name, seen), *others = DynamicShapeProfile.from_shapes("x", shapes).inputs
    assert (name, others) == ("x", [])
    assert seen.optimum in shapes
    for axis, (low, high) in enumerate(zip(seen.minimum, seen.maximum, strict=True)):
        sides = [shape[axis] for shape in shapes]
        assert (low, high) == (min(sides), max(sides))


@pytest.mark.parametrize(
    ("given", "expected"),
    [("4GiB", 4 << 30), ("1.5 GiB", 3 << 29), ("512MiB", 512 << 20), (1 << 30, 1 << 30), (None, None)],
)
def test_an_amount_of_gpu_memory(given: Any, expected: int | None) -> None:
    assert GpuOptions(memory_bytes=given).memory_bytes == expected


@pytest.mark.parametrize("given", ["4", "4XB", "-4GiB", "GiB", "255MiB", 1 << 20])
def test_no_amount_of_gpu_memory(given: Any) -> None:
    with pytest.raises(OptionError, match=r"gpu-memory-limit: .*(such as 1.5GiB|less than)"):
        GpuOptions(memory_bytes=given)
