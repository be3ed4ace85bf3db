"""Clusters against brute force on small sets, what is joined and what is not, and large sets of one kind."""

import subprocess
import sys
import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.text_cost import measured
from tests.support.texts import ANY_TEXT, shingle_set
from worker.text import duplicate_clusters
from worker.text.duplicate_clusters import (
    FIRST_SAMPLES,
    count_different,
    near_duplicate_clusters,
    sample_clusters,
    sample_texts,
)
from worker.text.words import normalise


def by_brute_force(texts: list[str], common: int = 20) -> list[int]:
    """Every pair compared, and components by repeated relabelling."""
    different = list(dict.fromkeys(normalise(text) for text in texts))
    sets = [shingle_set(text) for text in different]
    often = max(common, 0.05 * len(different))
    boilerplate = {s for own in sets for s in own if sum(s in other for other in sets) > often}

    def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
        return len(a & b) / len(a | b) if a | b else 0.0

    label = list(range(len(different)))
    for i, j in combinations(range(len(different)), 2):
        if jaccard(sets[i], sets[j]) >= 0.8 and jaccard(sets[i] - boilerplate, sets[j] - boilerplate) >= 0.8:
            label = [label[i] if value == label[j] else value for value in label]
    of_text = [label[different.index(normalise(text))] for text in texts]
    return [list(dict.fromkeys(of_text)).index(value) for value in of_text]


@st.composite
def edited(draw: st.DrawFn) -> list[str]:
    """A few texts, each with copies of which words are changed, dropped or added here and there."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    texts = []
    for _ in range(draw(st.integers(1, 4))):
        base = [f"w{n}" for n in generator.integers(0, 30, draw(st.integers(1, 60)))]
        for _ in range(draw(st.integers(1, 9))):
            copy = list(base)
            for _ in range(generator.integers(0, 4)):
                at = int(generator.integers(0, len(copy) + 1))
                copy[at : at + int(generator.integers(0, 2))] = ["x"] * int(generator.integers(0, 2))
            texts.append(" ".join(copy))
    generator.shuffle(texts)
    return texts


@settings(max_examples=100, deadline=None)
@given(edited())
def test_clusters_are_those_of_brute_force(texts: list[str]) -> None:
    assert near_duplicate_clusters(texts).tolist() == by_brute_force(texts)


@settings(max_examples=60, deadline=None)
@given(edited(), st.integers(1, 6))
def test_boilerplate_counts_for_nothing(texts: list[str], common: int) -> None:
    """With the least number of texts lowered, so that small sets have boilerplate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicate_clusters, "COMMON_TEXTS", common)
        assert near_duplicate_clusters(texts).tolist() == by_brute_force(texts, common)


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY_TEXT | st.text("ab ", max_size=20), max_size=20))
def test_any_text_is_taken(texts: list[str]) -> None:
    assert near_duplicate_clusters(texts).tolist() == by_brute_force(texts)


def story(seed: int, length: int = 60) -> list[str]:
    return [f"w{n}" for n in np.random.default_rng(seed).integers(0, 5000, length)]


def test_a_changed_word_joins_and_another_text_does_not() -> None:
    changed = story(0)
    changed[30] = "other"
    texts = [" ".join(words) for words in (story(0), story(1), changed)]
    assert near_duplicate_clusters([*texts, texts[1].upper() + "  "]).tolist() == [0, 1, 0, 1]


def test_what_hangs_together_through_others_is_one_cluster() -> None:
    chain = [story(0)]
    for at in (5, 20, 35, 50):
        chain.append([*chain[-1][:at], f"new{at}", *chain[-1][at + 1 :]])
    texts = [" ".join(words) for words in chain]
    assert len(shingle_set(texts[0]) & shingle_set(texts[-1])) < 0.8 * len(shingle_set(texts[0]))
    assert set(near_duplicate_clusters(texts).tolist()) == {0}


@pytest.mark.parametrize("rows", [12, 300])
def test_a_short_template_with_a_slot_is_not_joined(rows: int) -> None:
    texts = [f"Translate item{row} to French" for row in range(rows)]
    assert near_duplicate_clusters(texts).tolist() == list(range(rows))


def test_a_long_prompt_common_to_all_joins_nothing_but_copies() -> None:
    preamble = " ".join(story(0, 200))
    texts = [f"{preamble} What about topic{row % 290} and its {row % 290} friends?" for row in range(300)]
    assert near_duplicate_clusters(texts).tolist() == [row % 290 for row in range(300)]


