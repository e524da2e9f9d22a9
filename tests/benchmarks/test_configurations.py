"""The axes and their product; what this machine or bundle cannot run is named with its reason."""

import doctest
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.measuring import configurations as module
from benchmarks.measuring.configurations import (
    Axes,
    Configuration,
    ProviderName,
    Selection,
    Size,
    configurations,
    parse_size,
    select,
)
from engine import (
    Bundle,
    ConversionError,
    DynamicShapeProfile,
    OnnxModel,
    OnnxOptions,
    OptionError,
    PaddleModel,
    PaddleOptions,
    Precision,
    RuntimeName,
)
from engine.bundle.bundle import DeclaredOutput
from engine.options import TensorRtFiles
from engine.system.machine.cores import usable_cores


def bundle_of(*precisions: Precision, paddle: bool = True) -> Bundle:
    """A bundle that says what it holds; nothing of it is run here."""
    return Bundle(
        name="test",
        source=Path("test.tgz"),
        folder=Path("test"),
        digest="d" * 64,
        classes=(),
        transforms=(),
        paddle=PaddleModel(Path("model.json"), Path("model.pdiparams"), "p" * 64) if paddle else None,
        onnx=tuple(OnnxModel(Path(f"{each}.onnx"), each, "o" * 64) for each in precisions),
        declared=DeclaredOutput(None, None, None),
        multilabel=False,
        notes=(),
    )


def only_reason(selection: Selection) -> str:
    assert selection.runnable == ()
    (skipped,) = selection.skipped
    return skipped.reason


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0


def test_axes_multiply() -> None:
    axes = Axes(
        providers=(ProviderName.CPU, ProviderName.PADDLE_ONEDNN),
        precisions=(Precision.FP32, Precision.INT8),
        threads=(2, 4, 8),
        streams=(1, 2),
        batch_sizes=(1, 3),
        sizes=(None, Size(64, 96)),
    )
    product = configurations(axes, bundle_of())
    assert len(product) == len(set(product)) == 2 * 2 * 3 * 2 * 2 * 2
    assert Configuration(ProviderName.PADDLE_ONEDNN, Precision.INT8, 8, 2, 3, Size(64, 96)) in product


def test_only_tensorrt_multiplies_by_its_smallest_subgraph() -> None:
    providers = (ProviderName.CPU, ProviderName.TENSORRT, ProviderName.PADDLE_TENSORRT)
    product = configurations(Axes(providers=providers, min_subgraph_sizes=(3, 10, 30)), bundle_of())
    assert [each.provider for each in product].count(ProviderName.CPU) == 1
    assert [each.min_subgraph_size for each in product if each.provider.is_tensorrt] == [3, 10, 30] * 2
    assert {each.options().gpu.min_subgraph_size for each in product} == {3, 10, 30}


def test_an_axis_that_is_left_open() -> None:
    product = configurations(Axes(), bundle_of(Precision.FP32, Precision.INT8))
    assert {each.provider for each in product} == set(ProviderName)
    assert {each.precision for each in product} == {Precision.FP32, Precision.INT8}
    assert {each.threads for each in product} == {usable_cores()}


def test_runtimes_choose_among_the_providers() -> None:
    both = (ProviderName.CPU, ProviderName.PADDLE_CPU)
    of_paddle = configurations(Axes(runtimes=(RuntimeName.PADDLE,), providers=both), bundle_of())
    assert [each.provider for each in of_paddle] == [ProviderName.PADDLE_CPU]
    with pytest.raises(OptionError, match="none of the providers cuda belongs to paddle"):
        configurations(Axes(runtimes=(RuntimeName.PADDLE,), providers=(ProviderName.CUDA,)), bundle_of())


@pytest.mark.parametrize("provider", ProviderName)
def test_a_provider_is_called_as_in_the_provenance(provider: ProviderName) -> None:
    options = Configuration(provider).options()
    assert options.label == provider.value
    assert isinstance(options, OnnxOptions if provider.runtime is RuntimeName.ONNX else PaddleOptions)


