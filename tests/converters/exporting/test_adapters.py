"""Every adapter on a tiny network of PaddleSeg's own layers: the exported program gives what the network gives."""
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedBaseClass=false
# pyright: reportUnknownLambdaType=false
# Paddle and PaddleSeg ship no type information.

import json
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from converters.exporting.adapters import ADAPTERS, adapted, adapters_for
from converters.exporting.bundle_files import FREE_AXES
from converters.exporting.deformable_attention import attended
from converters.exporting.export import export_bundle
from engine import ConversionError, open_bundle
from tests.conftest import NORMALIZE, vendor_warnings_ignored
from tests.converters.exporting.trainings import (
    human_seg_lite,
    kernels_updated_once,
    logits_of,
    output_of,
    trained_network,
)

Build = Callable[[Any, Any], Any]
SIZES = ((64, 96), (50, 77))
EVEN_SIZES = ((64, 96), (128, 64))


def _around(layer: Any, channels: int, outputs: int) -> Any:
    """A convolution and a batch normalisation, the layer, and scores of three classes."""
    import paddle

    stem = paddle.nn.Sequential(paddle.nn.Conv2D(3, channels, 3, padding=1), paddle.nn.BatchNorm2D(channels))

    class Network(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.layer, self.scores = stem, layer, paddle.nn.Conv2D(outputs, 3, 1)

        def forward(self, x: Any) -> list[Any]:
            features = self.layer(self.stem(x))
            if isinstance(features, list | tuple):
                features = features[0]
            return [self.scores(features)]

    return Network()


def _models(name: str) -> Any:
    return import_module(f"paddleseg.models.{name}")


def _dynamic_filters(_paddle: Any, _layers: Any) -> Any:
    return _around(_models("dmnet").DCM(3, fusion=False, in_channels=8, channels=4), 8, 4)


def _segnet(_paddle: Any, layers: Any) -> Any:
    network = _models("segnet").SegNet(num_classes=3)
    widths = {"enco1": (3, 4), "deco5": (4, 3)}
    for stage in [*(f"enco{number}" for number in range(1, 6)), *(f"deco{number}" for number in range(1, 6))]:
        setattr(network, stage, layers.ConvBNReLU(*widths.get(stage, (4, 4)), 3, padding=1))
    return network


def _flow_of_two(paddle: Any, _layers: Any) -> Any:
    class OfTwo(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.align = _models("sfnet").AlignedModule(8, 8)

        def forward(self, x: Any) -> Any:
            return self.align([x, x[:, :, ::2, ::2]])

    return _around(OfTwo(), 8, 8)


def _flow_of_edges(_paddle: Any, _layers: Any) -> Any:
    return _around(_models("decoupled_segnet").SqueezeBodyEdge(8), 8, 8)


def _points(paddle: Any, _layers: Any, count: int = 40) -> Any:
    class Refined(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.coarse = paddle.nn.Conv2D(8, 3, 4, stride=4)
            self.head = _models("pointrend").PointHead(
                num_classes=3,
                num_fcs=1,
                in_channels=[8],
                out_channels=8,
                subdivision_steps=1,
                subdivision_num_points=count,
            )

        def forward(self, x: Any) -> Any:
            return self.head([x], [self.coarse(x)])

    return _around(Refined(), 8, 3)


def _kernels(_paddle: Any, _layers: Any) -> Any:
    return kernels_updated_once(_models("knet").KernelUpdateHead)


def _windows_of_pixels(paddle: Any, _layers: Any) -> Any:
    class OfTwo(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.head = _models("isanet").ISAHead(4, (8, 16), 8, (2, 2), enable_auxiliary_loss=False)

        def forward(self, x: Any) -> Any:
            return self.head([x, x])

    return _around(OfTwo(), 16, 4)


def _shifted_windows(_paddle: Any, _layers: Any) -> Any:
    swin = _models("backbones.swin_transformer").SwinTransformer(
        embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4, out_indices=[1]
    )
    return _around(swin, 3, 16)


def _words(_paddle: Any, _layers: Any) -> Any:
    return _around(_models("ginet").GIHead(16, 3), 16, 3)


def _cross_attention(_paddle: Any, _layers: Any) -> Any:
    return _models("rtformer").RTFormer(
        num_classes=3, layer_nums=[1, 1, 1, 1], base_channels=8, spp_channels=8, head_channels=8, use_aux_head=False
    )


def _tokens(paddle: Any, _layers: Any) -> Any:
    class OfTokens(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = _models("backbones.hrformer").MlpDWBN(8, 16, 8)

        def forward(self, x: Any) -> Any:
            shape = paddle.shape(x)
            tokens = self.mlp(x.flatten(2).transpose([0, 2, 1]), shape[2], shape[3])
            return tokens.transpose([0, 2, 1]).reshape([1, 8, shape[2], shape[3]])

    return _around(OfTokens(), 8, 8)


def _attention_in_windows(paddle: Any, _layers: Any) -> Any:
    class OfPicture(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.attention = _models("backbones.hrformer").InterlacedPoolAttention(8, 2)

        def forward(self, x: Any) -> Any:
            shape = paddle.shape(x)
            tokens = self.attention(x.flatten(2).transpose([0, 2, 1]), shape[2], shape[3])
            return tokens.transpose([0, 2, 1]).reshape([1, 8, shape[2], shape[3]])

    return _around(OfPicture(), 8, 8)


def _deformable_attention(paddle: Any, _layers: Any) -> Any:
    adapter = _models("backbones.vit_adapter").ViTAdapter
    sizes = {"img_size": 64, "pretrain_size": 64, "patch_size": 16, "embed_dim": 16, "depth": 4, "num_heads": 2}
    network = adapter(
        **sizes, deform_num_heads=2, conv_inplane=8, init_values=0.5, qkv_bias=True,
        interaction_indexes=[[0, 0], [1, 1], [2, 2], [3, 3]],
    )  # fmt: skip
    for name, parameter in network.named_parameters():
        if "sampling_offsets" in name or "attention_weights" in name:
            parameter.set_value(parameter + 2 * paddle.randn(parameter.shape))
    return _around(network, 3, 16)


def _decomposition(_paddle: Any, _layers: Any) -> Any:
    return _around(_models("segnext").Hamburger(8, num_groups=2, ham_kwargs={"MD_R": 4}), 8, 8)


def _tokens_of_cae(_paddle: Any, _layers: Any, **options: Any) -> Any:
    sizes = {"img_size": 64, "embed_dim": 768, "depth": 4, "num_heads": 8, "mlp_ratio": 1, "init_values": 0.1}
    backbone = _models("backbones.cae").CAE(**sizes, **options)
    return _models("upernet_cae").UPerNetCAE(
        num_classes=3, backbone=backbone, backbone_indices=[0, 1, 2, 3], channels=8, fpn_channels=8, head_channels=768,
        channels_fpn=[768] * 4,
    )  # fmt: skip


def _positions_of_one_size(paddle: Any, layers: Any) -> Any:
    return _tokens_of_cae(paddle, layers, use_rel_pos_bias=True)


def _masks(_paddle: Any, _layers: Any) -> Any:
    swin = _models("backbones.swin_transformer").SwinTransformer_tiny_patch4_window7_224_maskformer()
    return _models("maskformer").MaskFormer(3, swin)


def _scales(_paddle: Any, _layers: Any) -> Any:
    return _models("mscale_ocrnet").MscaleOCRNet(3, _models("backbones.hrnet").HRNet_W18_Small_V1(), mscale=[0.5, 1.0])


def _polarized_attention(_paddle: Any, layers: Any) -> Any:
    return _around(layers.PolarizedSelfAttentionModule(8, 8), 8, 8)


def _networks(build: Build) -> tuple[Any, Any]:
    """The same network twice, with the same weights and settled statistics: as it is, and to be exported."""
    with vendor_warnings_ignored():
        import paddle
        from paddleseg.models import layers

        from converters.exporting.paddleseg_config import nothing_downloaded

        def made() -> Any:
            with nothing_downloaded():
                return build(paddle, layers)

        paddle.seed(7)
        exported = made()
        paddle.seed(7)
        plain = made()
    return plain, exported


def _inputs(sizes: Sequence[tuple[int, int]]) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(3)
    return [random.standard_normal((1, 3, *size), dtype=np.float32) for size in sizes]


@pytest.mark.parametrize(
    ("build", "adapters", "sizes"),
    [
        pytest.param(_dynamic_filters, {"one-image"}, SIZES, id="one-image"),
        pytest.param(_kernels, {"one-image"}, SIZES, id="one-image of kernels"),
        pytest.param(_segnet, {"unpooling-size"}, EVEN_SIZES, id="unpooling-size", marks=pytest.mark.long),
        pytest.param(_flow_of_edges, {"flow-size"}, SIZES, id="flow-size"),
        pytest.param(_flow_of_two, {"flow-size"}, EVEN_SIZES, id="flow-size of two"),
        pytest.param(_points, {"point-count", "scalar-sizes"}, EVEN_SIZES, id="point-count"),
        pytest.param(
            _windows_of_pixels, {"scalar-sizes", "size-type"}, SIZES, id="scalar-sizes", marks=pytest.mark.long,
        ),
        pytest.param(
            _shifted_windows, {"one-image", "shape-assertions", "swin-windows"}, SIZES, id="swin-windows",
            marks=pytest.mark.long,
        ),
        pytest.param(_words, {"word-embeddings"}, SIZES, id="word-embeddings"),
        pytest.param(
            _cross_attention,
            {"one-image", "shape-assertions", "cross-attention-groups"},
            EVEN_SIZES,
            id="cross-attention-groups",
            marks=pytest.mark.long,
        ),
        pytest.param(_tokens, {"one-image", "class-token"}, SIZES, id="class-token"),
        pytest.param(
            _attention_in_windows, {"shape-assertions", "window-padding"}, ((64, 96), (49, 77)), id="window-padding"
        ),
        pytest.param(
            _tokens_of_cae, {"batch-normalization", "token-channels"}, EVEN_SIZES, id="token-channels",
            marks=pytest.mark.long,
        ),
        pytest.param(
            _masks, {"one-image", "shape-assertions", "swin-windows", "maskformer-features"}, EVEN_SIZES,
            id="maskformer-features", marks=pytest.mark.long,
        ),
        pytest.param(_polarized_attention, {"attention-sizes"}, SIZES, id="attention-sizes"),
        pytest.param(_scales, {"scales"}, EVEN_SIZES, id="scales", marks=pytest.mark.long),
        pytest.param(
            _deformable_attention, {"batch-normalization", "deformable-attention"}, EVEN_SIZES,
            id="deformable-attention", marks=pytest.mark.long,
        ),
    ],
)  # fmt: skip
def test_the_program_gives_what_the_network_gives(
    build: Build, adapters: set[str], sizes: Sequence[tuple[int, int]], tmp_path: Path
) -> None:
    plain, exported = _networks(build)
    found = adapters_for(exported)
    assert {each.name for each in found} == adapters
    # What Paddle 3 cannot run on a CPU without them either.
    needed = [
        each
        for each in found
        if each.name
        in {"batch-normalization", "point-count", "scalar-sizes", "size-type", "flow-size", "deformable-attention"}
    ]
    plain.eval()
    inputs = _inputs(sizes)
    with vendor_warnings_ignored(), adapted(plain, needed):
        expected = [logits_of(plain, each) for each in inputs]
    with vendor_warnings_ignored():
        export_bundle(exported, tmp_path / "bundle", name="tiny", classes=[], transforms=[NORMALIZE])
    with open_bundle(tmp_path / "bundle") as bundle:
        for tensor, wanted in zip(inputs, expected, strict=True):
            np.testing.assert_allclose(output_of(bundle, tensor), wanted, atol=1e-4 * float(np.ptp(wanted)))
    record = json.loads((tmp_path / "bundle" / "meta.json").read_text())["model"]
    assert record["adapters"] == [{"name": each.name, "reason": each.reason} for each in found]


@pytest.mark.long
def test_rounding_changes_which_points_are_computed_again_in_paddle_itself() -> None:
    network, _ = _networks(lambda paddle, layers: _points(paddle, layers, count=700))
    network.eval()
    random = np.random.default_rng(0)
    errors: list[float] = []
    with vendor_warnings_ignored(), adapted(network, adapters_for(network)):
        for picture in (random.standard_normal((1, 3, 128, 192), dtype=np.float32) for _ in range(200)):
            scores = logits_of(network, picture)
            noise = random.normal(scale=3e-6, size=picture.shape).astype(np.float32)
            errors.append(float(np.abs(logits_of(network, picture + noise) - scores).max() / np.ptp(scores)))
    assert np.median(errors) < 1e-5
    assert max(errors) > 0.05


def test_deformable_attention_is_a_weighted_sum_of_bilinear_samples() -> None:
    with vendor_warnings_ignored():
        import paddle
    random = np.random.default_rng(5)
    sizes, (batch, queries, heads, channels, points) = ((4, 6), (2, 3)), (2, 5, 3, 4, 2)
    value = random.standard_normal((batch, 4 * 6 + 2 * 3, heads, channels), np.float32)
    locations = random.uniform(-0.2, 1.2, (batch, queries, heads, 2, points, 2)).astype(np.float32)
    weights = random.random((batch, queries, heads, 2, points), np.float32)
    expected = np.zeros((batch, queries, heads, channels))
    for image, query, head, level, point in np.ndindex(*weights.shape):
        height, width = sizes[level]
        picture = value[image, level * 4 * 6 :][: height * width, head].reshape(height, width, channels)
        x, y = locations[image, query, head, level, point]
        for channel in range(channels):
            seen = map_coordinates(
                picture[..., channel], [[y * height - 0.5], [x * width - 0.5]], order=1, mode="grid-constant"
            )
            expected[image, query, head, channel] += weights[image, query, head, level, point] * seen[0]
    tensors = [paddle.to_tensor(each) for each in (value, locations, weights)]
    found = attended(tensors[0], [paddle.to_tensor(size) for size in sizes], *tensors[1:])
    np.testing.assert_allclose(found.numpy(), expected.reshape(batch, queries, heads * channels), atol=1e-5)


def test_windows_of_a_known_size_are_padded_in_the_middle() -> None:
    with vendor_warnings_ignored():
        import paddle

        hrformer = _models("backbones.hrformer")
        attention = hrformer.InterlacedPoolAttention(8, 2)
        picture = paddle.rand([1, 49, 30, 8])
        with adapted(attention, adapters_for(attention)):
            padding = hrformer.PadHelper(7)
            padded = padding.pad_if_needed(picture, picture.shape)
            cut = padding.depad_if_needed(padded, picture.shape)
    np.testing.assert_array_equal(padded.numpy(), np.pad(picture.numpy(), ((0, 0), (0, 0), (2, 3), (0, 0))))
    np.testing.assert_array_equal(cut.numpy(), picture.numpy())


def test_synchronised_normalisation_keeps_its_parameters(tmp_path: Path) -> None:
    with vendor_warnings_ignored():
        import paddle

    def network(normalization: Any) -> Any:
        return _around(normalization, 8, 8)

    plain = trained_network(lambda: network(paddle.nn.BatchNorm2D(8)))
    synchronised = network(paddle.nn.SyncBatchNorm(8))
    synchronised.set_state_dict(plain.state_dict())
    (tensor,) = _inputs(SIZES[:1])
    with vendor_warnings_ignored():
        export_bundle(synchronised, tmp_path / "bundle", name="tiny", classes=[], transforms=None)
    wanted = logits_of(plain, tensor)
    with open_bundle(tmp_path / "bundle") as bundle:
        np.testing.assert_allclose(output_of(bundle, tensor), wanted, atol=1e-4 * float(np.ptp(wanted)))
    assert list(synchronised.state_dict()) == list(plain.state_dict())


def test_a_random_start_is_drawn_once(tmp_path: Path) -> None:
    plain, exported = _networks(_decomposition)
    plain.eval()
    (tensor,) = _inputs([(64, 96)])
    assert np.ptp(logits_of(plain, tensor) - logits_of(plain, tensor)) > 0
    assert [each.name for each in adapters_for(exported)] == ["matrix-decomposition"]
    with vendor_warnings_ignored():
        export_bundle(exported, tmp_path / "bundle", name="tiny", classes=[], transforms=None)
    with open_bundle(tmp_path / "bundle") as bundle:
        first = output_of(bundle, tensor)
        np.testing.assert_array_equal(output_of(bundle, tensor), first)
        exported.eval()
        wanted = logits_of(exported, tensor)
        np.testing.assert_allclose(first, wanted, atol=1e-4 * float(np.ptp(wanted)))


def test_a_network_that_needs_none_is_exported_as_it_is(tmp_path: Path) -> None:
    network = human_seg_lite()
    assert adapters_for(network) == ()
    with vendor_warnings_ignored():
        export_bundle(network, tmp_path / "bundle", name="lite", classes=[], transforms=None)
    assert "adapters" not in json.loads((tmp_path / "bundle" / "meta.json").read_text())["model"]


@pytest.mark.long
def test_a_network_of_one_size_is_exported_for_it(tmp_path: Path) -> None:
    plain, network = _networks(_positions_of_one_size)
    plain.eval()
    with vendor_warnings_ignored():
        export_bundle(network, tmp_path / "b", name="tiny", classes=[], transforms=[NORMALIZE])
    assert json.loads((tmp_path / "b" / "meta.json").read_text())["shape"] == [None, 3, 64, 64]
    (tensor,) = _inputs([(64, 64)])
    with vendor_warnings_ignored(), adapted(plain, adapters_for(plain)):
        wanted = logits_of(plain, tensor)
    with open_bundle(tmp_path / "b") as bundle:
        np.testing.assert_allclose(output_of(bundle, tensor), wanted, atol=1e-4 * float(np.ptp(wanted)))


def test_another_size_than_that_of_the_network_is_refused(tmp_path: Path) -> None:
    _, network = _networks(_positions_of_one_size)
    with pytest.raises(ConversionError, match=r"asks for H 96, and this network is exported for 64 only: give 64"):
        export_bundle(network, tmp_path / "b", name="tiny", classes=[], transforms=None, input_shape=(None, 3, 96, 64))


@pytest.mark.parametrize(("asked", "given"), [(FREE_AXES, [1, 3, None, None]), ((1, 3, 64, 96), [1, 3, 64, 96])])
def test_one_image_per_run_is_declared(asked: Sequence[int | None], given: list[int | None], tmp_path: Path) -> None:
    _, network = _networks(_dynamic_filters)
    with vendor_warnings_ignored():
        export_bundle(network, tmp_path / "b", name="tiny", classes=[], transforms=None, input_shape=asked)
    assert json.loads((tmp_path / "b" / "meta.json").read_text())["shape"] == given


def test_several_images_per_run_are_refused_where_the_network_takes_one(tmp_path: Path) -> None:
    _, network = _networks(_dynamic_filters)
    with pytest.raises(ConversionError, match="asks for N 4, and this network is exported for 1 only"):
        export_bundle(network, tmp_path / "b", name="t", classes=[], transforms=None, input_shape=(4, 3, None, None))
    assert list(tmp_path.iterdir()) == []


def test_what_was_changed_for_the_export_is_as_before() -> None:
    _, network = _networks(_flow_of_edges)
    kind = type(network.layer)
    before = kind.flow_warp
    with adapted(network, adapters_for(network)):
        assert kind.flow_warp is not before
    assert kind.flow_warp is before


def test_adapters_have_names_of_their_own_and_say_why() -> None:
    assert len({each.name for each in ADAPTERS}) == len(ADAPTERS)
    assert all(each.reason.endswith(".") and each.layers for each in ADAPTERS)
