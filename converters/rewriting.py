"""ONNX graphs are rewritten in a child process with limits on memory, time and files."""

# Folding constants runs whatever of a graph depends on constants alone, which may be anything: loops without end,
# tensors of gigabytes, functions that unfold without bound. Shape inference, FP16 and INT8 unfold the same graph.

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConversionError
from engine.system.process import Died, Limits, Raised, Returned, TimedOut, run_isolated

TIMEOUT_S: float = 1800
MEMORY_BYTES = 4 << 30
MEMORY_PER_MODEL_BYTE = 16
"""The child may take `MEMORY_BYTES`, and so much more for every byte of the model."""
_FILE_BYTES = 8 << 30
_MADE = "made"


class RewritingError(ConversionError):
    """The process that rewrote a model took too much or died: the model may be at fault, or the machine."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What the child does: a function of this project, by its name."""

    rewrite: Callable[..., object]
    model: Path
    folder: Path
    arguments: tuple[object, ...]


def rewritten(rewrite: Callable[..., object], model: Path, folder: Path, *arguments: object) -> Any:  # noqa: ANN401
    """Let a child process rewrite a model.

    The function is given the model, an empty folder for what it makes, and the arguments, and returns JSON values.
    RewritingError: it took too much memory or time, or ended its process.
    """
    memory_bytes = MEMORY_BYTES + MEMORY_PER_MODEL_BYTE * model.stat().st_size
    request = _Request(rewrite, model.absolute(), folder.absolute(), arguments)
    outcome = run_isolated(_rewrite, request, Limits(TIMEOUT_S, memory_bytes, _FILE_BYTES))
    match outcome:
        case Returned():
            return outcome.value
        case Raised():
            raise outcome.error
        case TimedOut():
            raise RewritingError(
                f"{model.name}: rewriting it did not end within {TIMEOUT_S:g} s: convert on a faster machine, or fetch "
                "the bundle from whom you trust"
            )
        case Died() if outcome.out_of_memory:
            raise RewritingError(
                f"{model.name}: rewriting it takes more than {memory_bytes / 2**30:.1f} GiB of memory, which is more "
                "than a network of this size should need: check the bundle, or convert on a larger machine"
            )
        case Died():
            raise RewritingError(f"{model.name}: it cannot be rewritten, the process that did it {outcome.cause}")


def _rewrite(request: _Request) -> object:
    # Relative names: the libraries take no folder whose name is not UTF-8.
    model, made = Path(request.model.name), Path(_MADE)
    model.symlink_to(request.model)
    made.mkdir()
    told = request.rewrite(model, made, *request.arguments)
    for path in made.iterdir():
        shutil.move(path, request.folder / path.name)
    return told
