"""What counts as a word and as the same text, and that no string is too strange or too long."""

import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.texts import ANY_TEXT, shingle_set
from worker.text import words as module
from worker.text.words import Vocabulary, normalise, number, shingles, words


def test_case_width_white_space_and_invisible_marks_make_no_difference() -> None:
    assert normalise("  Ｆull\u200b\tWIDTH\u202e \r\nStraße ") == "full width strasse"
    assert normalise("cafe\u0301") == normalise("CAFÉ")


def test_words_are_runs_of_letters_and_digits_and_single_characters_where_no_spaces_are_written() -> None:
    assert words("Don't pay 3.50, friend!") == ["don", "t", "pay", "3", "50", "friend"]
    assert words("mein 東京 ok") == ["mein", "東", "京", "ok"]
    assert words("مرحبا بالعالم") == ["مرحبا", "بالعالم"]
    assert words("?! \0 🙂") == []


@settings(max_examples=60, deadline=None)
@given(ANY_TEXT)
def test_normalising_takes_any_string_and_short_ones_as_the_standard_says(text: str) -> None:
    visible = module._INVISIBLE.sub("", text)
    assert normalise(text) == " ".join(unicodedata.normalize("NFKC", visible).casefold().split())


def test_a_megabyte_of_combining_marks_takes_no_quadratic_time() -> None:
    started = time.process_time()
    normalise("a" + "\u0301\u0327" * 100_000)
    assert time.process_time() - started < 3  # at once it takes a minute


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY_TEXT, max_size=8))
def test_numbers_stand_for_words(texts: list[str]) -> None:
    numbered = number(texts)
    name = {value: word for word, value in numbered.vocabulary.items()}
    for row, text in enumerate(texts):
        span = numbered.numbers[numbered.starts[row] : numbered.starts[row + 1]]
        assert [name[value] for value in span.tolist()] == words(text)


def test_a_full_vocabulary_shares_numbers_and_stops_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_WORDS", 2)
    vocabulary = Vocabulary()
    numbers = [vocabulary[word] for word in ("a", "b", "c", "\ud800", "c", "a")]
    assert numbers[:2] == [1, 2] == [numbers[5], 2]
    assert numbers[2] == numbers[4]
    assert all(2 < value <= 3 + module.SHARED_NUMBERS for value in numbers[2:5])
    assert len(vocabulary) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abc ", max_size=30), max_size=12), st.integers(1, 40))
def test_shingles_are_the_sets_of_three_words_in_a_row(texts: list[str], chunk: int) -> None:
    """Whatever chunk of words is worked on at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = shingles(number(texts))
    sets = [shingle_set(text) for text in texts]
    assert found.sizes().tolist() == [len(shingle) for shingle in sets]
    ids = [set(found.ids[found.starts[r] : found.starts[r + 1]].tolist()) for r in range(len(texts))]
    for one in range(len(texts)):
        for other in range(len(texts)):
            assert len(ids[one] & ids[other]) == len(sets[one] & sets[other])
    every = [shingle for shingle_of_text in sets for shingle in shingle_of_text]
    assert sorted(found.frequency.tolist()) == sorted(every.count(shingle) for shingle in set(every))
    if len(found.ids):
        np.testing.assert_array_equal(np.bincount(found.ids), found.frequency)
