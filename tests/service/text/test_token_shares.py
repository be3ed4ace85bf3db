"""Shares of words are those of their tokens, and shading changes nothing of the text."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.text.token_shares import Share, shaded, steps_of, word_shares
from service.text.visible_text import Piece, pieces


def tokens(text: str, ends: Sequence[int], shares: Sequence[float]) -> list[Share]:
    starts = [0, *ends[:-1]]
    return [Share(0, start, end, share) for start, end, share in zip(starts, ends, shares, strict=True)]


def test_tokens_of_a_word_are_put_together() -> None:
    text = "Un believ able, \n2nd."
    found = word_shares(tokens(text, [2, 6, 9, 14, 15, 17, 18, 20, 21], [1, 2, 3, 4, 5, 6, 7, 8, 9]), [text])
    assert [(text[word.start : word.end], word.share) for word in found] == [
        ("Un", 1), ("believ", 5), ("able", 4), (",", 5), (" \n", 6), ("2nd", 15), (".", 9),
    ]  # fmt: skip


def test_scripts_without_spaces_stay_apart() -> None:
    text = "灯泡很好"
    assert len(word_shares(tokens(text, [1, 2, 4], [1, 1, 1]), [text])) == 3
    thai = "ก" * 200
    assert max(word.end - word.start for word in word_shares(tokens(thai, range(1, 201), [1] * 200), [thai])) <= 40


def test_the_largest_share_has_the_darkest_shade() -> None:
    words = [Share(0, 0, 1, share) for share in (0.5, -0.5, 0.25, 0.02, 0.0, -0.06)]
    assert steps_of(words) == [9, -9, 4, 0, 0, -1]
    assert steps_of([Share(0, 0, 1, 0.0)]) == [0]
    assert steps_of([]) == []


TEXT = st.lists(st.sampled_from(["a", "B", " ", "\r\n", "\r", "\n", "\u200b", "\0", "😀", "❤\ufe0f", "é"])).map("".join)


@given(TEXT, st.data())
def test_shading_keeps_the_text_and_shades_its_words(text: str, data: st.DataObject) -> None:
    cuts = sorted(set(data.draw(st.lists(st.integers(0, len(text))))))
    words = [Share(0, start, end, 1.0) for start, end in pairwise(cuts)]
    steps = [(-1) ** number * (1 + number % 9) for number in range(len(words))]
    found = list(shaded(text, words, steps))
    joined: list[Piece] = []
    for piece, _ in found:
        last = joined[-1] if joined else None
        if last is not None and last.code == piece.code and last.name == piece.name:
            joined[-1] = Piece(last.text + piece.text, last.code, last.name, last.count + piece.count)
        else:
            joined.append(piece)
    assert joined == list(pieces(text))
    if "\r\n" not in text:
        of_characters = [step for piece, step in found for _ in range(len(piece.text) or piece.count)]
        expected = [0] * len(text)
        for word, step in zip(words, steps, strict=True):
            expected[word.start : word.end] = [step] * (word.end - word.start)
        assert of_characters == expected


def test_a_line_end_of_two_characters_moves_what_stands_behind_it() -> None:
    text = "ab\r\ncd"
    assert list(shaded(text, [Share(0, 4, 5, 1.0)], [3])) == [
        (Piece(text="ab\n"), 0), (Piece(text="c"), 3), (Piece(text="d"), 0),
    ]  # fmt: skip


@pytest.mark.parametrize("limit", [1, 3])
def test_a_long_text_is_cut(limit: int) -> None:
    assert list(shaded("abcdef", [Share(0, 0, 6, 1.0)], [9], limit)) == [(Piece(text="abcdef"[:limit]), 9)]
