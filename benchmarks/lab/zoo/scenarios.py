"""What the zoo measures: one small network of every model family, and configurations as PaddleSeg publishes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import yaml

CLASSES = 3
Origin = Literal["installed", "checkout"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One network, by a name of its own within the set.

    Its configuration is the zoo's `model` block for the installed PaddleSeg, or of a checkout the `published` file
    below `configs/`, with what has to be `added` to it. `residual_scale` is what the last batch normalisation of each
    residual block of a deep ResNet starts with.
    """

    name: str
    origin: Origin
    model: Mapping[str, object] | None = None
    published: str = ""
    added: Mapping[str, object] | None = None
    residual_scale: float = 1

    @property
    def family(self) -> str:
        """The model as PaddleSeg registers it, or the folder of its configurations."""
        return str((self.model or {}).get("type", self.name))

    @property
    def described(self) -> str:
        """What a reader needs to find it: the configuration or the backbone."""
        backbone = cast("Mapping[str, object]", (self.model or {}).get("backbone", {}))
        return self.published.partition("/")[2] or str(backbone.get("type", "as it is"))

    def configuration(self, scratch: Path, checkout: Path | None) -> Path:
        path = scratch / "config.yml"
        if checkout is not None:
            published = checkout / "configs" / self.published
            if self.added is None:
                return published
            content = {"_base_": str(published), **self.added}
        else:
            model = dict(self.model or {})
            validation = {"type": "Dataset", "num_classes": model["num_classes"], "transforms": [{"type": "Normalize"}]}
            content = {"train_dataset": validation, "val_dataset": validation, "model": model}
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path


def _part(name: str, arguments: Mapping[str, object] | None = None) -> dict[str, object]:
    return {"type": name, **(arguments or {})}


def _scenario(
    family: str,
    backbone: Mapping[str, object] | None = None,
    arguments: Mapping[str, object] | None = None,
    variant: str = "",
    classes: int = CLASSES,
) -> Scenario:
    model: dict[str, object] = {"type": family, "num_classes": classes, **(arguments or {})}
    if backbone is not None:
        model["backbone"] = dict(backbone)
    return Scenario(f"{family}-{variant}" if variant else family, "installed", model)


_RESNET18 = _part("ResNet18_vd")
_RESNET50 = _part("ResNet50_vd")
_HRNET = _part("HRNet_W18_Small_V1")
_STDC = _part("STDC1")
_MOBILENET = _part("MobileNetV3_small_x0_35")
_VIT = _part("VisionTransformer", {"img_size": 128, "embed_dim": 48, "depth": 4, "num_heads": 4})
_LAST_TWO: Mapping[str, object] = {"backbone_indices": [2, 3]}
_ALL_FOUR: Mapping[str, object] = {"backbone_indices": [0, 1, 2, 3]}

