"""How one small network of every model family is built: data only, read by `benchmarks.zoo.networks`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from converters.parity import GENERATED_SIZES

CLASSES = 3
Size = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True, slots=True)
class Part:
    """A backbone.

    Attributes:
        name: as PaddleSeg registers it.
        arguments: keyword arguments.
    """

    name: str
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True)
class Recipe:
    """One network.

    Attributes:
        family: as PaddleSeg registers it.
        backbone: what it stands on; None: it has its own.
        arguments: keyword arguments but for `num_classes` and `backbone`.
        variant: tells recipes of one family apart.
        changes: names of functions of `benchmarks.zoo.changes` without which Paddle does not export the network.
        classes: of the network.
        batch: images a run; None: free.
        sizes: of the pictures that it is compared on.
        sizes_reason: why not the usual ones.
    """

    family: str
    backbone: Part | None = None
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    variant: str = ""
    changes: tuple[str, ...] = ()
    classes: int = CLASSES
    batch: int | None = None
    sizes: tuple[Size, ...] = GENERATED_SIZES
    sizes_reason: str = ""

    @property
    def name(self) -> str:
        """Family and variant, fit for a file name."""
        return f"{self.family}-{self.variant}" if self.variant else self.family

    @property
    def configuration(self) -> str:
        """What a reader needs to build it again."""
        parts = [self.backbone.name] if self.backbone else []
        if self.variant:
            parts.append(self.variant)
        return ", ".join(parts) or "as it is"


_RESNET18 = Part("ResNet18_vd")
_RESNET50 = Part("ResNet50_vd")
_HRNET = Part("HRNet_W18_Small_V1")
_STDC = Part("STDC1")
_MOBILENET = Part("MobileNetV3_small_x0_35")
_VIT = Part("VisionTransformer", {"img_size": 128, "embed_dim": 48, "depth": 4, "num_heads": 4})
_LAST_TWO: Mapping[str, object] = {"backbone_indices": (2, 3)}
_ALL_FOUR: Mapping[str, object] = {"backbone_indices": (0, 1, 2, 3)}

RECIPES: tuple[Recipe, ...] = (
    Recipe("ANN", _RESNET18, {"key_value_channels": 32, "inter_channels": 64}),
    Recipe("AttentionUNet"),
    Recipe("BiSeNetV2"),
    Recipe("BiseNetV1", _RESNET18),
    Recipe("CCNet", _RESNET18),
    Recipe("DANet", _RESNET18, _LAST_TWO),
    Recipe("DDRNet_23"),
    Recipe("DMNet", _RESNET18, {"mid_channels": 32}, batch=1),
    Recipe("DNLNet", _RESNET18, {"enable_auxiliary_loss": False}),
    Recipe("DecoupledSegNet", _RESNET18, changes=("flow_divided_by_float",)),
    Recipe("DeepLabV3", _RESNET18),
    Recipe("DeepLabV3P", _RESNET18),
    Recipe(
        "EMANet", _RESNET18, {"ema_channels": 64, "gc_channels": 32, "num_bases": 16, "enable_auxiliary_loss": False}
    ),
    Recipe("ENCNet", _RESNET18, {"mid_channels": 64}),
    Recipe("ENet"),
    Recipe("ESPNetV1", classes=19),
    Recipe("ESPNetV2"),
    Recipe("FCN", _HRNET),
    Recipe("FastFCN", _RESNET50, {"mid_channels": 64}),
    Recipe("FastSCNN"),
    Recipe("GCNet", _RESNET18, {"gc_channels": 64}),
    Recipe("GINet", _RESNET50, changes=("word_branch_folded",)),
    Recipe("GSCNN", _RESNET18),
    Recipe("GloRe", _RESNET18, {"gru_num_state": 32, "gru_num_node": 16, "enable_auxiliary_loss": False}),
    Recipe("HRNetW48Contrast", _HRNET, {"bb_channels": 240, "drop_prob": 0.1, "proj_dim": 64}),
    Recipe("HarDNet"),
    Recipe("ISANet", _RESNET50, {"isa_channels": 64}, changes=("scalars_joined_as_vectors",)),
    Recipe(
        "KNet",
        _RESNET18,
        {
            "backbone_indices": (0, 1, 2, 3),
            "kernel_update_head_params": {
                "num_classes": CLASSES,
                "num_heads": 4,
                "num_mask_fcs": 1,
                "feedforward_channels": 64,
                "in_channels": 32,
                "out_channels": 32,
                "conv_kernel_size": 1,
                "kernel_updator_cfg": {
                    "in_channels": 32,
                    "feat_channels": 32,
                    "out_channels": 32,
                    "gate_norm_act": True,
                    "activate_out": True,
                },
            },
            "kernel_generate_head_params": {
                "head_layer": "UPerKernelHead",
                "num_classes": CLASSES,
                "fpn_inplanes": [64, 128, 256, 512],
                "channels": 32,
            },
        },
    ),
    Recipe(
        "LPSNet",
        arguments={"depths": [1, 3, 3, 10, 10], "channels": [8, 24, 48, 96, 96], "scale_ratios": [1.0, 0.25]},
    ),
    Recipe("LRASPP", _MOBILENET),
    Recipe("LinearSegmenter", _VIT, changes=("weights_not_loaded",)),
    Recipe(
        "MLATransformer", _RESNET18, {"in_channels": [64, 128, 256, 512], "mlahead_channels": 64, "aux_channels": 64}
    ),
    Recipe(
        "MaskFormer",
        Part("SwinTransformer_tiny_patch4_window7_224_maskformer"),
        changes=(
            "windows_counted_by_paddle",
            "assertions_left_out",
            "windows_joined_for_one_image",
            "features_of_one_image",
        ),
        batch=1,
    ),
    Recipe("MaskSegmenter", _VIT, {"h_embed_dim": 48, "h_depth": 2, "h_num_heads": 4}, changes=("weights_not_loaded",)),
    Recipe("MobileSeg", _MOBILENET),
    Recipe("MscaleOCRNet", _HRNET, {"mscale": [0.5, 1.0]}),
    Recipe("OCRNet", _HRNET, {"backbone_indices": (0,), "ocr_mid_channels": 64, "ocr_key_channels": 32}),
    Recipe("PFPNNet", _RESNET18, {**_ALL_FOUR, "channels": 64, "fpn_inplanes": [64, 128, 256, 512]}),
    Recipe("PPHumanSegLite"),
    Recipe("PPLiteSeg", _STDC),
    Recipe("PPMobileSeg", Part("MobileSeg_Tiny", {"out_feat_chs": [32, 64, 128]})),
    Recipe("PSPNet", _RESNET18, {"pp_out_channels": 64}),
    Recipe(
        "PointRend",
        _RESNET18,
        {**_ALL_FOUR, "fpn_inplanes": [64, 128, 256, 512]},
        changes=("number_of_points_as_int64", "scalars_joined_as_vectors"),
    ),
    Recipe("PortraitNet", Part("MobileNetV2_x1_0")),
    Recipe(
        "RTFormer",
        arguments={"base_channels": 32, "head_channels": 64},
        changes=("assertions_left_out", "one_group_an_image"),
        batch=1,
    ),
    Recipe("SFNet", _RESNET18, _ALL_FOUR, changes=("flow_divided_by_float",)),
    Recipe("SINet"),
    Recipe("STDCSeg", _STDC),
    Recipe("SegFormer", Part("MixVisionTransformer_B0"), {"embedding_dim": 64}),
    Recipe(
        "SegNeXt",
        Part("MSCAN_T"),
        {
            "decoder_cfg": {
                "channels": 64,
                "ham_channels": 64,
                "ham_kwargs": {"MD_R": 16, "RAND_INIT": False},
                "dropout_rate": 0.1,
            }
        },
    ),
    Recipe("SegNet", changes=("last_unpooling_told_its_size",)),
    Recipe(
        "SegmentationTransformer",
        _VIT,
        {"backbone_indices": (0, 1, 2, 3), "head": "naive"},
        variant="naive",
        changes=("weights_not_loaded",),
    ),
    Recipe(
        "SegmentationTransformer",
        _VIT,
        {"backbone_indices": (0, 1, 2, 3), "head": "pup"},
        variant="pup",
        changes=("weights_not_loaded",),
    ),
    Recipe(
        "SegmentationTransformer",
        _VIT,
        {"backbone_indices": (0, 1, 2, 3), "head": "mla"},
        variant="mla",
        changes=("weights_not_loaded",),
    ),
    Recipe("TopFormer", Part("TopTransformer_Tiny")),
    Recipe("U2Net"),
    Recipe("U2Netp"),
    Recipe("UNet"),
    Recipe("UNet3Plus"),
    Recipe("UNetPlusPlus"),
    Recipe("UPerNet", _RESNET18, {**_ALL_FOUR, "channels": 64}),
    Recipe(
        "UPerNetCAE",
        Part(
            "CAE", {"img_size": 128, "embed_dim": 768, "depth": 4, "num_heads": 8, "mlp_ratio": 1, "init_values": 0.1}
        ),
        {
            "backbone_indices": (0, 1, 2, 3),
            "channels": 64,
            "fpn_channels": 64,
            "head_channels": 768,
            "channels_fpn": [768, 768, 768, 768],
        },
        changes=("weights_not_loaded", "synchronised_normalisation_as_plain", "channels_named_in_reshape"),
    ),
    Recipe(
        "UPerNetViTAdapter",
        Part("ViTAdapter_Tiny"),
        {**_ALL_FOUR, "channels": 64, "aux_channels": 64},
        changes=("synchronised_normalisation_as_plain",),
        batch=1,
    ),
    Recipe(
        "OCRNet",
        Part("HRFormer_small"),
        {"backbone_indices": (0,), "ocr_mid_channels": 64, "ocr_key_channels": 32},
        variant="HRFormer",
        changes=(
            "assertions_left_out",
            "tokens_without_class",
        ),
        batch=1,
    ),
)

OCRNET_HRNET_W48 = Recipe("OCRNet", Part("HRNet_W48"), {"backbone_indices": (0,)}, variant="HRNet-W48", classes=2)
"""The original service's own network, 70 million parameters: for figures of speed, not part of the table."""
