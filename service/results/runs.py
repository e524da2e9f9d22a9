"""What a run is made of: its images, and the options that its masks depend on."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, cast

from engine import Predictor
from engine.cover.options import CoverOptions
from engine.declaration import declared_options
from engine.images import ImageLimits
from engine.rasters.options import TileOptions
from engine.segmentation.averaging import Averaging
from engine.segmentation.palette import OverlayOptions
from engine.segmentation.prediction import MaskOptions
from engine.system.libraries import version_of_pseg
from engine.system.text import counted
from service.collections.sharding import Shard
from service.request import PredictRequest
from service.results.pictures import ImageTask, distinct_stems

_WITHOUT_EFFECT = frozenset(
    {"threads", "streams", "batch_size", "gpu_memory_limit", "max_pixels", "auto_tune_shapes", "print_detail"}
)
"""Options that change how fast a mask comes, or whether, but not the mask."""
_STATED_APART = frozenset(
    each.name for group in (Averaging, CoverOptions, OverlayOptions) for each in declared_options(group)
)
"""Options that a ledger states only where they are used."""
_OF_CLASSES = frozenset(each.name for group in (ImageLimits, MaskOptions) for each in declared_options(group)) - {
    "max_pixels",
    "mask_size",
}
"""Options that the classes of a photograph's pixels depend on, besides its network, averaging and clean-up."""
_OPTIONS = frozenset(each.name for group in (PredictRequest, TileOptions) for each in declared_options(group))
_TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
_MADE_ALIKE = ("runtime", "provider", "precision", "versions")
_NOT_RECORDED = "of a version that is not recorded"


@dataclass(frozen=True, slots=True)
class Listing:
    """All images of a run, also those of other shards, and the shard that it does; None: all."""

    tasks: Sequence[ImageTask]
    shard: Shard | None = None

    @property
    def mine(self) -> list[tuple[int, ImageTask]]:
        """Position, from 0, and task of every image that this run does."""
        numbered = enumerate(self.tasks)
        return [each for each in numbered if self.shard is None or self.shard.holds_position(each[0])]

    def folders_of_results(self, out: Path) -> list[Path]:
        """Name the folders that results are written to."""
        return list(dict.fromkeys([out, *((out / task.stem).parent for _, task in self.mine)]))

    @property
    def digest(self) -> str:
        """SHA-256 over the names in their order."""
        digest = hashlib.sha256()
        for task in self.tasks:
            digest.update(os.fsencode(task.label) + b"\0")
        return digest.hexdigest()


def list_tasks(
    paths: Sequence[Path],
    shard: Shard | None = None,
    subfolders: Mapping[Path, PurePath] | None = None,
    pages: Callable[[Path], Sequence[int | None]] = lambda _: (None,),
) -> Listing:
    """Give every image a stem and the run its share.

    For a shard the images are sorted first, so that machines agree whatever the order of their arguments. Stems are
    given over the whole list: those of different shards do not clash. `subfolders` and `pages` are as of
    `distinct_stems` and `ImageTask`.
    """
    ordered = paths if shard is None else sorted(paths)
    chosen = [(path, page) for path in ordered for page in pages(path)]
    stems = distinct_stems([path for path, _ in chosen], subfolders or {}, [page for _, page in chosen])
    return Listing([ImageTask(path, stem, page) for (path, page), stem in zip(chosen, stems, strict=True)], shard)


