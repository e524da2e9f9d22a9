"""Every option of every command that a file or a folder is written to, with what it must not replace."""

import shutil
import tarfile
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from typing import Any

from service import cli
from tests.service.commands.test_cli import BLUE, halves, pseg

READ = frozenset(
    [
        *("bundle", "images", "profile", "ledger", "ledgers", "manifest", "calibrate", "verify", "masks", "against"),
        *(
            "config",
            "weights",
            "cv_config",
            "source",
            "survey",
            "roi",
            "annotations",
            "sample",
            "labelled",
            "correct_with",
            "ifdo_header",
        ),
    ]
)
NO_FILE = frozenset(
    (
        "save device image max_memory gpu_memory_limit simplify bands scales shard address size name page exclude "
        "label_values pattern per scale_range exclude_class keep_classes min_area quadrat_size labels grid label_names "
        "unlabelled"
    ).split()
)
OF_ITS_OWN = frozenset({"cache_dir"})


def options_that_name_something() -> Iterator[tuple[str, str]]:
    """Command and parameter, from the functions that the commands are."""
    for command in cli._COMMANDS:  # pyright: ignore[reportPrivateUsage]
        name = f"{command}_" if iskeyword(command) else command
        function = getattr(import_module(f"service.commands.{name}"), name)
        hints: dict[str, Any] = typing.get_type_hints(function, include_extras=True)
        yield from ((command, parameter) for parameter, hint in hints.items() if {Path, str} & _kinds(hint))


def _kinds(hint: Any) -> set[Any]:
    if typing.get_origin(hint) is typing.Literal:
        return set()
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Annotated:
        parts = parts[:1]
    return set[Any]().union(*map(_kinds, parts)) if parts else {hint}


@dataclass(frozen=True, slots=True)
class Attempt:
    """A command that would replace what it must not.

    Attributes:
        arguments: of `pseg`; takes the path that the option names.
        victim: the file that must stay.
        named: what the option names; None: the victim itself.
    """

    arguments: Callable[[Path], Sequence[object]]
    victim: Path
    named: Path | None = None


