"""The CPU runtimes that are measured against each other."""

from collections.abc import Mapping

from engine import OneDnn, Provider, RuntimeName, RuntimeRequest

RUNTIMES: Mapping[str, RuntimeRequest] = {
    "onnx": RuntimeRequest(runtime=RuntimeName.ONNX, provider=Provider.CPU),
    "paddle-onednn": RuntimeRequest(runtime=RuntimeName.PADDLE, onednn=OneDnn.ON),
    "paddle-cpu": RuntimeRequest(runtime=RuntimeName.PADDLE, onednn=OneDnn.OFF),
}
