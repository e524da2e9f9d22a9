"""Build the network of a recipe, settle it, export it as a bundle; runs in a child process of its own.

Untrained, the activations of a deep network fade to a constant and one class wins everywhere: two masks of one class
agree whatever was computed. So the statistics of the batch normalisation are taken from noise, and each class loses its
median logit.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedBaseClass=false
# pyright: reportAttributeAccessIssue=false
# Paddle and PaddleSeg ship no type information.

import copy
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import yaml

from benchmarks.zoo import changes
from benchmarks.zoo.recipes import Recipe
from converters.exporting.export import ExportClass, export_bundle
from converters.parity import generated_images
from engine.runtimes import Tensor

if TYPE_CHECKING:
    from paddle.nn import Layer

NORMALIZE: dict[str, object] = {"type": "Normalize"}
_SEED = 7


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


def balanced(network: "Layer", images: Tensor) -> "Layer":
    """Take the median off each class's logits, so that none wins everywhere on the images.

    Args:
        network: float32 NCHW in, a list of logits out.
        images: `float32[N, 3, H, W]`.

    Returns:
        The network with a subtraction behind it.
    """
    import paddle

    with paddle.no_grad():
        logits = network(paddle.to_tensor(images))[0].numpy()
    medians = np.median(logits, axis=(0, 2, 3), keepdims=True)

    class Balanced(paddle.nn.Layer):
        """The network with each class's median taken off."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("medians", paddle.to_tensor(medians))

        def forward(self, x: Any) -> list[Any]:  # noqa: ANN401
            """Return the logits."""
            return [self.network(x)[0] - self.medians]

    return Balanced()


def build(recipe: Recipe) -> "Layer":
    """Build the network of a recipe, settled and balanced.

    Args:
        recipe: what to build.

    Returns:
        A network in evaluation mode.
    """
    import paddle
    from paddleseg.cvlibs import manager

    import_module("paddleseg.models")  # registers them

    paddle.seed(_SEED)
    arguments = copy.deepcopy(dict(recipe.arguments))  # some constructors empty what they are given
    if recipe.backbone is not None:
        arguments["backbone"] = manager.BACKBONES[recipe.backbone.name](
            **copy.deepcopy(dict(recipe.backbone.arguments))
        )
    network = manager.MODELS[recipe.family](num_classes=recipe.classes, **arguments)
    adopt_statistics(network)
    (picture,) = generated_images(recipe.sizes[:1])
    image = (picture.pixels.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[np.newaxis]
    return balanced(network, image)


def export(recipe: Recipe, form: str, folder: Path) -> float:
    """Build and export a network.

    Args:
        recipe: what to build.
        form: `pir` or `pdmodel`; the process must have been started with FLAGS_enable_pir_api 1 or 0.
        folder: of the bundle; absent or empty.

    Returns:
        Parameters, in millions.
    """
    with ExitStack() as patched:
        for name in recipe.changes:
            patched.enter_context(getattr(changes, name)())
        network = build(recipe)
        shape = [recipe.batch, 3, None, None]
        if form == "pir":
            classes = [ExportClass(f"class {number}") for number in range(recipe.classes)]
            export_bundle(network, folder, name=recipe.name, classes=classes, transforms=[NORMALIZE], input_shape=shape)
        else:
            _save_pdmodel(network, folder, shape)
    return sum(parameter.size for parameter in network.parameters()) / 1e6


def _save_pdmodel(network: "Layer", folder: Path, shape: list[int | None]) -> None:
    import paddle

    class Deployed(paddle.nn.Layer):
        """The network with its first output only."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Any) -> Any:  # noqa: ANN401
            """Return the logits."""
            return self.network(x)[0]

    deployed = Deployed()
    deployed.eval()
    spec = paddle.static.InputSpec(shape, "float32", "x")
    folder.mkdir(parents=True)
    paddle.jit.save(paddle.jit.to_static(deployed, input_spec=[spec], full_graph=True), str(folder / "model"))
    deploy = {"model": "model.pdmodel", "params": "model.pdiparams", "transforms": [NORMALIZE]}
    (folder / "deploy.yaml").write_text(yaml.safe_dump({"Deploy": deploy}), encoding="utf-8")
