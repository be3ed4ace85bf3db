"""Nothing in a sample's text can hide on a page."""

import random
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.text.visible_text import count_hidden, excerpt, first_line, is_hidden, last_answer, pieces


def shown(text: str) -> str:
    return "".join(piece.text or f"<{piece.code}x{piece.count}>" for piece in pieces(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\n\ttext, ünïcode 汉字 العربية", "plain\n\ttext, ünïcode 汉字 العربية"),
        ("zero\u200bwidth", "zero<U+200Bx1>width"),
        ("\ufeffbom", "<U+FEFFx1>bom"),
        ("a\u202egnp.exe\u202c", "a<U+202Ex1>gnp.exe<U+202Cx1>"),
        ("a\u2066b\u2069", "a<U+2066x1>b<U+2069x1>"),
        ("bell\x07 nul\x00 esc\x1b[31m", "bell<U+0007x1> nul<U+0000x1> esc<U+001Bx1>[31m"),
        ("many" + "\u200d" * 40, "many<U+200Dx40>"),
        ("tags\U000e0041\U000e0042", "tags<U+E0041x1><U+E0042x1>"),
        ("smuggled\U000e0100", "smuggled<U+E0100x1>"),
        ("no\xa0break", "no<U+00A0x1>break"),
        ("soft\xadhyphen", "soft<U+00ADx1>hyphen"),
        ("hangul\u3164filler", "hangul<U+3164x1>filler"),
        ("private\ue000", "private<U+E000x1>"),
        ("line\u2028end", "line<U+2028x1>end"),
        ("dos\r\nline, lone\r", "dos\nline, lone<U+000Dx1>"),
        ("lone surrogate \ud800", "lone surrogate <U+D800x1>"),
        ("family 👨\u200d👩\u200d👧 and heart ❤\ufe0f", "family 👨\u200d👩\u200d👧 and heart ❤\ufe0f"),
        ("keycap 1\ufe0f\u20e3", "keycap 1\ufe0f\u20e3"),
        ("not an emoji a\ufe0f", "not an emoji a<U+FE0Fx1>"),
    ],
)
def test_what_does_not_show_is_named(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_a_name_says_what_the_character_is() -> None:
    assert [piece.name for piece in pieces("\u200b\x1b\x07")] == ["ZERO WIDTH SPACE", "ESCAPE", "unnamed"]


@given(st.text(alphabet=st.characters(codec=None)))
def test_every_character_is_either_shown_or_counted(text: str) -> None:
    normal = text.replace("\r\n", "\n")
    assert sum(len(piece.text) + piece.count for piece in pieces(text)) == len(normal)
    for piece in pieces(text):
        for position, character in enumerate(piece.text):
            if is_hidden(character):
                assert character in "\u200d\ufe0f", unicodedata.name(character, hex(ord(character)))
                assert position > 0, "an emoji's joiner stands behind its emoji"


def test_only_the_beginning_of_a_very_long_text_is_shown() -> None:
    assert sum(len(piece.text) for piece in pieces("x" * 100_000)) == 50_000
    assert count_hidden("x" * 60_000 + "\u200b") == 1


def test_an_excerpt_is_one_bounded_line() -> None:
    assert excerpt("two\n\n lines\u200b") == "two lines[U+200B]"
    long = excerpt("word " * 1000)
    assert len(long) <= 140
    assert long.endswith("…")


def test_a_sample_is_told_by_its_first_question_and_its_last_answer() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "2 and\n\u200bmore"},
        {"role": "tool", "content": "3"},
    ]
    assert (first_line(turns), last_answer(turns)) == ("One?", "2 and [U+200B]more")
    assert (first_line(turns[:1]), last_answer(turns[:2])) == ("Be brief.", None)
    assert (first_line(None), last_answer(None)) == (None, None)


def test_hidden_characters_are_counted_as_they_are_named() -> None:
    """Over texts of every mixture, with emoji and without."""
    draw = random.Random(3)
    alphabet = "a1 \n\r\u200b\u200d\ufe0f\u202e\u2764\U0001f469#\u20e3"
    for _ in range(3000):
        text = "".join(draw.choices(alphabet, k=draw.randint(0, 12)))
        assert count_hidden(text) == sum(piece.count for piece in pieces(text, len(text))), ascii(text)


def test_a_megabyte_is_counted_in_a_moment() -> None:
    text = "\u05d0 \u202eright to left\u202c zero\u200bwidth \U0001f469\u200d\U0001f680 " * 25_000
    began = time.process_time()
    assert count_hidden(text) == 75_000
    assert time.process_time() - began < 0.5
