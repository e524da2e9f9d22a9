"""Folders, ledgers and manifests that others have been at: nothing outside of them is touched, and nothing hangs."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.system.files import OwnFolder, atomic_file, remove_abandoned_parts, scratch_folder
from service.commands.terminal import ExitStatus
from tests.robustness.conftest import Tally
from tests.service.bundles import bundle_folder, packed
from tests.service.commands.test_cli import BLUE, PSEG, halves, pseg
from tests.service.commands.written import attempts, spellings
from tests.service.results.ledger_edits import NOT_A_LEDGER, content_edits, edit, pictures_at
from tests.service.results.test_orthomosaics import classes_of, geotiff, pixels_of, stopped_after_three_tiles

pytestmark = pytest.mark.long

FOLDERS = "links and special files in folders"
LEDGERS = "edited ledgers and manifests"
NAMES = "names of files that must stay"
TOLD = {ExitStatus.INCOMPLETE, ExitStatus.WRONG_REQUEST, ExitStatus.UNUSABLE_MODEL}


TILE_FILES = (
    *("lock", "state.json", "state.json.part", "mask.raw"),
    *("strip-0", "strip-1", "carry-0.npy", "carry-1.npy"),
)


def a_link(victim: Path, place: Path) -> None:
    place.symlink_to(victim)


def a_dangling_link(victim: Path, place: Path) -> None:
    place.symlink_to(victim.with_name("not there"))


def a_link_to_itself(_: Path, place: Path) -> None:
    place.symlink_to(place.name)


def a_hard_link(victim: Path, place: Path) -> None:
    os.link(victim, place)


def a_pipe(_: Path, place: Path) -> None:
    os.mkfifo(place)


def a_socket(_: Path, place: Path) -> None:
    with chdir(place.parent), socket.socket(socket.AF_UNIX) as listening:  # a whole path may be too long for one
        listening.bind(place.name)


def a_folder(_: Path, place: Path) -> None:
    place.mkdir()
    (place / "notes.txt").write_text("not ours")


PLANTED: tuple[Callable[[Path, Path], None], ...] = (
    a_link,
    a_dangling_link,
    a_link_to_itself,
    a_hard_link,
    a_pipe,
    a_socket,
    a_folder,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    return packed(bundle_folder(folder / "files"), folder / "strongest-band.tgz")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "private" / "thesis.txt"
    path.parent.mkdir()
    path.write_text("years of work")
    return path


@contextmanager
def ends_soon(seconds: int = 60) -> Generator[None]:
    """What waits for a pipe is interrupted."""

    def late(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def survived(status: int, said: str, victim: Path, *named: str) -> str:
    """How a command came through; `lost` where it did harm or did not say what is in the way."""
    whole = [path.name for path in victim.parent.iterdir()] == [victim.name] and victim.read_text() == "years of work"
    if not whole or "Traceback" in said:
        return "lost"
    if status == 0:
        return "done"
    return "refused" if status in TOLD and any(name in said for name in named) else "lost"


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize(
    "name",
    [*TILE_FILES, "mask.vrt", "mask.tif", "polygons.gpkg", "map-0123456789abcdef.tif"],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_the_folder_of_unfinished_tiles(
    bundle: Path,
    tmp_path: Path,
    victim: Path,
    tally: Tally,
    plant: Callable[[Path, Path], None],
    name: str,
    resumed: bool,
) -> None:
    out = tmp_path / "out"
    folder = out / ".pseg-reef.tiles"
    if resumed:
        command = [*stopped_after_three_tiles(bundle, tmp_path, out, "--tile-size", 64), "--resume"]
    else:
        source = geotiff(tmp_path / "reef.tif", pixels_of(300, 300))
        command = ["predict", bundle, source, "--out", out, "--tile", "--tile-size", 64]
        folder.mkdir(parents=True)
    (folder / name).unlink(missing_ok=True)
    plant(victim, folder / name)
    with ends_soon():
        outcome = pseg(*command, "--vectors", "gpkg") if not resumed else pseg(*command)
    how = survived(outcome.status, outcome.stderr, victim, f"{folder.name}/{name}")
    if how == "done":
        np.testing.assert_array_equal(classes_of(out / "reef.tif"), pixels_of(300, 300).argmax(axis=0))
    tally(FOLDERS, how)


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize(
    "place", [".", ".pseg-a.tiles", "a.pseudo.png", "ledger.jsonl", "reef.tif", "reef.gpkg", "cover.csv", "page.html"]
)
def test_names_of_results(
    bundle: Path, tmp_path: Path, victim: Path, tally: Tally, plant: Callable[[Path, Path], None], place: str
) -> None:
    out = tmp_path / "out"
    if place == ".":
        plant(victim, out)
    else:
        out.mkdir()
        plant(victim, out / place)
    halves(tmp_path / "in" / "a.png")
    geotiff(tmp_path / "in" / "reef.tif", pixels_of())
    command = ("predict", bundle, tmp_path / "in", "--out", out, "--tile", "--tile-size", 64, "--vectors", "gpkg")
    with ends_soon():
        outcome = pseg(*command, "--csv", out / "cover.csv", "--report", out / "page.html")
    tally(FOLDERS, survived(outcome.status, " ".join(outcome.stderr.split()), victim, place, "out", "is not a TIFF"))


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize(
    "name", [".pseg-0123456789abcdef.part", "pseg-bundle-abcd1234", "pseg-bundle-abcd1234/.pseg-in-use"]
)
def test_what_looks_abandoned(
    tmp_path: Path, victim: Path, tally: Tally, plant: Callable[[Path, Path], None], name: str
) -> None:
    root = tmp_path / "tmp"
    root.mkdir()
    if "/" in name:
        (root / name).parent.mkdir(0o700)
    plant(victim, root / name)
    with ends_soon():
        remove_abandoned_parts(root)
        with scratch_folder("test", root) as folder:
            (folder / "x").write_bytes(b"x")
    kept = plant is not a_folder or (root / name / "notes.txt").exists()
    tally(FOLDERS, "done" if kept and victim.read_text() == "years of work" else "lost")


def test_links_that_come_while_files_are_written(tmp_path: Path, victim: Path, tally: Tally) -> None:
    out = tmp_path / "out"
    out.mkdir()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            with suppress(OSError):
                (out / "sub").rename(out / "was")
            with suppress(OSError):
                (out / "sub").symlink_to(victim.parent)
            with suppress(OSError):
                (out / "sub").unlink()
            shutil.rmtree(out / "was", ignore_errors=True)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for number in range(500):
            with suppress(OSError), atomic_file(out / "sub" / f"{number}.png", within=out) as file:
                file.write(b"x")
            with suppress(OSError), OwnFolder(out / "sub") as folder:
                os.close(folder.open("state"))
                folder.remove("thesis.txt")
            tally(FOLDERS, survived(0, "", victim))
    finally:
        stop.set()
        swapping.join()


@pytest.mark.parametrize("name", ["x" * 200, "🐟" * 45, "con", "-rf", "a\nb", ".hidden", "pseg-"])
def test_odd_names_of_rasters(bundle: Path, tmp_path: Path, tally: Tally, name: str) -> None:
    source = geotiff(tmp_path / f"{name}.tif", pixels_of())
    command = ("predict", bundle, source, "--out", tmp_path / "out", "--tile", "--tile-size", 64)
    assert pseg(*command, "--vectors", "geojson").status == 0
    (mask,) = (tmp_path / "out").glob("*.tif")
    np.testing.assert_array_equal(classes_of(mask), pixels_of().argmax(axis=0))
    tally(FOLDERS, "done")


def test_a_folder_that_vanishes(bundle: Path, tmp_path: Path, tally: Tally) -> None:
    photos, out = tmp_path / "in", tmp_path / "out"
    content = halves(tmp_path / "one.png", size=(400, 300)).read_bytes()
    photos.mkdir()
    for number in range(300):
        (photos / f"{number:03}.png").write_bytes(content)
    with subprocess.Popen(
        [PSEG, "predict", bundle, photos, "--out", out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        shutil.rmtree(out)
        _, said = process.communicate(timeout=120)
    assert process.returncode in TOLD
    assert "Traceback" not in said
    assert str(out) in said
    tally(FOLDERS, "refused")


def test_every_written_option_by_every_spelling(bundle: Path, tmp_path: Path, tally: Tally) -> None:
    for tries in attempts(tmp_path, bundle).values():
        for number, each in enumerate(tries):
            before = each.victim.read_bytes()
            links = tmp_path / f"links-{len(list(tmp_path.iterdir()))}-{number}"
            links.mkdir()
            # A name that is put together from another one has no links of its own.
            named = each.named or each.victim
            names = {"itself": named} if named.suffix == ".tgz" and each.named else spellings(named, links)
            for name in names.values():
                outcome = pseg(*each.arguments(name))
                whole = each.victim.read_bytes() == before and "Traceback" not in outcome.stderr
                tally(NAMES, "refused" if whole and outcome.status in TOLD else "lost")


@pytest.fixture
def out(bundle: Path, tmp_path: Path) -> Path:
    halves(tmp_path / "in" / "a.png")
    halves(tmp_path / "in" / "b.png", BLUE)
    assert pseg("predict", bundle, tmp_path / "in", "--out", tmp_path / "o").status == 0
    return tmp_path / "o"


def commands(bundle: Path, out: Path) -> list[tuple[Any, ...]]:
    page = out.parent / "page.html"
    return [
        (
            "predict",
            bundle,
            out.parent / "in",
            "--out",
            out,
            "--resume",
            "--csv",
            out.parent / "t.csv",
            "--report",
            page,
        ),
        ("merge", out, "--out", out.parent / "m", "--csv", out.parent / "m.csv", "--report", page),
        ("merge", out, "--out", out),
    ]


@pytest.mark.parametrize("kind", NOT_A_LEDGER)
def test_edited_lines(bundle: Path, out: Path, tally: Tally, kind: str) -> None:
    edit(out / "ledger.jsonl", NOT_A_LEDGER[kind])
    refused(bundle, out, tally)


@pytest.mark.parametrize("number", range(9))
def test_other_contents(bundle: Path, out: Path, tally: Tally, number: int) -> None:
    ledger = out / "ledger.jsonl"
    ledger.write_bytes(list(content_edits(ledger).values())[number])
    refused(bundle, out, tally)


def refused(bundle: Path, out: Path, tally: Tally) -> None:
    before = (out / "ledger.jsonl").read_bytes()
    for command in commands(bundle, out):
        outcome = pseg(*command)
        said = " ".join(outcome.stderr.split())
        kept = (out / "ledger.jsonl").read_bytes() == before and not (out.parent / "m").exists()
        told = outcome.status == ExitStatus.WRONG_REQUEST and "ledger.jsonl: line " in said and len(said) < 2000
        tally(LEDGERS, "refused" if kept and told and "Traceback" not in said else "lost")


@pytest.mark.parametrize(
    "name",
    [
        "../in/a.png",
        "/etc/passwd",
        "../../../../../../etc/passwd",
        "b.pseudo.png",
        "./a.pseudo.png",
        "sub/../a.pseudo.png",
        "sub/a.pseudo.png",
        "../copy/a.pseudo.png",
        "/proc/self/mem",
        "a.pseudo.png/",
        "../pipe/a.pseudo.png",
    ],
)
def test_pictures_from_elsewhere(bundle: Path, out: Path, tally: Tally, name: str) -> None:
    shutil.copytree(out, out.parent / "copy", ignore=shutil.ignore_patterns("*.jsonl"))
    (out.parent / "pipe").mkdir()
    os.mkfifo(out.parent / "pipe" / "ledger.jsonl")
    (out / "sub").symlink_to(out.parent / "copy")
    edit(out / "ledger.jsonl", pictures_at(name))
    with ends_soon():
        outcome = pseg(*commands(bundle, out)[0])
    again = outcome.status == 0 and "1 of 2 images were done earlier" in outcome.stderr
    tally(LEDGERS, "done again" if again else "lost")


@pytest.mark.parametrize("kind", ["two hundred million images", "a shard of twenty million", "a line without end"])
def test_memory_stays_small(out: Path, tally: Tally, kind: str) -> None:
    ledger = out / "ledger.jsonl"
    if kind in NOT_A_LEDGER:
        edit(ledger, NOT_A_LEDGER[kind])
    else:
        ledger.write_bytes(content_edits(ledger)[kind])

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))

    done = subprocess.run(
        [PSEG, "merge", out, "--out", out.parent / "m"],
        capture_output=True,
        check=False,
        preexec_fn=limited,
        text=True,
        timeout=60,
    )
    assert done.returncode == ExitStatus.WRONG_REQUEST, done.stderr
    assert "LedgerError" in done.stderr
    tally(LEDGERS, "refused")
