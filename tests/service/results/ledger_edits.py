"""Ledgers as somebody else could have edited them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Lines = list[dict[str, Any]]
Edit = Callable[[Lines], object]


def edit(ledger: Path, change: Edit) -> None:
    """Read a ledger's lines, change them, and write them back."""
    lines: Lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    change(lines)
    ledger.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def put(value: object, *keys: str | int) -> Edit:
    """Set a value in the second line of a ledger, of the run's own with "head" before the names."""

    def change(lines: Lines) -> None:
        where: Any = lines[0] if keys[0] == "head" else lines[1]
        *names, last = keys[1:] if keys[0] == "head" else keys
        for name in names:
            where = where[name]
        where[last] = value

    return change


def without(*keys: str | int) -> Edit:
    """Remove a value from the second line of a ledger."""

    def change(lines: Lines) -> None:
        where: Any = lines[1]
        for name in keys[:-1]:
            where = where[name]
        del where[keys[-1]]

    return change


def repeated_position(lines: Lines) -> None:
    lines[2]["ledger"]["position"] = lines[1]["ledger"]["position"]


NOT_A_LEDGER: dict[str, Edit] = {
    "colour of CSS": put(["0 0 0);position:fixed;inset:0;background:red;x:y(", 1, 2], "cover", 0, "color"),
    "colour as a number": put(7, "cover", 0, "color"),
    "colour of four": put([1, 2, 3, 4], "cover", 0, "color"),
    "colour out of range": put([256, 0, 0], "cover", 0, "color"),
    "colour of floats": put([1.5, 0, 0], "cover", 0, "color"),
    "cover as text": put("x", "cover", 0, "cover"),
    "cover of more than all": put(1.5, "cover", 0, "cover"),
    "cover that is no number": put(float("nan"), "cover", 0, "cover"),
    "endless area": put(float("inf"), "cover", 0, "area_m2"),
    "cover without id": without("cover", 0, "id"),
    "class name as a number": put(5, "cover", 0, "name"),
    "too many classes": lambda lines: lines[1].update(cover=lines[1]["cover"][:1] * 70_000),
    "status of another kind": put("fine", "status"),
    "failed without error": put("failed", "status"),
    "no mask": put(None, "mask"),
    "mask of texts": put({"width": "<b>", "height": [1], "path": 5}, "mask"),
    "mask of no size": put(0, "mask", "width"),
    "mask of a googol": put(10**100, "mask", "width"),
    "image as a mapping": put({"a": 1}, "image"),
    "unknown provenance": put(1, "provenance", "evil"),
    "provenance as text": put("x", "provenance"),
    "provenance without model": without("provenance", "model"),
    "fallbacks as text": put("x", "provenance", "fallbacks"),
    "timings as text": put({"run": "<b>"}, "timings_ms"),
    "place as text": put("<script>", "ledger", "capture", "latitude_deg"),
    "place beyond the pole": put(91, "ledger", "capture", "latitude_deg"),
    "time that is none": put("yesterday", "ledger", "capture", "taken_at"),
    "position below zero": put(-1, "ledger", "position"),
    "position beyond the images": put(2, "ledger", "position"),
    "position without end": put(10**30, "ledger", "position"),
    "position as text": put("a", "ledger", "position"),
    "position as truth": put(True, "ledger", "position"),
    "position of another image": repeated_position,
    "path as a number": put(5, "ledger", "path"),
    "path that is relative": put("a.jpg", "ledger", "path"),
    "path with NUL": put("/a\0b", "ledger", "path"),
    "stem that leads out": put("../../x", "ledger", "stem"),
    "stem at the root": put("/etc/x", "ledger", "stem"),
    "stem with NUL": put("a\0", "ledger", "stem"),
    "pictures with NUL": put(["a\0"], "ledger", "pictures"),
    "pictures as numbers": put([5], "ledger", "pictures"),
    "pictures without sizes": put([], "ledger", "picture_bytes"),
    "very many pictures": lambda lines: lines[1]["ledger"].update(pictures=["a"] * 99, picture_bytes=[1] * 99),
    "size below zero": put(-5, "ledger", "size_bytes"),
    "digest that is none": put("x", "ledger", "digest"),
    "aside as a number": put(1, "ledger", "aside"),
    "an unknown field": put(1, "extra"),
    "replaced as a mapping": lambda lines: lines.append({"ledger": {"replaced": {}}}),
    "ledger as a list": put([1], "ledger"),
    "two hundred million images": put(200_000_000, "head", "images"),
    "images below zero": put(-1, "head", "images"),
    "images as text": put("x", "head", "images"),
    "options as a list": put([1], "head", "options"),
    "options without end": put({str(number): 1 for number in range(1000)}, "head", "options"),
    "options in depth": put([[[[[[1]]]]]], "head", "options", "save"),
    "a shard of twenty million": put("1/20000000", "head", "shard"),
    "a shard of none": put("2/1", "head", "shard"),
    "another version": put(3, "head", "ledger"),
}
"""What is no ledger any more: refused by line, when resumed and when merged."""


def pictures_at(name: str) -> Edit:
    """Say that the picture of an image is another file, of the right size."""

    def change(lines: Lines) -> None:
        told = lines[1]["ledger"]
        place = Path(told["path"]).parent / name
        told["pictures"] = [name]
        told["picture_bytes"] = [place.stat().st_size if place.is_file() else 5]

    return change


def content_edits(ledger: Path) -> dict[str, bytes]:
    """Whole contents that are no ledger."""
    head, *entries = ledger.read_bytes().splitlines(keepends=True)
    return {
        "a line without end": head + b"[" * (34 << 20) + b"\n",
        "a hundred thousand brackets": head + b"[" * 100_000 + b"\n",
        "NULs": bytes(1 << 20),
        "an entry first": b"".join(entries),
        "two runs": head + head,
        "a list": b"[1]\n",
        "a number of many digits": head.replace(b'"images": 2', b'"images": ' + b"9" * 100_000),
        "not UTF-8": head + b'{"image": "\xff\xfe"}\n',
        "an empty line": head + b"\n" + b"".join(entries),
    }
