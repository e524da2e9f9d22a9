"""ONNX Runtime: settings as data, execution providers, sessions."""

from engine.runtimes.onnx.providers import library_conflict, require_provider
from engine.runtimes.onnx.session import OnnxRuntime

__all__ = ["OnnxRuntime", "library_conflict", "require_provider"]
