"""Text from outside (names of files, classes and bundles, messages of libraries), made legible for every exit."""

# What would move a cursor, end a line, turn the direction of reading or not be seen at all is shown by what it is made
# of. Files are still opened by their real names: only what is shown changes.
# - `%XX` is a byte, as in URLs: ESC is `%1B`, a line break `%0A`, U+202E `%E2%80%AE`, a byte of a file name that is no
#   UTF-8 itself.
# - `%u{XXXX}` is a lone surrogate, which UTF-8 cannot hold and only JSON or YAML can bring in.
# - A `%` that would be taken for the beginning of one of these is `%25`. `%20` and the like never stand for anything,
#   and stay.
# So two different texts are never shown alike, and `original` reads the shown form again. Text of all scripts stays as
# it is, combining characters and emoji included. What Unicode has not assigned in this version of Python is shown as
# bytes.

import base64
import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

_ESCAPE = r"(?:25|3B|[01][0-9A-F]|7F|[89A-F][0-9A-F])"
_AMBIGUOUS = re.compile(rf"{_ESCAPE}|u\{{[0-9A-F]{{4}}\}}")
_BYTES = re.compile(rf"%({_ESCAPE})".encode())
_SURROGATE = re.compile(r"%u\{([0-9A-F]{4})\}")
_SURROGATES = re.compile("[\ud800-\udfff]")
_BYTE_SURROGATES = re.compile("[\udc80-\udcff]+")
_SPACES = frozenset(" \u3000")
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters, marks and symbols that nobody sees."""
_SIGNS_BEFORE_NUMBERS = frozenset(
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
"""Format characters that are seen."""
_JOINERS = frozenset("\u200c\u200d")
_JOINED_SCRIPTS = range(0x0590, 0x2000)
_FLAG_TAILS = ("".join(chr(0xE0000 + ord(each)) for each in code) for code in ("gbeng", "gbsct", "gbwls"))
_FLAGS = re.compile(rf"\U0001f3f4((?:{'|'.join(_FLAG_TAILS)})\U000e007f)")
"""Emoji of three flags: their tail, which is invisible anywhere else, belongs to them."""
_MOST_MARKS = 30
"""On one letter, as Unicode's Stream-Safe Text Format has it (UAX 15): more of them cover the lines around."""
_FORMULA_SIGNS = frozenset("=+-@\u2212")
_SEPARATED_FORMULA = re.compile(";(?=[ \u3000]*[=+@\u2212\\-\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b])")
_DIGEST = 8
_CELL_LENGTH = 32_000
"""Spreadsheets take 32 767 characters, an apostrophe and escaped semicolons included."""


def legible(text: str, most: int | None = None) -> str:
    r"""Make text fit to be shown: visible, of one line, encodable in UTF-8, and unlike every other text.

    To be called once, where the text leaves: of what is shown already every `%XX` would be shown again. Bytes that are
    no UTF-8 are as `os.fsdecode` gives them. Of a text longer than `most`, at least 16, the first characters are shown,
    with a digest that tells it from others.

    >>> legible("dive 1/é海🐟.jpg"), legible("100% a%20b")
    ('dive 1/é海🐟.jpg', '100% a%20b')
    >>> legible("a\n\x1b[31m\udcff"), legible("a%0A"), legible("a\ud800")
    ('a%0A%1B[31m%FF', 'a%250A', 'a%u{D800}')
    >>> legible("seagrass" * 100, most=20)
    'seagras… (#35880da1)'
    """
    if text.isascii() and text.isprintable() and "%" not in text:
        return text if most is None or len(text) <= most else _cut(text, text, most)
    shown: list[str] = []
    length = 0
    for piece in _pieces(text):
        shown.append(piece)
        length += len(piece)
        if most is not None and length > most:
            return _cut(text, "".join(shown), most)
    return "".join(shown)


def _cut(text: str, shown: str, most: int) -> str:
    tail = f"… (#{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:_DIGEST]})"
    return shown[: most - len(tail)] + tail


def composed(text: str) -> str:
    r"""Write letters with their accents as one character each (Unicode's form NFC), so that equal names are equal text.

    Some systems and programs write names of files with separate accents, others do not.

    >>> composed("Bahi\u0301a") == "Bah\u00eda"
    True
    """
    return unicodedata.normalize("NFC", text)


