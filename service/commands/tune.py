"""`pseg tune`: measures the best configuration for a bundle on this machine and writes it into a profile."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from benchmarks.accuracy.labels import match_masks
from benchmarks.bench import Places
from benchmarks.tuning.tune import TuneRequest, Tuning, profile_of, tuning_record, tuning_table, write_tuned_bundle
from benchmarks.tuning.tune import tune as search_best
from converters.exporting.packing import require_bundle_name
from engine import OptionError, open_bundle
from engine.declaration import Options, option
from engine.runtimes.profile import Profile, profile_json
from engine.system.files import scratch_folder, write_atomically
from service.commands.flags import with_flags
from service.commands.groups import PictureOptions
from service.commands.named_pictures import named_pictures, require_folders
from service.commands.terminal import (
    BundleArgument,
    CacheOption,
    ExitStatus,
    JsonOption,
    print_json,
    print_table,
    step_shown,
    tell_fact,
    warn,
    wide_console,
)
from service.request import THE_BUNDLE, require_apart, require_writable_file, written_by
from service.session import Caches, caches_at


@dataclass(frozen=True, slots=True)
class _Destination(Options):
    """Where the profile goes: a file of its own, or a copy of the bundle."""

    title: ClassVar[str] = "The profile"

    out: Path | None = option(None, "Profile to write, for `pseg predict --profile`.")
    into: Path | None = option(
        None, "Archive to write: a copy of the bundle with the profile, possibly with an INT8 model."
    )

    @property
    def path(self) -> Path:
        path = self.out or self.into
        if path is None or (self.out and self.into):
            raise OptionError("give either --out for a profile, or --into for a copy of the bundle that carries it")
        return path

    def require_writable(self, bundle: Path, images: Iterable[Path], masks: Iterable[Path]) -> None:
        path = self.path
        if self.into is not None:
            require_bundle_name(self.into)
        require_apart(
            written_by({"--out": self.out, "--into": self.into}),
            {THE_BUNDLE: [bundle], "one of the images": images, "one of the masks": masks},
        )
        require_writable_file(path)


@with_flags(from_file=True)
def tune(
    bundle: BundleArgument,
    images: Annotated[list[str], typer.Option(help="Files, folders or globs of typical images. May be repeated.")],
    request: TuneRequest,
    pictures: PictureOptions,
    masks: Annotated[
        list[str] | None,
        typer.Option(
            help="Label masks by which configurations are judged: PNG files of class indices with the names of their "
            "images. Files, folders (including sub-folders) or globs. May be repeated."
        ),
    ] = None,
    *,
    destination: _Destination,
    json_output: JsonOption = False,
    cache_dir: CacheOption = None,
) -> None:
    """Find the fastest (or smallest) configuration within the limits, and write a profile for this machine."""
    require_folders(images, recursive=pictures.recursive)
    paths = tuple(named_pictures(images, option="images", recursive=pictures.recursive))
    labels = named_pictures(masks or [], option="masks", recursive=True)
    destination.require_writable(bundle, paths, labels)
    request = replace(request, images=paths, labelled=tuple(match_masks(paths, labels)) if masks else ())
    tuning, profile = _tune(bundle, request, destination, caches_at(cache_dir))
    if json_output:
        print_json(tuning_record(tuning, profile))
    else:
        _show(tuning, destination)
    if profile is None:
        raise typer.Exit(ExitStatus.INCOMPLETE)


def _tune(
    bundle: Path, request: TuneRequest, destination: _Destination, caches: Caches
) -> tuple[Tuning, Profile | None]:
    with (
        scratch_folder("tune") as scratch,
        open_bundle(bundle) as opened,
        step_shown("preparing models, pictures and reference") as show,
    ):
        tuning = search_best(
            opened,
            request,
            Places(scratch, caches.load_marks, caches.engines),
            repository=caches.conversions if destination.into else None,
            convert=caches.convert,
            advance=lambda step, configuration: show(f"{step}: {configuration.label}"),
        )
        if tuning.search.chosen is None:
            return tuning, None
        if destination.into is not None:
            return tuning, write_tuned_bundle(opened, tuning, destination.into)
        profile = profile_of(tuning, opened.digest)
        write_atomically(destination.path, profile_json(profile))
        return tuning, profile


def _accuracy_told(tuning: Tuning) -> str:
    if tuning.labelled:
        return (
            "IoU kept is 1 minus the most IoU that a class loses against the labels, compared with the reference; "
            "error added is the most by which the mean cover error of a class grows"
        )
    return (
        "min IoU is the smallest IoU of a class with the reference, over the pixels of all images; cover error is the "
        "largest difference of a class's cover in one image"
    )


def _show(tuning: Tuning, destination: _Destination) -> None:
    console = wide_console()
    print_table(console, f"tried for {tuning.goal}", tuning_table(tuning))
    skipped = dict.fromkeys(each.reason for each in tuning.skipped)
    for note in (*tuning.notes, *(f"skipped: {reason}" for reason in skipped)):
        warn(console, note)
    for each in tuning.search.untried:
        warn(console, f"no time for {each.label}")
    chosen = tuning.search.chosen
    told = [("judged by", tuning.judged_by), ("accuracy", _accuracy_told(tuning)), ("seconds", f"{tuning.seconds:.0f}")]
    told.append(("choice", f"{chosen.configuration.label if chosen else 'none'}: {tuning.reason}"))
    for name, value in told:
        tell_fact(console, name, value)
    if chosen is not None:
        tell_fact(console, "written", str(destination.path))
