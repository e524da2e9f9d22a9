"""The runtimes, providers and precisions that are measured against each other."""

from collections.abc import Mapping

from engine import Device, OneDnn, Precision, Provider, RuntimeName, RuntimeRequest

RUNTIMES: Mapping[str, RuntimeRequest] = {
    "onnx": RuntimeRequest(runtime=RuntimeName.ONNX, provider=Provider.CPU),
    "paddle-onednn": RuntimeRequest(runtime=RuntimeName.PADDLE, onednn=OneDnn.ON),
    "paddle-cpu": RuntimeRequest(runtime=RuntimeName.PADDLE, onednn=OneDnn.OFF),
}
"""In FP32 on every CPU."""

EVERY: Mapping[str, RuntimeRequest] = {
    **RUNTIMES,
    "onnx-int8": RuntimeRequest(runtime=RuntimeName.ONNX, provider=Provider.CPU, precision=Precision.INT8),
    "openvino": RuntimeRequest(provider=Provider.OPENVINO),
    "openvino-int8": RuntimeRequest(provider=Provider.OPENVINO, precision=Precision.INT8),
    "cuda": RuntimeRequest(provider=Provider.CUDA),
    "cuda-fp16": RuntimeRequest(provider=Provider.CUDA, precision=Precision.FP16),
    "paddle-gpu": RuntimeRequest(runtime=RuntimeName.PADDLE, device=Device.GPU),
}
"""And what only some machines and bundles have; skipped elsewhere, with the reason."""
