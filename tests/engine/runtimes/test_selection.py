"""From a request to what is tried, in order; contradictions are refused with a remedy."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

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
    RuntimeName,
    TensorRtFiles,
)
from engine.runtimes.selection import OneDnn, RuntimeRequest, candidates

ONNX, PADDLE = {"runtime": RuntimeName.ONNX}, {"runtime": RuntimeName.PADDLE}
GPU, CPU = {"device": Device.GPU}, {"device": Device.CPU}
FP16, INT8 = {"precision": Precision.FP16}, {"precision": Precision.INT8}
ON, OFF = {"onednn": OneDnn.ON}, {"onednn": OneDnn.OFF}
TRT: dict[str, Any] = {"tensorrt": True}


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of these tests has four cores."""

    def usable_cores() -> int:
        return 4

    monkeypatch.setattr("engine.runtimes.selection.usable_cores", usable_cores)


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        ({}, ["cpu", "paddle-onednn", "paddle-cpu"]),
        (CPU, ["cpu", "paddle-onednn", "paddle-cpu"]),
        (OFF, ["cpu", "paddle-cpu"]),
        (ON, ["paddle-onednn"]),
        (ONNX, ["cpu"]),
        (ONNX | OFF, ["cpu"]),
        ({"provider": Provider.OPENVINO}, ["openvino"]),
        ({"provider": Provider.CUDA}, ["cuda"]),
        ({"provider": Provider.CUDA} | FP16 | GPU, ["cuda"]),
        ({"provider": Provider.TENSORRT} | TRT, ["tensorrt"]),
        (PADDLE, ["paddle-onednn", "paddle-cpu"]),
        (PADDLE | ON, ["paddle-onednn"]),
        (PADDLE | OFF, ["paddle-cpu"]),
        (PADDLE | GPU, ["paddle-gpu"]),
        (PADDLE | GPU | TRT, ["paddle-tensorrt"]),
        (GPU, ["cuda", "paddle-gpu"]),
        (GPU | OFF, ["cuda", "paddle-gpu"]),
        (GPU | FP16, ["cuda", "paddle-gpu"]),
        (GPU | TRT, ["tensorrt", "paddle-tensorrt"]),
        (ONNX | GPU, ["cuda"]),
        (ONNX | GPU | TRT, ["tensorrt"]),
        (INT8, ["cpu"]),
        (INT8 | OFF, ["cpu"]),
        (INT8 | GPU, ["cuda"]),
        (INT8 | GPU | TRT, ["tensorrt", "paddle-tensorrt"]),
    ],
)
def test_candidates_in_order(arguments: dict[str, Any], labels: list[str]) -> None:
    request = RuntimeRequest(**arguments)
    found = candidates(request)
    assert [options.label for options in found] == labels
    assert {options.precision for options in found} == {request.precision or Precision.FP32}


CPU_ONNX = {"provider": Provider.CPU}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threads": 0}, "threads: 0 is less than 1"),
        (CPU_ONNX | PADDLE, "provider: cpu belongs to ONNX Runtime: use runtime onnx or auto"),
        (CPU_ONNX | GPU, "provider: cpu runs on the cpu, but device gpu was asked for"),
        ({"provider": Provider.CUDA} | CPU, "provider: cuda runs on the gpu, but device cpu was asked for"),
        ({"provider": Provider.CUDA} | TRT, "use-trt: it needs provider tensorrt, not cuda"),
        (CPU_ONNX | TRT, "use-trt: it needs provider tensorrt, not cpu"),
        (ON | ONNX, "mkldnn: oneDNN belongs to Paddle: it needs runtime paddle or auto"),
        (ON | CPU_ONNX, "mkldnn: oneDNN belongs to Paddle: it needs runtime paddle or auto"),
        (ON | GPU, "mkldnn: oneDNN runs on the CPU only: leave it out with a GPU"),
        (TRT, "use-trt: TensorRT needs a GPU: ask for device gpu, too, or leave it out"),
        (TRT | CPU, "TensorRT needs a GPU: ask for device gpu"),
        (FP16, "precision: fp16 needs a GPU: ask for device gpu, too, or for fp32 or int8"),
        (FP16 | {"provider": Provider.OPENVINO}, "fp16 needs a GPU"),
    ],
)
def test_requests_that_contradict_themselves(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        RuntimeRequest(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (INT8 | PADDLE, "int8 under TensorRT only: ask for use-trt and device gpu, or for runtime onnx"),
        (INT8 | PADDLE | GPU, "int8 under TensorRT only"),
        (INT8 | ON, "int8 under TensorRT only"),
    ],
)
def test_requests_that_no_runtime_can_honour(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        candidates(RuntimeRequest(**arguments))


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [(GPU, {0}), ({"device": NumberedGpu("gpu:0")}, {0}), ({"device": NumberedGpu("gpu:3")}, {3}), (CPU, {0})],
)
def test_the_number_of_the_gpu_reaches_each_runtime(arguments: dict[str, Any], numbers: set[int]) -> None:
    assert {options.device_id for options in candidates(RuntimeRequest(**arguments))} == numbers


