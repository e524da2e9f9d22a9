"""Random weights for a configuration: `python -m benchmarks.lab.zoo.weights CONFIG WEIGHTS`.

Untrained, the activations of a deep network fade to a constant and one class wins everywhere: two masks of one class
agree whatever was computed. So the statistics of the batch normalisation are taken from noise, and where one class
still wins, each class loses its median score by way of the last bias.
"""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportAttributeAccessIssue=false
# pyright: reportPrivateImportUsage=false
# Paddle and PaddleSeg ship no type information.

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from converters.exporting.adapters import adapted, adapters_for
from converters.exporting.paddleseg_config import build_network
from converters.parity import generated_images
from engine.runtimes import Tensor

if TYPE_CHECKING:
    from paddle.nn import Layer

_SEED = 7
_MEMORY_BYTES = 16 << 30
_SMALLEST_COVER = 0.02


def noise() -> Tensor:
    """Make two smooth pictures.

    Returns:
        `float32[2, 3, 128, 128]`, about −2 to 2.
    """
    coarse = np.random.default_rng(1).standard_normal((2, 10, 10, 3)).astype(np.float32)
    pictures = [cv2.resize(each, (128, 128), interpolation=cv2.INTER_CUBIC) for each in coarse]
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))


def adopt_statistics(network: "Layer") -> None:
    """Fill the statistics of the batch normalisation in one pass that forgets the initial ones.

    With Paddle's momentum of 0.9 they linger.

    Args:
        network: changed in place; in evaluation mode afterwards.
    """
    import paddle

    for layer in network.sublayers():
        if hasattr(layer, "_momentum"):
            layer._momentum = 0.0
    network.train()
    with paddle.no_grad():
        network(paddle.to_tensor(noise()))
    network.eval()


def balance(network: "Layer", class_count: int) -> None:
    """Take the median off each class's scores where one class wins nearly everywhere.

    Args:
        network: float32 NCHW in, a list of scores out; one of its biases is changed if a bias of the scores is there.
        class_count: number of classes.
    """
    import paddle

    (picture,) = generated_images([(160, 160)])
    image = paddle.to_tensor((picture.pixels.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[np.newaxis])

    def scores() -> NDArray[np.float32]:
        with paddle.no_grad():
            return network(image)[0].numpy()

    before = scores()
    if _second_cover(before) >= _SMALLEST_COVER:
        return
    for _, bias in reversed(list(network.named_parameters())):
        if list(bias.shape) == [class_count] and _balanced_by(bias, before, scores):
            return


def _balanced_by(bias: Any, before: NDArray[np.float32], scores: Callable[[], NDArray[np.float32]]) -> bool:  # noqa: ANN401
    """Whether moving this parameter moves the scores, and two classes are seen afterwards; if not, it is as it was."""
    kept = bias.numpy()
    bias.set_value(kept + np.float32(1))
    gain = (scores() - before).mean(axis=(0, 2, 3))
    if np.all(np.abs(gain) > np.float32(0.01)):
        bias.set_value((kept - np.median(before, axis=(0, 2, 3)) / gain).astype(np.float32))
        if _second_cover(scores()) >= _SMALLEST_COVER:
            return True
    bias.set_value(kept)
    return False


def _second_cover(scores: NDArray[np.float32]) -> float:
    """Share of the pixels that the second class in order of size has."""
    counts = np.bincount(scores.argmax(axis=1).ravel(), minlength=2)
    return float(np.sort(counts)[-2] / counts.sum())


def write_weights(config: Path, weights: Path) -> None:
    """Write random weights with settled statistics, as PaddleSeg's training leaves them.

    Args:
        config: PaddleSeg's configuration.
        weights: the `.pdparams` to write.
    """
    import paddle

    paddle.set_device("cpu")
    paddle.seed(_SEED)
    trained = build_network(config, memory_bytes=_MEMORY_BYTES)
    network = trained.network
    network.eval()
    # Taken before the adapters, some of which fold parameters: a training leaves all of them.
    parameters = network.state_dict()
    with adapted(network, adapters_for(network)):
        adopt_statistics(network)
        balance(network, trained.class_count)
    paddle.save(parameters, str(weights))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write_weights(Path(sys.argv[1]), Path(sys.argv[2]))