def counted(number: int, one: str, many: str) -> str:
    """Put a number before the words that agree with it.

    >>> counted(1, "group has", "groups have"), counted(0, "group has", "groups have")
    ('1 group has', '0 groups have')
    """
    return f"{number} {one if number == 1 else many}"


def is_utf8(text: str) -> bool:
    """Tell whether UTF-8 can hold a text, or whether it holds lone surrogates, such as those for bytes of a name."""
    return _SURROGATES.search(text) is None


def original(shown: str) -> str:
    r"""Read what `legible` wrote, unless it was cut.

    >>> original("a%0A%FF 100% %20 %2525")
    'a\n\udcff 100% %20 %25'
    """
    pieces = _SURROGATE.split(shown)
    return "".join(chr(int(piece, 16)) if index % 2 else _decoded(piece) for index, piece in enumerate(pieces))


def _decoded(shown: str) -> str:
    content = _BYTES.sub(lambda found: bytes([int(found[1], 16)]), shown.encode())
    return content.decode(errors="surrogateescape")


def _pieces(text: str) -> Iterator[str]:
    bytes_of_names = {
        index
        for run in _BYTE_SURROGATES.finditer(text)
        if _is_of_bytes(run[0])
        for index in range(run.start(), run.end())
    }
    of_flags = {index for flag in _FLAGS.finditer(text) for index in range(flag.start(1), flag.end(1))}
    marks = 0
    for index, letter in enumerate(text):
        kind = unicodedata.category(letter)
        marks = marks + 1 if kind in {"Mn", "Me"} else 0
        if index in bytes_of_names:
            yield f"%{ord(letter) - 0xDC00:02X}"
        elif kind == "Cs":
            yield f"%u{{{ord(letter):04X}}}"
        elif letter == "%":
            yield "%25" if _AMBIGUOUS.match(text, index + 1) else "%"
        elif index in of_flags or (marks <= _MOST_MARKS and _is_seen(text, index, letter, kind)):
            yield letter
        else:
            yield "".join(f"%{byte:02X}" for byte in letter.encode())


def _is_of_bytes(run: str) -> bool:
    """Whether surrogates stand for bytes of a name, rather than for text in a form that no name has."""
    return run.encode(errors="surrogateescape").decode(errors="surrogateescape") == run


def _is_seen(text: str, index: int, letter: str, kind: str) -> bool:
    if kind[0] == "M":
        # A mark needs a letter; a selector is of what stands right before it.
        before = text[index - 1] if index else " "
        return letter not in _BLANKS and before not in _SPACES and not (_is_selector(letter) and _is_selector(before))
    if letter in _JOINERS:
        return _joins(text[max(0, index - 2) : index], letter, text[index + 1 : index + 2])
    if kind == "Zs":
        return letter in _SPACES
    if kind[0] in {"C", "Z"}:
        return letter in _SIGNS_BEFORE_NUMBERS
    return letter not in _BLANKS


def _is_selector(letter: str) -> bool:
    return "\ufe00" <= letter <= "\ufe0f" or "\U000e0100" <= letter <= "\U000e01ef" or "\u180b" <= letter <= "\u180f"


def _joins(before: str, letter: str, after: str) -> bool:
    """Whether a joiner or non-joiner is part of how a word or an emoji is written."""
    if not before or not after:
        return False
    if ord(before[-1]) in _JOINED_SCRIPTS and ord(after) in _JOINED_SCRIPTS:
        return all(unicodedata.category(each)[0] in {"L", "M"} for each in (before[-1], after))
    emoji = before.rstrip("\ufe0f")[-1:]
    return (
        letter == "\u200d"
        and bool(emoji)
        and all(unicodedata.category(each) in {"So", "Sk"} for each in (emoji, after))
    )


