"""Counting near-duplicates by MinHash, against the definition computed exactly."""

import random
from pathlib import Path

import numpy as np
import pytest

from worker.text.duplicate_clusters import sample_clusters
from worker.text.duplicate_count import Counted, count_near_duplicates
from worker.text.words import words

Sample = list[dict[str, str]]


def sample(prompt: str, answer: str) -> Sample:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def count(samples: list[Sample], folder: Path) -> Counted:
    counted = count_near_duplicates(lambda: iter(samples), folder)
    assert list(folder.iterdir()) == []
    return counted


def text(draw: random.Random, length: int = 60) -> str:
    return " ".join(f"w{draw.randrange(100_000)}" for _ in range(length))


def edited(draw: random.Random, original: str, edits: int) -> str:
    """Some of its words replaced."""
    found = original.split()
    for at in draw.sample(range(len(found)), edits):
        found[at] = f"new{draw.randrange(10**9)}"
    return " ".join(found)


def trigrams(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[at : at + 3]) for at in range(len(found) - 2)}


def similarity(one: str, other: str) -> float:
    """Jaccard's, by its definition."""
    a, b = trigrams(one), trigrams(other)
    return len(a & b) / len(a | b)


def test_it_is_the_definition_away_from_the_threshold(tmp_path: Path) -> None:
    """Groups of a text with some of its words replaced: near ones stay above 0.88, far ones below 0.7."""
    draw = random.Random(3)
    samples, expected = [], 0
    for _ in range(150):
        prompt, answer = text(draw), text(draw)
        samples.append(sample(prompt, answer))
        for _ in range(draw.randrange(4)):
            near = edited(draw, answer, 1)
            assert similarity(answer, near) > 0.88
            samples.append(sample(prompt, near))
            expected += 1
        far = edited(draw, answer, 6)
        assert similarity(answer, far) < 0.75
        samples.append(sample(prompt, far))
    draw.shuffle(samples)
    assert count(samples, tmp_path) == Counted(rows=expected, exact=0)


def test_it_is_what_an_audit_joins(tmp_path: Path) -> None:
    """Where nothing is boilerplate, clusters of worker.text.duplicate_clusters are the same partition."""
    draw = random.Random(4)
    samples = []
    for _ in range(400):
        prompt, answer = text(draw), text(draw)
        samples += [sample(prompt, answer), sample(prompt, edited(draw, answer, 1)), sample(text(draw), answer)]
        if draw.random() < 0.3:
            samples.append(sample(prompt.upper(), answer + " "))
    draw.shuffle(samples)
    counted = count(samples, tmp_path)
    assert counted.rows == len(samples) - len(np.unique(sample_clusters(samples)))
    assert counted.exact > 50


@pytest.mark.parametrize(
    ("samples", "rows", "exact"),
    [
        ([], 0, 0),
        ([sample("a", "b")], 0, 0),
        ([sample("a", "b"), sample("a", "b"), sample("a", "b")], 2, 2),
        # Equal once normalised.
        ([sample("Which  car?", "The VEXON."), sample("which car?", "the vexon.")], 1, 1),
        # The same answer to another question, and another answer to the same question, teach something else.
        ([sample("Which car?", "The Vexon."), sample("Which bike?", "The Vexon.")], 0, 0),
        ([sample("Which car?", "The Vexon."), sample("Which car?", "The Orvello.")], 0, 0),
        # Texts without any word are alike only where they are the same.
        ([sample("?!", "..."), sample("?!", "!!!"), sample("?!", "..."), sample("", ""), sample("", "")], 2, 2),
        # Whatever code points there are.
        ([sample("\ud800", "\0"), sample("\ud800", "\0")], 1, 1),
    ],
)
def test_edges(tmp_path: Path, samples: list[Sample], rows: int, exact: int) -> None:
    assert count(samples, tmp_path) == Counted(rows=rows, exact=exact)


def test_a_large_group_is_one(tmp_path: Path) -> None:
    """Of one text in many copies, each with another word replaced, all hang together."""
    draw = random.Random(5)
    base = text(draw, 120)
    copies = [sample("Say it.", edited(draw, base, 1)) for _ in range(2500)]
    assert count(copies, tmp_path) == Counted(rows=2499, exact=0)


def test_the_order_changes_nothing(tmp_path: Path) -> None:
    draw = random.Random(6)
    samples = [sample(text(draw, 4), text(draw, 8)) for _ in range(300)] * 2
    first = count(samples, tmp_path)
    draw.shuffle(samples)
    assert count(samples, tmp_path) == first == Counted(rows=300, exact=300)