INSTALLED: tuple[Scenario, ...] = (
    _scenario("ANN", _RESNET18, {"key_value_channels": 32, "inter_channels": 64}),
    _scenario("AttentionUNet"),
    _scenario("BiSeNetV2"),
    _scenario("BiseNetV1", _RESNET18),
    _scenario("CCNet", _RESNET18),
    _scenario("DANet", _RESNET18, _LAST_TWO),
    _scenario("DDRNet_23"),
    _scenario("DMNet", _RESNET18, {"mid_channels": 32}),
    _scenario("DNLNet", _RESNET18, {"enable_auxiliary_loss": False}),
    _scenario("DecoupledSegNet", _RESNET18),
    _scenario("DeepLabV3", _RESNET18),
    _scenario("DeepLabV3P", _RESNET18),
    _scenario(
        "EMANet", _RESNET18, {"ema_channels": 64, "gc_channels": 32, "num_bases": 16, "enable_auxiliary_loss": False}
    ),
    _scenario("ENCNet", _RESNET18, {"mid_channels": 64}),
    _scenario("ENet"),
    _scenario("ESPNetV1", classes=19),
    _scenario("ESPNetV2"),
    _scenario("FCN", _HRNET),
    _scenario("FastFCN", _RESNET50, {"mid_channels": 64}),
    _scenario("FastSCNN"),
    _scenario("GCNet", _RESNET18, {"gc_channels": 64}),
    _scenario("GINet", _RESNET50),
    _scenario("GSCNN", _RESNET18),
    _scenario("GloRe", _RESNET18, {"gru_num_state": 32, "gru_num_node": 16, "enable_auxiliary_loss": False}),
    _scenario("HRNetW48Contrast", _HRNET, {"bb_channels": 240, "drop_prob": 0.1, "proj_dim": 64}),
    _scenario("HarDNet"),
    _scenario("ISANet", _RESNET50, {"isa_channels": 64}),
    _scenario(
        "KNet",
        _RESNET18,
        {
            "backbone_indices": [0, 1, 2, 3],
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
    _scenario(
        "LPSNet", arguments={"depths": [1, 3, 3, 10, 10], "channels": [8, 24, 48, 96, 96], "scale_ratios": [1.0, 0.25]}
    ),
    _scenario("LRASPP", _MOBILENET),
    _scenario("LinearSegmenter", _VIT),
    _scenario(
        "MLATransformer", _RESNET18, {"in_channels": [64, 128, 256, 512], "mlahead_channels": 64, "aux_channels": 64}
    ),
    _scenario("MaskFormer", _part("SwinTransformer_tiny_patch4_window7_224_maskformer")),
    _scenario("MaskSegmenter", _VIT, {"h_embed_dim": 48, "h_depth": 2, "h_num_heads": 4}),
    _scenario("MobileSeg", _MOBILENET),
    _scenario("MscaleOCRNet", _HRNET, {"mscale": [0.5, 1.0]}),
    _scenario("OCRNet", _HRNET, {"backbone_indices": [0], "ocr_mid_channels": 64, "ocr_key_channels": 32}),
    _scenario("PFPNNet", _RESNET18, {**_ALL_FOUR, "channels": 64, "fpn_inplanes": [64, 128, 256, 512]}),
    _scenario("PPHumanSegLite"),
    _scenario("PPLiteSeg", _STDC),
    _scenario("PPMobileSeg", _part("MobileSeg_Tiny", {"out_feat_chs": [32, 64, 128]})),
    _scenario("PSPNet", _RESNET18, {"pp_out_channels": 64}),
    _scenario("PointRend", _RESNET18, {**_ALL_FOUR, "fpn_inplanes": [64, 128, 256, 512]}),
    _scenario("PortraitNet", _part("MobileNetV2_x1_0")),
    _scenario("RTFormer", arguments={"base_channels": 32, "head_channels": 64}),
    _scenario("SFNet", _RESNET18, _ALL_FOUR),
    _scenario("SINet"),
    _scenario("STDCSeg", _STDC),
    _scenario("SegFormer", _part("MixVisionTransformer_B0"), {"embedding_dim": 64}),
    _scenario(
        "SegNeXt",
        _part("MSCAN_T"),
        {"decoder_cfg": {"channels": 64, "ham_channels": 64, "ham_kwargs": {"MD_R": 16}, "dropout_rate": 0.1}},
    ),
    _scenario("SegNet"),
    _scenario("SegmentationTransformer", _VIT, {"backbone_indices": [0, 1, 2, 3], "head": "naive"}, variant="naive"),
    _scenario("SegmentationTransformer", _VIT, {"backbone_indices": [0, 1, 2, 3], "head": "pup"}, variant="pup"),
    _scenario("SegmentationTransformer", _VIT, {"backbone_indices": [0, 1, 2, 3], "head": "mla"}, variant="mla"),
    _scenario("TopFormer", _part("TopTransformer_Tiny")),
    _scenario("U2Net"),
    _scenario("U2Netp"),
    _scenario("UNet"),
    _scenario("UNet3Plus"),
    _scenario("UNetPlusPlus"),
    _scenario("UPerNet", _RESNET18, {**_ALL_FOUR, "channels": 64}),
    _scenario(
        "UPerNetCAE",
        _part(
            "CAE", {"img_size": 128, "embed_dim": 768, "depth": 4, "num_heads": 8, "mlp_ratio": 1, "init_values": 0.1}
        ),
        {
            "backbone_indices": [0, 1, 2, 3],
            "channels": 64,
            "fpn_channels": 64,
            "head_channels": 768,
            "channels_fpn": [768, 768, 768, 768],
        },
    ),
    _scenario("UPerNetViTAdapter", _part("ViTAdapter_Tiny"), {**_ALL_FOUR, "channels": 64, "aux_channels": 64}),
    _scenario(
        "OCRNet",
        _part("HRFormer_small"),
        {"backbone_indices": [0], "ocr_mid_channels": 64, "ocr_key_channels": 32},
        variant="HRFormer",
    ),
)

OCRNET_HRNET_W48 = _scenario("OCRNet", _part("HRNet_W48"), {"backbone_indices": [0]}, variant="HRNet-W48", classes=2)
"""The original service's own network, 70 million parameters: for figures of speed, not part of the table."""

_ADDED: Mapping[str, Mapping[str, object]] = {
    # It prepares a backbone, and has no `val_dataset`.
    "pssl": {"export": {"transforms": [{"type": "ResizeByShort", "short_size": 256}, {"type": "Normalize"}]}},
    # They pad pictures to 769×769 and 2048×1024, where two cores take ten minutes for one.
    "ccnet": {"export": {"transforms": [{"type": "Normalize"}]}},
    "setr": {"export": {"transforms": [{"type": "Normalize"}]}},
    # PaddleSeg states this on its command line.
    "multilabelseg": {"test_config": {"use_multilabel": True}},
    # The nearest to its `ScalePadding`, which pads on both sides.
    "portraitnet": {
        "export": {
            "transforms": [
                {"type": "ResizeByLong", "long_size": 224},
                {"type": "Padding", "target_size": [224, 224]},
                {"type": "Normalize", "mean": [0.485, 0.458, 0.408], "std": [0.23, 0.23, 0.23]},
            ]
        }
    },
}
"""By the name of the scenario."""

_WITH_SMALL_RESIDUALS = frozenset({"ccnet", "dmnet", "dnlnet", "encnet", "knet", "pfpn", "upernet"})
"""Where all blocks start with 1, Paddle's own masks move by 600 to 5400 pixels per million with `rounding`'s noise."""
_SMALL = 0.25

CHECKOUT: tuple[Scenario, ...] = tuple(
    Scenario(
        name := path.partition("/")[0],
        "checkout",
        published=path,
        added=_ADDED.get(name),
        residual_scale=_SMALL if name in _WITH_SMALL_RESIDUALS else 1,
    )
    for path in (
        "ann/ann_resnet50_os8_voc12aug_512x512_40k.yml",
        "attention_unet/attention_unet_cityscapes_1024x512_80k.yml",
        "bisenet/bisenet_cityscapes_1024x1024_160k.yml",
        "bisenetv1/bisenetv1_resnet18_os8_cityscapes_1024x512_160k.yml",
        "cae/upernet_cae_base_ade20k_512x512_160k.yml",
        "ccnet/ccnet_resnet101_os8_cityscapes_769x769_60k.yml",
        "danet/danet_resnet50_os8_voc12aug_512x512_40k.yml",
        "ddrnet/ddrnet23_cityscapes_1024x1024_120k.yml",
        "decoupled_segnet/decoupledsegnet_resnet50_os8_cityscapes_832x832_80k.yml",
        "deeplabv3/deeplabv3_resnet50_os8_voc12aug_512x512_40k.yml",
        "deeplabv3p/deeplabv3p_resnet50_os8_voc12aug_512x512_40k.yml",
        "dmnet/dmnet_resnet101_os8_cityscapes_1024x512_80k.yml",
        "dnlnet/dnlnet_resnet50_os8_voc12aug_512x512_40k.yml",
        "efficientformerv2/efficientformerv2_s2_ade20k_512x512_40k.yml",
        "emanet/emanet_resnet50_os8_voc12aug_512x512_40k.yml",
        "encnet/encnet_resnet101_os8_cityscapes_1024x512_80k.yml",
        "enet/enet_cityscapes_1024x512_80k.yml",
        "espnet/espnet_cityscapes_1024x512_120k.yml",
        "espnetv1/espnetv1_cityscapes_1024x512_120k.yml",
        "fastfcn/fastfcn_resnet50_os8_ade20k_480x480_120k.yml",
        "fastscnn/fastscnn_cityscapes_1024x1024_40k.yml",
        "fcn/fcn_hrnetw18_pphumanseg14k.yml",
        "gcnet/gcnet_resnet50_os8_voc12aug_512x512_40k.yml",
        "ginet/ginet_resnet50_os8_voc12aug_512x512_40k.yml",
        "glore/glore_resnet50_os8_voc12aug_512x512_40k.yml",
        "gscnn/gscnn_resnet50_os8_cityscapes_1024x512_80k.yml",
        "hardnet/hardnet_cityscapes_1024x1024_160k.yml",
        "hrformer/ocrnet_hrformer_small_cityscapes_1024x512_80k.yml",
        "hrnet_w48_contrast/HRNet_W48_contrast_cityscapes_1024x512_60k.yml",
        "isanet/isanet_resnet50_os8_voc12aug_512x512_40k.yml",
        "knet/knet_s3_fcn_resnet50_ade20k_512x512_80k.yml",
        "lpsnet/lpsnet_s_cityscapes_1536x1024_200k.yml",
        "lraspp/lraspp_mobilenetv3_cityscapes_1024x512_80k.yml",
        "maskformer/maskformer_swin_tiny_ade20k_512x512_160k.yml",
        "mobileseg/mobileseg_shufflenetv2_cityscapes_1024x512_80k.yml",
        "mscale_ocrnet/mscale_ocrnet_hrnetv2_psa_cityscapes_1024x2048_150k.yml",
        "multilabelseg/pp_mobileseg_tiny_uwmgi_256x256_160k.yml",
        "ocrnet/ocrnet_hrnetw18_voc12aug_512x512_40k.yml",
        "pfpn/pfpn_resnet101_os8_cityscapes_512x1024_40k.yml",
        "pidnet/pidnet_small_cityscapes_1024x1024_120k.yml",
        "pointrend/pointrend_resnet50_os8_voc12aug_512x512_40k.yml",
        "portraitnet/portraitnet_eg1800_224x224_46k.yml",
        "pp_humanseg_lite/pp_humanseg_lite_export_398x224.yml",
        "pp_liteseg/pp_liteseg_stdc1_camvid_960x720_10k.yml",
        "pp_mobileseg/pp_mobileseg_tiny_cityscapes_1024x512_80k.yml",
        "pspnet/pspnet_resnet50_os8_voc12aug_512x512_40k.yml",
        "pssl/pp_liteseg_stdc1_pssl.yml",
        "rtformer/rtformer_slim_cityscapes_1024x512_120k.yml",
        "seaformer/seaformer_tiny_ade20k_512x512_160k.yml",
        "segformer/segformer_b0_cityscapes_1024x512_160k.yml",
        "segmenter/segmenter_vit_small_linear_ade20k_512x512_160k.yml",
        "segnet/segnet_cityscapes_1024x512_80k.yml",
        "segnext/segnext_mscan_t_cityscapes_1024x1024_160k.yml",
        "setr/setr_naive_large_cityscapes_769x769_40k.yml",
        "sfnet/sfnet_resnet18_os8_cityscapes_1024x1024_80k.yml",
        "stdcseg/stdc1_seg_voc12aug_512x512_40k.yml",
        "stfpm/stfpm_resnet18_mvtec.yml",
        "topformer/topformer_tiny_ade20k_512x512_160k.yml",
        "u2net/u2netp_cityscapes_1024x512_160k.yml",
        "uhrnet/fcn_uhrnetw18_small_cityscapes_1024x512_80k.yml",
        "unet/unet_chasedb1_128x128_40k.yml",
        "unet_3plus/unet_3plus_cityscapes_1024x512_160k.yml",
        "unet_plusplus/unet_plusplus_cityscapes_1024x512_160k.yml",
        "upernet/upernet_resnet101_os8_cityscapes_512x1024_40k.yml",
        "vit_adapter/upernet_vit_adapter_tiny_ade20k_512x512_160k.yml",
    )
)
"""The smallest configuration of every family in PaddleSeg's development branch, by its folder below `configs/`."""

_CANNY = "it runs OpenCV's Canny on the picture in the middle of the network, which Paddle cannot trace."
_UNPOOLING = (
    "its unpooling puts each value where the pooling found it, so that rounding moves values by whole pixels, in "
    "Paddle itself, too (the figures in parentheses)."
)
EXCEPTIONS: Mapping[str, str] = {
    "GSCNN": _CANNY,
    "gscnn": _CANNY,
    "ENet": _UNPOOLING,
    "enet": _UNPOOLING,
    "SegNet": _UNPOOLING,
    "segnet": _UNPOOLING,
    "pointrend": "it computes again the points that it is least sure of, and rounding changes which points these are, "
    "in Paddle itself, too (the figures in parentheses).",
    "stfpm": "it looks for anomalies and has one class; `pseg export` takes segmentations, which have at least two.",
}
"""Families that do not pass, and why; a test shows those of the installed PaddleSeg."""
