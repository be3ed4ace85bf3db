"""Texts that Hypothesis draws, and their shingles worked out plainly."""

from hypothesis import strategies as st

from worker.text.words import words

ANY_TEXT = st.text(st.characters(categories=None), max_size=60)
"""Lone surrogates included."""


def shingle_set(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + 3]) for i in range(max(len(found) - 2, min(len(found), 1)))}
