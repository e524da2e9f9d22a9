"""The site of the documentation: every page has its place, links hold, and nothing is loaded from other hosts."""

import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.documentation.pages import PAGES, ROOT

DOCS = {path.name: page for path, page in PAGES.items() if path.parent.name == "docs"}


class Page(HTMLParser):
    """What a page of the site links to, loads, and can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name == "href" and tag == "a":
                self.links.append(value or "")
            elif name in {"src", "href", "srcset", "data"}:
                self.loads.append(value or "")


def test_the_index_lists_every_page_once() -> None:
    listed = re.findall(r"^- \[.+?\]\(([\w-]+\.md)\)", DOCS["index.md"], re.MULTILINE)
    assert sorted(listed) == sorted(set(DOCS) - {"index.md"})


def test_the_first_words_of_a_page_are_a_title_and_a_sentence() -> None:
    beginning = re.compile(r"# [^\n]+\n\n(?:<!--[^\n]+-->\n\n)?[A-Z`][^|#]+?\.\s")
    assert not [name for name, page in DOCS.items() if not beginning.match(page)]


@pytest.mark.long
def test_the_site_needs_no_other_host(tmp_path: Path) -> None:
    """The build itself fails for lost pictures and pages without a place."""
    site = tmp_path / "site"
    subprocess.run(["make", "site", f"SITE={site}"], check=True, capture_output=True, cwd=ROOT)
    pages = {path: Page(path) for path in site.glob("*.html")}
    assert {path.stem for path in pages} >= {Path(name).stem for name in DOCS}
    lost: list[str] = []
    for path, page in pages.items():
        for target in (*page.links, *page.loads):
            place, _, anchor = target.partition("#")
            place = unquote(place.partition("?")[0])
            if re.match(r"[a-z]+:|//", target):
                if target in page.loads and not target.startswith("data:"):
                    lost.append(f"{path.name} loads {target}")
                continue
            to = (path.parent / place).resolve() if place else path
            if not to.exists() or (anchor and to in pages and anchor not in pages[to].anchors):
                lost.append(f"{path.name} links to {target}")
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\s]+", styles)
    assert not lost
    menu = {unquote(link.partition("#")[0]) for link in pages[site / "troubleshooting.html"].links}
    assert {Path(name).with_suffix(".html").name for name in DOCS} - {"troubleshooting.html"} <= menu
    assert "quadrat" in (site / "searchindex.js").read_text(encoding="utf-8")


@pytest.mark.long
@pytest.mark.parametrize(
    "fault",
    ["[nowhere](nothing.md)", "[nowhere](install.md#nothing)", "![nothing](nothing.png)", "page without a place"],
)
def test_a_fault_fails_the_build(tmp_path: Path, fault: str) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("conf.py", "../pyproject.toml"):
        (docs / name).write_bytes((ROOT / "docs" / name).read_bytes())
    (docs / "index.md").write_text("# Index\n\n## Part\n\n- [Installing](install.md)\n", encoding="utf-8")
    (docs / "install.md").write_text(f"# Installing\n\n{fault}\n", encoding="utf-8")
    build = [
        ".venv/site/bin/python",
        "-m",
        "sphinx",
        "--fail-on-warning",
        "--nitpicky",
        str(docs),
        str(tmp_path / "site"),
    ]
    if fault == "page without a place":
        assert subprocess.run(build, check=False, capture_output=True, cwd=ROOT).returncode == 0
        (docs / "other.md").write_text("# Other\n", encoding="utf-8")
    assert subprocess.run(build, check=False, capture_output=True, cwd=ROOT).returncode != 0
