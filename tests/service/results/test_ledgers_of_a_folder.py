"""Several ledgers in one folder: no two of them tell of one picture otherwise, and figures are those of its masks."""

import fcntl
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.commands.terminal import ExitStatus
from service.results import run_ledger
from service.results.ledger import LedgerContent, read_ledger
from service.results.run_ledger import open_ledger
from service.results.runs import list_tasks
from tests.service.commands.test_cli import BLUE, GREEN, RED, halves, pseg, pseg_error
from tests.service.results.test_ledger import PROVENANCE, times_written

WHOLE = "ledger.jsonl"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four photographs, half red and half blue."""
    for name in "abcd":
        halves(tmp_path / "in" / f"{name}.png", RED)
    return tmp_path / "in"


@pytest.fixture
def shards(bundle: Path, photos: Path, tmp_path: Path) -> Path:
    """The results of two shards."""
    for shard in ("1/2", "2/2"):
        assert pseg("predict", bundle, photos, "--out", tmp_path / "o", "--shard", shard).status == ExitStatus.DONE
    return tmp_path / "o"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.jsonl"))


def stems(content: LedgerContent) -> list[str]:
    return [entry.stem for entry in content.entries]


def mean_red(folder: Path) -> float:
    (record,) = pseg("summarize", folder, "--json").records
    assert record["images"] == {"used": 4, "failed": 0, "missing": 0, "unplaced": 0}
    (group,) = record["groups"]
    return group["cover"][0]["mean"]


def mend(photo: Path) -> None:
    """Red all over, where half of it was."""
    halves(photo, RED, RED, size=(128, 64))


def test_what_was_done_after_a_merge_is_summarized(bundle: Path, photos: Path, shards: Path, tmp_path: Path) -> None:
    assert pseg("merge", shards, "--out", shards).status == ExitStatus.DONE
    assert mean_red(shards) == 0.5
    mend(photos / "b.png")
    assert "3 of 4 images were done earlier" in pseg("predict", bundle, photos, "--out", shards, "--resume").stderr
    # by hand: three halves and a whole
    assert mean_red(shards) == pytest.approx((3 * 0.5 + 1) / 4)
    merged = pseg("merge", shards, "--out", tmp_path / "m", "--json")
    assert (merged.records[0]["duplicates"], merged.records[0]["contradictory"]) == (0, 0)
    assert mean_red(tmp_path / "m") == pytest.approx(0.625)


def test_a_shard_that_goes_on_after_a_merge_is_summarized(bundle: Path, photos: Path, shards: Path) -> None:
    pseg("merge", shards, "--out", shards)
    mend(photos / "b.png")
    pseg("predict", bundle, photos, "--out", shards, "--shard", "2/2", "--resume")
    # b and d are every second one
    assert stems(read_ledger(shards / "ledger.2-of-2.jsonl")) == ["b", "d"]
    assert stems(read_ledger(shards / WHOLE)) == ["a", "c", "d"]
    assert mean_red(shards) == pytest.approx(0.625)


def test_a_whole_run_takes_the_place_of_shards(bundle: Path, photos: Path, shards: Path) -> None:
    before = times_written(shards)
    options = ("--exclude-class", "blue")
    assert "another run" in pseg_error("predict", bundle, photos, "--out", shards, *options)
    refused = pseg_error("predict", bundle, photos, "--out", shards, "--resume", *options)
    assert f"{shards / 'ledger.1-of-2.jsonl'} tells of 2 of these images, made otherwise (--exclude-class" in refused
    assert "--overwrite" in refused
    assert times_written(shards) == before
    assert names(shards) == ["ledger.1-of-2.jsonl", "ledger.2-of-2.jsonl"]
    assert pseg("predict", bundle, photos, "--out", shards, "--overwrite", *options).status == ExitStatus.DONE
    assert names(shards) == [WHOLE]
    # without blue, what is left is red
    assert mean_red(shards) == 1


def test_shards_take_the_place_of_a_whole_run(bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    pseg("predict", bundle, photos, "--out", out)
    options = ("--exclude-class", "blue", "--overwrite")
    pseg("predict", bundle, photos, "--out", out, "--shard", "1/2", *options)
    assert stems(read_ledger(out / WHOLE)) == ["b", "d"], "their masks are still those of the whole run"
    assert "were not made alike" in pseg_error("merge", out, "--out", tmp_path / "m")
    pseg("predict", bundle, photos, "--out", out, "--shard", "2/2", *options)
    assert names(out) == ["ledger.1-of-2.jsonl", "ledger.2-of-2.jsonl"]
    assert mean_red(out) == 1
    pseg("predict", bundle, photos, "--out", out, "--shard", "1/1", "--overwrite")
    assert names(out) == ["ledger.1-of-1.jsonl"]
    assert mean_red(out) == 0.5


def test_a_whole_run_goes_on_where_shards_ended(bundle: Path, photos: Path, shards: Path) -> None:
    before = times_written(shards)
    told = pseg("predict", bundle, photos, "--out", shards, "--resume")
    assert "4 of 4 images were done earlier" in told.stderr
    assert times_written(shards) == before
    mend(photos / "a.png")
    pseg("predict", bundle, photos, "--out", shards, "--resume")
    assert names(shards) == [WHOLE], "the shards have nothing that it does not have"
    assert "2 of 2 images were done earlier" in (
        pseg("predict", bundle, photos, "--out", shards, "--resume", "--shard", "1/2").stderr
    )
    assert mean_red(shards) == pytest.approx(0.625)


def test_a_run_that_is_killed_leaves_no_ledger_that_says_otherwise(bundle: Path, photos: Path, shards: Path) -> None:
    run = replace(read_ledger(shards / "ledger.1-of-2.jsonl").run, shard=None)
    listing = list_tasks(sorted(photos.iterdir()))
    mend(photos / "a.png")
    # Killed as the first picture is about to be written.
    with open_ledger(shards, run, listing, PROVENANCE, resume=True) as ledger:
        assert next(ledger.pending()).stem == "a"
    assert [stems(read_ledger(shards / name)) for name in names(shards)] == [["b", "c", "d"]]
    (record,) = pseg("summarize", shards, "--json").records
    assert (record["images"]["used"], record["images"]["missing"]) == (3, 1)
    assert pseg("predict", bundle, photos, "--out", shards, "--resume").status == ExitStatus.DONE
    assert mean_red(shards) == pytest.approx(0.625)


def test_nothing_is_replaced_while_another_run_tells_of_it(
    bundle: Path, photos: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_ledger, "_PATIENCE_S", 0.2)
    before = times_written(shards), (shards / "ledger.2-of-2.jsonl").read_bytes()
    with (shards / "ledger.2-of-2.jsonl").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        said = pseg_error("predict", bundle, photos, "--out", shards, "--overwrite", "--max-img-size", 900)
    assert f"{shards / 'ledger.2-of-2.jsonl'} is in use" in said
    assert (times_written(shards), (shards / "ledger.2-of-2.jsonl").read_bytes()) == before
    assert names(shards) == ["ledger.1-of-2.jsonl", "ledger.2-of-2.jsonl"]


def test_a_shard_replaces_no_results_of_other_photographs(bundle: Path, shards: Path, tmp_path: Path) -> None:
    before = times_written(shards)
    halves(tmp_path / "dive 2" / "a.png", GREEN)
    said = pseg_error("predict", bundle, tmp_path / "dive 2", "--out", shards, "--shard", "1/1", "--resume")
    assert f"{shards}/a.pseudo.png is the result of {tmp_path / 'in' / 'a.png'}" in said
    assert times_written(shards) == before
    halves(tmp_path / "dive 3" / "e.png", GREEN)
    kept = pseg("predict", bundle, tmp_path / "dive 3", "--out", shards, "--shard", "1/1", "--resume")
    assert kept.status == ExitStatus.DONE
    assert len(names(shards)) == 3


def with_ledgers_of_before(bundle: Path, photos: Path, folder: Path, *options: Any) -> None:
    """A whole run that left the ledgers of shards as they were, as earlier versions did."""
    shutil.copytree(folder, folder.parent / "kept")
    pseg("predict", bundle, photos, "--out", folder, *options)
    for path in (folder.parent / "kept").glob("*.jsonl"):
        shutil.copy(path, folder)


def test_of_two_ledgers_that_were_made_alike_the_newer_entry_counts(bundle: Path, photos: Path, shards: Path) -> None:
    mend(photos / "b.png")
    with_ledgers_of_before(bundle, photos, shards, "--resume")
    assert len(names(shards)) == 3
    assert mean_red(shards) == pytest.approx(0.625)


def test_of_two_ledgers_that_contradict_each_other_none_counts(bundle: Path, photos: Path, shards: Path) -> None:
    with_ledgers_of_before(bundle, photos, shards, "--overwrite", "--exclude-class", "blue")
    for command in ("summarize", "sample"):
        more = ("--count", 2) if command == "sample" else ()
        said = pseg_error(command, shards, *more)
        assert f"{shards / 'ledger.1-of-2.jsonl'} and {shards / WHOLE} both tell of" in said
        assert "--exclude-class" in said
    assert "were not made alike" in pseg_error("merge", shards, "--out", shards.parent / "m")
    assert pseg("summarize", shards / WHOLE).status == ExitStatus.DONE


def test_a_ledger_that_cannot_be_read_is_left_where_results_are_replaced(
    bundle: Path, photos: Path, shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (shards / "ledger.1-of-2.jsonl").write_text("something else\n")
    assert "line 1 is not that of a ledger" in pseg_error("predict", bundle, photos, "--out", shards, "--resume")
    halves(photos / "a.png", BLUE)
    assert pseg("predict", bundle, photos, "--out", shards, "--overwrite").status == ExitStatus.DONE
    assert "it may tell of pictures that are replaced now: remove it" in caplog.text
    assert "line 1 is not that of a ledger" in pseg_error("summarize", shards)
