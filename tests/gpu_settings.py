"""Offer every setting for CUDA to onnxruntime-gpu, which refuses unknown ones before it needs a GPU.

`list` runs where the engine is installed, `offer MODEL` where onnxruntime-gpu is, with what the former printed as its
input: the two do not go into one environment.
"""
# onnxruntime ships no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportAttributeAccessIssue=false

import ctypes
import json
import sys

_PROVIDER = "CUDAExecutionProvider"
_REFUSED = ("Unknown provider option", "Failed to parse")
_CALLED = ("cudaSetDevice", "cudaHostAlloc", "cudaFreeHost", "cudaMemcpy")
_NO_DRIVER = "cudaGetDeviceCount"
"""A number is held against those of the GPUs that are there; where there is no driver, that is what is told."""


def listed() -> dict[str, str]:
    """All settings, as the engine makes them where everything is asked for."""
    from engine.options import CudaExecution, GpuOptions, OnnxOptions, Provider
    from engine.runtimes.onnx.settings import cuda_settings

    ways = CudaExecution(prefer_nhwc=True, cuda_graph=True)
    return cuda_settings(OnnxOptions(Provider.CUDA, gpu=GpuOptions(memory_bytes=4 << 30), cuda=ways))


def refusal(model: str, settings: dict[str, str]) -> str:
    """What ONNX Runtime says of the settings; empty if it takes them, whether or not there is a GPU."""
    import onnxruntime

    try:
        onnxruntime.InferenceSession(model, providers=[(_PROVIDER, settings)], enable_fallback=0)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if any(each in line for each in _REFUSED)]
        return next((line for line in lines if _NO_DRIVER not in line), "")
    return ""


def offer(model: str, settings: dict[str, str]) -> int:
    """Offer each setting alone, all together, a wrong name and a wrong value; a JSON line each."""
    import onnxruntime

    onnxruntime.preload_dlls()
    # What copies results through pinned memory.
    library = ctypes.CDLL("libcudart.so.12")
    missing = [name for name in _CALLED if not hasattr(library, name)]
    right = [settings, *({key: value} for key, value in settings.items())]
    wrong = [{"pseg_no_such_setting": "1"}, *({key: "pseg nonsense"} for key in settings)]
    failed = len(missing)
    for taken, trials in ((True, right), (False, wrong)):
        for each in trials:
            said = refusal(model, each)
            failed += (said == "") is not taken
            told = {"settings": each, "expected": "taken" if taken else "refused", "refusal": said[-200:]}
            sys.stdout.write(json.dumps(told) + "\n")
    sys.stderr.write(
        f"onnxruntime {onnxruntime.__version__}: {len(right) + len(wrong)} trials, {failed} not as expected; "
        f"CUDA's runtime library lacks {', '.join(missing) or 'nothing'}\n"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1] == "list":
        sys.stdout.write(json.dumps(listed()) + "\n")
    else:
        sys.exit(offer(sys.argv[2], json.load(sys.stdin)))
