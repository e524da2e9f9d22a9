"""What a training with PaddleSeg leaves behind, made small: a configuration and weights."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# Paddle and PaddleSeg ship no type information.

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.lab.zoo.weights import adopt_statistics
from engine import Bundle, PaddleOptions, SourceImage, read_image
from engine.runtimes.paddle import PaddleRuntime
from tests.conftest import vendor_warnings_ignored

HUMAN_SEG_LITE: Mapping[str, Any] = {"type": "PPHumanSegLite", "num_classes": 3}
"""0.4 MB, any input size."""
TRANSFORMS: Sequence[Mapping[str, Any]] = (
    {"type": "Resize", "target_size": [128, 96]},
    {"type": "Normalize", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
)


def configuration(
    model: Mapping[str, Any] = HUMAN_SEG_LITE, transforms: Sequence[Mapping[str, Any]] | None = TRANSFORMS
) -> dict[str, Any]:
    """A whole training configuration; the data that it names is nowhere."""
    data = {"type": "Dataset", "dataset_root": "data", "num_classes": model["num_classes"]}
    validation = {**data, "val_path": "val.txt", "mode": "val"}
    if transforms is not None:
        validation["transforms"] = [dict(each) for each in transforms]
    return {
        "batch_size": 2,
        "iters": 10,
        "train_dataset": {**data, "train_path": "train.txt", "mode": "train", "transforms": [{"type": "Normalize"}]},
        "val_dataset": validation,
        "optimizer": {"type": "SGD", "momentum": 0.9},
        "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.01},
        "loss": {"types": [{"type": "CrossEntropyLoss"}], "coef": [1]},
        "model": dict(model),
    }


def write_configuration(path: Path, content: Mapping[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(dict(content)))
    return path


def trained_network(build: Any, seed: int = 7) -> Any:
    """A network with weights from a seed, in evaluation mode, its statistics settled."""
    with vendor_warnings_ignored():
        import paddle

        paddle.seed(seed)
        network = build()
        adopt_statistics(network)
    return network


def human_seg_lite() -> Any:
    """The network of `HUMAN_SEG_LITE`."""
    with vendor_warnings_ignored():
        from paddleseg.models import PPHumanSegLite

    return trained_network(lambda: PPHumanSegLite(num_classes=3))


def save_weights(network: Any, path: Path) -> Path:
    import paddle

    paddle.save(network.state_dict(), str(path))
    return path


def transforms_of_paddleseg(transforms: Sequence[Mapping[str, Any]] = TRANSFORMS) -> list[Any]:
    """PaddleSeg's own transforms."""
    with vendor_warnings_ignored():
        from paddleseg.cvlibs import manager
    return [manager.TRANSFORMS[each["type"]](**{k: v for k, v in each.items() if k != "type"}) for each in transforms]


def tensor_of_paddleseg(path: Path, transforms: Sequence[Mapping[str, Any]] = TRANSFORMS) -> NDArray[np.float32]:
    """float32[1, 3, H, W]: a picture as PaddleSeg's own transforms give it."""
    with vendor_warnings_ignored():
        from paddleseg.transforms import Compose
    return np.asarray(Compose(transforms_of_paddleseg(transforms))({"img": str(path)})["img"])[np.newaxis]


def logits_of(network: Any, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """The network itself, in dygraph: the first output."""
    import paddle

    with paddle.no_grad():
        return network(paddle.to_tensor(tensor))[0].numpy()


def output_of(bundle: Bundle, tensor: NDArray[np.float32]) -> NDArray[Any]:
    """The bundle's program through Paddle Inference."""
    assert bundle.paddle is not None
    runtime = PaddleRuntime(bundle.paddle, PaddleOptions())
    try:
        (output,) = runtime.run({runtime.inputs[0].name: tensor}).values()
    finally:
        runtime.close()
    return output


def picture(folder: Path) -> tuple[Path, SourceImage]:
    """A picture on disk, 200×150, with edges and slopes, and what the engine reads."""
    import cv2

    rows, columns = np.mgrid[0:150, 0:200]
    planes = [rows + columns // 2, (columns * 3) % 256, (rows // 20 + columns // 25) % 2 * 180]
    path = folder / "picture.png"
    assert cv2.imwrite(str(path), np.stack(planes, axis=-1).astype(np.uint8))
    return path, read_image(path)


def kernels_updated_once(update_head: Any) -> Any:
    """A network of three classes with KNet's `KernelUpdateHead`, or a class of it, which mixes the images of a run."""
    import paddle

    classes, channels = 3, 8

    class Network(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.features = paddle.nn.Conv2D(3, channels, 3, padding=1)
            self.scores = paddle.nn.Conv2D(channels, classes, 1)
            shape = {"in_channels": channels, "feat_channels": channels, "out_channels": channels}
            self.update = update_head(
                num_classes=classes, num_heads=2, feedforward_channels=channels, in_channels=channels,
                out_channels=channels, conv_kernel_size=1, kernel_updator_cfg={**shape, "input_feat_shape": 3},
            )  # fmt: skip

        def forward(self, x: Any) -> list[Any]:
            features = self.features(x)
            kernels = self.scores.weight[None].expand([paddle.shape(features)[0], classes, channels, 1, 1])
            return [self.update(features, kernels, self.scores(features))[0]]

    return Network()