def test_a_numbered_gpu_is_a_gpu() -> None:
    numbered: dict[str, Any] = {"device": NumberedGpu("gpu:1")}
    both: list[dict[str, Any]] = [GPU, numbered]
    labels = [[options.label for options in candidates(RuntimeRequest(**each, **TRT))] for each in both]
    assert labels[0] == labels[1]
    assert RuntimeRequest(**numbered, provider=Provider.CUDA).wanted_device is Device.GPU
    with pytest.raises(OptionError, match="provider: cpu runs on the cpu, but device gpu:1 was asked for"):
        RuntimeRequest(**numbered, provider=Provider.CPU)


@pytest.mark.parametrize(("threads", "given"), [(None, 4), (1, 1), (3, 3), (10, 4)])
def test_threads_are_a_ceiling(threads: int | None, given: int) -> None:
    assert {options.threads for options in candidates(RuntimeRequest(threads=threads))} == {given}


def test_everything_asked_for_reaches_each_runtime(tmp_path: Path) -> None:
    shapes = DynamicShapeProfile.from_shapes("x", [(1, 3, 64, 64)])
    files = TensorRtFiles(shapes, tmp_path / "ranges", engine_cache=tmp_path)
    onnx, without_shapes, paddle = candidates(
        RuntimeRequest(
            device=NumberedGpu("gpu:2"),
            tensorrt=True,
            precision=Precision.FP16,
            threads=2,
            gpu=GpuOptions(min_subgraph_size=7, allow_tf32=True),
            tensorrt_files=files,
            verbose=True,
        )
    )
    assert onnx == OnnxOptions(
        provider=Provider.TENSORRT,
        precision=Precision.FP16,
        threads=2,
        device_id=2,
        gpu=GpuOptions(min_subgraph_size=7, allow_tf32=True),
        tensorrt_files=files,
        verbose=True,
    )
    assert without_shapes == replace(onnx, tensorrt_files=replace(files, shapes=None))
    assert paddle == PaddleOptions(
        device=Device.GPU,
        tensorrt=True,
        precision=Precision.FP16,
        threads=2,
        device_id=2,
        gpu=GpuOptions(min_subgraph_size=7, allow_tf32=True),
        tensorrt_files=files,
        verbose=True,
    )


def test_what_acts_on_gpus_goes_with_one() -> None:
    faster, larger = GpuOptions(allow_tf32=True), GpuOptions(min_subgraph_size=7)
    assert candidates(RuntimeRequest(device=Device.GPU, gpu=faster))
    assert candidates(RuntimeRequest(provider=Provider.TENSORRT, gpu=larger))
    with pytest.raises(OptionError, match=r"^allow-tf32: it acts on a GPU"):
        candidates(RuntimeRequest(gpu=faster))
    with pytest.raises(OptionError, match=r"^gpu-memory-limit: it acts on a GPU"):
        candidates(RuntimeRequest(gpu=GpuOptions(memory_bytes=4 << 30)))
    for device in (Device.CPU, Device.GPU):
        with pytest.raises(OptionError, match=r"^min-subgraph-size: it acts on TensorRT"):
            candidates(RuntimeRequest(device=device, gpu=larger))


@pytest.mark.parametrize(("asked", "threads"), [({}, 4), ({"threads": 3}, 2), ({"threads": 9}, 4)])
def test_streams_have_as_many_threads_each(asked: dict[str, Any], threads: int) -> None:
    for options in candidates(RuntimeRequest(streams=2, **asked)):
        assert (options.threads, options.streams, options.threads_per_stream) == (threads, 2, threads // 2)


def test_a_stream_needs_a_thread() -> None:
    with pytest.raises(OptionError, match="5 streams need a thread each, and there are 4"):
        candidates(RuntimeRequest(streams=5))
    with pytest.raises(OptionError, match="streams: 0 is less than 1"):
        RuntimeRequest(streams=0)
