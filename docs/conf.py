"""Settings of Sphinx for the site of the documentation: `make site`."""

import re
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

_ROOT = Path(__file__).resolve().parents[1]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "pseg"
version = release = _PROJECT["version"]
html_title = f"pseg {version}"
language = "en"
extensions = ["myst_parser"]
myst_heading_anchors = 4
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_copy_source = False
html_show_search_summary = False  # browsers let no page that is read from files fetch another one
html_show_sphinx = False
html_show_copyright = False
templates_path: list[str] = []


def add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Make the navigation of the site from the links of the index: a part for each of its headings."""
    if page != app.config.root_doc:
        return
    parts = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", source[0], re.DOTALL | re.MULTILINE)
    source[0] += "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n"
        + "\n".join(re.findall(r"^- \[.*?\]\(([\w-]+)\.md\)", text, re.M))
        + "\n```\n"
        for title, text in parts
    )


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_navigation)
