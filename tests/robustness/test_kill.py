"""`kill -9` at seeded random moments: nothing half-written stands under a final name; a rerun succeeds and tidies."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.ivcap.publishing import SUMMARY_SCHEMA
from tests.robustness.conftest import Tally
from tests.robustness.killed import PSEG, REPOSITORY, Place, after_share, moments_of_writing, shares, when_written
from tests.service.bundles import bundle_folder, packed
from tests.service.pictures import BLUE, GREEN, RED, painted

IMAGES = 24
HEIGHT, WIDTH = 64, 96
KILLS_BEFORE_A_RERUN = 4
MANY = {"predict": 100, "order": 40, "convert": 50, "tune": 20}
ORDER = "kill -9: order"
Command = Sequence[object]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    return packed(bundle_folder(folder / "files"), folder / "strongest-band.tgz")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for index in range(IMAGES):
        (folder / f"{index:02}.png").write_bytes(painted(*STRIPES[index % 3], width=WIDTH, height=HEIGHT))
    return folder


STRIPES = ((RED, GREEN), (GREEN, BLUE), (BLUE, RED))


def mask_of(index: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """The mask of the image of that number, by hand."""
    first, second = ((0, 1), (1, 2), (2, 0))[index % 3]
    mask = np.full((HEIGHT, WIDTH), first, np.uint8)
    mask[:, WIDTH // 2 :] = second
    return mask


def pixels_of(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def killed_and_run_again(
    place: Place,
    command: Callable[[], Command],
    kills: Sequence[Callable[[], Callable[[], bool]]],
    require_done: Callable[[], None],
    tally: Tally,
    kind: str,
    again: Callable[[], Command] | None = None,
) -> None:
    """Kill the command at each moment; after every few kills let it (or `again`) finish and look at everything."""
    for first in range(0, len(kills), KILLS_BEFORE_A_RERUN):
        for number, moment in enumerate(kills[first : first + KILLS_BEFORE_A_RERUN]):
            # Every other kill is of a run that has all its work before it.
            caught = place.kill((again or command)() if number % 2 == 0 else command(), moment())
            place.require_nothing_half_written()
            # Only the library behind orders makes a file, empty, before it is written; the next order removes it.
            empty = place.empty_files()
            assert len(empty) <= (number + 1 if kind == ORDER else 0)
            tally(kind, "killed" if caught else "finished before")
        place.finish((again or command)())
        place.require_nothing_half_written()
        place.require_tidy()
        require_done()


# ---- predict to a folder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, pytest.param(MANY["predict"], marks=pytest.mark.long)])
@pytest.mark.timeout(1800)
def test_predict(count: int, bundle: Path, images: Path, place: Place, tally: Tally) -> None:
    def require_done() -> None:
        for index in range(IMAGES):
            assert np.array_equal(pixels_of(place.out / f"{index:02}.pseudo.png"), mask_of(index))
            assert np.array_equal(pixels_of(place.out / f"{index:02}.mask.png"), mask_of(index))
        assert len(list(place.out.iterdir())) == 3 * IMAGES + len(("cover.csv", "report.html", "ledger.jsonl"))
        assert (place.out / "cover.csv").read_text().count(",ok,") == IMAGES

    kills = [partial(emptied, place.out, files, seconds) for files, seconds in moments_of_writing(count, 3 * IMAGES)]
    options = ("--save", "pseudo,mask,overlay", "--csv", place.out / "cover.csv", "--report", place.out / "report.html")
    command = (PSEG, "predict", bundle, images, "--out", place.out, "--cache-dir", place.cache, *options)
    killed_and_run_again(place, lambda: command, kills, require_done, tally, "kill -9: predict")


def emptied(folder: Path, files: int, seconds: float) -> Callable[[], bool]:
    """The moment after so many files were written into a folder that is emptied now of what was finished."""
    for path in folder.iterdir():
        if not path.name.startswith("."):
            path.unlink()
    return when_written(folder, files, seconds)


@pytest.mark.parametrize("count", [30])
@pytest.mark.timeout(1800)
@pytest.mark.long
def test_finished_images_are_not_done_again(count: int, bundle: Path, images: Path, place: Place, tally: Tally) -> None:
    command = (PSEG, "predict", bundle, images, "--out", place.out, "--cache-dir", place.cache, "--resume")

    def finished() -> dict[str, int]:
        """The pictures that the ledger calls finished, and when they were written."""
        ledger = place.out / "ledger.jsonl"
        content = ledger.read_bytes() if ledger.is_file() else b""
        lines = content[: content.rfind(b"\n") + 1].splitlines()
        records = [json.loads(line) for line in lines]
        masks = [Path(record["mask"]["path"]) for record in records if record.get("mask")]
        return {path.name: path.stat().st_mtime_ns for path in masks}

    for files, seconds in moments_of_writing(count, IMAGES - 1):
        for path in place.out.iterdir():
            path.unlink()
        # One file more than pictures: the ledger is there from the beginning.
        place.kill(command, when_written(place.out, files + 1, seconds))
        before = finished()
        place.finish(command)
        after_all = finished()
        assert len(after_all) == IMAGES
        assert {name: after_all[name] for name in before} == before, "what was finished was done again"
        for index in range(IMAGES):
            assert np.array_equal(pixels_of(place.out / f"{index:02}.pseudo.png"), mask_of(index))
        place.require_tidy()
        tally("kill -9: predict --resume", "killed")
        tally("images found finished by --resume", "kept", len(before))


# ---- orders with a collection -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [MANY["order"]])
@pytest.mark.timeout(1800)
@pytest.mark.long
def test_order(count: int, bundle: Path, images: Path, place: Place, tally: Tally) -> None:
    def require_done() -> None:
        # An order never takes the place of an earlier one's results: those that were killed left some, whole.
        for index in range(IMAGES):
            masks = list(place.out.glob(f"{index:02}.pseudo*.png"))
            assert masks
            assert all(np.array_equal(pixels_of(path), mask_of(index)) for path in masks)
        summaries = [path.read_text() for path in place.out.glob("*.json") if SUMMARY_SCHEMA in path.read_text()]
        assert any(f'"succeeded": {IMAGES}' in each for each in summaries)
        for path in place.out.iterdir():
            path.unlink()

    kills = [
        partial(when_written, place.out, files, seconds) for files, seconds in moments_of_writing(count, 2 * IMAGES)
    ]
    command = (
        *(sys.executable, REPOSITORY / "service.py", "--model", bundle, "--images", images, "--report"),
        *("--ivcap:out-dir", place.out),
    )
    killed_and_run_again(place, lambda: command, kills, require_done, tally, ORDER)


# ---- convert ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [MANY["convert"]])
@pytest.mark.timeout(1800)
@pytest.mark.long
def test_convert(count: int, bundle: Path, images: Path, place: Place, tally: Tally) -> None:
    destination = place.out / "converted.tgz"
    verified = place.root / "verified.png"

    def command() -> Command:
        options = ("--precision", "fp16", "--verify", verified, "--cache-dir", place.cache)
        return (PSEG, "convert", bundle, "--out", destination, *options)

    def another() -> Command:
        """A conversion that the cache has not seen: compared on another picture."""
        stripes = np.random.default_rng(time.monotonic_ns()).integers(0, 256, (4, 3)).tolist()
        verified.write_bytes(painted(*map(tuple, stripes)))
        return command()

    def require_done() -> None:
        assert destination.is_file()
        masks = place.root / "masks"
        place.finish((PSEG, "predict", destination, images / "00.png", "--out", masks))
        assert np.array_equal(pixels_of(masks / "00.pseudo.png"), mask_of(0))

    place.finish(another())
    kills = [partial(after_share, place, "convert", share) for share in shares(count)]
    killed_and_run_again(place, command, kills, require_done, tally, "kill -9: convert", again=another)


# ---- tune -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [MANY["tune"]])
@pytest.mark.timeout(1800)
@pytest.mark.long
def test_tune(count: int, bundle: Path, images: Path, place: Place, tally: Tally) -> None:
    profile = place.out / "profile.json"
    command = (
        *(PSEG, "tune", bundle, "--images", images, "--budget-s", 0.1, "--out", profile, "--cache-dir", place.cache),
    )
    place.finish(command)
    kills = [partial(after_share, place, "tune", share) for share in shares(count)]

    def require_done() -> None:
        assert profile.is_file()
        profile.unlink()

    killed_and_run_again(place, lambda: command, kills, require_done, tally, "kill -9: tune")
