"""What a command writes never takes the place of what it reads: every option of every command."""

import sys
from pathlib import Path

import pytest

from engine import OptionError
from service.commands.terminal import ExitStatus
from service.request import THE_BUNDLE, require_apart
from tests.service.commands.test_cli import pseg
from tests.service.commands.written import NO_FILE, OF_ITS_OWN, READ, attempts, options_that_name_something

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="links and case of Linux file systems")


def test_every_option_that_is_written_to_is_tried_and_replaces_nothing(bundle: Path, tmp_path: Path) -> None:
    tried = attempts(tmp_path, bundle)
    known = READ | NO_FILE | OF_ITS_OWN
    assert set(tried) == {each for each in options_that_name_something() if each[1] not in known}
    for (command, option), tries in tried.items():
        for each in tries:
            before = each.victim.read_bytes()
            outcome = pseg(*each.arguments(each.named or each.victim))
            told = f"{command} --{option} {each.victim.name}: {outcome.stderr}"
            assert outcome.status in {ExitStatus.WRONG_REQUEST, ExitStatus.UNUSABLE_MODEL}, told
            assert each.victim.name in " ".join(outcome.stderr.split()), told
            assert each.victim.read_bytes() == before, told


def test_two_options_never_name_one_file(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    one, other = tmp_path / "real" / "page.html", tmp_path / "link" / "PAGE.html"
    outcome = pseg(
        *("predict", bundle, tmp_path / "none.png", "--out", tmp_path / "o", "--save", "none"),
        *("--csv", one, "--report", other),
    )
    assert outcome.status == ExitStatus.WRONG_REQUEST
    assert "both what --csv writes and what --report writes" in " ".join(outcome.stderr.split())
    assert list((tmp_path / "real").iterdir()) == []


def test_nothing_is_written_into_a_bundle(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "onnx").mkdir(parents=True)
    (tmp_path / "link").symlink_to(bundle / "onnx")
    for place in (bundle / "meta.json", bundle / "new.csv", tmp_path / "link" / "x.csv", bundle / "onnx" / ".." / "y"):
        with pytest.raises(OptionError, match="lies in the bundle"):
            require_apart([("what --csv writes", place)], {THE_BUNDLE: [bundle]})
    require_apart([("what --csv writes", tmp_path / "bundle.csv")], {THE_BUNDLE: [bundle]})
