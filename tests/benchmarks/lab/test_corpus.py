"""Our readers of pictures against others, on a sample of the matrix and on pictures that the tests make.

Oracles: the scene that the matrix holds, tifffile with imagecodecs, OpenCV, libvips, GDAL; arithmetic by hand.
"""

import hashlib
import multiprocessing
import os
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.lab.corpus import matrix, rules, sources
from benchmarks.lab.corpus.child import OURS, PHOTOGRAPH, Reader, Reading
from benchmarks.lab.corpus.facts import Facts, facts_of
from benchmarks.lab.corpus.matrix import Variant
from benchmarks.lab.corpus.matrix.scene import samples, scene_rgb
from benchmarks.lab.corpus.page import page
from benchmarks.lab.corpus.refusals import REFUSALS
from benchmarks.lab.corpus.results import Result, Store
from benchmarks.lab.corpus.rules import Stored
from benchmarks.lab.corpus.run import MATRIX, Judge, Task
from benchmarks.lab.corpus.sources import Source
from benchmarks.lab.corpus.verdicts import FAULTS, Judged, PeerReading, agreement, judge

SAMPLE = 64


@pytest.fixture(scope="module")
def judge_of_pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    judge = Judge(tmp_path_factory.mktemp("logs"))
    yield judge
    judge.close()


def faults(results: list[Result]) -> list[str]:
    return [f"{each.verdict}: {each.name} ({each.reader}): {each.note}" for each in results if each.verdict in FAULTS]


# ---- our readers ------------------------------------------------------------------------------------------------


