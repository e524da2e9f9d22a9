"""Stated changes to PaddleSeg without which Paddle does not export a network, or does not run what it exported.

Each is a context manager around building and exporting; the first line of its docstring is what the table says.
The functions that take the place of Paddle's have its signatures: Paddle traces their source.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportUnknownLambdaType=false
# ruff: noqa: ANN401
# Paddle and PaddleSeg ship no type information.

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def last_unpooling_told_its_size() -> Generator[None]:
    """The last unpooling is told its size; Paddle takes it as that of the export."""
    import paddle
    from paddle.nn import functional

    original = functional.max_unpool2d

    def unpool(
        x: Any,
        indices: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        data_format: Any = "NCHW",
        output_size: Any = None,
        name: Any = None,
    ) -> Any:
        if output_size is None:
            shape = paddle.shape(x)
            output_size = [shape[2] * 2, shape[3] * 2]
        return original(x, indices, kernel_size, stride, padding, data_format, output_size, name)

    with patch.object(functional, "max_unpool2d", unpool):
        yield


class _FlowSize:
    """Height and width: integers when read one by one, floating point when reversed."""

    def __init__(self, shape: Any) -> None:
        self._shape = shape

    def __getitem__(self, key: Any) -> Any:
        part = self._shape[key]
        return part.astype("float32") if isinstance(key, slice) else part


@contextmanager
def flow_divided_by_float() -> Generator[None]:
    """The flow is divided by a floating-point size; Paddle refuses to divide by an integer one."""
    from paddleseg.models.decoupled_segnet import SqueezeBodyEdge
    from paddleseg.models.sfnet import AlignedModule

    def warped(kind: Any) -> Any:
        original = kind.flow_warp

        def flow_warp(self: Any, input: Any, flow: Any, size: Any) -> Any:
            return original(self, input, flow, _FlowSize(size))

        return flow_warp

    with (
        patch.object(SqueezeBodyEdge, "flow_warp", warped(SqueezeBodyEdge)),
        patch.object(AlignedModule, "flow_warp", warped(AlignedModule)),
    ):
        yield


@contextmanager
def scalars_joined_as_vectors() -> Generator[None]:
    """Sizes of rank 0 are joined as vectors of one element; Paddle 3 does not join scalars."""
    import paddle

    original = paddle.concat

    def concat(x: Any, axis: Any = 0, name: Any = None) -> Any:
        return original([part.reshape([1]) if part.ndim == 0 else part for part in x], axis, name)

    with patch.object(paddle, "concat", concat):
        yield


@contextmanager
def assertions_left_out() -> Generator[None]:
    """Assertions about shapes are left out; they cannot be decided for a free size."""
    from paddle.jit.dy2static.transformers.assert_transformer import AssertTransformer
    from paddle.utils import gast

    with patch.object(AssertTransformer, "visit_Assert", lambda self, node: gast.Pass()):
        yield


@contextmanager
def number_of_points_as_int64() -> Generator[None]:
    """The number of points is int64, as the size that it is joined with."""
    from paddleseg.models.pointrend import PointHead

    original = PointHead.__init__

    def initialise(self: Any, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        self.subdivision_num_points = self.subdivision_num_points.astype("int64")

    with patch.object(PointHead, "__init__", initialise):
        yield


@contextmanager
def synchronised_normalisation_as_plain() -> Generator[None]:
    """SyncBatchNorm, which has no CPU kernel, becomes BatchNorm2D."""
    import paddle

    with patch.object(paddle.nn, "SyncBatchNorm", paddle.nn.BatchNorm2D):
        yield


@contextmanager
def word_branch_folded() -> Generator[None]:
    """The branch of the word embeddings, a constant, is computed at once; Paddle's own folding of it fails."""
    import paddle
    from paddleseg.models.ginet import GIHead

    original = GIHead.__init__

    def initialise(self: Any, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        self.eval()
        with paddle.no_grad():
            folded = self.fc2(self.fc1(self.inp))
        del self.inp
        self.register_buffer("inp", folded.detach())
        self.fc1, self.fc2 = paddle.nn.Identity(), paddle.nn.Identity()

    with patch.object(GIHead, "__init__", initialise):
        yield


@contextmanager
def windows_counted_by_paddle() -> Generator[None]:
    """The number of windows is rounded up by Paddle's ceil instead of NumPy's."""
    import paddle
    from paddleseg.models.backbones import swin_transformer

    class Numbers:
        """NumPy with a ceil that takes tensors."""

        def __getattr__(self, name: str) -> Any:
            import numpy

            return getattr(numpy, name)

        @staticmethod
        def ceil(value: Any) -> Any:
            import numpy

            return paddle.ceil(value) if hasattr(value, "stop_gradient") else numpy.ceil(value)

    with patch.object(swin_transformer, "np", Numbers()):
        yield


@contextmanager
def one_group_an_image() -> Generator[None]:
    """The cross attention, which has a group of convolutions for each image, has one."""
    from paddle.nn import functional

    original = functional.conv2d

    def conv2d(
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: Any = 1,
        data_format: Any = "NCHW",
        name: Any = None,
    ) -> Any:
        groups = groups if isinstance(groups, int) else 1
        return original(x, weight, bias, stride, padding, dilation, groups, data_format, name)

    with patch.object(functional, "conv2d", conv2d):
        yield


@contextmanager
def tokens_without_class() -> Generator[None]:
    """The tokens of HRFormer hold no class token; it asks for one by their number, which a free size does not tell."""
    from paddleseg.models.backbones.hrformer import MlpDWBN

    original = MlpDWBN.forward

    def forward(self: Any, x: Any, H: Any, W: Any) -> Any:
        batch, _, channels = x.shape
        picture = original(self, x.transpose([0, 2, 1]).reshape([batch, channels, H, W]), H, W)
        return picture.flatten(2).transpose([0, 2, 1])

    with patch.object(MlpDWBN, "forward", forward):
        yield


@contextmanager
def windows_joined_for_one_image() -> Generator[None]:
    """Swin's windows are joined for one image; the batch that it divides out in floating point can round to none."""
    import paddle
    from paddleseg.models.backbones import swin_transformer

    original = swin_transformer.window_reverse

    def window_reverse(windows: Any, window_size: Any, H: Any, W: Any) -> Any:
        if paddle.in_dynamic_mode():
            return original(windows, window_size, H, W)
        channels = windows.shape[-1]
        grid = windows.reshape([1, H // window_size, W // window_size, window_size, window_size, channels])
        return grid.transpose([0, 1, 3, 2, 4, 5]).reshape([1, H, W, channels])

    with patch.object(swin_transformer, "window_reverse", window_reverse):
        yield


@contextmanager
def features_of_one_image() -> Generator[None]:
    """MaskFormer's head is told that its features are of one image; its backbone forgets the batch."""
    import paddle
    from paddleseg.models.maskformer import MaskFormerHead

    def forward(self: Any, x: Any) -> Any:
        features = x
        if not paddle.in_dynamic_mode():
            features = {}
            for name in ("res2", "res3", "res4", "res5"):
                shape = paddle.shape(x[name])
                features[name] = x[name].reshape([1, self.input_shape[name]["channels"], shape[2], shape[3]])
        mask_features, _ = self.pixel_decoder(features)
        return self.predictor(features[self.transformer_in_feature], mask_features)

    with patch.object(MaskFormerHead, "forward", forward):
        yield


@contextmanager
def channels_named_in_reshape() -> Generator[None]:
    """Tokens become a picture with a stated number of channels; Paddle forgets it where it is left open."""
    import paddle

    original = paddle.reshape

    def reshape(x: Any, shape: Any, name: Any = None) -> Any:
        if x.ndim == 3 and len(shape) == 4 and isinstance(shape[1], int) and shape[1] == -1:
            shape = [shape[0], x.shape[1], shape[2], shape[3]]
        return original(x, shape, name)

    with patch.object(paddle, "reshape", reshape):
        yield


@contextmanager
def weights_not_loaded() -> Generator[None]:
    """The pretrained weights that its constructor insists on are not loaded."""
    from paddleseg.models.backbones import cae, vision_transformer

    with (
        patch.object(vision_transformer.VisionTransformer, "init_weight", lambda self: None),
        patch.object(cae.CAE, "init_weight", lambda self: None),
    ):
        yield
