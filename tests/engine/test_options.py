"""Options that contradict themselves are refused with a remedy."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import OptionError
from engine.options import (
    Device,
    DynamicShapeProfile,
    OnnxOptions,
    PaddleOptions,
    Precision,
    Provider,
    Shape,
    ShapeRange,
    TensorRtPreparation,
)

GPU = {"device": Device.GPU}


@pytest.mark.parametrize("kind", [OnnxOptions, PaddleOptions])
@pytest.mark.parametrize(
    ("field", "words"), [("threads", "threads"), ("min_subgraph_size", "min-subgraph-size"), ("streams", "streams")]
)
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


@pytest.mark.parametrize(
    ("provider", "precision", "loaded"),
    [
        (Provider.TENSORRT, Precision.FP16, Precision.FP32),
        (Provider.TENSORRT, Precision.INT8, Precision.INT8),
        (Provider.TENSORRT, Precision.FP32, Precision.FP32),
        (Provider.CUDA, Precision.FP16, Precision.FP16),
        (Provider.CPU, Precision.INT8, Precision.INT8),
    ],
)
def test_tensorrt_halves_by_itself(provider: Provider, precision: Precision, loaded: Precision) -> None:
    assert OnnxOptions(provider=provider, precision=precision).model_precision is loaded


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