def test_texts_without_words_are_joined_when_equal_only() -> None:
    assert near_duplicate_clusters(["", "?!", "?!", " ", "🙂", "🙂🙂"]).tolist() == [0, 1, 1, 0, 2, 3]
    assert near_duplicate_clusters([]).tolist() == []


def turn(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def test_samples_are_joined_where_prompt_and_answer_both_are() -> None:
    prompt, other, answer = (" ".join(story(seed)) for seed in (0, 1, 2))
    samples = [
        turn(prompt, "Yes."),
        turn(prompt, "No."),
        turn(prompt + " now", "yes"),
        turn(other, "Yes."),
        turn(prompt, answer),
        turn(prompt, answer + " then"),
    ]
    assert sample_clusters(samples).tolist() == [0, 1, 0, 3, 4, 4]
    assert sample_clusters([]).tolist() == []
    assert sample_texts(samples).tolist() == [0, 1, 2, 3, 4, 5]
    assert sample_texts([]).tolist() == []


def test_different_samples_are_counted_as_far_as_is_asked() -> None:
    alike = [turn("Say yes.", "Yes.")] * (2 * FIRST_SAMPLES)
    others = [turn(f"Say {number}.", f"{number}.") for number in range(12)]
    assert count_different([], 10) == 0
    assert count_different(alike + others[:9], 10) == 10  # the last nine count, far behind as they are
    assert count_different(alike + others[:8], 10) == 9
    assert count_different(others + alike, 5) >= 5


def test_samples_say_the_same_where_prompt_and_answer_are_equal_once_normalised() -> None:
    samples = [turn("Why?", "Because."), turn(" WHY? ", "because."), turn("Why?", "No."), turn("So?", "Because.")]
    assert sample_texts(samples).tolist() == [0, 0, 1, 2]


def test_the_order_of_rows_names_clusters_and_changes_nothing_else() -> None:
    generator = np.random.default_rng(0)
    texts = []
    for seed in range(40):
        for copy in range(int(generator.integers(1, 5))):
            words = story(seed)
            words[copy * 10] = f"edit{copy}"
            texts.append(" ".join(words))
    clusters = near_duplicate_clusters(texts)
    assert clusters.max() == 39
    order = generator.permutation(len(texts))
    shuffled = near_duplicate_clusters([texts[at] for at in order])
    for one, other in combinations(range(len(texts)), 2):
        assert (shuffled[one] == shuffled[other]) == (clusters[order[one]] == clusters[order[other]])


def test_every_process_finds_the_same() -> None:
    code = (
        "from worker.text.duplicate_clusters import near_duplicate_clusters as f; import random; r = random.Random(0);"
        "t = [' '.join(r.choices('abcde', k=r.randint(5, 9))) for _ in range(2000)]; print(f(t).tolist())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
        for env in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"})
    }
    assert len(runs) == 1


def templates(rows: int, family: int, changed: int) -> list[str]:
    """`rows` texts of 100 words in families that have a text in common but for `changed` words of each row's own."""
    texts = []
    for row in range(rows):
        words = story(row // family, 100)
        for at in range(changed):
            words[at * 100 // changed] = f"slot{row}x{at}"
        texts.append(" ".join(words))
    return texts


def test_many_rows_of_one_kind_take_no_quadratic_time() -> None:
    """Equal rows; families of near-duplicates; families that stay just apart; one template."""
    started = time.process_time()
    assert near_duplicate_clusters(["The same text again."] * 20_000).max() == 0
    joined = near_duplicate_clusters(templates(3_000, 100, 2))
    np.testing.assert_array_equal(joined, np.arange(3_000) // 100)
    assert near_duplicate_clusters(templates(3_000, 100, 5)).max() == 2_999
    assert near_duplicate_clusters(templates(3_000, 3_000, 1)).max() == 2_999
    assert time.process_time() - started < 60


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_samples_take_minutes_and_a_gigabyte() -> None:
    figures = measured("duplicate_clusters", "sample_clusters")
    assert figures["seconds"] < 120
    assert figures["peak_kib"] < 1_200_000


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_hundred_thousand_rows_of_families_that_stay_just_apart_take_minutes() -> None:
    texts = templates(100_000, 4_000, 5)
    started = time.process_time()
    assert near_duplicate_clusters(texts).max() == 99_999
    assert time.process_time() - started < 300
