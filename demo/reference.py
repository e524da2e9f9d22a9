"""Writes docs/api.md, the reference of the Python interface, from the docstrings of its public names.

`python -m demo.reference` writes the page again. Signatures are quoted from the source, as people write them.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine
from service.session import open_model

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
_INTRODUCTION = """# Python interface

This page describes every public name, for people who use `pseg` from scripts and notebooks. It is made from the
docstrings by `make api`. [notebook.ipynb](notebook.ipynb) shows the interface in use.

`open_model` opens a bundle as `pseg predict` does: with conversions, cache and tuned profile. It is in
`service.session`, because the package `engine` does not depend on the converters; everything else on this page is
imported from `engine`. Members of enumerations may be given as words (`"onnx"`); a strict type checker requires
`RuntimeName.ONNX`.
"""


def signatures() -> dict[str, list[str]]:
    """Name to what a caller relies on: parameters, fields, methods, members, and what a class derives from."""
    return {name: [line for line, _ in _described(each)] for name, each in _public().items()}


def page() -> str:
    """The page as it should be."""
    parts = [_INTRODUCTION]
    for name, each in _public().items():
        (line, text), *members = _described(each)
        fields = [member for member, described in members if not described]
        parts += [f"## {name}", _code("\n    ".join([line, *fields])), _prose(text)]
        for member, described in members:
            if described:
                parts += [_code(member), _prose(described)]
    return "\n\n".join(parts) + "\n"


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _public() -> dict[str, Any]:
    return {"open_model": open_model, **{name: getattr(engine, name) for name in engine.__all__}}


def _described(public: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """What is defined, in the words of the source, and its docstring; first the name itself."""
    node = ast.parse(textwrap.dedent(inspect.getsource(public))).body[0]
    if isinstance(node, ast.FunctionDef):
        yield _signature(node), ast.get_docstring(node) or ""
        return
    assert isinstance(node, ast.ClassDef)  # noqa: S101
    bases = ", ".join(ast.unparse(each) for each in node.bases)
    yield f"class {node.name}({bases})" if bases else f"class {node.name}", ast.get_docstring(node) or ""
    for member in node.body:
        match member:
            case ast.AnnAssign(target=ast.Name(id=name)) if not name.startswith("_") and name != "title":
                yield _field(member), ""
            case ast.Assign(targets=[ast.Name(id=name)]) if not name.startswith("_"):
                yield ast.unparse(member), ""
            case ast.FunctionDef(name=name) if not name.startswith("_"):
                yield _signature(member), ast.get_docstring(member) or ""
            case _:
                pass


def _signature(node: ast.FunctionDef) -> str:
    decorators = {ast.unparse(each) for each in node.decorator_list}
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    manager = "with " if "contextmanager" in decorators else ""
    above = "".join(f"@{each}\n" for each in ("property", "classmethod") if each in decorators)
    return f"{above}{manager}{node.name}({ast.unparse(node.args)}){returns}"


def _field(node: ast.AnnAssign) -> str:
    """A declared option by its default alone: its words are those of the command line."""
    value = node.value
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "option":
        value = value.args[0]
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        value = None
    default = "" if value is None else f" = {ast.unparse(value)}"
    return f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}{default}"


def _prose(docstring: str) -> str:
    """Sections as headings in bold, their entries as list items; examples as code."""
    lines: list[str] = []
    section = ""
    for line in inspect.cleandoc(docstring).splitlines():
        if line in {"Args:", "Returns:", "Yields:", "Raises:", "Attributes:"}:
            section = line
            lines += [f"**{line}**", ""]
        elif line.startswith("    ") and not _in_code(lines):
            # What is returned is one entry, whose lines are indented alike.
            continues = line.startswith("     ") or (section in {"Returns:", "Yields:"} and lines[-1])
            lines.append(f"  {line.strip()}" if continues else f"- {line.strip().replace('**', '')}")
        elif line.startswith(">>>") and not _in_code(lines):
            lines += ["```python", line.replace("  # doctest: +SKIP", "")]
        else:
            if _in_code(lines) and not line:
                lines.append("```")
            lines.append(line)
    if _in_code(lines):
        lines.append("```")
    return "\n".join(lines)


def _in_code(lines: list[str]) -> bool:
    return sum(line.startswith("```") for line in lines) % 2 == 1


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
