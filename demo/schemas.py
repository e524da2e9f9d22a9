"""Writes docs/schemas, the JSON schemas of what orders and jobs publish: `python -m demo.schemas`."""

import json
from pathlib import Path
from typing import Any

from service.ivcap.aspects import json_schemas

FOLDER = Path(__file__).parents[1] / "docs" / "schemas"


def text_of(schema: dict[str, Any]) -> str:
    """A schema as it stands in its file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the files, and remove others."""
    FOLDER.mkdir(exist_ok=True)
    schemas = json_schemas()
    for path in FOLDER.iterdir():
        if path.name not in schemas:
            path.unlink()
    for name, schema in schemas.items():
        (FOLDER / name).write_text(text_of(schema), encoding="utf-8")


if __name__ == "__main__":
    main()
