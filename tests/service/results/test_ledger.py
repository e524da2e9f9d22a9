"""The ledger of a run: what it says, what `--resume` does not do again, and what it does."""

import csv
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from engine import Provenance
from service.commands.terminal import ExitStatus
from service.request import build_request
from service.results.ledger import read_ledger
from service.results.resuming import LedgerError
from service.results.run_ledger import open_ledger
from service.results.runs import Run, list_tasks, options_with_effect
from tests.service.commands.test_cli import (
    BLUE,
    GREEN,
    KEYS,
    PSEG,
    RED,
    halves,
    pseg,
    pseg_error,
    pseg_process,
    remarks,
)
from tests.service.surveys.test_summarize import facts_of

LEDGER = "ledger.jsonl"
PROVENANCE = Provenance("b", "m", "onnx", "cpu", "fp32", 2, (), {})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four photographs, two of one stem, and a broken file."""
    for name, left in (("a.png", RED), ("b.png", GREEN), ("b.jpg", BLUE), ("d.png", RED)):
        halves(tmp_path / "in" / name, left)
    (tmp_path / "in" / "c.png").write_bytes(b"")
    return tmp_path / "in"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_timings(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in record.items() if name != "timings_ms"} for record in records]


def times_written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}


def test_a_line_is_the_record_and_what_tells_whether_it_holds(bundle: Path, photos: Path, tmp_path: Path) -> None:
    outcome = pseg("predict", bundle, photos, "--out", tmp_path / "o", "--save", "mask,overlay", "--json")
    head, *entries = lines(tmp_path / "o" / LEDGER)
    assert (head["ledger"], head["images"], head["shard"]) == (2, 5, None)
    assert head["bundle"] == outcome.records[0]["provenance"]["bundle"]
    assert (head["options"]["save"], head["options"]["threshold"]) == (["mask", "overlay"], 0.5)
    assert [{key: entry[key] for key in KEYS} for entry in entries] == outcome.records
    told = [entry["ledger"] for entry in entries]
    assert [each["position"] for each in told] == [0, 1, 2, 3, 4]
    assert [each["stem"] for each in told] == ["a", "b", "b-2", "c", "d"]
    assert told[2]["pictures"] == ["b-2.mask.png", "b-2.overlay.jpg"]
    assert told[3]["pictures"] == []
    assert told[0]["path"] == str(photos / "a.png")
    assert told[0]["size_bytes"] == (photos / "a.png").stat().st_size
    assert len({each["digest"] for each in told}) == 1


def test_a_run_that_was_killed_goes_on(bundle: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "in", tmp_path / "o"
    content = halves(tmp_path / "one.png", size=(200, 150)).read_bytes()
    photos.mkdir()
    for index in range(200):
        (photos / f"{index:03}.png").write_bytes(content if index % 20 else b"broken")
    command = ["predict", bundle, photos, "--json", "--csv", tmp_path / "cover.csv"]
    with subprocess.Popen(list(map(str, [PSEG, *command, "--out", out])), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert len(list(islice(process.stdout, 23))) == 23
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finished = {entry.stem for entry in read_ledger(out / LEDGER).entries if not entry.failed}
    assert 20 <= len(finished) < 190
    before = times_written(out)
    resumed = pseg(*command, "--out", out, "--resume")
    assert f"{len(finished)} of 200 images were done earlier" in resumed.stderr
    after = times_written(out)
    assert all(after[f"{stem}.pseudo.png"] == before[f"{stem}.pseudo.png"] for stem in finished)
    rows = (tmp_path / "cover.csv").read_text()
    whole = pseg(*command, "--out", tmp_path / "whole")
    assert resumed.status == whole.status == ExitStatus.INCOMPLETE
    assert len(resumed.records) == 200
    moved = json.loads(json.dumps(without_timings(whole.records)).replace(str(tmp_path / "whole"), str(out)))
    assert without_timings(resumed.records) == moved
    assert rows == (tmp_path / "cover.csv").read_text().replace(str(tmp_path / "whole"), str(out))
    for path in (tmp_path / "whole").glob("*.png"):
        assert path.read_bytes() == (out / path.name).read_bytes()


def test_only_failed_images_are_tried_again(bundle: Path, photos: Path, tmp_path: Path) -> None:
    command = ("predict", bundle, photos, "--out", tmp_path / "o", "--csv", tmp_path / "cover.csv")
    assert pseg(*command).status == ExitStatus.INCOMPLETE
    before = times_written(tmp_path / "o")
    halves(photos / "c.png")
    outcome = pseg(*command, "--resume")
    assert outcome.status == ExitStatus.DONE
    assert remarks(outcome) == ["4 of 5 images were done earlier", "1 done again: failed before"]
    after = times_written(tmp_path / "o")
    assert set(after) - set(before) == {"c.pseudo.png"}
    assert {name: after[name] for name in before} == before
    with (tmp_path / "cover.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok"] * 5
    assert len(read_ledger(tmp_path / "o" / LEDGER).entries) == 5


def test_a_torn_last_line_is_dropped(bundle: Path, photos: Path, tmp_path: Path) -> None:
    command = ("predict", bundle, photos, "--out", tmp_path / "o")
    pseg(*command)
    ledger = tmp_path / "o" / LEDGER
    ledger.write_bytes(ledger.read_bytes()[:-40])
    outcome = pseg(*command, "--resume")
    assert "3 of 5 images were done earlier" in outcome.stderr
    assert [entry.stem for entry in read_ledger(ledger).entries] == ["a", "b", "b-2", "c", "d"]


def change_the_image(photos: Path, _: Path) -> None:
    halves(photos / "a.png", BLUE)
    os.utime(photos / "a.png", ns=(1, 1))


def lose_a_picture(_: Path, out: Path) -> None:
    (out / "a.pseudo.png").unlink()


def change_a_picture(_: Path, out: Path) -> None:
    (out / "a.pseudo.png").write_bytes(b"something else")


def take_the_stem(photos: Path, _: Path) -> None:
    halves(photos / "a.jpg", BLUE)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (change_the_image, "the image was changed"),
        (lose_a_picture, "pictures are missing"),
        (change_a_picture, "pictures were changed"),
        (take_the_stem, "another image takes the names of its pictures"),
    ],
)
def test_what_no_longer_holds_is_done_again(
    bundle: Path, photos: Path, tmp_path: Path, change: Any, reason: str
) -> None:
    command = ("predict", bundle, photos, "--save", "pseudo", "--json", "--out")
    pseg(*command, tmp_path / "o")
    change(photos, tmp_path / "o")
    resumed = pseg(*command, tmp_path / "o", "--resume")
    assert "3 of " in resumed.stderr
    assert f"1 done again: {reason}" in resumed.stderr
    fresh = pseg(*command, tmp_path / "fresh")
    for ours, theirs in zip(resumed.records, fresh.records, strict=True):
        assert (ours["image"], ours["cover"]) == (theirs["image"], theirs["cover"])
        if ours["mask"] is not None:
            assert Path(ours["mask"]["path"]).read_bytes() == Path(theirs["mask"]["path"]).read_bytes()


def test_other_options_are_named_and_everything_is_done_again(bundle: Path, photos: Path, tmp_path: Path) -> None:
    command = ("predict", bundle, photos, "--out", tmp_path / "o")
    pseg(*command)
    outcome = pseg(*command, "--resume", "--max-img-size", 900, "--threads", 1)
    assert "0 of 5 images were done earlier" in outcome.stderr
    assert "4 done again: bundle or options are not the same" in outcome.stderr
    told = outcome.stderr.splitlines()
    assert (
        told[0]
        == "bundle or options have changed (--max-img-size: 1000000 → 900); earlier results that are replaced: 4"
    )
    assert "threads" not in "".join(remarks(outcome))
    again = pseg(*command, "--resume", "--max-img-size", 900, "--batch-size", 2, "--threads", 2, "--streams", 2)
    assert "4 of 5 images were done earlier" in again.stderr


@pytest.mark.parametrize(
    "options",
    [{"scales": "0.5,1.0"}, {"flip_vertical": True}, {"crop_size": (8, 8), "stride": (4, 4)}, {"with_argmax": True}],
)
def test_every_way_to_make_masks_is_told_from_the_usual_one(options: dict[str, Any]) -> None:
    """Also for ledgers of clusters, which know no predictor."""
    usual = options_with_effect(build_request(), None)
    assert options_with_effect(build_request(**options), None) != usual
    assert options_with_effect(build_request(threads=1, batch_size=3, print_detail=True), None) == usual


def test_a_mistaken_option_or_list_forgets_nothing(bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    command = ("predict", bundle, photos, "--out", out)
    pseg(*command)
    before = times_written(out)
    listing = list_tasks(sorted(photos.iterdir()))
    other = replace(read_ledger(out / LEDGER).run, options={"threshold": 0.4})
    with open_ledger(out, other, listing, PROVENANCE, resume=True):
        """Is stopped before it does anything."""
    told = pseg("predict", bundle, photos / "d.png", "--out", out, "--resume").stderr
    assert "1 of 1 images were done earlier" in told
    assert "3 that were done earlier are not among these images" in told
    assert "4 of 5 images were done earlier" in pseg(*command, "--resume").stderr
    assert times_written(out) == before
    assert len(read_ledger(out / LEDGER).entries) == 5


def test_a_picture_that_was_replaced_is_not_taken_for_done(bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    command = ("predict", bundle, photos, "--out", out)
    pseg(*command)
    pseg("predict", bundle, photos / "a.png", "--out", out, "--mask-size", "inference", "--resume")
    told = pseg(*command, "--resume").stderr
    assert "3 of 5 images were done earlier" in told
    assert "1 done again: bundle or options are not the same" in told

    # Killed between the picture and its line: the picture is another one by then, of the same size perhaps.
    run = replace(read_ledger(out / LEDGER).run, options={"threshold": 0.4})
    tasks = list_tasks([photos / "a.png"])

    with open_ledger(out, run, tasks, PROVENANCE, resume=True) as ledger:
        next(ledger.pending())
    assert "3 of 5 images were done earlier" in pseg(*command, "--resume").stderr


def test_results_of_other_photographs_are_not_replaced(bundle: Path, tmp_path: Path) -> None:
    first, second = halves(tmp_path / "dive 1" / "x.png", RED), halves(tmp_path / "dive 2" / "x.png", GREEN)
    out = tmp_path / "o"
    pseg("predict", bundle, first.parent, "--out", out)
    picture = (out / "x.pseudo.png").read_bytes()
    said = pseg_error("predict", bundle, second.parent, "--out", out, "--resume")
    assert f"{out}/x.pseudo.png is the result of {first}" in said
    assert (out / "x.pseudo.png").read_bytes() == picture
    both = pseg("predict", bundle, first.parent, second.parent, "--out", out, "--resume")
    assert "1 of 2 images were done earlier" in both.stderr


def test_photographs_that_were_moved_are_known_again(bundle: Path, photos: Path, tmp_path: Path) -> None:
    pseg("predict", bundle, photos, "--out", tmp_path / "o")
    moved = photos.rename(tmp_path / "archive")
    command = ("predict", bundle, moved, "--out", tmp_path / "o", "--resume", "--json")
    for _ in range(2):
        outcome = pseg(*command)
        assert "4 of 5 images were done earlier" in outcome.stderr
        assert outcome.records[0]["image"] == str(moved / "a.png")


def test_where_tiffs_are_cut_decides_on_their_masks(bundle: Path, tmp_path: Path) -> None:
    halves(tmp_path / "in" / "a.tif")
    command = ("predict", bundle, tmp_path / "in", "--out", tmp_path / "o", "--resume")
    pseg(*command)
    assert "1 of 1 images were done earlier" in pseg(*command).stderr
    told = pseg(*command, "--max-pixels", 100).stderr
    assert "0 of 1 images were done earlier" in told
    assert "--max-pixels: 200000000 → 100" in told


def test_results_do_not_lie_among_the_photographs(bundle: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photos)
    for out in (photos, tmp_path / "link"):
        assert "name another folder with --out" in pseg_error("predict", bundle, photos, "--out", out)
    assert pseg("predict", bundle, photos / "a.png", "--out", photos).status == ExitStatus.DONE


def test_results_of_another_run_are_replaced_only_if_that_is_asked_for(
    bundle: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o"
    command = ("predict", bundle, photos, "--out", out)
    pseg(*command)
    before = times_written(out)
    said = pseg_error(*command, "--max-img-size", 900)
    assert f"{out} holds the results of another run, 4 images (--max-img-size 900, there 1000000)" in said
    assert "(other images)" in pseg_error("predict", bundle, photos / "a.png", "--out", out)
    assert times_written(out) == before
    assert pseg("predict", bundle, photos / "a.png", "--out", out, "--overwrite").status == ExitStatus.DONE
    assert pseg("predict", bundle, photos / "a.png", "--out", out).status == ExitStatus.DONE
    assert "leave out one of --resume and --overwrite" in pseg_error(*command, "--resume", "--overwrite")
    for path in out.glob("*.png"):
        path.unlink()
    assert pseg(*command, "--max-img-size", 900).status == ExitStatus.INCOMPLETE, "nothing was left to replace"


def test_results_that_are_not_of_a_run_are_named_and_kept(bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    (photos / "d.png").unlink()
    (photos / "sub").mkdir()
    shutil.copy(photos / "a.png", photos / "sub" / "far.png")
    command = ("predict", bundle, photos, "--recursive", "--out", out)
    first = pseg(*command, "--save", "pseudo,overlay")
    assert "that this run did not write" not in first.stderr
    stale = {path.relative_to(out).as_posix() for path in out.rglob("*.overlay.jpg")} | {"sub/far.pseudo.png"}
    again = pseg(*command, "--exclude", "sub", "--overwrite")
    (line,) = (each for each in again.stderr.splitlines() if "that this run did not write" in each)
    assert line.startswith(f"{len(stale)} files in {out} ")
    assert set(line.rpartition(": ")[2].split(", ")) == stale
    assert all((out / name).is_file() for name in stale)
    kept = pseg("predict", bundle, photos / "a.png", "--out", tmp_path / "own")
    assert "that this run did not write" not in kept.stderr


def test_shards_and_whole_runs_keep_the_results_of_each_other(bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    command = ("predict", bundle, photos, "--out", out)
    pseg(*command)
    before = times_written(out)
    assert "another run" in pseg_error(*command, "--shard", "1/2", "--max-img-size", 900)
    assert times_written(out) == before
    assert pseg(*command, "--shard", "1/2").status in {ExitStatus.DONE, ExitStatus.INCOMPLETE}
    (out / LEDGER).unlink()
    assert "another run" in pseg_error(*command, "--max-img-size", 900)


def test_without_resume_everything_is_done(bundle: Path, photos: Path, tmp_path: Path) -> None:
    command = ("predict", bundle, photos, "--out", tmp_path / "o")
    pseg(*command)
    before = times_written(tmp_path / "o")
    assert "earlier" not in pseg(*command).stderr
    assert all(when > before[name] for name, when in times_written(tmp_path / "o").items())
    assert len(lines(tmp_path / "o" / LEDGER)) == 6


def test_there_is_nothing_to_resume(bundle: Path, photos: Path, tmp_path: Path) -> None:
    outcome = pseg("predict", bundle, photos, "--out", tmp_path / "o", "--resume")
    assert f"nothing to resume: there was no {tmp_path / 'o' / LEDGER}" in outcome.stderr
    assert len(read_ledger(tmp_path / "o" / LEDGER).entries) == 5


def test_without_pictures_a_ledger_is_kept_for_who_resumes(bundle: Path, photos: Path, tmp_path: Path) -> None:
    command = ("predict", bundle, photos, "--out", tmp_path / "o", "--save", "none")
    pseg(*command)
    assert list((tmp_path / "o").iterdir()) == []
    pseg(*command, "--resume")
    assert "4 of 5 images were done earlier" in pseg(*command, "--resume").stderr


def test_the_report_holds_all_images(bundle: Path, photos: Path, tmp_path: Path) -> None:
    command = ("predict", bundle, photos, "--out", tmp_path / "o")
    pseg(*command)
    halves(photos / "c.png")
    pseg(*command, "--resume", "--report", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "5 of 5 images segmented" in page
    assert "another run segmented" not in page
    assert page.count("<article") == 5


@pytest.mark.parametrize(
    "content",
    [
        b"a shopping list\n",
        b'{"image": "a.png"}\n',
        b'{"ledger": 99, "bundle": "b", "options": {}, "images": 1, "listing": "l", "shard": null}\n',
        b"[" * 100_000 + b"\n",
        b'{"ledger": 2, "bundle": "b", "options": {}, "images": 1, "listing": "l", "shard": null}\nnot JSON\n',
        b'{"ledger": 2, "bundle": "b", "options": {}, "images": 1, "listing": "l", "shard": null}\n{"ledger": {}}\n',
        b"\x00\xff",
    ],
)
def test_what_is_no_ledger_is_refused_and_left_alone(
    bundle: Path, photos: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "o").mkdir()
    ledger = tmp_path / "o" / LEDGER
    ledger.write_bytes(content)
    assert str(ledger) in pseg_error("predict", bundle, photos, "--out", tmp_path / "o", "--resume")
    assert ledger.read_bytes() == content


def test_two_runs_do_not_write_one_ledger(bundle: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    listing = list_tasks([])
    run = Run("bundle", {}, 0, listing.digest)
    with open_ledger(tmp_path / "o", run, listing, PROVENANCE, resume=False):
        assert "another run is writing" in pseg_error("predict", bundle, photos, "--out", tmp_path / "o")
        with pytest.raises(LedgerError), open_ledger(tmp_path / "o", run, listing, PROVENANCE, resume=True):
            pass
    assert len(lines(tmp_path / "o" / LEDGER)) == 1
    assert pseg("predict", bundle, photos, "--out", tmp_path / "o").status == ExitStatus.INCOMPLETE


def test_a_file_name_that_is_no_unicode_survives(bundle: Path, tmp_path: Path) -> None:
    photo = halves(tmp_path / "in" / "fish.png")
    photo.rename(photo.with_name(os.fsdecode(b"fish-\xff.png")))
    command = ("predict", bundle, tmp_path / "in", "--out", tmp_path / "o")
    pseg_process(*command, PYTHONUTF8="1")
    assert "1 of 1 images were done earlier" in pseg_process(*command, "--resume", PYTHONUTF8="1").stderr


def test_masks_of_several_versions_and_runtimes_are_not_told_to_be_alike(
    bundle: Path, photos: Path, tmp_path: Path
) -> None:
    out, page = tmp_path / "o", tmp_path / "page.html"
    command = ("predict", bundle, photos, "--out", out)
    pseg(*command)
    assert "made alike" not in pseg("summarize", out).stdout
    ledger = out / LEDGER
    head, *entries = lines(ledger)
    version = entries[0]["provenance"]["versions"]["pseg"]
    assert version == metadata.version("paddleseg-dual-runtime")
    entries[0]["provenance"] |= {"provider": "cuda", "versions": {"pseg": "0.0.9", "numpy": "1.0"}}
    ledger.write_text("".join(f"{json.dumps(line)}\n" for line in (head, *entries)))
    numpy_version = metadata.version("numpy")
    # Of five images one failed.
    told = (
        f"not all masks were made alike: cuda (1 image), cpu (3 images), pseg 0.0.9 (1 image), pseg {version} "
        f"(3 images), numpy 1.0 (1 image), numpy {numpy_version} (3 images)"
    )
    summed = pseg("summarize", out, "--report", page, "--json")
    assert any(note.startswith(told) for note in summed.records[0]["notes"])
    assert told in pseg("merge", out, "--out", tmp_path / "m").stderr
    facts = facts_of(page)
    assert facts["provider"] == "cuda (1 image)cpu (3 images)"
    assert f"pseg 0.0.9 (1 image)pseg {version} (3 images)" in facts["versions"]
    assert facts["runtime"] == "onnx"
    halves(photos / "c.png")
    # The line of the run names the version that goes on, and the fifth image is its own.
    assert f"pseg 0.0.9 (1 image), pseg {version} (4 images)" in pseg(*command, "--resume", "--report", page).stderr
    assert f"pseg 0.0.9 (1 image)pseg {version} (4 images)" in facts_of(page)["versions"]
