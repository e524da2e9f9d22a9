"""One picture that was handed over as bytes: a source of one image, and a store that keeps results in memory."""

import base64
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Self

from pydantic import PrivateAttr

from engine import ImageError, OptionError, Predictor
from engine.images import DEFAULT_MAX_PIXELS
from engine.images.size import check_max_pixels
from engine.images.tiff import tiff_size
from service.ivcap.items import ImageList
from service.ivcap.names import ArtifactName
from service.ivcap.parameters import ServiceRequest, build_service_request
from service.ivcap.platform_job import Outcome, run_platform_job
from service.ivcap.publishing import Aspect, Product
from service.ivcap.transfer.limits import numbers_from
from service.request import PredictRequest

# What the server decides, what is about more than one picture, and what there is no place for in an answer.
_NOT_OF_UPLOADS = (
    "model", "image", "images", "shard", "report", "benchmark", "model-name", "overlay", "overlay-strength",
)  # fmt: skip
_NAME = "upload"


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What is taken of pictures that are handed over, and for how long.

    `places` are for requests that run or wait; others are turned away. `pixels` are what a picture declares; `answer_s`
    runs from the first byte of a request to its answer.
    """

    places: int = 64
    upload_bytes: int = 256 << 20
    pixels: int = DEFAULT_MAX_PIXELS
    answer_s: float = 120


_SETTINGS = {
    "PSEG_LAMBDA_PLACES": "places",
    "PSEG_LAMBDA_UPLOAD_BYTES": "upload_bytes",
    "PSEG_LAMBDA_PIXELS": "pixels",
    "PSEG_LAMBDA_ANSWER_S": "answer_s",
}


def upload_limits_from(environment: Mapping[str, str]) -> UploadLimits:
    """Read the settings of whoever runs the service: PSEG_LAMBDA_PLACES, …_UPLOAD_BYTES, …_PIXELS, …_ANSWER_S.

    Raises OptionError where a setting is no number, or not above 0.

    >>> upload_limits_from({"PSEG_LAMBDA_PLACES": "2"}).places
    2
    """
    given = numbers_from(environment, _SETTINGS, whole={"places", "upload_bytes", "pixels"})
    for variable, name in _SETTINGS.items():
        if given.get(name) == 0:
            raise OptionError(f"{variable} is 0: it must be above 0")
    return replace(UploadLimits(), **given)


class UploadRequest(ServiceRequest):
    """The parameters of an order or a job, for a picture that comes with them."""

    _pixels: int = PrivateAttr(DEFAULT_MAX_PIXELS)

    @property
    def pixels(self) -> int:
        """The most that the picture may declare."""
        return self._pixels

    def within(self, pixels: int) -> Self:
        """Limit the pixels that the picture may declare."""
        self._pixels = pixels
        return self

    def predict_request(self) -> PredictRequest:
        """Turn the parameters into those of a prediction, within the limit of pixels.

        Raises:
            OptionError: a parameter is wrong.
        """
        usual = super().predict_request()
        return replace(usual, images=replace(usual.images, max_pixels=self._pixels))


def build_upload_request(parameters: Mapping[str, object], model: str, pixels: int) -> UploadRequest:
    """Validate the parameters that come with a picture: those of an order, as texts of an address, and the most pixels.

    Raises OptionError where parameters are wrong or do not go with an upload; one line for each.
    """
    wrong = [f"{name}: it does not go with an upload" for name in _NOT_OF_UPLOADS if name in parameters]
    if wrong:
        raise OptionError("\n".join(wrong))
    given = {**parameters, "model": model, "image": _NAME}
    build_service_request(**given)
    return UploadRequest.model_validate(given).within(pixels)


@dataclass(frozen=True, slots=True)
class _Upload:
    path: Path
    urn: str
    pixels: int

    @property
    def name(self) -> ArtifactName:
        return ArtifactName(self.urn, _NAME)

    def fetch(self) -> Path:
        # A larger TIFF would be cut into tiles, for hours.
        size = tiff_size(self.path)
        if size is not None:
            try:
                check_max_pixels(self.path, size, self.pixels)
            except ImageError as error:
                raise ImageError(str(error).replace(str(self.path), self.name.label)) from error
        return self.path

    def release(self) -> None:
        pass


@dataclass(slots=True)
class UploadStore:
    """Keeps files in memory, by URN; aspects are not kept."""

    order: str
    products: dict[str, Product] = field(default_factory=dict[str, Product])

    def store(self, product: Product) -> str:
        urn = f"{self.order}:{product.name}"
        self.products[urn] = product
        return urn

    def attach(self, entity: str, aspect: Aspect) -> None:
        pass


@dataclass(frozen=True, slots=True)
class SegmentedUpload:
    """What became of a picture, and the files of it."""

    outcome: Outcome
    store: UploadStore

    @property
    def mask(self) -> Product:
        return self.store.products[self.outcome.published[0].mask]

    def summary(self, model: str) -> dict[str, object]:
        """Sum up as for a job; mask and polygons are `data:` URLs, and nothing else is stored."""
        summary = self.outcome.summary(self.store.order, model)
        files = {urn: _data_url(product) for urn, product in self.store.products.items()}
        masks = [
            {name: files.get(value, value) if name in {"mask", "polygons"} else value for name, value in each.items()}
            for each in summary["masks"]
        ]
        return {**summary, "masks": masks, "products": {}}


def _data_url(product: Product) -> str:
    mime_type = product.mime_type.replace(" ", "")
    return f"data:{mime_type};base64,{base64.b64encode(product.content).decode()}"


def segment_upload(
    path: Path,
    request: UploadRequest,
    open_model: Callable[[PredictRequest], AbstractContextManager[Predictor]],
    stop: Event,
) -> SegmentedUpload:
    """Segment a picture that was handed over; once `stop` is set, it is not begun."""
    urn = f"urn:uuid:{uuid.uuid4()}"
    store = UploadStore(urn)
    source = ImageList([_Upload(path, urn, request.pixels)], [path])
    return SegmentedUpload(run_platform_job(request, open_model, source, store, stop=stop), store)
