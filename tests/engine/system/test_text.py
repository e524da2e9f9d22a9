"""Text from outside, made legible: what may never be shown as it is, what must stay, and that nothing is confused."""

import base64
import json
import os
import unicodedata
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.system.text import csv_cell, json_text, legible, original

ANY_TEXT = st.text(
    st.one_of(
        st.characters(),
        st.characters(categories=["Cs"]),
        st.characters(categories=["Cc", "Cf", "Mn", "Zs", "Zl", "Zp", "Cn"]),
        st.sampled_from("%%u{}25DC80FF;=@'"),
    ),
    max_size=12,
)
ORDINARY = (
    "dive 1/GOPR0247.JPG",
    "100 % of 50%, my%20photo.jpg",
    "Seegraswiese größer",
    "cafe\N{COMBINING ACUTE ACCENT}",
    "海草 模型",
    "海草\N{IDEOGRAPHIC SPACE}模型",
    "морская трава",
    "صورة ب",
    "می\N{ZERO WIDTH NON-JOINER}خواهم",
    "क्\N{ZERO WIDTH JOINER}ष",
    "ห้องน้ำ",
    "🐟 👍🏽 ❤️ 👨\N{ZERO WIDTH JOINER}👩\N{ZERO WIDTH JOINER}👧 #️⃣ 🇵🇹",
    "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "葛\U000e0100城",
    "[red] <b> $x$ `a|b` \\ \" ' & {{7*7}}",
)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_of_all_scripts_stays_as_it_is(text: str) -> None:
    assert legible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b]0;title\x07b", "a%1B]0;title%07b"),
        ("a\r\nroot# ok", "a%0D%0Aroot# ok"),
        ("\x00\t\x7f\x9b31m", "%00%09%7F%C2%9B31m"),
        ("invoice\u202egpj.exe", "invoice%E2%80%AEgpj.exe"),
        ("\u2066a\u2069\u200b\ufeff\u00ad\u2060", "%E2%81%A6a%E2%81%A9%E2%80%8B%EF%BB%BF%C2%AD%E2%81%A0"),
        ("a\u2028b\u2029c\u0085", "a%E2%80%A8b%E2%80%A9c%C2%85"),
        ("a\u00a0b\u3164\u2800", "a%C2%A0b%E3%85%A4%E2%A0%80"),
        ("\ufdd0\ufffe\U0010ffff\u0378\ue000", "%EF%B7%90%EF%BF%BE%F4%8F%BF%BF%CD%B8%EE%80%80"),
        ("a\u200db", "a%E2%80%8Db"),
        ("a\U000e0069\U000e0067", "a%F3%A0%81%A9%F3%A0%81%A7"),
        ("x\ufe0f\ufe0e", "x\ufe0f%EF%B8%8E"),
        ("\u0338x", "%CC%B8x"),
        (os.fsdecode(b"\xc4\xa3\xd0\xcd"), "\u0123%D0%CD"),
        ("a\ud800b", "a%u{D800}b"),
        ("\udcc3\udca9", "%u{DCC3}%u{DCA9}"),
        ("a%0A %FF %25 %u{D800}", "a%250A %25FF %2525 %25u{D800}"),
    ],
)
def test_what_is_not_seen_or_moves_the_cursor_is_shown(text: str, shown: str) -> None:
    assert legible(text) == shown
    assert original(shown) == text


def test_a_pile_of_marks_is_cut() -> None:
    shown = legible("z" + "\N{COMBINING ACUTE ACCENT}" * 100)
    assert shown.startswith("z" + "\N{COMBINING ACUTE ACCENT}" * 30 + "%CC%81")


@given(ANY_TEXT)
@example("\udce2\udc80\udcae")
@example("\u202e")
def test_any_text_is_printable_and_can_be_read_back(text: str) -> None:
    shown = legible(text)
    shown.encode()
    assert not {unicodedata.category(letter) for letter in shown} & {"Cc", "Cs", "Cn", "Co", "Zl", "Zp"}
    assert original(shown) == text
    # Once is enough, and twice is told apart: what is shown once is text of its own.
    assert original(original(legible(shown))) == text
    assert legible(shown) == shown or "%" in shown


@given(ANY_TEXT, ANY_TEXT)
def test_two_texts_are_never_shown_alike(one: str, other: str) -> None:
    assert (legible(one) == legible(other)) == (one == other)


@given(st.binary(max_size=12).filter(lambda name: b"%" not in name))
def test_the_name_of_a_file_is_read_back_as_that_of_an_url(name: bytes) -> None:
    assert unquote_to_bytes(legible(os.fsdecode(name))) == name


@given(ANY_TEXT, st.integers(16, 40))
def test_the_length_is_bounded_and_long_texts_are_told_apart(text: str, most: int) -> None:
    shown = legible(text * 40, most=most)
    assert len(shown) <= most
    assert shown != legible(text * 40 + "x", most=most)


@given(ANY_TEXT)
@example("\t=1+1")
@example(" \uff1d1+1")
@example("a; \uff20SUM(1)")
def test_no_cell_begins_with_a_formula_and_every_cell_can_be_read_back(text: str) -> None:
    cell = csv_cell(text)
    for part in cell.split(";"):
        assert unicodedata.normalize("NFKC", part.strip(" \u3000")[:1]) not in {
            "=",
            "+",
            "-",
            "@",
            "\u2212",
            "\t",
            "\r",
        }
    assert original(cell.removeprefix("'")) == text


@given(ANY_TEXT)
def test_json_is_utf_8_and_brings_the_name_back(text: str) -> None:
    line = json_text({"image": text, "nested": [{text: text}]})
    assert line.isprintable()
    record = json.loads(line.encode())
    bytes_of_name = record.get("image_base64")
    if bytes_of_name is not None:
        assert os.fsdecode(base64.b64decode(bytes_of_name)) == text
    elif not any("\ud800" <= letter <= "\udfff" for letter in text):
        assert record["image"] == text
        assert record["nested"] == [{text: text}]
    else:
        assert original(record["image"]) == text