def csv_cell(text: str) -> str:
    """Make text a cell of a table: legible, and no formula for the programs that open it.

    A cell that would begin with a sign of formulas, or with an apostrophe, gets an apostrophe in front; a semicolon in
    front of such a sign, at which some programs begin another cell, is `%3B`. Who reads the table takes one apostrophe
    away, and then `original`. What is longer than spreadsheets take is cut. Numbers are no text: a latitude begins with
    a minus.

    >>> csv_cell("=1+1"), csv_cell("'quoted'"), csv_cell("a;@b"), csv_cell("sea-grass")
    ("'=1+1", "''quoted'", 'a%3B@b', 'sea-grass')
    """
    shown = _SEPARATED_FORMULA.sub("%3B", legible(text, _CELL_LENGTH))
    first = unicodedata.normalize("NFKC", shown.lstrip(" \u3000;")[:1])
    return f"'{shown}" if first in _FORMULA_SIGNS or shown.startswith("'") else shown


def csv_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    r"""Write a table as UTF-8 CSV with a header line; text by `csv_cell`, and None as an empty cell.

    >>> csv_table(["name", "cover"], [["=sand", 0.25], ["rock", None]])
    b"name,cover\n'=sand,0.25\nrock,\n"
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    writer.writerows([csv_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return text.getvalue().encode()


def csv_delimiter(text: str) -> str:
    """Tell what separates the cells of a table: a semicolon, if its header has some and no comma, otherwise a comma.

    Spreadsheets write semicolons where numbers have a decimal comma.

    >>> csv_delimiter("image;depth"), csv_delimiter("image,depth")
    (';', ',')
    """
    header = text.partition("\n")[0]
    return ";" if ";" in header and "," not in header else ","


def json_text(record: object, *, ascii_only: bool = False, indent: int | None = None) -> str:
    r"""Write JSON that every parser reads and a terminal may show, or with `ascii_only` any stream.

    Strings are what they are; characters that are not printable are escaped as JSON does it. A string that UTF-8 cannot
    hold is written as `legible` shows it, and beside it stands its bytes, where it has some, in base64: `image` and
    `image_base64`.

    >>> print(json_text({"image": "é\x1b\u202e", "name": "a%0A"}))
    {"image": "é\u001b\u202e", "name": "a%0A"}
    >>> print(json_text({"image": "\udcff.jpg"}))
    {"image": "%FF.jpg", "image_base64": "/y5qcGc="}
    """
    text = json.dumps(record, ensure_ascii=False, indent=indent)
    encodable = record if is_utf8(text) else _encodable(record)
    if encodable is not record or ascii_only:
        text = json.dumps(encodable, ensure_ascii=ascii_only, indent=indent)
    return text if text.isprintable() else "".join(map(_json_escaped, text))


def _json_escaped(letter: str) -> str:
    # Line breaks stand between values only.
    return letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1]


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return value if is_utf8(value) else legible(value)
    if isinstance(value, Mapping):
        written: dict[object, object] = {}
        for name, each in cast("Mapping[object, object]", value).items():
            written[_encodable(name)] = _encodable(each)
            if isinstance(each, str) and not is_utf8(each) and _is_of_bytes_only(each):
                written[f"{name}_base64"] = base64.b64encode(each.encode(errors="surrogateescape")).decode()
        return written
    if isinstance(value, list | tuple):
        return [_encodable(each) for each in cast("Sequence[object]", value)]
    return value


def _is_of_bytes_only(text: str) -> bool:
    try:
        return _is_of_bytes(text)
    except UnicodeEncodeError:
        return False


def legible_values(record: Mapping[str, Any]) -> dict[str, Any]:
    r"""Make all strings of a record legible: for what leaves as JSON by other libraries.

    URNs identify something: one that is legible already stays, whatever it holds of `%`.

    >>> legible_values({"image": "urn:x:M%C3%BCll", "cover": [{"name": "a\ud800"}], "width": 3})
    {'image': 'urn:x:M%C3%BCll', 'cover': [{'name': 'a%u{D800}'}], 'width': 3}
    """
    return cast("dict[str, Any]", _legible_value(record))


def _legible_value(value: object) -> object:
    if isinstance(value, str):
        kept = value.startswith("urn:") and value.isascii() and value.isprintable()
        return value if kept else legible(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {_legible_value(name): _legible_value(each) for name, each in items}
    if isinstance(value, list | tuple):
        return [_legible_value(each) for each in cast("Sequence[object]", value)]
    return value
