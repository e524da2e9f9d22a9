"""Ledgers that others have edited: an error that names file and line, and nothing from outside of the folder."""

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from service.commands.terminal import ExitStatus
from service.results import ledger as ledger_file
from service.results.ledger import read_ledger
from service.results.resuming import LedgerError
from tests.service.commands.test_cli import BLUE, halves, pseg, pseg_error
from tests.service.results.ledger_edits import NOT_A_LEDGER, content_edits, edit, pictures_at, put


@pytest.fixture
def out(bundle: Path, tmp_path: Path) -> Path:
    halves(tmp_path / "in" / "a.png")
    halves(tmp_path / "in" / "b.png", BLUE)
    assert pseg("predict", bundle, tmp_path / "in", "--out", tmp_path / "o").status == 0
    return tmp_path / "o"


def resume(bundle: Path, out: Path, *more: Any) -> tuple[Any, ...]:
    return ("predict", bundle, out.parent / "in", "--out", out, "--resume", *more)


KINDS = (
    "colour of CSS",
    "cover that is no number",
    "stem that leads out",
    "unknown provenance",
    "two hundred million images",
    "a shard of twenty million",
    "position of another image",
)


@pytest.mark.parametrize("kind", KINDS)
def test_an_edited_line_is_refused_by_its_number(bundle: Path, out: Path, kind: str) -> None:
    edit(out / "ledger.jsonl", NOT_A_LEDGER[kind])
    before = (out / "ledger.jsonl").read_bytes()
    for command in (resume(bundle, out), ("merge", out, "--out", out.parent / "m")):
        told = " ".join(pseg_error(*command).split())
        assert "LedgerError" in told
        assert "/ledger.jsonl: line " in told
    assert (out / "ledger.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["../in/a.png", "../../../../../../../../etc/passwd", "/etc/passwd", "b.pseudo.png", "../copy/a.pseudo.png"]
)
def test_other_files_than_its_pictures_are_not_taken_for_done(bundle: Path, out: Path, name: str) -> None:
    shutil.copytree(out, out.parent / "copy", ignore=shutil.ignore_patterns("*.jsonl"))
    edit(out / "ledger.jsonl", pictures_at(name))
    outcome = pseg(*resume(bundle, out), "--json", "--report", out.parent / "page.html")
    assert outcome.status == ExitStatus.DONE
    assert "1 of 2 images were done earlier" in outcome.stderr
    assert [record["mask"]["path"] for record in outcome.records] == [
        str(out / "a.pseudo.png"),
        str(out / "b.pseudo.png"),
    ]
    assert "passwd" not in (out.parent / "page.html").read_text()


def test_a_link_is_no_picture_of_a_run(bundle: Path, out: Path) -> None:
    (out / "a.pseudo.png").rename(out.parent / "a.pseudo.png")
    (out / "a.pseudo.png").symlink_to("../a.pseudo.png")
    outcome = pseg(*resume(bundle, out))
    assert "1 done again: pictures are missing" in outcome.stderr
    assert not (out / "a.pseudo.png").is_symlink()


def test_a_ledger_is_never_a_link_or_a_pipe(bundle: Path, out: Path) -> None:
    victim = out.parent / "thesis.txt"
    (out / "ledger.jsonl").replace(victim)
    before = victim.read_bytes()
    for said in ("link", "regular file"):
        if said == "link":
            (out / "ledger.jsonl").symlink_to(victim)
        else:
            os.mkfifo(out / "ledger.jsonl")
        for command in (resume(bundle, out), resume(bundle, out)[:-1], ("merge", out, "--out", out.parent / "m")):
            told = pseg_error(*command)
            assert "ledger.jsonl" in told
            assert said in told
        (out / "ledger.jsonl").unlink()
    assert victim.read_bytes() == before


