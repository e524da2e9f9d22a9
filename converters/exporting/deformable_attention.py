"""Multi-scale deformable attention made of Paddle's own operators; PaddleSeg runs a CUDA extension for it."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# ruff: noqa: ANN401
# Paddle and PaddleSeg ship no type information.

from collections.abc import Sequence
from typing import Any

_STRIDES = (8, 16, 32)


def attended(value: Any, sizes: Sequence[Any], locations: Any, weights: Any) -> Any:
    """Sum what each query sees at its points in pictures of several sizes, read bilinearly, zero outside of them.

    `value` is float32[batch, pixels of all pictures one after the other, heads, channels], `sizes` int64[2], height and
    width, of each picture; `locations` are float32[batch, queries, heads, pictures, points, 2], x and y as shares of
    width and height, and `weights` float32 of the same without the last axis. Returns float32[batch, queries, heads ×
    channels].
    """
    import paddle
    from paddle.nn import functional

    _, _, heads, channels = value.shape
    positions = (2 * locations - 1).transpose([0, 2, 1, 3, 4, 5]).flatten(0, 1)
    shares = weights.transpose([0, 2, 1, 3, 4]).flatten(0, 1).unsqueeze(1)
    seen, start = [], 0
    for level, size in enumerate(sizes):
        height, width = size[0], size[1]
        end = start + height * width
        picture = value[:, start:end].transpose([0, 2, 3, 1]).reshape([-1, channels, height, width])
        points = functional.grid_sample(picture, positions[:, :, level], align_corners=False)
        seen.append((points * shares[:, :, :, level]).sum(-1))
        start = end
    joined = sum(seen[1:], start=seen[0])
    return joined.reshape([-1, heads * channels, paddle.shape(joined)[2]]).transpose([0, 2, 1])


def forward(self: Any, query: Any, reference_points: Any, value: Any, sizes: Any, *_unused: Any) -> Any:
    """Take the place of `MSDeformAttn.forward`.

    Query and result are float32[batch, queries, width]; `reference_points` float32[1, queries, 1, 2], x and y as shares
    of width and height; `value` is float32[batch, pixels of all pictures, width], `sizes` int64[pictures, 2], height
    and width of each.
    """
    points = [self.n_heads, self.n_levels, self.n_points]
    offsets = self.sampling_offsets(query).reshape([0, 0, *points, 2])
    weights = self.attention_weights(query).reshape([0, 0, self.n_heads, self.n_levels * self.n_points])
    weights = weights.softmax(-1).reshape([0, 0, *points])
    widths_and_heights = sizes.flip(1).astype("float32").reshape([1, 1, 1, self.n_levels, 1, 2])
    locations = reference_points.unsqueeze([2, 4]) + offsets / widths_and_heights
    projected = self.value_proj(value)
    projected = projected.reshape([0, 0, self.n_heads, projected.shape[-1] // self.n_heads])
    seen = attended(projected, [sizes[level] for level in range(self.n_levels)], locations, weights)
    return self.output_proj(seen)


def inputs_of_attention(x: Any) -> tuple[list[Any], list[Any]]:
    """Take the place of ViT-Adapter's `deform_inputs`, which needs the size as numbers.

    Of float32[batch, 3, height, width], returns reference points, sizes of the pictures and an unused None: of the
    attention from the patches to the pyramid, and of that from the pyramid to the patches.
    """
    import paddle

    size = paddle.shape(x)[2:4].astype("int64")
    pyramid = [size // stride for stride in _STRIDES]
    patches = pyramid[1]
    return (
        [_centres(patches), paddle.stack(pyramid), None],
        [paddle.concat([_centres(each) for each in pyramid], 1), paddle.stack([patches]), None],
    )


def _centres(size: Any) -> Any:
    """The centres of the pixels of a picture, float32[1, pixels, 1, 2]."""
    import paddle

    axes = [
        (paddle.arange(0, length, dtype="float32") + 0.5) / length.astype("float32") for length in (size[0], size[1])
    ]
    y, x = paddle.meshgrid(*axes)
    return paddle.stack([x.flatten(), y.flatten()], -1).reshape([1, -1, 1, 2])
