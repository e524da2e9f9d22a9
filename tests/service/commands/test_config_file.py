"""Flags that a file holds: as the command line, which goes first."""

import tomllib
from pathlib import Path

import pytest

from service.commands.terminal import ExitStatus
from tests.service.commands.test_cli import halves, pseg, pseg_error


def test_a_file_takes_the_place_of_flags_and_the_command_line_goes_first(bundle: Path, tmp_path: Path) -> None:
    folder, settings = tmp_path / "in", tmp_path / "run.toml"
    halves(folder / "a.png")
    halves(folder / "b.png")
    settings.write_text(
        f'save = ["mask", "overlay"]\nthreads = 1\nflip = true\nexclude = ["b*"]\nout = "{tmp_path / "other"}"\n'
    )
    written = tmp_path / "written.toml"
    outcome = pseg(
        *("predict", bundle, folder, "--config", settings, "--out", tmp_path / "out", "--write-config", written)
    )
    assert outcome.status == ExitStatus.DONE
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.mask.png", "a.overlay.jpg", "ledger.jsonl"}
    assert not (tmp_path / "other").exists()
    assert tomllib.loads(written.read_text()) == {
        "save": "mask,overlay",
        "threads": 1,
        "flip-horizontal": True,
        "exclude": ["b*"],
        "out": str(tmp_path / "out"),
    }
    # What was written is the same run again.
    again = pseg("predict", bundle, folder, "--config", written, "--resume")
    assert "1 of 1 images were done earlier" in again.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("max_img_size = 9", "max_img_size is not a flag of pseg predict: did you mean max-img-size?"),
        ("threads = true", "threads: write a number"),
        ("quiet = 1", "quiet: write true or false"),
        ("exclude = 'b*'", "exclude: write a list"),
        ("[threads]\nvalue = 1", "threads: write a number"),
        ("config = 'other.toml'", "config is not a flag"),
        ("threads = ", "cannot be read as TOML"),
        ("\x00", "cannot be read as TOML"),
    ],
)
def test_what_a_file_gets_wrong_is_named(bundle: Path, tmp_path: Path, line: str, said: str) -> None:
    settings = tmp_path / "run.toml"
    settings.write_text(line)
    assert said in pseg_error("predict", bundle, halves(tmp_path / "a.png"), "--config", settings)


def test_limits_hold_for_values_of_a_file(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("batch-size = -1\n")
    said = pseg_error("predict", bundle, halves(tmp_path / "a.png"), "--config", tmp_path / "run.toml")
    assert "--batch-size" in said


def test_no_file_is_replaced(bundle: Path, tmp_path: Path) -> None:
    picture = halves(tmp_path / "a.png")
    before = picture.read_bytes()
    said = pseg_error("predict", bundle, picture, "--out", tmp_path / "out", "--write-config", picture)
    assert "exists" in said
    assert picture.read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_no_text_does_not_go_into_a_file(bundle: Path, tmp_path: Path) -> None:
    picture = halves(tmp_path / "a.png")
    out = tmp_path / "masks\udcff"
    said = pseg_error("predict", bundle, picture, "--out", out, "--write-config", tmp_path / "flags.toml")
    assert "--write-config: a flag's value is no text in UTF-8" in said
    assert not (tmp_path / "flags.toml").exists()
