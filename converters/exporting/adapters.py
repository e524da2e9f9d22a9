"""Changes to PaddleSeg's networks without which Paddle does not export them, or does not run what it exported."""

# Each adapter names the layers that need it; a network that has such a layer gets it, whatever its configuration is
# called. What an adapter changes in a class of PaddleSeg or a function of Paddle is as it was after the export. None of
# them changes what a network computes for one picture, but for the random start that is drawn once.
# Paddle traces the functions that take the place of its own as they are (`not_to_static`): where it looks into the
# source of a call within a call, it would otherwise wait for its own lock without end. Methods that take the place of
# PaddleSeg's are traced by their source, like those.

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false, reportArgumentType=false
# pyright: reportUnknownLambdaType=false
# ruff: noqa: ANN401
# Paddle and PaddleSeg ship no type information.

import inspect
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converters.exporting import deformable_attention

if TYPE_CHECKING:
    from paddle.nn import Layer

_SEED = 0

Layers = Mapping[str, Sequence[Any]]
"""Name of a class, PaddleSeg's or Paddle's, to the layers of the network that are of it."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A change that a network needs to be exported: by its name and reason in ``meta.json`` and in the output.

    It is for networks with a layer of one of the classes that `layers` names. `applied` makes the change while its
    block lasts; None where `axes` is all. `axes` finds the axes of the input, NCHW, that the program must fix, and
    their sizes; None: it leaves all free.
    """

    name: str
    reason: str
    layers: frozenset[str]
    applied: Callable[[Layers], AbstractContextManager[object]] | None = None
    axes: Callable[[Layers], Mapping[int, int]] | None = None

    @property
    def record(self) -> dict[str, str]:
        """What ``meta.json`` and ``--json`` say of it."""
        return {"name": self.name, "reason": self.reason}


PRETRAINED_WEIGHTS = Adapter(
    "pretrained-weights",
    "The pretrained weights that the backbone downloads by itself are not loaded; the trained ones replace them.",
    frozenset(),
)
"""Applied while the network is built."""
REVERSED_BANDS = Adapter(
    "reversed-bands",
    "The program reverses the bands of its input, because the data set gave the network blue, green and red.",
    frozenset(),
)
"""Applied as soon as the network is built."""


