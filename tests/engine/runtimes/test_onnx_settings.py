"""What ONNX Runtime is told, provider by provider, checked without the hardware."""

from pathlib import Path

import pytest

from engine.options import (
    CudaExecution,
    DynamicShapeProfile,
    GpuOptions,
    OnnxOptions,
    Precision,
    Provider,
    ShapeRange,
    TensorRtFiles,
)
from engine.runtimes.onnx import library_conflict
from engine.runtimes.onnx.settings import cuda_settings, session_plan, tensorrt_settings

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
RANGE = ShapeRange((1, 3, 256, 256), (1, 3, 512, 640), (4, 3, 1024, 1024))
PROFILE = DynamicShapeProfile((("x", RANGE),))
TWO_INPUTS = DynamicShapeProfile((("x", RANGE), ("scale", ShapeRange((1, 2), (1, 2), (4, 2)))))


@pytest.mark.parametrize(
    ("provider", "names"),
    [
        (Provider.CPU, [CPU]),
        (Provider.CUDA, [CUDA, CPU]),
        (Provider.TENSORRT, [TENSORRT, CUDA, CPU]),
    ],
)
def test_a_session_gets_the_provider_asked_for_first(provider: Provider, names: list[str]) -> None:
    plan = session_plan(OnnxOptions(provider=provider, threads=3))
    assert [name for name, _ in plan.providers] == names
    assert plan.threads == 3


def test_each_provider_gets_its_own_settings(tmp_path: Path) -> None:
    options = OnnxOptions(provider=Provider.TENSORRT, device_id=1)
    tensorrt, cuda, cpu = session_plan(options, tmp_path).providers
    assert tensorrt == (TENSORRT, tensorrt_settings(options, tmp_path))
    assert cuda == (CUDA, cuda_settings(options))
    assert cpu == (CPU, {})


@pytest.mark.parametrize(("verbose", "severity"), [(True, 0), (False, 3)])
def test_the_library_is_quiet_until_asked(verbose: bool, severity: int) -> None:
    assert session_plan(OnnxOptions(verbose=verbose)).log_severity == severity


@pytest.mark.parametrize(("allowed", "setting"), [(False, "0"), (True, "1")])
def test_cuda_rounds_to_tf32_only_where_that_is_allowed(allowed: bool, setting: str) -> None:
    settings = cuda_settings(OnnxOptions(provider=Provider.CUDA, device_id=1, gpu=GpuOptions(allow_tf32=allowed)))
    assert settings["device_id"] == "1"
    assert settings["use_tf32"] == setting


