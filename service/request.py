"""The parameters of a prediction, validated once for every front door."""

import tempfile
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine import Device, MaskSize, OneDnn, OptionError, Precision, Provider, RuntimeName, RuntimeRequest
from engine.images import DEFAULT_MAX_PIXELS

SaveKind = Literal["pseudo", "mask", "overlay"]
SAVE_KINDS: tuple[SaveKind, ...] = ("pseudo", "mask", "overlay")
DEFAULT_MAX_IMG_SIZE = 1_000_000


class PredictRequest(BaseModel):
    """What a user asks of a prediction.

    `auto` leaves a choice to the engine; anything else is honoured or refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: Literal["auto", "onnx", "paddle"] = "auto"
    provider: Literal["auto", "cpu", "openvino", "cuda", "tensorrt"] = "auto"
    device: Device | None = None
    precision: Precision = Precision.FP32
    threads: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 1
    max_img_size: int = DEFAULT_MAX_IMG_SIZE
    max_pixels: Annotated[int, Field(ge=1)] = DEFAULT_MAX_PIXELS
    mask_size: MaskSize = MaskSize.ORIGINAL
    save: frozenset[SaveKind] = frozenset({"pseudo"})
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    mkldnn: OneDnn = OneDnn.AUTO
    use_trt: bool = False
    min_subgraph_size: Annotated[int, Field(ge=1)] = 3
    auto_tune_shapes: bool = False
    print_detail: bool = False

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.max_img_size < 1 and self.max_img_size != -1:
            raise ValueError(f"max-img-size is {self.max_img_size}: give a number of pixels, or -1 for no limit")
        if self.auto_tune_shapes and not self.use_trt and self.provider != "tensorrt":
            raise ValueError("auto-tune-shapes collects shapes for TensorRT: it goes with use-trt")
        return self

    def runtime_request(self) -> RuntimeRequest:
        """Turn the parameters into what the engine takes.

        Returns:
            The request.

        Raises:
            OptionError: the parameters contradict each other.
        """
        return RuntimeRequest(
            runtime=None if self.runtime == "auto" else RuntimeName(self.runtime),
            provider=None if self.provider == "auto" else Provider(self.provider),
            device=self.device,
            precision=self.precision,
            threads=self.threads,
            onednn=self.mkldnn,
            tensorrt=self.use_trt or self.provider == "tensorrt",
            min_subgraph_size=self.min_subgraph_size,
            verbose=self.print_detail,
        )


def build_request(**parameters: object) -> PredictRequest:
    """Validate parameters.

    Args:
        **parameters: fields of `PredictRequest`.

    Returns:
        The request.

    Raises:
        OptionError: a parameter is wrong, named with what is allowed.
    """
    try:
        return PredictRequest.model_validate(parameters)
    except ValidationError as error:
        problems = [
            f"{'-'.join(str(part) for part in each['loc'])}: {each['msg']}".removeprefix(": ").replace("_", "-")
            for each in error.errors()
        ]
        raise OptionError("; ".join(problems)) from error


def require_writable(folder: Path) -> None:
    """Make the output folder and prove that files can be written there.

    Args:
        folder: made if absent, with its parents.

    Raises:
        OptionError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A name of its own: another run may prove the same folder at the same moment.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OptionError(f"output folder {folder} cannot be written to ({error}): name another with --out") from error


def require_writable_file(path: Path) -> None:
    """Prove that a file can be written, before there is work to lose.

    Args:
        path: the file; its folder is made if absent.

    Raises:
        OptionError: it is a folder, or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise OptionError(f"{path} is a folder: name a file in it")
    require_writable(path.parent)