def test_a_sample_that_touches_every_axis_of_the_matrix(judge_of_pictures: Judge, tmp_path: Path) -> None:
    sample = matrix.sample(SAMPLE)
    results: list[Result] = []
    for variant in sample:
        task = Task(MATRIX, variant.name, tmp_path / f"{variant.name}.tif", variant)
        results += judge_of_pictures.judge(task, "")
    assert faults(results) == []
    counts = Counter(each.verdict for each in results)
    assert counts["equal"] > SAMPLE
    assert counts["rightly refused"] > 10
    assert counts.total() == 2 * len(sample)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Pictures of every other format, each of a kind of its own; JPEGs, PNGs and WebPs in all eight orientations."""
    scene = Image.fromarray(scene_rgb())
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        scene.save(tmp_path / f"turned{orientation}.jpg", exif=exif, quality=95)
        scene.save(tmp_path / f"turned{orientation}.png", exif=exif)
        scene.save(tmp_path / f"turned{orientation}.webp", exif=exif, lossless=True)
    scene.save(tmp_path / "x.bmp")
    scene.convert("L").save(tmp_path / "grey.bmp")
    scene.quantize(16).save(tmp_path / "palette.bmp")
    scene.save(tmp_path / "progressive.jpg", progressive=True)
    scene.convert("L").save(tmp_path / "grey.jpg")
    scene.quantize(16).save(tmp_path / "palette.png", transparency=3)
    scene.convert("1").save(tmp_path / "bilevel.png")
    scene.convert("LA").save(tmp_path / "alpha.png")
    deep = samples((0, 1, 2), 16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    cv2.imwrite(str(tmp_path / "deep_grey.png"), deep[..., 0])
    scene.save(tmp_path / "x.jp2")
    scene.convert("L").save(tmp_path / "grey.jp2")
    scene.save(tmp_path / "x.avif", quality=95, subsampling="4:4:4")
    # Only the container of an AVIF says how it lies.
    stale = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    scene.save(tmp_path / "stale.avif", quality=95, subsampling="4:4:4", xmp=stale)
    return sorted(path for path in tmp_path.iterdir() if path.is_file())


def test_small_pictures_of_every_other_format(judge_of_pictures: Judge, pictures: list[Path]) -> None:
    results = [result for path in pictures for result in judge_of_pictures.judge(Task("made", path.name, path), "")]
    assert faults(results) == []
    assert [each.name for each in results if each.verdict != "equal"] == []
    assert {each.orientation for each in results if each.format == "JPEG"} == set(range(1, 9))


def test_what_is_not_read_is_refused_with_its_reason(judge_of_pictures: Judge, tmp_path: Path) -> None:
    Image.fromarray(scene_rgb()).quantize(8).save(tmp_path / "x.gif")
    (tmp_path / "empty.png").touch()
    Image.fromarray(scene_rgb()).save(tmp_path / "whole.png")
    (tmp_path / "truncated.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    kinds = {
        path.name: judge_of_pictures.judge(Task("made", path.name, path), "")[0].kind
        for path in sorted(tmp_path.iterdir())
    }
    assert kinds == {
        "empty.png": "empty file",
        "truncated.png": "damaged or truncated",
        "whole.png": "",
        "x.gif": "another format",
    }


# ---- the matrix -------------------------------------------------------------------------------------------------


def test_the_matrix_is_large_and_its_sample_touches_everything() -> None:
    every = matrix.variants()
    assert len(every) >= 2500
    assert len({each.name for each in every}) == len(every)
    values = {pair for each in every for pair in each.axes.items()}
    assert {pair for each in matrix.sample(SAMPLE) for pair in each.axes.items()} == values


def test_files_of_the_matrix_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    # LERC's encoder leaves unused bits as they were in memory.
    for variant in [each for each in matrix.sample(SAMPLE) if "lerc" not in each.axes["codec"]][::8]:
        for name in ("first", "second"):
            variant.write(tmp_path / name)
        assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes(), variant.name


# ---- the rules --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [
        (1, "abcdef"),
        (2, "badcfe"),
        (3, "fedcba"),
        (4, "efcdab"),
        (5, "acebdf"),
        (6, "ecafdb"),
        (7, "fdbeca"),
        (8, "bdface"),
    ],
)
def test_orientations_by_hand(orientation: int, corner: str) -> None:
    stored = np.array([list("ab"), list("cd"), list("ef")])
    assert "".join(rules.upright(stored, orientation).ravel()) == corner


@pytest.mark.parametrize(
    ("stored", "samples", "rgb"),
    [
        (Stored("grey", 16), [0xABCD], (0xAB, 0xAB, 0xAB)),
        (Stored("grey", 4), [5], (85, 85, 85)),
        (Stored("white is zero", 1), [1], (0, 0, 0)),
        (Stored("RGB", 12), [0xFFF, 0x80F, 0x010], (255, 0x80, 1)),
        (Stored("RGB", 8, premultiplied=True), [50, 100, 0, 100], (128, 255, 0)),
        (Stored("palette", 2, colors=np.array([[0, 9], [0, 255], [0, 1]])), [1], (9, 255, 1)),
        (Stored("palette", 2, colors=np.array([[0, 0x0900], [0, 0xFFFF], [0, 0x01FF]])), [1], (9, 255, 1)),
        (Stored("CMYK"), [0, 255, 0, 0], (255, 0, 255)),
        (Stored("CMYK"), [0, 0, 0, 204], (51, 51, 51)),
        (Stored("YCbCr"), [76, 85, 255], (254, 0, 0)),
        (Stored("CIELab"), [128, 0, 0], (119, 119, 119)),
        (Stored("ICCLab"), [128, 128, 128], (119, 119, 119)),
    ],
)
def test_rules_by_hand(stored: Stored, samples: list[int], rgb: tuple[int, int, int]) -> None:
    values = np.array([[samples]], np.uint16)
    assert np.abs(rules.to_rgb(values, stored)[0, 0].astype(int) - rgb).max() <= (0 if stored.is_exact else 1)


# ---- verdicts ---------------------------------------------------------------------------------------------------

PICTURE: NDArray[np.uint8] = scene_rgb()
OTHER: NDArray[np.uint8] = PICTURE[::-1].copy()


def readings(*peers: tuple[str, str, NDArray[np.uint8] | None]) -> list[PeerReading]:
    return [PeerReading(reader, family, pixels, "no") for reader, family, pixels in peers]


def judged(ours: Reading, *peers: tuple[str, str, NDArray[np.uint8] | None], form: str = "PNG") -> Judged:
    agreed = agreement(readings(*peers), "exact")
    return judge(ours, PHOTOGRAPH, Facts(form), agreed, "exact", name="x.png")


def test_one_level_off_is_silently_wrong() -> None:
    wrong = PICTURE.copy()
    wrong[3, 4, 1] ^= 1
    peers = (("OpenCV", "OpenCV", PICTURE), ("libvips", "libvips", PICTURE))
    assert judged(Reading("read", PICTURE), *peers).verdict == "equal"
    assert judged(Reading("read", wrong), *peers).verdict == "silently wrong"
    assert judged(Reading("read", wrong[1:]), *peers).verdict == "silently wrong"


def test_where_others_do_not_agree_nothing_counts() -> None:
    peers = (("OpenCV", "OpenCV", PICTURE), ("libvips", "libvips", OTHER))
    assert judged(Reading("read", PICTURE), *peers).verdict == "no agreement"
    assert judged(Reading("refused", message="x.png: damaged"), *peers).verdict == "no agreement"
    assert judged(Reading("read", PICTURE), *peers, ("imagecodecs", "imagecodecs", OTHER)).verdict == "silently wrong"


def test_readers_of_one_family_count_as_one() -> None:
    peers = (("tifffile", "tifffile", PICTURE), ("GDAL", "libtiff", OTHER), ("OpenCV", "libtiff", OTHER))
    assert judged(Reading("read", OTHER), *peers).verdict == "no agreement"


def test_a_lenient_reader_does_not_count_alone() -> None:
    assert judged(Reading("read", OTHER), ("GDAL", "GDAL", PICTURE)).verdict == "no agreement"


def test_a_refusal_is_right_only_with_the_reason_that_is_listed() -> None:
    nobody = ("libvips", "libvips", None)
    somebody = ("libvips", "libvips", PICTURE)
    assert judged(Reading("refused", message="x.png: damaged or truncated"), nobody).kind == "damaged or truncated"
    assert judged(Reading("refused", message="x.png: damaged or truncated"), somebody).verdict == "wrongly refused"
    assert judged(Reading("refused", message="x.png: no idea"), nobody).verdict == "wrongly refused"
    gif = Reading("refused", message="x.gif: is a GIF picture, which is not read")
    assert judged(gif, somebody, form="GIF").kind == "another format"
    assert judged(gif, somebody, form="PNG").verdict == "wrongly refused"
    assert judged(Reading("refused", message="damaged"), somebody, form="GIF").verdict == "wrongly refused"


def test_the_name_of_a_file_is_no_reason() -> None:
    facts = Facts("GIF")
    agreed = agreement(readings(("libvips", "libvips", PICTURE)), "exact")
    refused = Reading("refused", message="is a GIF which is not read: fails")
    assert (
        judge(refused, PHOTOGRAPH, facts, agreed, "exact", name="is a GIF which is not read").verdict
        == "wrongly refused"
    )


def test_an_error_that_is_not_ours_counts_as_a_crash() -> None:
    assert judged(Reading("untold", message="TypeError: x"), ("libvips", "libvips", None)).verdict == "crashed"
    assert judged(Reading("hung"), ("libvips", "libvips", PICTURE)).verdict == "hung"


def test_every_kind_of_refusal_has_a_name_of_its_own() -> None:
    assert len({each.kind for each in REFUSALS}) == len(REFUSALS)


# ---- processes, results, sources --------------------------------------------------------------------------------


@pytest.mark.long
def test_a_reader_that_hangs_and_one_that_is_killed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    Image.fromarray(PICTURE).save(tmp_path / "x.png")
    reader = Reader(tmp_path / "log", timeout_s=2)
    try:
        assert reader.read("OpenCV", tmp_path / "x.png").outcome == "read"
        before = {each.pid for each in multiprocessing.active_children()}
        # Nobody ever writes to the pipe, so that opening it takes for ever.
        assert reader.read("OpenCV", tmp_path / "fifo").outcome == "hung"
        reader = Reader(tmp_path / "log", timeout_s=60)
        assert reader.read(PHOTOGRAPH, tmp_path / "x.png").outcome == "read"
        (child,) = [each for each in multiprocessing.active_children() if each.pid not in before]
        threading.Timer(1, child.kill).start()
        started = time.monotonic()
        assert reader.read("OpenCV", tmp_path / "fifo").outcome == "crashed"
        assert time.monotonic() - started < 30
        pixels = reader.read(PHOTOGRAPH, tmp_path / "x.png").pixels
        assert pixels is not None
        assert np.array_equal(pixels, PICTURE)
    finally:
        reader.close()


def result(name: str, key: str, verdict: str = "equal") -> Result:
    return Result("pillow", name, "PNG", PHOTOGRAPH, verdict, "", "", 1, key)  # pyright: ignore[reportArgumentType]


def test_results_are_kept_unless_the_code_is_another(tmp_path: Path) -> None:
    store = Store(tmp_path / "results.jsonl", "now")
    store.add(result("a.png", "now"))
    with (tmp_path / "results.jsonl").open("ab") as file:
        file.write(b'{"origin": "pil')  # killed while it wrote
    assert {name for _, name, _ in Store(tmp_path / "results.jsonl", "now").results} == {"a.png"}
    assert Store(tmp_path / "results.jsonl", "later").results == {}


def test_the_page_names_what_is_wrong() -> None:
    written = page([result("a.png", ""), result("b.png", "", "silently wrong")])
    assert "| pillow/b.png | photograph | silently wrong |" in written
    assert "pillow/a.png" not in written


def test_only_the_pinned_archive_is_unpacked_and_nothing_beside_its_folder(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "x.png")
    with tarfile.open(tmp_path / "some-1.tar.gz", "w:gz") as tar:
        for name in ("some-1/tests/a/x.png", "some-1/setup.py", "some-1/tests/../../../evil.png"):
            tar.add(tmp_path / "x.png", name)
    digest = "0" * 64
    with pytest.raises(SystemExit, match="SHA-256"):
        sources.pictures(Source("some", "1", digest, "tests"), tmp_path)
    (tmp_path / "good").mkdir()
    (tmp_path / "good/some-1.tar.gz").write_bytes((tmp_path / "some-1.tar.gz").read_bytes())
    digest = hashlib.sha256((tmp_path / "some-1.tar.gz").read_bytes()).hexdigest()
    with pytest.raises(tarfile.OutsideDestinationError):
        sources.pictures(Source("some", "1", digest, "tests"), tmp_path / "good")
    assert not (tmp_path / "evil.png").exists()


def test_what_a_tiff_says_of_itself(tmp_path: Path) -> None:
    def variant(name: str) -> Variant:
        return next(each for each in matrix.variants() if each.name == name)

    variant("raw_preview-before_strips_none_le").write(tmp_path / "x.tif")
    tiff = facts_of(tmp_path / "x.tif").tiff
    assert tiff is not None
    assert (tiff.bands, tiff.bits, tiff.photometric, tiff.pages) == (3, (8, 8, 8), 2, 2)
    assert set(OURS) == {"photograph", "raster"}
