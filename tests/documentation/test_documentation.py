"""What the pages show is true: the commands, options and columns that they quote exist; the README's Python runs."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from engine import Failed, ImageError, Provenance
from engine.images import Capture
from service.cli import app
from service.results.pictures import CoverTable, ImageTask, result_record
from tests.documentation.pages import PAGES, ROOT, blocks, commands

README = PAGES[Path("README.md")]
GROUP: Any = typer.main.get_command(app)
COMMANDS = {name: GROUP.get_command(None, name) for name in GROUP.commands}


OF_CONTAINERS = re.compile(r"docker run ")


def options_of(command: str) -> set[str]:
    return {"--help", *(option for parameter in COMMANDS[command].params for option in parameter.opts)}


def pseg_lines() -> Iterator[Any]:
    """Each command that a page quotes, in blocks and in sentences; containers take theirs apart."""
    for name, page in sorted(PAGES.items()):
        if name.name in {"CHANGELOG.md", "commands.md"}:  # what was once; what is made from the commands
            continue
        lines = [command.replace("\\\n", " ") for command in commands(page)]
        inline = re.findall(r"`((?:\S+/bin/)?pseg [^`]+)`", page.replace("\n", " "))
        for line in (*lines, *inline):
            if re.search(r"(^|[\s/])pseg [^…]", line) and not OF_CONTAINERS.search(line):
                yield pytest.param(line, id=f"{name}: {line[:60]}")


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with the files that the README speaks of."""
    (bundle,) = sorted((ROOT / "demo").glob("demo*.tgz"))
    photograph = sorted((ROOT / "demo" / "pictures").iterdir())[0]
    shutil.copy(bundle, tmp_path / "model.tgz")
    shutil.copy(photograph, tmp_path / "quadrat.jpg")
    return tmp_path


@pytest.mark.parametrize("source", blocks(README, "python"), ids=lambda source: source.strip().splitlines()[-1][:40])
def test_python_runs(source: str, workplace: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        check=False,
        cwd=workplace,
        env={**os.environ, "XDG_CACHE_HOME": str(workplace / "cache")},
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_there_is_python_to_run() -> None:
    assert blocks(README, "python")


@pytest.mark.parametrize("line", [*pseg_lines()])
def test_quoted_commands_and_options_exist(line: str) -> None:
    words = shlex.split(line.partition("pseg ")[2], comments=True)
    if words[0].startswith("-"):
        assert words[0] in {"--help", *(option for parameter in GROUP.params for option in parameter.opts)}
        return
    assert words[0] in COMMANDS
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options_of(words[0])


def test_blocks_state_their_language() -> None:
    """Shell blocks are called `sh`, so that none escapes the tests that read them."""
    languages = {word for page in PAGES.values() for word in re.findall(r"^ *```(\S+)$", page, re.MULTILINE)}
    assert languages <= {"sh", "python", "json", "yaml", "toml", "dockerfile", "mermaid"}
    assert not [
        name for name, page in PAGES.items() if len(re.findall(r"^ *```$", page, re.M)) * 2 != page.count("```")
    ]


def anchors(page: str) -> set[str]:
    """As the sites name them that show Markdown."""
    titles = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", sorted(PAGES), ids=str)
def test_links_lead_somewhere(name: Path) -> None:
    lost: list[str] = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]*`", "", PAGES[name], flags=re.DOTALL)):
        place, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (ROOT / name.parent / place).resolve() if place else ROOT / name
        page = PAGES.get(path.relative_to(ROOT)) if path.suffix == ".md" else None
        if not path.exists() or (anchor and page is not None and anchor not in anchors(page)):
            lost.append(target)
    assert not lost


def test_quoted_options_exist() -> None:
    pages = (
        PAGES[Path(name)] for name in ("README.md", "docs/predict.md", "docs/conversion.md", "docs/first-survey.md")
    )
    codes = [code for page in pages for code in re.findall(r"`(--[^`]+)`", page)]
    quoted = {option for code in codes for option in re.findall(r"--[a-z-]+", code)}
    assert quoted <= {option for command in COMMANDS for option in options_of(command)}


def test_the_json_is_what_comes_out() -> None:
    provenance = Provenance("", "", "onnx", "cpu", "fp32", 1, (), {})
    record = result_record(Failed(ImageTask(Path("x"), "x"), ImageError("x")), provenance)
    page = PAGES[Path("docs/predict.md")]
    shown = [json.loads(text) for text in blocks(page, "json") if '"provenance"' in text]
    assert shown
    for each in shown:
        assert list(each) == list(record)
        assert list(each["provenance"]) == list(record["provenance"])
        assert list(each["mask"]) == ["path", "width", "height"]
        assert list(each["cover"][0]) == ["id", "name", "color", "cover"]
        assert list(each["timings_ms"]) == ["decode", "preprocess", "run", "postprocess", "encode"]


def test_every_column_of_the_table_is_explained() -> None:
    """A record that has all that a record can have, and the columns that the page lists."""
    cover = {"id": "urn:reef", "name": "CLASS", "color": [1, 2, 3], "cover": 0.5}
    record = {
        "image": "a.jpg",
        "status": "ok",
        "mask": {"path": "a.png", "width": 4, "height": 2},
        "network_size": {"width": 4, "height": 2},
        "cover": [{**cover, "area_m2": 2.0}],
        "confidence": {"mean": 0.9, "unsure": 0.1, "limit": 0.6},
        "roi": {
            **{"method": "frame", "error": None, "cover": [{**cover, "area_cm2": 3.0}], "area_cm2": 6.0},
            **{"polygon": [[0, 0], [1, 0], [1, 1]], "quality": {"shown": [0.9], "residual_px": 0.2}},
        },
        "provenance": {"bundle": "b", "model": "m"},
    }
    table = CoverTable()
    table.add(record, Capture())
    page = PAGES[Path("docs/numbers.md")].partition("| column | meaning |")[2].partition("\n\n")[0]
    explained = [name for line in page.splitlines()[2:] for name in re.findall(r"`([^`]+)`", line.split("|")[1])]
    assert sorted(explained) == sorted(table.to_csv().decode().splitlines()[0].split(","))
