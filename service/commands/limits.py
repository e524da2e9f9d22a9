"""The accuracy limits that `convert` and `verify` take."""

from typing import Annotated

import typer

from converters.conversion import default_limits
from converters.parity import ParityLimits
from engine import Precision

MinAgreementOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="share of pixels that must agree; default for fp32: 0.9999")
]
MinIouOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="smallest class IoU; default for int8: 0.97, for fp16: 0.99")
]
MaxCoverErrorOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="largest error of a cover; default for int8 and fp16: 0.005")
]


def parity_limits(
    precision: Precision, min_agreement: float | None, min_iou: float | None, max_cover_error: float | None
) -> ParityLimits:
    """Put what the user named in the place of the precision's defaults.

    Args:
        precision: of the ONNX model.
        min_agreement: share of pixels, 0–1; None: the default.
        min_iou: smallest class IoU, 0–1; None: the default.
        max_cover_error: 0–1; None: the default.

    Returns:
        The limits.
    """
    default = default_limits(precision)
    return ParityLimits(
        default.max_mismatched_ppm if min_agreement is None else 1e6 * (1 - min_agreement),
        default.min_class_iou if min_iou is None else min_iou,
        default.max_cover_error if max_cover_error is None else max_cover_error,
    )