def test_streams_share_the_threads() -> None:
    assert Configuration(ProviderName.CPU, threads=6, streams=3).options().threads_per_stream == 2
    assert Configuration(ProviderName.PADDLE_CPU, threads=10).options().threads == 10
    with pytest.raises(OptionError, match="3 threads cannot be shared evenly by 2 streams"):
        Configuration(ProviderName.CPU, threads=3, streams=2).options()


@pytest.mark.parametrize("axis", ["threads", "streams", "batch_size"])
def test_nothing_less_than_one(axis: str) -> None:
    with pytest.raises(OptionError, match=r"at least 1|less than 1"):
        replace(Configuration(ProviderName.CPU), **{axis: 0}).options()


def test_shapes_reach_tensorrt_and_nothing_else() -> None:
    shapes = TensorRtFiles(DynamicShapeProfile.from_shapes("x", [(1, 3, 64, 64)]), Path("inner.pbtxt"))
    assert Configuration(ProviderName.TENSORRT).options(shapes).tensorrt_files == shapes
    assert Configuration(ProviderName.CUDA).options(shapes).tensorrt_files == TensorRtFiles()
    paddle = Configuration(ProviderName.PADDLE_TENSORRT).options(shapes)
    assert paddle.tensorrt_files == shapes


@pytest.mark.parametrize("text", ["512", "512x", "x512", "0x12", "12x-3", "a×b", "1x2x3"])
def test_a_size_that_is_none(text: str) -> None:
    with pytest.raises(OptionError, match="height and width in pixels"):
        parse_size(text)


def test_what_the_bundle_does_not_hold_is_skipped() -> None:
    reason = only_reason(select([Configuration(ProviderName.CPU, Precision.INT8)], bundle_of(Precision.FP32)))
    assert "holds no onnx/int8/model.onnx" in reason
    assert "pseg convert test.tgz --precision int8 --calibrate" in reason
    without_paddle = bundle_of(Precision.FP32, paddle=False)
    assert "no Paddle program" in only_reason(select([Configuration(ProviderName.PADDLE_CPU)], without_paddle))


@pytest.mark.parametrize(
    ("provider", "remedy"),
    [
        (ProviderName.CUDA, "onnxruntime-gpu"),
        (ProviderName.TENSORRT, "tensorrt-cu12"),
        (ProviderName.PADDLE_GPU, "device cpu"),
        (ProviderName.PADDLE_TENSORRT, "device cpu"),
    ],
)
def test_a_gpu_that_is_not_there_is_a_reason(provider: ProviderName, remedy: str) -> None:
    if Path("/proc/driver/nvidia/gpus").is_dir():
        pytest.skip("this machine has an NVIDIA GPU")
    assert remedy in only_reason(select([Configuration(provider)], bundle_of(Precision.FP32)))


def test_contradictions_are_skipped_and_the_rest_is_kept() -> None:
    half, single = Configuration(ProviderName.PADDLE_CPU, Precision.FP16), Configuration(ProviderName.PADDLE_CPU)
    selection = select([half, single], bundle_of())
    assert selection.runnable == (single,)
    assert [(each.configuration, "needs a GPU" in each.reason) for each in selection.skipped] == [(half, True)]


def test_a_missing_onnx_model_is_made_once() -> None:
    asked: list[Bundle] = []

    def convert(bundle: Bundle) -> OnnxModel:
        asked.append(bundle)
        return OnnxModel(Path("made.onnx"), Precision.FP32, "m" * 64)

    wanted = [Configuration(ProviderName.CPU), Configuration(ProviderName.CPU, threads=2)]
    selection = select(wanted, bundle_of(), convert)
    assert (len(asked), selection.runnable, selection.skipped) == (1, tuple(wanted), ())
    assert selection.bundle.onnx_model(Precision.FP32) is not None


def test_a_refused_conversion_is_the_reason() -> None:
    asked: list[Bundle] = []

    def refuse(bundle: Bundle) -> OnnxModel:
        asked.append(bundle)
        raise ConversionError("no such operator")

    wanted = [Configuration(ProviderName.CPU), Configuration(ProviderName.CPU, threads=2)]
    selection = select(wanted, bundle_of(), refuse)
    assert len(asked) == 1
    assert [each.reason for each in selection.skipped] == ["no such operator"] * 2
