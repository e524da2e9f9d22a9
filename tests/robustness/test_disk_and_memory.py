"""Disks that are full or may only be read, memory that is short: a clear error, nothing half-written or lost.

The disks are small tmpfs that the tests mount; where that is not permitted they are skipped, and say so. Memory is
limited by a control group of the test's own, version 1 or 2.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from service import cli
from service.commands.terminal import ExitStatus
from tests.robustness.conftest import Tally
from tests.robustness.killed import PSEG, REPOSITORY, require_whole
from tests.service.bundles import bundle_folder, packed

DISK_BYTES = 256 << 10
Mount = Callable[[], "Disk"]


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system of its own.

    Attributes:
        folder: where it is mounted.
    """

    folder: Path

    def fill(self, left_bytes: int = 0) -> None:
        """Leave so much room."""
        status = os.statvfs(self.folder)
        (self.folder / "filler").write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - left_bytes)))

    def forbid_writing(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)

    def files(self) -> list[str]:
        """What lies there, but for the filler."""
        found = (path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        return sorted(name for name in found if name != "filler")


@pytest.fixture
def mount(tmp_path: Path) -> Generator[Mount]:
    disks: list[Disk] = []

    def make() -> Disk:
        folder = tmp_path / f"disk-{len(disks)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"a tmpfs cannot be mounted here ({done.stderr.strip()}): run as root, with CAP_SYS_ADMIN")
        disks.append(Disk(folder))
        return disks[-1]

    yield make
    for disk in disks:
        subprocess.run(["umount", str(disk.folder)], check=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    return packed(bundle_folder(folder / "files"), folder / "strongest-band.tgz")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of noise: a mask of each takes about 25 kB."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(6):
        noise = np.random.default_rng(index).integers(0, 256, (200, 300, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
    return folder


@dataclass(frozen=True, slots=True)
class Outcome:
    status: int
    stdout: str
    stderr: str


def pseg(*arguments: object) -> Outcome:
    result = CliRunner().invoke(cli.app, [str(each) for each in arguments], catch_exceptions=False)
    return Outcome(result.exit_code, result.stdout, result.stderr)


def strongest(image: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    with Image.open(image) as opened:
        return np.asarray(opened).argmax(axis=-1)


def require_told(outcome: Outcome, status: ExitStatus, *words: str) -> None:
    assert outcome.status == status, outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stderr
    for word in words:
        assert word in outcome.stderr + outcome.stdout


# ---- predict ----------------------------------------------------------------------------------------------------


def test_a_folder_of_results_that_fills_up(
    mount: Mount, bundle: Path, images: Path, tmp_path: Path, tally: Tally
) -> None:
    disk = mount()
    disk.fill(left_bytes=80_000)
    outcome = pseg("predict", bundle, images, "--out", disk.folder, "--csv", tmp_path / "cover.csv")
    require_told(outcome, ExitStatus.INCOMPLETE, "No space left on device")
    written = [name for name in disk.files() if name != "ledger.jsonl"]
    assert 1 <= len(written) < 6
    for name in written:
        with Image.open(disk.folder / name) as mask:
            assert np.array_equal(np.asarray(mask), strongest(images / name.replace(".pseudo", "")))
    # Whatever was not written failed by the image's name.
    rows = (tmp_path / "cover.csv").read_text().splitlines()[1:]
    assert sum(",ok," in row for row in rows) == len(written)
    assert sum(",failed," in row and "No space left" in row for row in rows) == 6 - len(written)
    tally("disk full")


def test_no_room_for_the_table_or_the_report_costs_no_mask(
    mount: Mount, bundle: Path, images: Path, tmp_path: Path, tally: Tally
) -> None:
    for option, name in (("--csv", "cover.csv"), ("--report", "report.html")):
        disk = mount()
        disk.fill()
        out = tmp_path / name
        outcome = pseg("predict", bundle, images, "--out", out, option, disk.folder / name)
        require_told(outcome, ExitStatus.INCOMPLETE, "No space left on device", name)
        assert len(list(out.glob("*.png"))) == 6
        assert disk.files() == []
        tally("disk full")


def test_no_room_to_unpack_a_bundle(
    mount: Mount, bundle: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    disk = mount()
    disk.fill()
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
    outcome = pseg("predict", bundle, images, "--out", tmp_path / "out")
    require_told(outcome, ExitStatus.UNUSABLE_MODEL, "cannot be unpacked", "No space left on device")
    assert disk.files() == []
    tally("disk full")


def test_results_that_may_not_be_written(
    mount: Mount, bundle: Path, images: Path, tmp_path: Path, tally: Tally
) -> None:
    disk = mount()
    disk.forbid_writing()
    cases: dict[str, Sequence[object]] = {
        "out": ("--out", disk.folder),
        "out below": ("--out", disk.folder / "masks"),
        "csv": ("--out", tmp_path / "out", "--csv", disk.folder / "cover.csv"),
        "report": ("--out", tmp_path / "out", "--report", disk.folder / "report.html"),
    }
    for options in cases.values():
        outcome = pseg("predict", bundle, images, *options)
        require_told(outcome, ExitStatus.WRONG_REQUEST, "Read-only file system", str(disk.folder))
        assert outcome.stdout == "", "an image was done before the error"
        tally("read-only disk")


# ---- convert, tune ----------------------------------------------------------------------------------------------


def converted(bundle: Path, out: Path, cache: Path) -> Outcome:
    return pseg("convert", bundle, "--precision", "fp16", "--out", out, "--cache-dir", cache)


@pytest.mark.parametrize("full", [True, False], ids=["full", "read-only"])
def test_a_cache_without_room(
    full: bool, mount: Mount, bundle: Path, images: Path, tmp_path: Path, tally: Tally
) -> None:
    disk = mount()
    disk.fill()
    if not full:
        disk.forbid_writing()
    outcome = converted(bundle, tmp_path / "converted.tgz", disk.folder)
    told = "No space left on device" if full else "Read-only file system"
    require_told(outcome, ExitStatus.UNUSABLE_MODEL, told, str(disk.folder))
    assert not (tmp_path / "converted.tgz").exists()
    # What was tried is remembered by an empty file, for which there is room on a full disk.
    assert [name for name in disk.files() if not name.endswith("/lock") and not name.startswith("loadable/")] == []
    # A bundle that holds ONNX needs no cache.
    assert pseg("predict", bundle, images, "--out", tmp_path / "out", "--cache-dir", disk.folder).status == 0
    tally("disk full" if full else "read-only disk")


@pytest.mark.parametrize("full", [True, False], ids=["full", "read-only"])
@pytest.mark.long
def test_no_room_for_a_converted_bundle_or_a_profile(
    full: bool, mount: Mount, bundle: Path, images: Path, tmp_path: Path, tally: Tally
) -> None:
    disk = mount()
    disk.fill()
    if not full:
        disk.forbid_writing()
    told = "No space left on device" if full else "Read-only file system"
    kind = "disk full" if full else "read-only disk"
    outcome = converted(bundle, disk.folder / "converted.tgz", tmp_path / "cache")
    status = ExitStatus.UNUSABLE_MODEL if full else ExitStatus.WRONG_REQUEST
    require_told(outcome, status, told, "converted.tgz" if full else str(disk.folder))
    assert disk.files() == []
    tally(kind)
    if full:
        options = ("--budget-s", 0.1, "--cache-dir", tmp_path / "cache")
        outcome = pseg("tune", bundle, "--images", images, "--out", disk.folder / "profile.json", *options)
        require_told(outcome, ExitStatus.WRONG_REQUEST, told, "profile.json")
        assert disk.files() == []
        tally(kind)


# ---- orders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [True, False], ids=["full", "read-only"])
@pytest.mark.long
def test_an_order_whose_results_find_no_room(
    full: bool, mount: Mount, bundle: Path, images: Path, tmp_path: Path, tally: Tally
) -> None:
    disk = mount()
    if full:
        disk.fill(left_bytes=60_000)
    else:
        disk.forbid_writing()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("IVCAP_", "PSEG_"))}
    command = [sys.executable, str(REPOSITORY / "service.py"), "--model", str(bundle), "--images", str(images)]
    ended = subprocess.run(
        [*command, "--ivcap:out-dir", str(disk.folder)],
        cwd=tmp_path,
        env={**kept, "PYTHONPATH": str(REPOSITORY), "PSEG_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert ("No space left on device" if full else "Read-only file system") in ended.stdout + ended.stderr
    written = [disk.folder / name for name in disk.files()]
    assert bool(written) == full
    for path in written:
        assert path.name[0] != "."
        if path.suffix in {".png", ".csv"}:
            require_whole(path)
    tally("disk full" if full else "read-only disk")


# ---- memory -----------------------------------------------------------------------------------------------------

DEMO = REPOSITORY / "demo" / "demo_seagrass.tgz"
LIMIT_BYTES = 700 << 20


@pytest.fixture
def group() -> Generator[Path]:
    """A control group of its own, limited to `LIMIT_BYTES`."""
    lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    own = {controllers: name.lstrip("/") for _, controllers, name in lines}
    places = (
        (Path("/sys/fs/cgroup/memory") / own.get("memory", ""), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup") / own.get("", ""), "memory.max"),
    )
    problems: list[str] = []
    for parent, limit in places:
        made = parent / f"pseg-test-{os.getpid()}"
        try:
            made.mkdir()
        except OSError as error:
            problems.append(str(error))
            continue
        try:
            (made / limit).write_text(str(LIMIT_BYTES))
        except OSError as error:
            problems.append(str(error))
            made.rmdir()
            continue
        yield made
        made.rmdir()
        return
    pytest.skip(f"memory cannot be limited here ({'; '.join(problems)}): run as root, with control groups")


@pytest.mark.long
def test_batches_are_cut_to_a_memory_limit_and_what_cannot_fit_fails_by_name(
    group: Path, tmp_path: Path, tally: Tally
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    for index in range(4):
        Image.fromarray(noise).save(folder / f"{index}.png", compress_level=1)
    Image.fromarray(np.zeros((3000, 4000, 3), np.uint8)).save(folder / "large.png")
    command = [PSEG, "predict", DEMO, folder, "--out", tmp_path / "out", "--json"]
    options = ["--batch-size", "4", "--max-img-size", "-1", "--runtime", "onnx"]
    ended = subprocess.run(
        ["sh", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', str(group), *map(str, command), *options],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == ExitStatus.INCOMPLETE, f"{ended.returncode}: {ended.stderr}"
    records = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [each["status"] for each in records] == ["ok"] * 4 + ["failed"]
    assert ended.stderr.count("batches are cut") == 1
    assert "memory limit of 700 MiB" in records[-1]["error"]["message"]
    assert records[-1]["image"].endswith("large.png")
    assert any("memory limit" in note for note in records[-1]["provenance"]["fallbacks"])
    tally("memory limit", "smaller batches", 4)
    tally("memory limit", "failed by name")
