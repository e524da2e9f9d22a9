"""What the headline measures: bundles and pictures, and the ways to run them that are compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.measuring.configurations import Configuration, ProviderName
from engine.options import Precision

DEPLOY_THREADS = 10
"""`cpu-threads` of PaddleSeg's deploy script."""


class Software(StrEnum):
    """What runs a network; the peers are used as their documentation shows."""

    PSEG = "pseg"
    ONNX_RUNTIME = "ONNX Runtime"
    OPENVINO = "OpenVINO"
    PADDLE = "Paddle"
    DEPLOY_SCRIPT = "PaddleSeg's deploy script"
    CONVOLUTIONS = "convolutions alone"
    """No network: what this machine gives at best, through this engine's runtime."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to run a network; without a configuration, as `auto` chooses, or as the deploy script sets it.

    One repetition takes so many `images` of the scenario's; None: all.
    """

    software: Software
    configuration: Configuration | None = None
    images: int | None = None

    @property
    def label(self) -> str:
        if self.configuration is not None:
            how = f": {self.configuration.label}"
        else:
            how = ": auto" if self.software is Software.PSEG else f", {DEPLOY_THREADS} threads"
        return f"{self.software}{how}" + (f", {self.images} images" if self.images else "")


class Work(StrEnum):
    """What a repetition is."""

    TENSORS = "the network on tensors that are ready"
    FOLDER = "a folder of pictures: decode, run, restore, encode and write a palette PNG for each; peers: as TENSORS"
    PROCESS = "a new process, until the mask of one picture is on disk"
    SEARCH = "none: only the search is shown"


@dataclass(frozen=True, slots=True)
class Photographs:
    """JPEGs that are drawn for the purpose."""

    count: int
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.count} JPEG{'s' * (self.count > 1)} of {self.width}×{self.height}"


class Collection(StrEnum):
    """Pictures that are there."""

    SCENES = "the demo's scenes and their mirror images"
    NUCLEI = "16 training images of nuclei"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A bundle and pictures; its ways take turns.

    `network` is a name of the zoo, `demo_seagrass`, `nuclei` or `text network`; `repetitions` are a multiple of what
    the command line says. After a search of `search_s` seconds the ways are `auto` with the profile that it finds, and
    what it tried that keeps the limits. `int8`: an INT8 model is made of the network, or for the search.
    """

    network: str
    pictures: Photographs | Collection
    work: Work
    ways: tuple[Way, ...] = ()
    max_img_size: int = -1
    repetitions: float = 1.0
    search_s: float | None = None
    int8: bool = False

    @property
    def title(self) -> str:
        return f"{self.network}, {self.pictures}"


FAMILIES = ("PPLiteSeg", "SegFormer", "OCRNet", "DeepLabV3P", "BiSeNetV2", "STDCSeg", "PPMobileSeg", "FastSCNN")
"""Networks of different kinds, at the zoo's size."""
LARGE_NETWORK = "OCRNet-HRNet-W48"
_MEGAPIXEL = 1_000_000


def parts(cores: int) -> Mapping[str, tuple[Scenario, ...]]:
    """Part of the page to its scenarios, on a machine of so many usable cores."""
    cpu = Configuration(ProviderName.CPU, threads=cores)
    openvino = Configuration(ProviderName.OPENVINO, threads=cores)
    families = (
        Way(Software.ONNX_RUNTIME, cpu),
        Way(Software.OPENVINO, openvino),
        Way(Software.PADDLE, Configuration(ProviderName.PADDLE_ONEDNN, threads=cores)),
        Way(Software.PSEG, cpu),
        Way(Software.PSEG, openvino),
    )
    roofs = [
        Configuration(provider, precision, threads=cores)
        for provider in (ProviderName.CPU, ProviderName.OPENVINO)
        for precision in (Precision.FP32, Precision.INT8)
    ]
    network = (
        Way(Software.PADDLE, Configuration(ProviderName.PADDLE_CPU, threads=DEPLOY_THREADS)),
        Way(Software.DEPLOY_SCRIPT),
        Way(Software.PADDLE, Configuration(ProviderName.PADDLE_ONEDNN, threads=cores)),
        Way(Software.ONNX_RUNTIME, cpu),
        Way(Software.OPENVINO, openvino),
        *(Way(Software.PSEG, each) for each in roofs),
        *(Way(Software.CONVOLUTIONS, each) for each in roofs),
    )
    streams = dict.fromkeys((1, cores))
    folder = (
        Way(Software.ONNX_RUNTIME, cpu),
        *(Way(Software.PSEG, Configuration(ProviderName.CPU, threads=cores, streams=each)) for each in streams),
    )
    growth = tuple(Way(Software.PSEG, cpu, images) for images in (10, 100, 1000))
    start = (Way(Software.PSEG), Way(Software.DEPLOY_SCRIPT))
    large = Photographs(60, 2560, 2048), Photographs(2, 2560, 2048)
    return {
        "network": (Scenario(LARGE_NETWORK, Photographs(1, 1154, 866), Work.TENSORS, network, int8=True),),
        "folder": tuple(
            Scenario(name, pictures, Work.FOLDER, folder, _MEGAPIXEL, repetitions=0.5)
            for name, pictures in zip(("PPLiteSeg", LARGE_NETWORK), large, strict=True)
        ),
        "growth": (Scenario("demo_seagrass", Photographs(1000, 320, 240), Work.FOLDER, growth),),
        "start": (Scenario("PPLiteSeg", Photographs(1, 657, 667), Work.PROCESS, start),),
        "families": tuple(
            Scenario(name, Photographs(1, 512, 512), Work.TENSORS, families, repetitions=2) for name in FAMILIES
        ),
        "auto": tuple(
            Scenario(name, Photographs(8, 512, 512), Work.TENSORS, (), _MEGAPIXEL, repetitions=2, search_s=60)
            for name in FAMILIES
        ),
        "tuning": tuple(
            Scenario(name, pictures, Work.SEARCH, max_img_size=_MEGAPIXEL, search_s=150, int8=True)
            for name, pictures in (
                ("demo_seagrass", Collection.SCENES),
                ("text network", Collection.SCENES),
                ("nuclei", Collection.NUCLEI),
            )
        ),
    }
