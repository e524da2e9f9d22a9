"""What is measured, part by part; each returns raw laps, from which `page` derives its figures."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.bench import Places
from benchmarks.lab.headline import bundles
from benchmarks.lab.headline.contestants import (
    BareOnnxRuntime,
    BarePaddle,
    Contestant,
    Convolutions,
    Entered,
    Lap,
    PsegFolder,
    PsegNetwork,
)
from benchmarks.lab.headline.convolutions import write_stack
from benchmarks.lab.headline.race import Record, Tell, race
from benchmarks.lab.startup import ORIGINAL_WAY, PSEG, seconds_until_written
from benchmarks.lab.zoo.scenarios import OCRNET_HRNET_W48
from benchmarks.measuring.environment import Environment, environment
from benchmarks.measuring.pictures import demo_pictures
from benchmarks.results.tables import Table
from benchmarks.tuning.tune import TuneRequest, Tuning, profile_of, tune, tuning_table
from converters.repository import Repository
from engine.bundle.bundle import Bundle, open_bundle
from engine.errors import RuntimeUnavailableError
from engine.images import read_image
from engine.options import OnnxOptions, Precision, Provider
from engine.runtimes.profile import profile_json
from engine.segmentation.opening import open_runtime, require_available
from engine.segmentation.predictor import Predictor
from engine.system.cores import usable_cores

MEGAPIXEL = (1154, 866)
ORIGINAL_THREADS = 10
"""The original service's `cpu-threads`."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the page.

    Attributes:
        environment: The machine, before the part began.
        seconds: How long it took.
        records: Name to laps, per network or setting.
        tables: Title to table of a search, where there was one.
        notes: What was left out, and why.
    """

    environment: Environment
    seconds: float
    records: Mapping[str, Mapping[str, Record]]
    tables: Mapping[str, Table]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kitchen:
    """Where a part works.

    Attributes:
        folder: Keeps bundles and pictures from one run to the next.
        laps: For each contestant.
        tell: Told of progress.
    """

    folder: Path
    laps: int
    tell: Tell

    @property
    def ledger(self) -> Path:
        """Which models loaded before."""
        return self.folder / "ledger"

    def feed(self, bundle: Bundle, picture: Path, *, max_img_size: int = -1) -> Path:
        """Prepare a picture as the bundle's network takes it.

        Args:
            bundle: An open bundle.
            picture: To be read.
            max_img_size: See `read_image`.

        Returns:
            A `.npy` file, float32[1, 3, H, W].
        """
        out = self.folder / "feeds" / bundle.digest[:16] / f"{picture.parent.name}.{picture.stem}.npy"
        if not out.is_file():
            out.parent.mkdir(parents=True, exist_ok=True)
            runtime = open_runtime(bundle, OnnxOptions(threads=usable_cores()), ledger=self.ledger)
            with Predictor(bundle, runtime) as predictor:
                np.save(out, predictor.prepare(read_image(picture, max_img_size=max_img_size)).tensor[np.newaxis])
        return out

    def race(self, contestants: Mapping[str, Contestant], laps: int | None = None) -> dict[str, Record]:
        """Let them take laps in turn.

        Args:
            contestants: Who.
            laps: For each; None: the usual number.

        Returns:
            What they did.
        """
        return race(contestants, laps or self.laps, self.ledger, tell=self.tell)


def _paddle_of(bundle: Bundle) -> tuple[Path, Path]:
    if bundle.paddle is None:
        raise ValueError(f"{bundle.source} holds no Paddle program")
    return bundle.paddle.program, bundle.paddle.params


def _onnx_of(bundle: Bundle, precision: Precision = Precision.FP32) -> Path:
    model = bundle.onnx_model(precision)
    if model is None:
        raise ValueError(f"{bundle.source} holds no onnx/{precision}/model.onnx")
    return model.path


def network(kitchen: Kitchen) -> Part:
    """OCRNet on HRNet-W48 at a megapixel: this engine, peers, and the machine's roof for convolutions.

    Args:
        kitchen: Where to work.

    Returns:
        Laps of one run.
    """
    started, machine = time.monotonic(), environment()
    cores = usable_cores()
    calibration = bundles.photographs(kitchen.folder / "pictures", 8, 512, 384)
    path = bundles.quantized(bundles.converted(OCRNET_HRNET_W48, kitchen.folder), calibration, limited=False)
    (picture,) = bundles.photographs(kitchen.folder / "pictures", 1, *MEGAPIXEL)
    notes: list[str] = []
    with ExitStack() as stack:
        bundle = stack.enter_context(open_bundle(path))
        program, params = _paddle_of(bundle)
        feeds = (kitchen.feed(bundle, picture),)
        contestants: dict[str, Contestant] = {
            "Paddle, oneDNN off, 10 threads (the original's setting)": BarePaddle(
                program, params, feeds, ORIGINAL_THREADS, onednn=False
            ),
            "Paddle as PaddleSeg's deploy script sets it today, 10 threads": BarePaddle(
                program, params, feeds, ORIGINAL_THREADS, onednn=None
            ),
            f"Paddle, oneDNN, {cores} threads": BarePaddle(program, params, feeds, cores, onednn=True),
            f"ONNX Runtime, {cores} threads": BareOnnxRuntime(_onnx_of(bundle), feeds, cores),
            f"pseg cpu fp32, {cores} threads": PsegNetwork(path, feeds, OnnxOptions(threads=cores)),
            f"pseg cpu int8, {cores} threads": PsegNetwork(
                path, feeds, OnnxOptions(precision=Precision.INT8, threads=cores)
            ),
        }
        stacks = {
            precision: write_stack(kitchen.folder / f"convolutions.{precision}.onnx", precision)
            for precision in (Precision.FP32, Precision.INT8)
        }
        for provider in (Provider.CPU, Provider.OPENVINO):
            options = OnnxOptions(provider=provider, threads=cores)
            try:
                require_available(options)
            except RuntimeUnavailableError as error:
                notes.append(f"{provider}: {error}")
                continue
            for precision, model in stacks.items():
                rated = replace(options, precision=precision)
                contestants[f"convolutions, {provider} {precision}"] = Convolutions(model, rated)
                if provider is not Provider.CPU:
                    contestants[f"pseg {provider} {precision}, {cores} threads"] = PsegNetwork(path, feeds, rated)
        records = kitchen.race(contestants)
    return Part(machine, time.monotonic() - started, {"OCRNet-HRNet-W48": records}, {}, tuple(notes))


def folder(kitchen: Kitchen) -> Part:
    """A folder of large JPEGs through the whole pipeline, against the bare session on tensors that are ready.

    Args:
        kitchen: Where to work.

    Returns:
        Laps: of a light network over 60 pictures, of OCRNet on HRNet-W48 over 2.
    """
    started, machine = time.monotonic(), environment()
    cores = usable_cores()
    records: dict[str, dict[str, Record]] = {}
    out = kitchen.folder / "masks"
    out.mkdir(parents=True, exist_ok=True)
    for name, count in (("PPLiteSeg", 60), (OCRNET_HRNET_W48.name, 2)):
        path = bundles.converted(bundles.scenario(name), kitchen.folder)
        pictures = bundles.photographs(kitchen.folder / "pictures", count, 2560, 2048)
        with open_bundle(path) as bundle:
            # The same work for both: as many runs of a tensor of the same shape.
            feeds = (kitchen.feed(bundle, pictures[0], max_img_size=1_000_000),) * count
            contestants: dict[str, Contestant] = {
                f"bare session, {cores} threads": BareOnnxRuntime(_onnx_of(bundle), feeds, cores)
            }
            for streams in (1, cores):
                contestants[f"pseg, {cores} threads in {streams} stream{'s' * (streams > 1)}"] = PsegFolder(
                    path, OnnxOptions(threads=cores, streams=streams), pictures, 1_000_000, out
                )
            records[f"{name}, {count} JPEGs of 2560×2048"] = kitchen.race(contestants, max(2, kitchen.laps // 2))
    return Part(machine, time.monotonic() - started, records, {}, ())


def growth(kitchen: Kitchen) -> Part:
    """Seconds per image of a folder of 10, of 100 and of 1000 pictures.

    Args:
        kitchen: Where to work.

    Returns:
        Laps.
    """
    started, machine = time.monotonic(), environment()
    cores = usable_cores()
    path = bundles.committed_bundle("demo_seagrass")
    out = kitchen.folder / "masks"
    out.mkdir(parents=True, exist_ok=True)
    pictures = bundles.photographs(kitchen.folder / "pictures", 1000, 320, 240)
    contestants: dict[str, Contestant] = {
        f"{count} images": PsegFolder(path, OnnxOptions(threads=cores), pictures[:count], -1, out)
        for count in (10, 100, 1000)
    }
    return Part(machine, time.monotonic() - started, {"demo_seagrass": kitchen.race(contestants)}, {}, ())


def start(kitchen: Kitchen) -> Part:
    """From the start of the process to the mask on disk, PP-LiteSeg on a picture of 657×667.

    Args:
        kitchen: Where to work.

    Returns:
        A lap a start.
    """
    started, machine = time.monotonic(), environment()
    path = bundles.converted(bundles.scenario("PPLiteSeg"), kitchen.folder)
    (picture,) = bundles.photographs(kitchen.folder / "pictures", 1, 657, 667)
    taken: dict[str, list[Lap]] = {"pseg predict": [], "PaddleSeg's way": []}
    with tempfile.TemporaryDirectory(prefix="headline-") as scratch, open_bundle(path) as unpacked:
        ours, theirs = Path(scratch) / f"{picture.stem}.pseudo.png", Path(scratch) / "original.png"
        commands = {
            "pseg predict": ([str(PSEG), "predict", str(path), str(picture), "--out", scratch], ours),
            "PaddleSeg's way": (
                [sys.executable, str(ORIGINAL_WAY), str(unpacked.folder), str(picture), str(theirs)],
                theirs,
            ),
        }
        for lap in range(kitchen.laps + 1):
            for name, (command, mask) in commands.items():
                seconds = seconds_until_written(command, mask)
                if lap:
                    taken[name].append(Lap(seconds, None, 1, None))
            kitchen.tell(f"start {lap} of {kitchen.laps}")
    records = {name: Record(Entered(0.0, 0.0), tuple(laps), None) for name, laps in taken.items()}
    return Part(machine, time.monotonic() - started, {"PPLiteSeg, 657×667": records}, {}, ())


def auto(kitchen: Kitchen) -> Part:
    """`auto` with a tuned profile, against every configuration that the search tried and that keeps its limits.

    Args:
        kitchen: Where to work.

    Returns:
        Laps and the table of the search, for networks of different families.
    """
    started, machine = time.monotonic(), environment()
    records: dict[str, dict[str, Record]] = {}
    tables: dict[str, Table] = {}
    notes: list[str] = []
    pictures = bundles.photographs(kitchen.folder / "pictures", 8, 512, 512)
    for name in bundles.FAMILIES:
        path = bundles.converted(bundles.scenario(name), kitchen.folder)
        with open_bundle(path) as bundle:
            tuning = _tuned(bundle, pictures, kitchen, budget_s=60)
            tables[name] = tuning_table(tuning)
            if tuning.search.chosen is None:
                notes.append(f"{name}: {tuning.reason}")
                continue
            profile = kitchen.folder / "profiles" / f"{name}.json"
            profile.parent.mkdir(parents=True, exist_ok=True)
            profile.write_bytes(profile_json(profile_of(tuning, bundle.digest)))
            feeds = tuple(kitchen.feed(bundle, each) for each in pictures[:4])
            contestants: dict[str, Contestant] = {"auto": PsegNetwork(path, feeds, None, profile)}
            for trial in tuning.search.trials:
                if not trial.broken:
                    contestants[trial.configuration.label] = PsegNetwork(path, feeds, trial.configuration.options())
            records[name] = kitchen.race(contestants, 2 * kitchen.laps)
    return Part(machine, time.monotonic() - started, records, tables, tuple(notes))


def tuning(kitchen: Kitchen) -> Part:
    """The search on trained bundles, INT8 included.

    Args:
        kitchen: Where to work.

    Returns:
        The tables of the searches, and their reasons as notes.
    """
    started, machine = time.monotonic(), environment()
    tables: dict[str, Table] = {}
    notes: list[str] = []
    scenes = bundles.mirrored(demo_pictures(), kitchen.folder / "pictures" / "mirrored")
    trained: dict[str, tuple[Path, tuple[Path, ...]]] = {
        "demo_seagrass": (bundles.committed_bundle("demo_seagrass"), scenes),
        "text network": (bundles.text_bundle(kitchen.folder), scenes),
    }
    nuclei = os.environ.get("PSEG_SHARED_DATA")
    if nuclei is None:
        notes.append("nuclei: PSEG_SHARED_DATA names no folder with its pictures")
    else:
        images = tuple(sorted(Path(nuclei, "nuclei", "train", "images").glob("*.jpg")))[:16]
        trained["nuclei"] = (bundles.committed_bundle("nuclei"), images)
    for name, (path, pictures) in trained.items():
        with open_bundle(path) as bundle:
            found = _tuned(bundle, pictures, kitchen, budget_s=150, repository=Repository(kitchen.folder / "onnx"))
        tables[name] = tuning_table(found)
        notes += [f"{name}: {each}" for each in (found.reason, *found.notes)]
        kitchen.tell(f"{name}: {found.reason}")
    return Part(machine, time.monotonic() - started, {}, tables, tuple(notes))


def _tuned(
    bundle: Bundle,
    pictures: tuple[Path, ...],
    kitchen: Kitchen,
    *,
    budget_s: float,
    repository: Repository | None = None,
) -> Tuning:
    with tempfile.TemporaryDirectory(prefix="headline-") as scratch:
        return tune(
            bundle,
            TuneRequest(pictures, budget_s=budget_s, max_img_size=1_000_000),
            Places(Path(scratch), kitchen.ledger),
            repository=repository,
            advance=lambda step, configuration: kitchen.tell(f"{bundle.name}: {step} {configuration.label}"),
        )


PARTS: Mapping[str, Callable[[Kitchen], Part]] = {
    "network": network,
    "folder": folder,
    "growth": growth,
    "start": start,
    "auto": auto,
    "tuning": tuning,
}
