"""The accuracy limits that `convert` and `verify` take."""

from dataclasses import dataclass
from typing import ClassVar

from converters.conversion import default_limits
from converters.parity import ParityLimits
from engine import Precision
from engine.declaration import Options, option


@dataclass(frozen=True, slots=True)
class LimitOptions(Options):
    """What the user names in place of the precision's own limits; 0–1 each."""

    title: ClassVar[str] = "Accuracy limits"

    min_agreement: float | None = option(
        None,
        "Fraction of pixels that must agree. By default 0.9999 for fp32, and no limit otherwise.",
        minimum=0,
        maximum=1,
    )
    min_iou: float | None = option(
        None,
        "Smallest IoU of a class. By default 0.97 for int8, 0.99 for fp16, and no limit for fp32.",
        minimum=0,
        maximum=1,
    )
    max_cover_error: float | None = option(
        None,
        "Largest error of the cover of a class. By default 0.005 for int8 and fp16, and no limit for fp32.",
        minimum=0,
        maximum=1,
    )

    def of(self, precision: Precision) -> ParityLimits:
        """Put them in the place of a precision's defaults."""
        default = default_limits(precision)
        return ParityLimits(
            default.max_mismatched_ppm if self.min_agreement is None else 1e6 * (1 - self.min_agreement),
            default.min_class_iou if self.min_iou is None else self.min_iou,
            default.max_cover_error if self.max_cover_error is None else self.max_cover_error,
        )
