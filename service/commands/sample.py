"""`pseg sample`: which pictures of a survey people should label."""

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from engine.declaration import Options, option
from engine.system.files import write_atomically
from engine.system.text import legible
from service.collections.merging import find_ledgers
from service.commands.flags import with_flags
from service.commands.terminal import ExitStatus, flag_of, say, tell
from service.request import require_apart, require_writable_file, written_by
from service.surveys.correction import rules_correction_out
from service.surveys.pictures import read_pictures
from service.surveys.places import SurveyOptions, place_pictures
from service.surveys.sampling import By, draw_sample, not_drawable, sample_csv, too_few_labels


@dataclass(frozen=True, slots=True)
class _SampleOptions(Options):
    """What is drawn, and where the list goes."""

    title: ClassVar[str] = "Sample"

    count: int = option(MISSING, "Number of pictures to draw.", minimum=1)
    by: By = option(
        "class",
        "class, site or group: the same number from each dominant class, from each site, or from each group and date, "
        "as a correction requires; random: all pictures with the same probability; confidence: half with the same "
        "probability, half in proportion to 1 - mean confidence.",
    )
    seed: int = option(
        0,
        "Seed of the draw: the same seed draws the same pictures and, with a larger count, further ones in addition "
        "(except by confidence).",
        minimum=0,
    )
    out: Path = option(Path("sample.csv"), "Table to write.")


@with_flags()
def sample(
    ledgers: Annotated[list[Path], typer.Argument(metavar="DIR_OR_LEDGER…", help="Folders of results, or ledgers.")],
    survey: SurveyOptions,
    options: _SampleOptions,
) -> None:
    """Draw a probability sample of pictures to label, with the inclusion probability of each.

    Images that failed cannot be drawn; the exit status is then 1.
    """
    paths = find_ledgers(ledgers)
    found = read_pictures(paths)
    found.require_files()
    require_apart(
        written_by({"--out": options.out}),
        {
            "a ledger": paths,
            "the table of the survey": [] if survey.survey is None else [survey.survey],
            **found.files(),
        },
    )
    placed = place_pictures(found.pictures, survey, list(found.failures))
    drawn = draw_sample(found, placed, options.by, options.count, options.seed)
    require_writable_file(options.out)
    write_atomically(options.out, sample_csv(drawn, options.by, options.seed))
    tell(f"{len(drawn)} of {len(placed.pictures)} pictures -> {legible(str(options.out))}")
    ruling_out = rules_correction_out(found)
    for name in ruling_out:
        say(
            f"the covers are those of {flag_of(name)}: labels can say how good they are, and cannot correct them; for "
            "a correction, predict without this option and draw again",
            "red",
        )
    for note in [] if ruling_out else too_few_labels(found, placed, options.by, options.seed, drawn):
        say(note, "red")
    for reason in not_drawable(found, placed):
        say(f"could not be drawn: {reason}", "red")
    if found.failures or found.missing:
        raise typer.Exit(ExitStatus.INCOMPLETE)