def test_a_ledger_of_an_earlier_merge_is_resumed_only_where_its_pictures_are_known(bundle: Path, out: Path) -> None:
    merged = out.parent / "m"
    assert pseg("merge", out, "--out", merged).status == ExitStatus.DONE
    assert "2 of 2 images were done earlier" in pseg(*resume(bundle, merged)).stderr
    (out / "ledger.jsonl").unlink()
    told = pseg(*resume(bundle, merged))
    assert "2 done again: the pictures are said to lie in ../o/, and no ledger there knows them" in told.stderr
    assert told.status == ExitStatus.DONE
    assert (merged / "a.pseudo.png").is_file()


def test_a_line_without_end_is_not_read_to_its_end(out: Path) -> None:
    ledger = out / "ledger.jsonl"
    ledger.write_bytes(content_edits(ledger)["a line without end"])
    with pytest.raises(LedgerError, match="line 2 is longer than"):
        read_ledger(ledger)
    with ledger.open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(LedgerError, match="has 1099511627776 bytes"):
        read_ledger(ledger)


def test_a_ledger_that_grows_is_read_as_long_as_it_was(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = out / "ledger.jsonl"
    line = ledger.read_bytes().splitlines(keepends=True)[1]
    real = ledger_file.checked_record
    done = threading.Event()

    def growing(record: object) -> dict[str, Any]:
        assert not done.is_set()
        with ledger.open("ab") as file:
            file.write(line * 2)
        if ledger.stat().st_size > 1 << 20:
            done.set()
        return real(record)

    monkeypatch.setattr(ledger_file, "checked_record", growing)
    assert len(read_ledger(ledger).entries) == 2


def test_what_an_earlier_version_wrote_is_read(bundle: Path, out: Path) -> None:
    """A line as 0.1.0 wrote it, word for word but for what this machine decides."""
    ledger = out / "ledger.jsonl"
    head, first, _ = (json.loads(line) for line in ledger.read_text().splitlines())
    photo, told = out.parent / "in" / "a.png", first["ledger"]
    entry: dict[str, Any] = {
        "image": str(photo),
        "status": "ok",
        "error": None,
        "mask": {"path": str(out / "a.pseudo.png"), "width": 64, "height": 32},
        "cover": [
            {"id": "urn:x:red", "name": "red", "color": [200, 10, 10], "cover": 0.5},
            {"id": "urn:x:sea", "name": "M\u00fcll", "color": [10, 10, 200], "cover": 0.5, "area_m2": 12.25},
        ],
        "provenance": {
            **{name: first["provenance"][name] for name in ("bundle", "model", "versions")},
            **{"runtime": "onnx", "provider": "cpu", "precision": "fp32", "threads": 2, "fallbacks": []},
            "averaging": {"crop_size": None, "scales": [0.5, 1.0], "flip_horizontal": True},
        },
        "timings_ms": {"decode": 1.5, "run": 2},
        "ledger": {
            "position": 0,
            "stem": "a",
            "path": str(photo),
            "size_bytes": photo.stat().st_size,
            "modified_ns": photo.stat().st_mtime_ns,
            "pictures": ["a.pseudo.png"],
            "picture_bytes": [(out / "a.pseudo.png").stat().st_size],
            "capture": {"taken_at": "2024-05-06T07:08:09+10:00", "latitude_deg": -18.5, "longitude_deg": None},
            "digest": told["digest"],
            "aside": False,
        },
    }
    ledger.write_text(f"{json.dumps(head)}\n{json.dumps(entry)}\n")
    outcome = pseg(*resume(bundle, out), "--json")
    assert "1 of 2 images were done earlier" in outcome.stderr
    assert outcome.records[0]["cover"][1]["area_m2"] == 12.25


def test_an_edited_label_of_an_option_is_still_another_option(bundle: Path, out: Path) -> None:
    edit(out / "ledger.jsonl", put(0.4, "head", "options", "threshold"))
    assert "--threshold: 0.4 → 0.5" in pseg(*resume(bundle, out)).stderr