def attempts(folder: Path, bundle: Path) -> Mapping[tuple[str, str], list[Attempt]]:
    """Make the files, and list what must not work, by command and parameter."""
    b = Path(shutil.copy(bundle, folder / "b.tgz"))
    polygons = Path(shutil.copy(bundle, folder / "b.geojson"))
    image, masks, cover = folder / "in" / "a.png", folder / "lab" / "a.png", folder / "cover.csv"
    halves(image)
    halves(folder / "in" / "b.png", BLUE)
    # As the results of a.png would be called.
    taken = halves(folder / "among" / "a.pseudo.png", BLUE)
    shutil.copy(image, folder / "among" / "a.png")
    plot = halves(folder / "plots" / "time_split.png", BLUE)
    halves(masks)
    assert pseg("predict", b, folder / "in", "--out", folder / "o").status == 0
    ledger, result = folder / "o" / "ledger.jsonl", folder / "o" / "a.pseudo.png"
    profile = _file(folder / "profile.json")
    network, weights, settings = _file(folder / "net.yml"), _file(folder / "w.pdparams"), folder / "cv-meta.json"
    settings.write_text('{"classes": [{"name": "sand"}]}')
    with tarfile.open(folder / "model.tgz", "w:gz") as archive:
        archive.add(network, "inference.yml")
    notes = _file(folder / "notes" / "ledger.jsonl")
    found = {
        ("predict", option): [
            Attempt(
                lambda path, option=option: (
                    *("predict", b, folder / "in", "--out", folder / "o", "--profile", profile),
                    *(f"--{option}", path),
                ),
                victim,
            )
            for victim in victims
        ]
        for option, victims in (
            ("csv", [b, image, profile, ledger, result]),
            ("report", [b, image, profile, ledger, result]),
        )
    }
    found["predict", "vectors"] = [
        Attempt(lambda path: ("predict", polygons, folder / "in", "--out", folder / "o", "--vectors", path), polygons)
    ]
    among = [folder / "among" / "a.png", taken]
    found["predict", "out"] = [Attempt(lambda path: ("predict", b, *among, "--out", path), taken, taken.parent)]
    found["demo", "out"] = [Attempt(lambda path: ("demo", *among, "--out", path), taken, taken.parent)]
    for option in ("csv", "report"):
        found["merge", option] = [
            Attempt(
                lambda path, option=option: ("merge", folder / "o", "--out", folder / "m", f"--{option}", path), ledger
            )
        ]
    found["pack", "out"] = [Attempt(lambda path: ("pack", b, "--for", "onnx-fp32", "--out", path), b)]
    found["merge", "out"] = [Attempt(lambda path: ("merge", ledger, "--out", path), notes, notes.parent)]
    places = _file(folder / "places.csv")
    places.write_text("image,site\na.png,N\nb.png,N\n")
    named_as_map = Path(shutil.copy(image, folder / "a.gpkg"))
    assert pseg("predict", b, named_as_map, "--out", folder / "of-maps").status == 0
    for option in ("csv", "changes", "quadrats", "plot", "ifdo", "report"):
        found["summarize", option] = [
            Attempt(
                lambda path, option=option: ("summarize", folder / "o", "--survey", places, f"--{option}", path), victim
            )
            for victim in (ledger, image, result, places)
        ]
    found["summarize", "points"] = [
        Attempt(lambda path: ("summarize", folder / "of-maps", "--points", path), named_as_map)
    ]
    found["sample", "out"] = [
        Attempt(lambda path: ("sample", folder / "o", "--survey", places, "--count", 1, "--out", path), victim)
        for victim in (ledger, image, result, places)
    ]
    (folder / "named").mkdir()
    as_annotations = Path(shutil.copy(image, folder / "named" / "annotations.json"))
    assert pseg("predict", b, as_annotations, "--out", folder / "of-named").status == 0
    found["annotate", "out"] = [
        Attempt(
            lambda path: ("annotate", folder / "of-named", "--format", "coco", "--out", path),
            as_annotations,
            as_annotations.parent,
        )
    ]
    found["manifest", "out"] = [Attempt(lambda path: ("manifest", folder / "in", "--out", path), image)]
    found["convert", "out"] = [
        Attempt(lambda path: ("convert", b, "--out", path, "--verify", folder / "in"), victim) for victim in (b, image)
    ]
    found["bench", "out"] = [Attempt(lambda path: ("bench", b, "--images", plot, "--out", path), plot, plot.parent)]
    for option in ("out", "into"):
        found["tune", option] = [
            Attempt(
                lambda path, option=option: (
                    *("tune", b, "--images", image, "--masks", masks, f"--{option}", path),
                    *("--budget-s", 1),
                ),
                victim,
            )
            for victim in (b, image, masks)
        ]
    found["evaluate", "out"] = [
        Attempt(lambda path: ("evaluate", b, "--images", image, "--masks", masks, "--out", path), victim)
        for victim in (b, image, masks)
    ]
    found["evaluate", "csv"] = [
        Attempt(lambda path: ("evaluate", b, "--images", image, "--masks", masks, "--csv", path), victim)
        for victim in (b, image, masks)
    ]
    found["evaluate", "fit_temperature"] = [
        Attempt(lambda path: ("evaluate", b, "--images", image, "--masks", masks, "--fit-temperature", path), victim)
        for victim in (b, image, masks)
    ]
    exported = ("export", "--config", network, "--weights", weights, "--cv-config", settings, "--out")
    found["export", "out"] = [
        *(Attempt(lambda path: (*exported, path), victim) for victim in (network, weights, settings)),
        Attempt(lambda path: (*exported, path), settings, folder / "cv.tgz"),
    ]
    imported = ("import", folder / "model.tgz", "--cv-config", settings, "--out")
    found["import", "out"] = [
        Attempt(lambda path: (*imported, path), folder / "model.tgz"),
        Attempt(lambda path: (*imported, path), settings, folder / "cv.tgz"),
    ]
    assert pseg("manifest", folder / "in", "--out", folder / "list.parquet").status == 0
    table = _file(folder / "o" / "ledger.parquet")
    scaled = ("scale", b, folder / "list.parquet", "--address", "local")
    for option in ("csv", "report"):
        found["scale", option] = [
            Attempt(lambda path, option=option: (*scaled, "--out", folder / "o", f"--{option}", path), victim)
            for victim in (b, image, folder / "list.parquet", table, result)
        ]
    assert pseg("manifest", *among, "--out", folder / "among.parquet").status == 0
    found["scale", "out"] = [
        Attempt(lambda path: ("scale", b, folder / "among.parquet", "--out", path), taken, taken.parent)
    ]
    for command, arguments in (
        ("predict", (b, folder / "in", "--out", folder / "o")),
        ("bench", (b, "--images", folder / "in", "--out", folder / "bench")),
        ("tune", (b, "--images", folder / "in", "--out", folder / "tuned.json")),
        ("scale", (b, folder / "list.parquet", "--out", folder / "s")),
    ):
        found[command, "write_config"] = [
            Attempt(
                lambda path, command=command, arguments=arguments: (command, *arguments, "--write-config", path), victim
            )
            for victim in (b, image, ledger)
        ]
    assert not cover.exists()
    return found


def _file(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}\n")
    return path


def spellings(path: Path, folder: Path) -> Mapping[str, Path]:
    """Other names of a file, or of a folder."""
    names = {
        "itself": path,
        "a roundabout name": path.parent / "." / ".." / path.parent.name / path.name,
        "a link": folder / f"link-{path.name}",
        "a link to its folder": folder / f"folder-{path.name}" / path.name,
    }
    names["a link"].symlink_to(path)
    names["a link to its folder"].parent.symlink_to(path.parent)
    if path.is_file():
        names["a hard link"] = folder / f"hard-{path.name}"
        names["a hard link"].hardlink_to(path)
        names["capital letters"] = path.with_name(path.name.upper())
    return names
