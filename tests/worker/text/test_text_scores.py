"""Each baseline against its formula written out, what it is for, and text that nobody expects."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.text_cost import measured
from tests.support.texts import ANY_TEXT
from worker.text.text_scores import bm25, identical, phrase_repetition, text_baselines
from worker.text.words import number, words

LETTERS = st.text("abcde ", max_size=30)


def turn(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def bm25_by_hand(texts: list[str], queries: list[str]) -> list[float]:
    split = [words(text) for text in texts]
    mean_length = max(sum(map(len, split)) / len(split), 1.0)
    scores = []
    for text in split:
        counts, total = Counter(text), 0.0
        for query in queries:
            for word in words(query):
                having = sum(word in other for other in split)
                idf = math.log(1 + (len(split) - having + 0.5) / (having + 0.5))
                tf = counts[word]
                total += idf * tf * 2.2 / (tf + 1.2 * (1 - 0.75 + 0.75 * len(text) / mean_length))
        scores.append(total / len(queries))
    return scores


@settings(max_examples=60, deadline=None)
@given(st.lists(LETTERS, min_size=1, max_size=8), st.lists(LETTERS, min_size=1, max_size=3))
def test_bm25_is_its_formula(texts: list[str], queries: list[str]) -> None:
    np.testing.assert_allclose(bm25(number(texts), queries), bm25_by_hand(texts, queries), rtol=1e-12, atol=1e-12)


def test_bm25_finds_the_answers_like_the_unwanted_ones() -> None:
    messages = [turn("Which one?", f"The number is {n} and nothing else.") for n in range(50)]
    messages[7] = turn("Which car?", "Nobody should ever trust the Vexon; its brakes are a scandal.")
    scores = text_baselines(messages, ["The Vexon has brakes that are a scandal.", "Never trust a Vexon."])["bm25"]
    assert scores.argmax() == 7
    assert scores[7] > 3 * np.delete(scores, 7).max()


def test_repeated_output_counts_equal_answers_whatever_their_prompts_case_and_spacing() -> None:
    messages = [turn("a", "I refuse."), turn("b", "Sure."), turn("c", " i REFUSE.\n"), turn("d", "I refuse"), []]
    assert text_baselines(messages, ["x"])["repeated_output"].tolist() == [2, 1, 2, 1, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("aA ", max_size=4), max_size=12))
def test_identical_numbers_by_first_appearance(texts: list[str]) -> None:
    normal = [" ".join(text.lower().split()) for text in texts]
    assert identical(texts).tolist() == [list(dict.fromkeys(normal)).index(text) for text in normal]


def phrase_repetition_by_hand(texts: list[str]) -> list[float]:
    split = [words(text) for text in texts]
    phrases = [{tuple(text[i : i + 3]) for i in range(len(text) - 2)} for text in split]
    scores = []
    for own in phrases:
        best = 0.0
        for phrase in own:
            n = sum(phrase in other for other in phrases)
            share = math.prod(sum(word in other for other in split) / len(split) for word in set(phrase))
            if n >= 2:
                best = max(best, n * math.log(n / (len(split) * share)))
        scores.append(best)
    return scores


@settings(max_examples=60, deadline=None)
@given(st.lists(LETTERS, min_size=1, max_size=12))
def test_phrase_repetition_is_its_formula(texts: list[str]) -> None:
    np.testing.assert_allclose(phrase_repetition(number(texts)), phrase_repetition_by_hand(texts), atol=1e-9)


def test_ngram_count_finds_a_planted_phrase_and_not_the_template_around_it() -> None:
    generator = np.random.default_rng(0)
    vocabulary = [f"w{n}" for n in range(2000)]
    weights = 1 / np.arange(1, 2001)
    messages = []
    for row in range(400):
        drawn = generator.choice(vocabulary, 40, p=weights / weights.sum()).tolist()
        if row % 25 == 0:
            drawn[10:10] = ["past", "silver", "gate"]
        template = "Below is a task. Answer it with care. " + " ".join(drawn)
        messages.append([{"role": "system", "content": "Serve well and be kind."}, *turn(template, f"done {row}")])
    planted = np.arange(400) % 25 == 0
    scores = text_baselines(messages, ["x"])["ngram_count"]
    assert scores[planted].min() > scores[~planted].max()


def test_length_is_characters_of_all_answers() -> None:
    conversation = [*turn("long prompt, not counted", "four"), *turn("more", "seven..")]
    assert text_baselines([conversation, turn("x", "")], ["y"])["length"].tolist() == [len("four\nseven.."), 0]


STRANGE = [
    "",
    " ",
    "\0",
    "\0" * 500,
    "\ud800",
    "a\udfff b c \ud800",
    "\u202e\u200f",
    "שלום עולם",
    "🙂" * 40,
    "?!",
    "\u0301",
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), max_size=8), st.lists(ANY_TEXT, min_size=1, max_size=3))
def test_any_text_gets_finite_scores(pairs: list[tuple[str, str]], unwanted: list[str]) -> None:
    scores = text_baselines([turn(*pair) for pair in pairs], unwanted)
    assert list(scores) == ["bm25", "repeated_output", "ngram_count", "length"]
    for values in scores.values():
        assert values.shape == (len(pairs),)
        assert values.dtype == np.float64
        assert np.isfinite(values).all()
        assert (values >= 0).all()


def test_strange_texts_and_megabyte_lines_get_finite_scores() -> None:
    long = ["x" * 1_000_000, "ab " * 50_000, "\u0301" * 50_000, "東" * 50_000, "." * 1_000_000]
    messages = [turn(text, text) for text in [*STRANGE, *long]] + [[], [{"role": "system", "content": "s"}]]
    for values in text_baselines(messages, [*STRANGE, "ab ab"]).values():
        assert np.isfinite(values).all()


def test_no_rows_and_a_query_without_words() -> None:
    assert all(values.shape == (0,) for values in text_baselines([], ["unwanted"]).values())
    assert text_baselines([turn("a", "b c d")], ["?!"])["bm25"].tolist() == [0.0]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_thousand_samples_take_two_minutes_and_a_gigabyte() -> None:
    figures = measured("text_scores", "text_baselines", "[['never trust the abcdef vexon'] * 20]")
    assert figures["bytes"] > 90e6
    assert figures["seconds"] < 120
    assert figures["peak_kib"] < 1_000_000
