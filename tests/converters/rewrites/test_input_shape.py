"""A fixed height and width, when a user asks for it."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from pathlib import Path

import numpy as np
import pytest

from converters.paddle_to_onnx import OPSET, TIMEOUT_S, export_in_child
from engine import OnnxModel, OnnxOptions, PaddleOptions, Precision, open_bundle, open_runtime
from engine.errors import ConversionError, InferenceError


@pytest.mark.long
def test_fixed_size_free_batch(small_network: Path, tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "model.onnx"
    with open_bundle(small_network) as bundle:
        assert bundle.paddle is not None
        export_in_child(bundle.paddle, path, OPSET, TIMEOUT_S, where="small", input_shape=(64, 96))
        shape = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
        assert [axis.dim_value for axis in shape] == [0, 3, 64, 96]
        converted = open_runtime(
            bundle.with_onnx(OnnxModel(path=path, precision=Precision.FP32, digest="")), OnnxOptions(threads=2)
        )
        tensor = np.random.default_rng(5).standard_normal((2, 3, 64, 96), dtype=np.float32)
        (wanted,) = open_runtime(bundle, PaddleOptions(threads=2)).run({"x": tensor}).values()
        (found,) = converted.run({"x": tensor}).values()
        assert np.abs(found - wanted).max() < 1e-4 * np.ptp(wanted)
        with pytest.raises(InferenceError):
            converted.run({"x": tensor[:, :, :32]})


def test_a_size_that_the_program_does_not_take(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    from converters.paddle_to_onnx import with_input_shape

    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 128, 128])
    model = helper.make_model(helper.make_graph([], "empty", [tensor], [tensor]))
    with pytest.raises(ConversionError, match=r"\(128, 128\) only .*not of \(64, 96\)"):
        with_input_shape(model, (64, 96))