@dataclass(frozen=True, slots=True)
class Run:
    """What a ledger says of its run: digests of the bundle, and of the names of all images in their order.

    `options` are those that have an effect on the masks, and the digest of the tuned profile if one was applied;
    `images` counts those of other shards, too. `bundle_name` and `pseg`, the version of the package, are for people;
    None in ledgers that do not state them.
    """

    bundle: str
    options: Mapping[str, Any]
    images: int
    listing: str
    shard: str | None = None
    bundle_name: str | None = None
    pseg: str | None = None

    @property
    def digest(self) -> str:
        """Of bundle and options."""
        content = json.dumps([self.bundle, self.options], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def differences(self, other: "Run") -> list[str]:
        """Say what of bundle and options is not the same, in the command line's words: `--threshold 0.5, there 0.4`."""
        return [f"{name} {mine}, there {theirs}" for name, mine, theirs in self._differing(other)]

    def changes_since(self, earlier: "Run") -> list[str]:
        """Say what has changed, in the command line's words: `--threshold: 0.4 → 0.5`."""
        return [f"{name}: {before} → {now}" for name, now, before in self._differing(earlier)]

    def _differing(self, other: "Run") -> Iterator[tuple[str, str, str]]:
        mine, theirs = ({"bundle": run.bundle[:8], **run.options} for run in (self, other))
        return differing_options(mine, theirs)


def differing_options(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name options that are not the same, in the command line's words, with both values."""
    for name in dict.fromkeys([*mine, *theirs]):
        if mine.get(name) != theirs.get(name):
            dashes = "--" if name in _OPTIONS else ""
            yield dashes + name.replace("_", "-"), _shown(mine.get(name)), _shown(theirs.get(name))


def options_of_classes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Select what the classes of a photograph's pixels depend on from the options with effect."""
    return {name: options.get(name) for name in sorted(_OF_CLASSES)}


def made_by(provenances: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Say by what masks were made, from the provenance of their records: fact to values.

    Where masks differ in one, each value has how many there are.
    """

    def told(tally: Counter[str]) -> list[str]:
        if list(tally.values()) == [len(provenances)]:
            return list(tally)
        return [f"{value} ({counted(count, 'image', 'images')})" for value, count in tally.items()]

    return {
        name: [line for tally in of_fact for line in told(tally)] for name, of_fact in _tallies(provenances).items()
    }


def mixture(provenances: Sequence[Mapping[str, Any]]) -> str | None:
    """Say which of the runtimes, precisions and versions that made masks differ; None where they do not."""
    tallies = _tallies(provenances)
    differing = {name for name in _MADE_ALIKE for tally in tallies[name] if len(tally) > 1}
    if not differing:
        return None
    lines = [line for name, told in made_by(provenances).items() if name in differing for line in told]
    return f"not all masks were made alike: {', '.join(lines)}"


def _tallies(provenances: Sequence[Mapping[str, Any]]) -> dict[str, list[Counter[str]]]:
    """How many masks have each value of a fact, for each part of the fact."""
    versions = [{"pseg": _NOT_RECORDED, **each["versions"]} for each in provenances]
    libraries = dict.fromkeys(name for each in versions for name in each)
    steps = dict.fromkeys(step for each in provenances for step in each["fallbacks"])
    return {
        **{name: [Counter(str(each[name]) for each in provenances)] for name in (*_MADE_ALIKE[:-1], "threads")},
        "fallbacks": [Counter(step for each in provenances if step in each["fallbacks"]) for step in steps],
        "versions": [Counter(f"{name} {each[name]}" for each in versions if name in each) for name in libraries],
        **{
            f"{name} digest": [Counter(each[name] for each in provenances if each.get(name))]
            for name in ("profile", "bundle", "model")
        },
    }


def run_of(predictor: Predictor, request: PredictRequest, listing: Listing, tiles: TileOptions) -> Run:
    # Above this size a TIFF is cut into tiles in place of being shrunken.
    cutting = any(task.path.suffix.lower() in _TIFF_SUFFIXES for task in listing.tasks)
    return Run(
        bundle=predictor.bundle.digest,
        options={
            **options_with_effect(request, predictor.provenance.profile),
            **temperature_with_effect(predictor.steps.temperature),
            **({"max_pixels": request.images.max_pixels, "as_photograph": tiles.as_photograph} if cutting else {}),
            **_tiles_with_effect(tiles, cutting=cutting),
        },
        images=len(listing.tasks),
        listing=listing.digest,
        shard=None if listing.shard is None else str(listing.shard),
        bundle_name=predictor.bundle.name,
        pseg=version_of_pseg(),
    )


def temperature_with_effect(temperature: float) -> dict[str, object]:
    """It lies in the bundle, whose digest does not cover it."""
    return {} if temperature == 1 else {"temperature": temperature}


def _tiles_with_effect(tiles: TileOptions, *, cutting: bool) -> dict[str, object]:
    """Empty where images are not cut, or are cut as the engine chooses, and no bands are named."""
    sized = cutting and (tiles.side is not None or tiles.overlap is not None)
    if not (tiles.tile or tiles.names_rasters or sized):
        return {}
    bands = None if tiles.bands is None else list(tiles.bands)
    sides = {"tile_side": tiles.side, "overlap": tiles.overlap}
    simplified = {} if tiles.simplify is None else {"simplify": str(tiles.simplify)}
    return {"tile": tiles.tile, **sides, "bands": bands, "vectors": tiles.vectors, **simplified}


def options_with_effect(request: PredictRequest, profile: str | None) -> dict[str, Any]:
    """Select the options that have an effect on masks, as JSON values, and the digest of an applied profile."""
    network = request.network
    choices = {"runtime": network.runtime or "auto", "provider": network.provider or "auto"}
    options = {**request.values(), **choices, "save": sorted(request.save), "profile": profile}
    averaging = request.averaging.record()
    unused = frozenset[str]() if network.gpu.allow_tf32 else frozenset({"allow_tf32"})
    scaled = request.images.scale_range
    left_out = _WITHOUT_EFFECT | _STATED_APART | unused | {"scale_range"}
    stated = {name: value for name, value in options.items() if name not in left_out}
    if scaled is not None:
        stated["scale_range"] = list(scaled)
    overlays = request.overlays.record() if "overlay" in request.save else {}
    return {**stated, **request.cover.record(), **overlays, **({"averaging": averaging} if averaging else {})}


def _shown(value: object) -> str:
    if value is None:
        return "not given"
    return ",".join(map(str, cast("list[object]", value))) or "none" if isinstance(value, list) else str(value)
