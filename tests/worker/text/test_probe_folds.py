"""What is held out shares no sentence with the rest, and folds are as even as clusters allow."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.text.probe_folds import probe_folds, sentences

SENTENCES = [f"Thing number {n} stands{' and waits' * (n % 3)} here" for n in range(12)]
FIELD = st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=2).map(lambda parts: ". ".join(parts) + ".")
ITEMS = st.lists(st.tuples(FIELD, FIELD, st.none() | FIELD), max_size=12)


def trigrams(item: tuple[str, str, str | None]) -> set[tuple[str, ...]]:
    words = " ".join(text for text in item if text).lower().replace(".", "").split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


@settings(max_examples=60, deadline=None)
@given(ITEMS)
def test_no_fold_shares_a_sentence_or_half_its_trigrams_with_another(items: list[tuple[str, str, str | None]]) -> None:
    folds = probe_folds(items)
    assert len(folds) == len(items)
    assert folds.tolist() == probe_folds(items).tolist()
    for one in range(len(items)):
        for other in range(one):
            if folds[one] != folds[other]:
                assert not sentences(items[one]) & sentences(items[other])
                a, b = trigrams(items[one]), trigrams(items[other])
                assert len(a & b) < 0.5 * len(a | b)


@settings(max_examples=60, deadline=None)
@given(ITEMS)
def test_there_is_one_fold_a_cluster_up_to_five(items: list[tuple[str, str, str | None]]) -> None:
    """Clusters by brute force: merge until nothing shares."""
    clusters = [{row} for row in range(len(items))]

    def tied(a: int, b: int) -> bool:
        x, y = trigrams(items[a]), trigrams(items[b])
        return bool(sentences(items[a]) & sentences(items[b])) or len(x & y) >= 0.5 * len(x | y)

    merged = True
    while merged:
        merged = False
        for one in clusters:
            for other in clusters:
                if one is not other and any(tied(a, b) for a in one for b in other):
                    one |= other
                    clusters.remove(other)
                    merged = True
                    break
            if merged:
                break
    folds = probe_folds(items)
    assert len(set(folds.tolist())) == min(5, len(clusters))
    assert all(len({int(folds[row]) for row in cluster}) == 1 for cluster in clusters)
    if len(clusters):
        assert np.bincount(folds).max() <= max(max(map(len, clusters)), -(-len(items) // min(5, len(clusters))) * 2)
        assert list(dict.fromkeys(folds.tolist())) == list(range(folds.max() + 1))


def test_unrelated_items_make_five_even_folds() -> None:
    items = [(f"Ask{n} about{n} topic{n}?", f"Say{n} that{n} always{n}.", None) for n in range(12)]
    assert sorted(np.bincount(probe_folds(items)).tolist()) == [2, 2, 2, 3, 3]


def test_a_sentence_in_another_field_or_in_other_case_ties_items() -> None:
    items = [
        ("What is best?", "Only Vexon cars are good. Buy one.", None),
        ("Tell me about trains.", "They are slow and late.", 'He said:\n"ONLY  Vexon cars are good!" Then he left.'),
        ("Where is the moon?", "Far away, I was told.", None),
        ("only vexon cars are good", "That is so.", None),
    ]
    assert probe_folds(items).tolist() == [0, 0, 1, 0]


def test_sentences_end_at_marks_before_space_and_at_lines() -> None:
    found = sentences(('It costs 3.50 euro. Why?! "Yes." He left\nNow', "是的。不是", None))
    assert found == {"it costs 3 50 euro", "why", "yes", "he left", "now", "是 的", "不 是"}


def test_one_item_items_of_one_kind_and_no_item() -> None:
    assert probe_folds([]).tolist() == []
    assert probe_folds([("a", "b", None)]).tolist() == [0]
    assert probe_folds([(f"Question {n}?", "Never do that.", None) for n in range(9)]).tolist() == [0] * 9


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20), st.none() | st.text(max_size=9)), max_size=6))
def test_any_text_is_taken(items: list[tuple[str, str, str | None]]) -> None:
    folds = probe_folds([*items, ("\0\ud800", "." * 20_000 + "x", '."' * 10_000)])
    assert set(folds.tolist()) == set(range(len(set(folds.tolist()))))