def reverse_bands(network: "Layer") -> None:
    """Let a network take pictures, NCHW, whose bands come in the opposite order."""

    def reversed_bands(_network: "Layer", inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        (pictures,) = inputs
        return (pictures.flip(axis=1),)

    network.register_forward_pre_hook(reversed_bands)


def adapters_for(network: "Layer") -> tuple[Adapter, ...]:
    """Find the adapters that a network needs, in the order in which they are applied."""
    layers = _layers_by_class(network)
    found = (adapter for adapter in ADAPTERS if not adapter.layers.isdisjoint(layers))
    return tuple(each for each in found if each.applied or (each.axes and each.axes(layers)))


def fixed_axes(network: "Layer", adapters: Sequence[Adapter]) -> dict[int, int]:
    """Find the axes of the input, NCHW, that adapters fix, and their sizes."""
    layers = _layers_by_class(network)
    return {axis: size for each in adapters if each.axes for axis, size in each.axes(layers).items()}


@contextmanager
def adapted(network: "Layer", adapters: Sequence[Adapter]) -> Generator[None]:
    """Apply adapters to a network that has its trained weights."""
    layers = _layers_by_class(network)
    with ExitStack() as stack:
        for adapter in adapters:
            stack.enter_context(adapter.applied(layers) if adapter.applied else nullcontext())
        yield


@contextmanager
def replaced(owner: object, name: str, substitute: object) -> Generator[None]:
    """Put something in the place of an attribute while a block lasts."""
    before = getattr(owner, name)
    setattr(owner, name, substitute)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _arguments_changed(owner: object, name: str, change: Callable[[dict[str, Any]], None]) -> Generator[None]:
    """Change the arguments of every call of a function of Paddle while a block lasts.

    `change` is given them by name, those with their defaults, too, and changes them in place.
    """
    import paddle

    original = getattr(owner, name)
    signature = inspect.signature(original)

    @paddle.jit.not_to_static
    def substitute(*positional: Any, **named: Any) -> Any:
        call = signature.bind(*positional, **named)
        call.apply_defaults()
        change(call.arguments)
        return original(*call.args, **call.kwargs)

    with replaced(owner, name, substitute):
        yield


def _layers_by_class(network: "Layer") -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for layer in network.sublayers(include_self=True):
        for kind in type(layer).__mro__:
            found.setdefault(kind.__name__, []).append(layer)
    return found


def _defining(layers: Layers, name: str) -> Any:
    """The class of this name; its layers may be of classes made from it."""
    return next(kind for kind in type(layers[name][0]).__mro__ if kind.__name__ == name)


def _module_of(layers: Layers, name: str) -> Any:
    return sys.modules[_defining(layers, name).__module__]


@contextmanager
def _plain_normalization(layers: Layers) -> Generator[None]:
    import paddle

    plain = paddle.nn.BatchNorm2D
    for layer in layers["SyncBatchNorm"]:
        # Same parameters and statistics under the same names: only the kernel is another.
        layer.__class__ = plain
        layer._use_global_stats = None
    yield


def _unpooling_told_its_size(layers: Layers) -> AbstractContextManager[None]:
    import paddle
    from paddle.nn import functional

    del layers

    def change(arguments: dict[str, Any]) -> None:
        if arguments["output_size"] is None:
            shape = paddle.shape(arguments["x"])
            arguments["output_size"] = [shape[2] * 2, shape[3] * 2]

    return _arguments_changed(functional, "max_unpool2d", change)


class _FlowSize:
    """Height and width: integers when read one by one, floating point when reversed."""

    def __init__(self, shape: Any) -> None:
        self._shape = shape

    def __getitem__(self, key: Any) -> Any:
        part = self._shape[key]
        return part.astype("float32") if isinstance(key, slice) and hasattr(part, "astype") else part


@contextmanager
def _flow_divided_by_float(layers: Layers) -> Generator[None]:
    def warped(original: Any) -> Any:
        def flow_warp(self: Any, input: Any, flow: Any, size: Any) -> Any:
            return original(self, input, flow, _FlowSize(size))

        return flow_warp

    with ExitStack() as stack:
        for name in ("SqueezeBodyEdge", "AlignedModule"):
            if name in layers:
                kind = _defining(layers, name)
                stack.enter_context(replaced(kind, "flow_warp", warped(kind.flow_warp)))
        yield


def scalars_joined_as_vectors() -> AbstractContextManager[None]:
    """Let Paddle 3 join scalars, as Paddle 2 did, while a block lasts."""
    import paddle

    def change(arguments: dict[str, Any]) -> None:
        arguments["x"] = [part.reshape([1]) if part.ndim == 0 else part for part in arguments["x"]]

    return _arguments_changed(paddle, "concat", change)


@contextmanager
def _sizes_as_int32(layers: Layers) -> Generator[None]:
    import paddle

    del layers
    original = paddle.shape

    @paddle.jit.not_to_static
    def shape(input: Any) -> Any:
        return original(input).astype("int32")

    with replaced(paddle, "shape", shape):
        yield


@contextmanager
def _assertions_left_out(layers: Layers) -> Generator[None]:
    from paddle.jit.dy2static.transformers.assert_transformer import AssertTransformer
    from paddle.utils import gast

    del layers
    with replaced(AssertTransformer, "visit_Assert", lambda self, node: gast.Pass()):
        yield


@contextmanager
def _number_of_points_as_int64(layers: Layers) -> Generator[None]:
    for head in layers["PointHead"]:
        head.subdivision_num_points = head.subdivision_num_points.astype("int64")
    yield


@contextmanager
def _word_branch_folded(layers: Layers) -> Generator[None]:
    import paddle

    for head in layers["GIHead"]:
        with paddle.no_grad():
            folded = head.fc2(head.fc1(head.inp))
        del head.inp
        head.register_buffer("inp", folded.detach())
        head.fc1, head.fc2 = paddle.nn.Identity(), paddle.nn.Identity()
    yield


class _NumbersWithCeil:
    """NumPy with a ceil that takes tensors."""

    def __getattr__(self, name: str) -> Any:
        import numpy

        return getattr(numpy, name)

    @staticmethod
    def ceil(value: Any) -> Any:
        import numpy
        import paddle

        return paddle.ceil(value) if hasattr(value, "stop_gradient") else numpy.ceil(value)


@contextmanager
def _windows_for_one_image(layers: Layers) -> Generator[None]:
    import paddle

    swin = _module_of(layers, "SwinTransformerBlock")
    original = swin.window_reverse

    def window_reverse(windows: Any, window_size: Any, H: Any, W: Any) -> Any:
        if paddle.in_dynamic_mode():
            return original(windows, window_size, H, W)
        channels = windows.shape[-1]
        grid = windows.reshape([1, H // window_size, W // window_size, window_size, window_size, channels])
        return grid.transpose([0, 1, 3, 2, 4, 5]).reshape([1, H, W, channels])

    with replaced(swin, "np", _NumbersWithCeil()), replaced(swin, "window_reverse", window_reverse):
        yield


@contextmanager
def _features_of_one_image(layers: Layers) -> Generator[None]:
    import paddle

    def forward(self: Any, x: Any) -> Any:
        features = x
        if not paddle.in_dynamic_mode():
            features = {}
            for name in ("res2", "res3", "res4", "res5"):
                shape = paddle.shape(x[name])
                features[name] = x[name].reshape([1, self.input_shape[name]["channels"], shape[2], shape[3]])
        mask_features, _ = self.pixel_decoder(features)
        return self.predictor(features[self.transformer_in_feature], mask_features)

    with replaced(_defining(layers, "MaskFormerHead"), "forward", forward):
        yield


def _one_group_of_convolutions(layers: Layers) -> AbstractContextManager[None]:
    from paddle.nn import functional

    del layers

    def change(arguments: dict[str, Any]) -> None:
        if not isinstance(arguments["groups"], int):
            arguments["groups"] = 1

    return _arguments_changed(functional, "conv2d", change)


@contextmanager
def _windows_always_padded(layers: Layers) -> Generator[None]:
    import paddle
    from paddle.nn import functional

    def margins(sides: Sequence[int], size: Any) -> list[Any]:
        found: list[Any] = []
        for window, length in zip(sides, (size[1], size[2]), strict=True):
            # In floating point, as PaddleSeg counts: a seventh of 49 is a little more than 7.
            count = length / window
            if isinstance(count, float):
                count = paddle.to_tensor(count)
            missing = (paddle.ceil(count) * window - length).astype("int32")
            found += [missing // 2, missing - missing // 2]
        return found

    def pad_if_needed(self: Any, x: Any, size: Any) -> Any:
        top, bottom, left, right = margins(self.lgs, size)
        sides = paddle.concat([each.reshape([1]) for each in (left, right, top, bottom)])
        return functional.pad(x.transpose([0, 3, 1, 2]), sides, data_format="NCHW").transpose([0, 2, 3, 1])

    def depad_if_needed(self: Any, x: Any, size: Any) -> Any:
        top, _, left, _ = margins(self.lgs, size)
        return x[:, top : top + size[1], left : left + size[2], :]

    kind = _module_of(layers, "InterlacedPoolAttention").PadHelper
    with replaced(kind, "pad_if_needed", pad_if_needed), replaced(kind, "depad_if_needed", depad_if_needed):
        yield


@contextmanager
def _tokens_without_class(layers: Layers) -> Generator[None]:
    kind = _defining(layers, "MlpDWBN")
    original = kind.forward

    def forward(self: Any, x: Any, H: Any, W: Any) -> Any:
        batch, _, channels = x.shape
        picture = original(self, x.transpose([0, 2, 1]).reshape([batch, channels, H, W]), H, W)
        return picture.flatten(2).transpose([0, 2, 1])

    with replaced(kind, "forward", forward):
        yield


def _size_of_relative_positions(layers: Layers) -> dict[int, int]:
    (backbone,) = layers["CAE"]
    learned = any(block.attn.relative_position_bias_table is not None for block in backbone.blocks)
    if not learned and backbone.rel_pos_bias is None:
        return {}
    height, width = backbone.patch_embed.img_size
    return {2: height, 3: width}


def _channels_named_in_reshape(layers: Layers) -> AbstractContextManager[None]:
    import paddle

    del layers

    def change(arguments: dict[str, Any]) -> None:
        x, shape = arguments["x"], arguments["shape"]
        if x.ndim == 3 and len(shape) == 4 and isinstance(shape[1], int) and shape[1] == -1:
            arguments["shape"] = [shape[0], x.shape[1], shape[2], shape[3]]

    return _arguments_changed(paddle, "reshape", change)


@contextmanager
def _attention_of_operators(layers: Layers) -> Generator[None]:
    import paddle

    kind = _defining(layers, "MSDeformAttn")
    with ExitStack() as stack:
        stack.enter_context(replaced(kind, "forward", deformable_attention.forward))
        if "ViTAdapter" in layers:
            inputs = paddle.jit.not_to_static(deformable_attention.inputs_of_attention)
            stack.enter_context(replaced(_module_of(layers, "ViTAdapter"), "deform_inputs", inputs))
        yield


@contextmanager
def _bases_drawn_once(layers: Layers) -> Generator[None]:
    import numpy
    import paddle

    random = numpy.random.default_rng(_SEED)
    for block in layers["Hamburger"]:
        decomposition = block.ham
        if decomposition.rand_init and decomposition.spatial:
            shape = (decomposition.S, block.ham_in._out_channels // decomposition.S, decomposition.R)
            drawn = random.random(shape, dtype=numpy.float32)
            drawn /= numpy.linalg.norm(drawn, axis=1, keepdims=True)
            decomposition.register_buffer("bases", paddle.to_tensor(drawn))
            decomposition.rand_init = False
    yield


@contextmanager
def _scales_as_numbers(layers: Layers) -> Generator[None]:
    import paddle
    from paddle.nn import functional

    def enlarged(x: Any, like: Any) -> Any:
        return functional.interpolate(x, size=paddle.shape(like)[2:4], mode="bilinear")

    def nscale_forward(self: Any, inputs: Any, scales: Any) -> Any:
        joined = None
        for scale in sorted(scales, reverse=True):
            outputs = self._fwd(functional.interpolate(inputs, scale_factor=scale, mode="bilinear"))
            scores, attention = outputs["pred_out"], outputs["logit_attn"]
            if joined is None:
                joined = scores
            elif scale >= 1.0:
                joined = attention * scores + (1 - attention) * enlarged(joined, scores)
            else:
                joined = enlarged(attention * scores, joined) + (1 - enlarged(attention, joined)) * joined
        return [joined]

    with replaced(_defining(layers, "MscaleOCRNet"), "nscale_forward", nscale_forward):
        yield


@contextmanager
def _attention_without_sizes(layers: Layers) -> Generator[None]:
    import paddle

    def spatial_pool(self: Any, x: Any) -> Any:
        weights = self.softmax_right(self.conv_q_right(x).flatten(2))
        context = paddle.matmul(self.conv_v_right(x).flatten(2), weights.transpose((0, 2, 1)))
        return x * self.sigmoid(self.conv_up(context.unsqueeze(-1)))

    def channel_pool(self: Any, x: Any) -> Any:
        query = self.avg_pool(self.conv_q_left(x)).flatten(2).transpose((0, 2, 1))
        values = self.conv_v_left(x)
        context = self.softmax_left(paddle.matmul(query, values.flatten(2)))
        return x * self.sigmoid(context.reshape((0, 1, paddle.shape(values)[2], -1)))

    attention = _defining(layers, "PolarizedSelfAttentionModule")
    with replaced(attention, "spatial_pool", spatial_pool), replaced(attention, "channel_pool", channel_pool):
        yield


def _needs(*names: str) -> frozenset[str]:
    return frozenset(names)


ADAPTERS: tuple[Adapter, ...] = (
    Adapter(
        "batch-normalization",
        "SyncBatchNorm, which has no CPU kernel, becomes BatchNorm2D with the same parameters.",
        _needs("SyncBatchNorm"),
        _plain_normalization,
    ),
    Adapter(
        "one-image",
        "The program takes one image per run, because the network uses the batch size as a number or mixes the images.",
        # KNet's update of kernels takes the batch of its attention for the kernels.
        _needs("DCM", "SwinTransformerBlock", "ExternalAttention", "MlpDWBN", "KernelUpdateHead"),
        axes=lambda _: {0: 1},
    ),
    Adapter(
        "one-size",
        "The program takes pictures of one size, the only one for which the network has learned relative positions.",
        _needs("CAE"),
        axes=_size_of_relative_positions,
    ),
    Adapter(
        "unpooling-size",
        "The last unpooling receives its output size; Paddle would otherwise fix the size of the export.",
        _needs("SegNet"),
        _unpooling_told_its_size,
    ),
    Adapter(
        "flow-size",
        "The flow is divided by a floating-point size; Paddle refuses to divide by an integer one.",
        _needs("SqueezeBodyEdge", "AlignedModule"),
        _flow_divided_by_float,
    ),
    Adapter(
        "point-count",
        "The number of points is int64, like the size with which it is concatenated.",
        _needs("PointHead"),
        _number_of_points_as_int64,
    ),
    Adapter(
        "scalar-sizes",
        "Sizes of rank 0 are concatenated as vectors of one element; Paddle 3 does not concatenate scalars.",
        _needs("ISAHead", "PointHead"),
        lambda _: scalars_joined_as_vectors(),
    ),
    Adapter(
        "size-type",
        "Sizes are int32, like those from which they are subtracted; Paddle 3 does not subtract int64 from int32.",
        _needs("ISAHead"),
        _sizes_as_int32,
    ),
    Adapter(
        "shape-assertions",
        "Assertions about shapes are left out; they cannot be evaluated if the size is free.",
        _needs("SwinTransformerBlock", "ExternalAttention", "InterlacedPoolAttention"),
        _assertions_left_out,
    ),
    Adapter(
        "word-embeddings",
        "The branch of the word embeddings, which is constant, is computed during the export; Paddle fails to fold it.",
        _needs("GIHead"),
        _word_branch_folded,
    ),
    Adapter(
        "swin-windows",
        "Windows are counted by Paddle's ceil instead of NumPy's and joined for one image: Swin calculates the batch "
        "size by a division in floating point, which can round to zero.",
        _needs("SwinTransformerBlock"),
        _windows_for_one_image,
    ),
    Adapter(
        "maskformer-features",
        "MaskFormer's head gets the features of one image, because its backbone loses the batch size.",
        _needs("MaskFormerHead"),
        _features_of_one_image,
    ),
    Adapter(
        "cross-attention-groups",
        "The cross attention, which has a group of convolutions for each image, gets a single group.",
        _needs("ExternalAttention"),
        _one_group_of_convolutions,
    ),
    Adapter(
        "window-padding",
        "Windows are padded even if no padding is needed; PaddleSeg tests this first, which would give each attention "
        "two branches in the program.",
        _needs("InterlacedPoolAttention"),
        _windows_always_padded,
    ),
    Adapter(
        "class-token",
        "The tokens of HRFormer are taken to hold no class token; the network decides this by their number, which is "
        "unknown if the size is free.",
        _needs("MlpDWBN"),
        _tokens_without_class,
    ),
    Adapter(
        "token-channels",
        "Tokens become a picture with a stated number of channels; Paddle loses this number if it is left open.",
        _needs("CAE"),
        _channels_named_in_reshape,
    ),
    Adapter(
        "deformable-attention",
        "The deformable attention is made of Paddle's own operators, because PaddleSeg computes it with a CUDA "
        "extension that Paddle does not contain.",
        _needs("MSDeformAttn"),
        _attention_of_operators,
    ),
    Adapter(
        "matrix-decomposition",
        "The start of the matrix decomposition, which the network draws at random for each picture, is drawn once, so "
        "that equal pictures give equal masks.",
        _needs("Hamburger"),
        _bases_drawn_once,
    ),
    Adapter(
        "scales",
        "The scales at which the network sees a picture are numbers; Paddle cannot trace a loop over a tensor of them.",
        _needs("MscaleOCRNet"),
        _scales_as_numbers,
    ),
    Adapter(
        "attention-sizes",
        "The polarized self-attention is flattened without calculating sizes, which would be a third of a long "
        "program; Paddle would not prepare it within the time limit.",
        _needs("PolarizedSelfAttentionModule"),
        _attention_without_sizes,
    ),
)
"""In the order in which they are applied."""