@pytest.mark.parametrize(
    ("threads", "streams", "graph", "each"), [(4, 1, False, 4), (4, 2, False, 2), (2, 2, False, 4), (2, 2, True, 2)]
)
def test_sessions_share_what_is_allowed_of_the_gpu_s_memory(threads: int, streams: int, graph: bool, each: int) -> None:
    options = OnnxOptions(
        Provider.CUDA,
        threads=threads,
        streams=streams,
        gpu=GpuOptions(memory_bytes=4 << 30),
        cuda=CudaExecution(cuda_graph=graph),
    )
    plan = session_plan(options)
    assert (plan.providers[0][1]["gpu_mem_limit"], plan.sessions) == (str(each << 30), 4 // each)
    assert "gpu_mem_limit" not in cuda_settings(OnnxOptions(Provider.CUDA))


def test_tensorrt_s_scratch_memory_keeps_to_the_limit() -> None:
    for limit, workspace in ((512 << 20, 512 << 20), (8 << 30, 1 << 30)):
        options = OnnxOptions(Provider.TENSORRT, gpu=GpuOptions(memory_bytes=limit))
        tensorrt, cuda, _ = session_plan(options).providers
        assert tensorrt[1]["trt_max_workspace_size"] == str(workspace)
        assert cuda[1]["gpu_mem_limit"] == str(limit)


@pytest.mark.parametrize("provider", [Provider.CPU, Provider.CUDA, Provider.TENSORRT])
def test_gpus_bind_inputs_and_outputs_and_tell_classes(provider: Provider) -> None:
    plan = session_plan(OnnxOptions(provider))
    assert plan.io_binding == plan.classes == (provider is not Provider.CPU)
    if provider is not Provider.CPU:
        assert not session_plan(OnnxOptions(provider, cuda=CudaExecution(io_binding=False))).io_binding


def test_what_the_tuner_tries_reaches_cuda() -> None:
    plain = cuda_settings(OnnxOptions(Provider.CUDA))
    tried = cuda_settings(OnnxOptions(Provider.CUDA, cuda=CudaExecution(prefer_nhwc=True, cuda_graph=True)))
    assert (plain["prefer_nhwc"], plain["enable_cuda_graph"]) == ("0", "0")
    assert (tried["prefer_nhwc"], tried["enable_cuda_graph"]) == ("1", "1")


@pytest.mark.parametrize(
    ("precision", "fp16", "int8"),
    [(Precision.FP32, "False", "False"), (Precision.FP16, "True", "False"), (Precision.INT8, "False", "True")],
)
@pytest.mark.parametrize("nodes", [1, 3, 9])
def test_tensorrt_without_profile_or_cache(precision: Precision, fp16: str, int8: str, nodes: int) -> None:
    options = OnnxOptions(
        provider=Provider.TENSORRT, precision=precision, device_id=2, gpu=GpuOptions(min_subgraph_size=nodes)
    )
    assert tensorrt_settings(options, None) == {
        "device_id": "2",
        "trt_min_subgraph_size": str(nodes),
        "trt_max_workspace_size": "1073741824",
        "trt_fp16_enable": fp16,
        # The certified model keeps its normalizations in FP32.
        "trt_layer_norm_fp32_fallback": fp16,
        "trt_int8_enable": int8,
        # The classes of equal scores are CUDA's; the others are left out by default.
        "trt_op_types_to_exclude": "NonMaxSuppression,NonZero,RoiAlign,ArgMax",
    }


@pytest.mark.parametrize(
    ("profile", "shapes"),
    [
        (PROFILE, ("x:1x3x256x256", "x:1x3x512x640", "x:4x3x1024x1024")),
        (TWO_INPUTS, ("x:1x3x256x256,scale:1x2", "x:1x3x512x640,scale:1x2", "x:4x3x1024x1024,scale:4x2")),
    ],
)
def test_tensorrt_is_told_the_shapes(profile: DynamicShapeProfile, shapes: tuple[str, str, str]) -> None:
    settings = tensorrt_settings(OnnxOptions(provider=Provider.TENSORRT, tensorrt_files=TensorRtFiles(profile)), None)
    assert tuple(settings[f"trt_profile_{end}_shapes"] for end in ("min", "opt", "max")) == shapes


@pytest.mark.parametrize("precision", Precision)
def test_tensorrt_keeps_engines_and_timings_and_names_no_calibration_table(
    precision: Precision, tmp_path: Path
) -> None:
    settings = tensorrt_settings(OnnxOptions(provider=Provider.TENSORRT, precision=precision), tmp_path)
    assert settings["trt_engine_cache_enable"] == settings["trt_timing_cache_enable"] == "True"
    assert settings["trt_engine_cache_path"] == settings["trt_timing_cache_path"] == str(tmp_path)
    assert "trt_int8_calibration_table_name" not in settings


@pytest.mark.parametrize(
    ("installed", "conflict"),
    [
        (set[str](), False),
        ({"onnxruntime"}, False),
        ({"onnxruntime-gpu"}, False),
        ({"onnxruntime", "onnxruntime-gpu"}, True),
    ],
)
def test_two_builds_of_one_library_are_found(
    installed: set[str], conflict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str | None:
        return "1.26.0" if name in installed else None

    monkeypatch.setattr("engine.runtimes.onnx.providers.installed_version", version)
    found = library_conflict()
    assert (found is not None) == conflict
    assert found is None or ("both installed" in found and "uninstall both" in found)


@pytest.mark.parametrize(
    ("precision", "vnni", "exact"),
    [(Precision.INT8, False, True), (Precision.INT8, True, False), (Precision.FP32, False, False)],
)
def test_int8_sums_are_exact_where_the_processor_lacks_vnni(precision: Precision, vnni: bool, exact: bool) -> None:
    plan = session_plan(OnnxOptions(precision=precision), vnni=vnni)
    assert (plan.config.get("session.x64quantprecision") == "1") is exact
