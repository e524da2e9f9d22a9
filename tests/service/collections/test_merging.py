"""`pseg merge`: shards done apart are one run, and what nobody did is told."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.commands.terminal import ExitStatus
from service.results.ledger import read_ledger
from tests.service.bundles import bundle_folder
from tests.service.commands.test_cli import BLUE, GREEN, RED, halves, pseg, pseg_error


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photographs, two of one stem and of different sizes, and a broken file."""
    for name, left in (("a.png", RED), ("b.png", GREEN), ("c.png", BLUE), ("d.png", RED), ("e.png", GREEN)):
        halves(tmp_path / "in" / name, left)
    halves(tmp_path / "in" / "a.jpg", GREEN, GREEN, size=(128, 64))
    (tmp_path / "in" / "f.png").write_bytes(b"")
    return tmp_path / "in"


def do_shards(bundle: Path, photos: Path, out: Path, *shards: str, **more: Any) -> None:
    options = [part for name, value in more.items() for part in (f"--{name.replace('_', '-')}", value)]
    for shard in shards:
        pseg("predict", bundle, photos, "--out", out, "--shard", shard, *options)


def test_shards_in_one_folder_are_as_good_as_one_run(bundle: Path, photos: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "o", tmp_path / "whole"
    do_shards(bundle, photos, out, "2/3", "1/3", "3/3")
    assert sorted(path.name for path in out.glob("*.jsonl")) == [f"ledger.{index}-of-3.jsonl" for index in (1, 2, 3)]
    merged = pseg("merge", out, "--out", out, "--csv", tmp_path / "o.csv", "--report", tmp_path / "o.html", "--json")
    pseg("predict", bundle, photos, "--out", whole, "--csv", tmp_path / "whole.csv")
    assert merged.status == ExitStatus.INCOMPLETE, "an image failed"
    (summary,) = merged.records
    assert summary["images"] == {"total": 7, "succeeded": 6, "failed": 1, "missing": 0}
    assert [Path(each["image"]).name for each in summary["failures"]] == ["f.png"]
    # by hand: five of 64 × 32, one of 128 × 64; all green, and halves of red, green, blue, red, green beside blue
    pixels = 5 * 64 * 32 + 128 * 64
    half = 32 * 32
    expected = [2 * half / pixels, (2 * half + 128 * 64) / pixels, 6 * half / pixels]
    assert [each["cover"] for each in summary["cover"]] == pytest.approx(expected, abs=1e-6)
    # of the six images: red halves of two; green halves of two, and one whole; blue halves of six
    assert [each["mean_of_images"] for each in summary["cover"]] == pytest.approx([1 / 6, 2 / 6, 3 / 6], abs=1e-6)
    assert (tmp_path / "o.csv").read_text() == (tmp_path / "whole.csv").read_text().replace(str(whole), str(out))
    for path in whole.glob("*.png"):
        assert path.read_bytes() == (out / path.name).read_bytes()
    page = (tmp_path / "o.html").read_text()
    assert "6 of 7 images segmented" in page
    assert "is empty (0 bytes)" in page
    assert "6 of 7 images were done earlier" in pseg("predict", bundle, photos, "--out", out, "--resume").stderr


def test_shards_in_folders_of_their_own(bundle: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "f.png").unlink()
    for index in (1, 2):
        do_shards(bundle, photos, tmp_path / f"machine-{index}", f"{index}/2")
    merged = pseg("merge", tmp_path / "machine-1", tmp_path / "machine-2", "--out", tmp_path / "all")
    assert merged.status == ExitStatus.DONE
    assert merged.stderr == ""
    assert merged.stdout.startswith("6 of 6 images segmented")
    entries = read_ledger(tmp_path / "all" / "ledger.jsonl").entries
    assert all((tmp_path / "all" / name).is_file() for entry in entries for name in entry.pictures)
    resumed = pseg("predict", bundle, photos, "--out", tmp_path / "all", "--resume", "--json")
    assert "6 of 6 images were done earlier" in resumed.stderr
    assert all(Path(record["mask"]["path"]).is_file() for record in resumed.records)


def test_shards_in_folders_of_their_own_are_summarized_as_one_run(bundle: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "f.png").unlink()
    for index in (1, 2, 3):
        do_shards(bundle, photos, tmp_path / f"machine-{index}", f"{index}/3")

    def counted(*folders: str) -> dict[str, int]:
        return pseg("summarize", *(tmp_path / each for each in folders), "--json").records[0]["images"]

    assert counted("machine-1", "machine-2", "machine-3") == {"used": 6, "failed": 0, "missing": 0, "unplaced": 0}
    assert counted("machine-1", "machine-3")["missing"] == 2, "of six images each shard has two"
    # Of what is merged into one of the folders, too.
    pseg("merge", *(tmp_path / f"machine-{index}" for index in (1, 2, 3)), "--out", tmp_path / "machine-1")
    assert counted("machine-1", "machine-2", "machine-3")["missing"] == 0


def test_equal_names_of_two_collections_are_two_lists(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of two dives, by names that are the same from where they were typed."""
    for dive in ("1", "2"):
        for name in "abcd":
            halves(tmp_path / dive / "in" / f"{name}.png", RED)
        monkeypatch.chdir(tmp_path / dive)
        do_shards(bundle, Path("in"), tmp_path / f"o{dive}", f"{dive}/2")
    images = pseg("summarize", tmp_path / "o1", tmp_path / "o2", "--json").records[0]["images"]
    assert (images["used"], images["missing"]) == (4, 4)


def test_missing_shards_and_images_are_told(bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    do_shards(bundle, photos, out, "1/4", "3/4")
    ledger = out / "ledger.3-of-4.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-10])
    outcome = pseg("merge", out, "--out", tmp_path / "m", "--csv", tmp_path / "m.csv")
    assert outcome.status == ExitStatus.INCOMPLETE
    # by hand: of seven images the shards have 2, 2, 2 and 1
    assert "missing: 4 images; no ledger of shard 2/4, 4/4" in outcome.stderr
    assert outcome.stdout.startswith("3 of 7 images segmented")
    with (tmp_path / "m.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    piped = pseg("merge", out, "--out", tmp_path / "n", "--csv", "-")
    assert piped.stdout == (tmp_path / "m.csv").read_text()
    assert "missing: 4 images; no ledger of shard 2/4, 4/4" in piped.stderr


def test_an_empty_shard_is_a_shard(bundle: Path, tmp_path: Path) -> None:
    photo = halves(tmp_path / "in" / "a.png")
    do_shards(bundle, photo, tmp_path / "o", "1/2")
    table = tmp_path / "2.csv"
    table.write_text("of an earlier run")
    empty = pseg("predict", bundle, photo, "--out", tmp_path / "o", "--shard", "2/2", "--csv", table)
    assert empty.status == ExitStatus.DONE
    columns = "image,status,mask,width,height,network_width,network_height,taken_at,latitude_deg,longitude_deg"
    assert table.read_text().splitlines() == [f"{columns},flags,bundle,model,error"]
    assert pseg("merge", tmp_path / "o", "--out", tmp_path / "m").status == ExitStatus.DONE


def test_an_image_that_was_done_twice_counts_once(bundle: Path, photos: Path, tmp_path: Path) -> None:
    do_shards(bundle, photos, tmp_path / "o", "1/2", "2/2")
    pseg("predict", bundle, photos, "--out", tmp_path / "whole", "--shard", "1/1")
    halves(photos / "f.png", RED, RED)
    pseg("predict", bundle, photos, "--out", tmp_path / "again", "--shard", "1/1")
    outcome = pseg("merge", tmp_path / "o", tmp_path / "whole", tmp_path / "again", "--out", tmp_path / "m", "--json")
    assert outcome.status == ExitStatus.DONE, "what failed first was done in the end"
    (summary,) = outcome.records
    assert (summary["images"]["succeeded"], summary["duplicates"], summary["contradictory"]) == (7, 6, 0)
    ledger = tmp_path / "whole" / "ledger.1-of-1.jsonl"
    ledger.write_text(ledger.read_text().replace('"cover": 0.5', '"cover": 0.25'))
    told = pseg("merge", tmp_path / "o", tmp_path / "whole", "--out", tmp_path / "m")
    # c.png is blue all over
    assert "done more than once: 6 images, 4 with different covers" in told.stderr


def test_what_was_done_after_a_merge_stays_done(bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    do_shards(bundle, photos, out, "1/2", "2/2")
    assert pseg("merge", out, "--out", out).status == ExitStatus.INCOMPLETE
    halves(photos / "f.png", RED, RED)
    assert pseg("predict", bundle, photos, "--out", out, "--resume").status == ExitStatus.DONE
    again = pseg("merge", out, "--out", out, "--json")
    assert again.status == ExitStatus.DONE
    assert (again.records[0]["images"]["succeeded"], again.records[0]["duplicates"]) == (7, 0)
    assert "7 of 7 images were done earlier" in pseg("predict", bundle, photos, "--out", out, "--resume").stderr


def test_a_refused_shard_leaves_nothing_behind(bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    do_shards(bundle, photos, out, "1/2")
    before = sorted(path.name for path in out.iterdir())
    refused = pseg("predict", bundle, photos, "--out", out, "--shard", "2/2", "--max-img-size", 900)
    assert refused.status == ExitStatus.WRONG_REQUEST
    assert sorted(path.name for path in out.iterdir()) == before


def test_a_shard_that_was_stopped_as_it_began_has_no_results(
    bundle: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "o"
    (photos / "f.png").unlink()
    do_shards(bundle, photos, out, "1/2")
    (out / "ledger.2-of-2.jsonl").touch()
    summed = pseg("summarize", out)
    assert summed.status == ExitStatus.INCOMPLETE
    assert "3 used, 0 failed, 3 missing" in summed.stdout
    assert f"{out / 'ledger.2-of-2.jsonl'} is empty: a run was stopped as it began" in caplog.text
    assert "give the command of that run again" in caplog.text
    merged = pseg("merge", out, "--out", out, "--json")
    assert merged.records[0]["missing_shards"] == ["2/2"]


def test_an_empty_ledger_in_its_place_is_none(bundle: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "ledger.jsonl").touch()
    do_shards(bundle, photos, tmp_path / "p", "1/1")
    assert pseg("merge", tmp_path / "p", "--out", tmp_path / "m").stdout.startswith("6 of 7 images segmented")
    (tmp_path / "m" / "ledger.jsonl").write_bytes(b"")
    assert "is empty: a run was stopped as it began" in pseg_error("merge", tmp_path / "m", "--out", tmp_path / "m")


def test_a_merge_takes_the_place_of_no_other_run(bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    pseg("predict", bundle, photos, "--out", out)
    before = (out / "ledger.jsonl").read_bytes()
    do_shards(bundle, photos, tmp_path / "p", "1/1", max_img_size=900)
    assert "were not made alike: --max-img-size 900" in pseg_error("merge", tmp_path / "p", "--out", out)
    assert (out / "ledger.jsonl").read_bytes() == before


def test_a_merge_through_a_link_finds_its_pictures(bundle: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "big" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "big" / "deep")
    do_shards(bundle, photos, tmp_path / "p", "1/1")
    pseg("merge", tmp_path / "p", "--out", tmp_path / "link")
    resumed = pseg("predict", bundle, photos, "--out", tmp_path / "link", "--resume")
    assert "6 of 7 images were done earlier" in resumed.stderr


def test_ledgers_of_different_runs_are_not_joined(bundle: Path, photos: Path, tmp_path: Path) -> None:
    do_shards(bundle, photos, tmp_path / "o", "1/2")
    arguments = ("merge", tmp_path / "o", tmp_path / "p", "--out", tmp_path / "m")
    do_shards(bundle, photos, tmp_path / "p", "2/2", max_img_size=900)
    assert "max-img-size 1000000, there 900" in pseg_error(*arguments)
    other = bundle_folder(tmp_path / "other", transforms=None)
    shutil.rmtree(tmp_path / "p")
    do_shards(other, photos, tmp_path / "p", "2/2")
    assert "bundle " in pseg_error(*arguments)
    halves(photos / "z.png")
    shutil.rmtree(tmp_path / "p")
    do_shards(bundle, photos, tmp_path / "p", "2/2")
    assert "tells of 7 images" in pseg_error(*arguments)
    assert not (tmp_path / "m").exists()


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cover.csv").write_text("image,status\n")
    (tmp_path / "nothing").write_bytes(b"")
    for name, message in (
        ("empty", "holds no ledger"),
        ("cover.csv", "line 1 is not that of a ledger"),
        ("nothing", "is empty: a run was stopped as it began"),
        ("nowhere.jsonl", "cannot be read"),
    ):
        assert message in pseg_error("merge", tmp_path / name, "--out", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_wrong_shard_is_refused_before_work(bundle: Path, photos: Path, tmp_path: Path) -> None:
    for shard in ("0/4", "5/4", "all"):
        assert "shard is" in pseg_error("predict", bundle, photos, "--out", tmp_path / "o", "--shard", shard)
    assert not (tmp_path / "o").exists()


def test_a_shard_resumes_its_own_ledger(bundle: Path, photos: Path, tmp_path: Path) -> None:
    do_shards(bundle, photos, tmp_path / "o", "1/2", "2/2")
    before = (tmp_path / "o" / "ledger.2-of-2.jsonl").read_bytes()
    outcome = pseg("predict", bundle, photos, "--out", tmp_path / "o", "--shard", "1/2", "--resume", "--json")
    assert "3 of 4 images were done earlier" in outcome.stderr
    assert len(outcome.records) == 4
    assert (tmp_path / "o" / "ledger.2-of-2.jsonl").read_bytes() == before
    assert json.loads(before.splitlines()[0])["shard"] == "2/2"
