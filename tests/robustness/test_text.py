"""Hostile names of classes and files, whatever the kind: shown harmlessly at every exit, and never a lost result."""

import csv
import io
import json
import os
import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from engine.system.text import is_utf8
from tests.robustness.conftest import Tally
from tests.service.bundles import bundle_folder
from tests.service.commands.test_cli import pseg

pytestmark = pytest.mark.long

KIND = "text from outside at every exit"
CONTROLS = [chr(code) for code in (*range(32), *range(127, 160))]
INVISIBLE = list(
    "\u00ad\u061c\u034f\u115f\u180e\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2061"
    "\u2066\u2067\u2068\u2069\u206f\u2800\u3164\ufeff\ufff9\ufffb\uffa0\U0001d173\U000e0001\U000e0041\U000e007f"
)
NO_TEXT = [
    "\ud800",
    "\udfff",
    "\udcff",
    "\udcc3\udca9",
    "\udce2\udc80\udcae",
    "\ufdd0",
    "\ufffe",
    "\U0010ffff",
    "\u0378",
]
SEQUENCES = [
    "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "\x1b]52;c;cm0=\x07", "\x1b[2J\x1b[H", "\x9b31m",
    "\x1bP+q544e\x1b\\", "\x1b[?1049h", "a\rb", "a\nroot: fake", "a\r\n\r\nHTTP/1.1 200 OK", "a\x08\x08b",
]  # fmt: skip
FORMULAS = [
    "=1+1",
    "+1",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    " =1",
    "\uff1d1+1",
    "\uff0b1",
    "a;=1",
    "'=1",
    '"=1',
    "=cmd|' /C calc'!A0",
]
MARKUP = [
    "</script><script>1</script>", "<img src=x onerror=1>", "\"' onload=1", "{{7*7}}", "{% raw %}", "&lt;", "]]>",
    "<!--", "[red]x[/red]", "[/]", "[link=http://x]y[/link]", ":bomb:", "$x^2$", "$\\frac{1}{", "a|b", "`x`", "%0A",
    "%25", "%u{D800}", "\\", "a\\", 'a"; DROP TABLE x; --', "gpkg_contents", "z" + "\u0301" * 200, "\u0338", "A" * 5000,
]  # fmt: skip
NAMES = [*CONTROLS, *INVISIBLE, *NO_TEXT, *SEQUENCES, *FORMULAS, *MARKUP]


def require_harmless(text: str) -> None:
    lines = text.split("\n")
    kinds = {unicodedata.category(letter) for line in lines for letter in line}
    assert not kinds & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}, ascii(text)


def file_names(names: tuple[str, ...]) -> Iterator[str]:
    """Those that a file system takes, as names of files."""
    for index, name in enumerate(names):
        try:
            encoded = os.fsencode(name[:60])
        except UnicodeEncodeError:
            continue
        yield os.fsdecode(b"%d" % index + encoded.replace(b"\0", b"").replace(b"/", b"") + b".png")


@pytest.mark.parametrize("first", range(0, len(NAMES), 9))
def test_names_of_classes_and_files(first: int, tmp_path: Path, tally: Tally) -> None:
    for names in in_threes(NAMES[first : first + 9]):
        folder = tmp_path / f"{first}-{abs(hash(names))}"
        # A bundle whose names are no text, or longer than any, is refused: see test_hostile_bundles.
        taken = [f"x{name}" for name in names if len(name) < 1000 and is_utf8(name)]
        bundle = bundle_folder(folder / "bundle", classes=[{"name": name} for name in (*taken, *"abc")[:3]])
        pictures = folder / "in"
        pictures.mkdir()
        for name in file_names(names):
            with (pictures / name).open("wb") as file:
                Image.new("RGB", (8, 8), (200, 0, 0)).save(file, "PNG")
        tifffile.imwrite(pictures / "t.tif", np.eye(12, dtype=np.uint8)[:, :, None].repeat(3, 2) * 9, photometric="rgb")
        products = ("--csv", folder / "c.csv", "--report", folder / "r.html")
        outcome = pseg("predict", bundle, pictures, "--out", folder / "out", *products)
        assert outcome.status == 0, outcome.stderr
        assert (
            pseg("predict", bundle, pictures / "t.tif", "--tile", "--vectors", "gpkg", "--out", folder / "map").status
            == 0
        )
        page = (folder / "r.html").read_bytes().decode()
        inspected = pseg("inspect", bundle)
        for text in (outcome.stdout, outcome.stderr, page, inspected.stdout):
            require_harmless(text)
        assert len(re.findall("<script", page)) == 1
        assert not re.findall("<img (?!class=)", page)
        images = len(list(pictures.iterdir()))
        assert len(outcome.stdout.splitlines()) == images
        table = list(csv.reader(io.StringIO((folder / "c.csv").read_bytes().decode(), newline="")))
        assert len(table) == images + 1
        assert len({row[0] for row in table}) == images + 1
        assert len(set(table[0])) == len(table[0])
        require_harmless("".join(cell for row in table for cell in row))
        assert not any(
            part[:1] in set("=+@\uff1d\uff0b") for row in table for cell in row[:1] for part in cell.split(";")
        )
        lines = pseg("predict", bundle, pictures, "--out", folder / "out", "--json", "--resume").stdout
        require_harmless(lines)
        records = [json.loads(line) for line in lines.encode().splitlines()]
        assert [each["status"] for each in records] == ["ok"] * images
        with tifffile.TiffFile(folder / "map" / "t.tif") as written:
            require_harmless(str(written.gdal_metadata).replace("\n", ""))
        database = sqlite3.connect(folder / "map" / "t.gpkg")
        require_harmless("".join(name for (name,) in database.execute("SELECT name FROM t")))
        database.close()
        tally(KIND, "shown", len(names))


def in_threes(names: list[str]) -> Iterator[tuple[str, ...]]:
    """The network of the tests has three classes."""
    for start in range(0, len(names), 3):
        yield tuple(names[start : start + 3])
