"""Random weights for a configuration: `python -m benchmarks.lab.zoo.weights CONFIG WEIGHTS [RESIDUAL_SCALE]`."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportAttributeAccessIssue=false
# pyright: reportPrivateImportUsage=false
# Paddle and PaddleSeg ship no type information.

import contextlib
import sys
import warnings
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
_SIDES = (128, 512)
_MEMORY_BYTES = 16 << 30
_SMALLEST_COVER = 0.02
_CERTIFIED_SIDES, _SMALLEST_CERTIFIED_COVER = (256, 512), 0.001
"""Of about the smallest and the largest picture of a certificate, and of a class that counts there."""
_MOST_TRIED, _ROUNDS = 4, 6
_GROWTH, _MOST_GROWN = 10**0.5, 4


def noise(side: int = 128) -> Tensor:
    """Make two smooth pictures, `float32[2, 3, side, side]`, about −2 to 2."""
    coarse = np.random.default_rng(1).standard_normal((2, 10, 10, 3)).astype(np.float32)
    pictures = [cv2.resize(each, (side, side), interpolation=cv2.INTER_CUBIC) for each in coarse]
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))


def scale_residuals(network: "Layer", scale: float) -> None:
    """Let each residual block of a ResNet of 50 layers and more add `scale` times as much to its input.

    With 1, as PaddleSeg starts them, each block enlarges what rounding made different; a training that goes well keeps
    the blocks small, and is often started that way.
    """
    for block in network.sublayers():
        if type(block).__name__ == "BottleneckBlock":
            last = block.conv2._batch_norm.weight
            last.set_value(last * scale)


def adopt_statistics(network: "Layer", side: int = 128) -> None:
    """Fill the statistics of the batch normalisation in one pass that forgets the initial ones.

    With Paddle's momentum of 0.9 they linger. The pictures of the pass have sides of `side` pixels.
    """
    import paddle

    for layer in network.sublayers():
        if hasattr(layer, "_momentum"):
            layer._momentum = 0.0
    network.train()
    with paddle.no_grad():
        network(paddle.to_tensor(noise(side)))
    network.eval()


def balance(network: "Layer", class_count: int, side: int, smallest_cover: float = _SMALLEST_COVER) -> None:
    """See to it that a second class wins on `smallest_cover`, 0 to 1, of a picture with sides of `side` pixels.

    Each class loses its median score by way of the last bias. In MaskFormer, whose scores are sums of the masks of
    queries, weighted by probabilities that have a bias of one more class, it loses the logarithm, and the last layer,
    which draws the masks, grows step by step until they differ: far from 0, sigmoids are rounding and nothing else.

    The network takes float32 NCHW and returns a list of scores; its parameters are changed where they have to be.
    """
    import paddle

    (picture,) = generated_images([(side, side)])
    image = paddle.to_tensor((picture.pixels.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[np.newaxis])

    def scores() -> NDArray[np.float32]:
        with paddle.no_grad():
            return network(image)[0].numpy()

    before = scores()
    if _second_cover(before) >= smallest_cover:
        return
    medians = np.median(before, axis=(0, 2, 3))

    def without_medians(bias: NDArray[np.float32], parameter: Any) -> NDArray[np.float32]:  # noqa: ANN401
        parameter.set_value(bias + np.float32(1))
        gain = (scores() - before).mean(axis=(0, 2, 3))
        return (bias - medians / np.where(np.abs(gain) < np.float32(0.01), 1, gain)).astype(np.float32)

    def without_logarithms(bias: NDArray[np.float32], parameter: Any) -> NDArray[np.float32]:  # noqa: ANN401
        for _ in range(_MOST_GROWN):
            for last in parameters[:2]:
                last.set_value(last.numpy() * np.float32(_GROWTH))
            for _ in range(_ROUNDS):
                logarithms = np.log(np.median(scores(), axis=(0, 2, 3)))
                bias = (bias - np.append(logarithms - logarithms.mean(), 0)).astype(np.float32)
                parameter.set_value(bias)
            if _second_cover(scores()) >= smallest_cover:
                break
        return bias

    parameters = [each for _, each in reversed(list(network.named_parameters()))]
    for length, balanced in ((class_count, without_medians), (class_count + 1, without_logarithms)):
        for parameter in [each for each in parameters if list(each.shape) == [length]][:_MOST_TRIED]:
            changed = [parameter, *parameters[:2]]
            kept = [each.numpy() for each in changed]
            parameter.set_value(balanced(kept[0], parameter))
            if _second_cover(scores()) >= smallest_cover:
                return
            for each, values in zip(changed, kept, strict=True):
                each.set_value(values)


def _second_cover(scores: NDArray[np.float32]) -> float:
    """Share of the pixels that the second class in order of size has."""
    counts = np.bincount(scores.argmax(axis=1).ravel(), minlength=2)
    return float(np.sort(counts)[-2] / counts.sum())


def _settled_at(network: "Layer") -> int:
    """Some networks take only pictures of their training's size, most often 512."""
    for side in _SIDES[:-1]:
        with contextlib.suppress(ValueError):
            adopt_statistics(network, side)
            return side
    adopt_statistics(network, _SIDES[-1])
    return _SIDES[-1]


def write_weights(config: Path, weights: Path, residual_scale: float = 1) -> None:
    """Write random weights with settled statistics, as PaddleSeg's training leaves them."""
    import paddle

    paddle.set_device("cpu")
    paddle.seed(_SEED)
    trained = build_network(config, memory_bytes=_MEMORY_BYTES)
    network = trained.network
    network.eval()
    scale_residuals(network, residual_scale)
    # Taken before the adapters, some of which fold parameters: a training leaves all of them.
    parameters = network.state_dict()
    with adapted(network, adapters_for(network)):
        side = _settled_at(network)
        balance(network, trained.class_count, side)
        for larger in (each for each in _CERTIFIED_SIDES if each > side):
            balance(network, trained.class_count, larger, _SMALLEST_CERTIFIED_COVER)
    paddle.save(parameters, str(weights))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    write_weights(Path(sys.argv[1]), Path(sys.argv[2]), *map(float, sys.argv[3:]))
