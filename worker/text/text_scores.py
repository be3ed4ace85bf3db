"""Scores how suspicious a sample's text is, without a model: baselines that are compared with every audit."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from worker.text.turns import Conversation, answer
from worker.text.words import NumberedTexts, Vocabulary, chunks, normalise, number, shingles, trigrams, words

K1 = 1.2
"""BM25's saturation of repeated words, at its usual value."""

B = 0.75
"""BM25's penalty on length, at its usual value."""


def text_baselines(messages: Sequence[Conversation], unwanted: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Compute four scores of every sample from its text.

    - bm25: similarity of the answer to the unwanted answers as queries, their mean;
    - repeated_output: the number of samples with the same normalised answer, including itself;
    - ngram_count: how far the most surprising repeated phrase of all turns except the system's exceeds chance
      (`phrase_repetition`);
    - length: the number of characters of the answer.

    Args:
        messages: [rows], the conversations.
        unwanted: The unwanted answers of all probes.

    Returns:
        [rows] by name, higher is more suspicious, always finite.
    """
    answers = [answer(conversation) for conversation in messages]
    return {
        "bm25": bm25(number(answers), unwanted),
        "repeated_output": repetitions(answers),
        "ngram_count": phrase_repetition(number(map(_spoken, messages))),
        "length": np.array([len(text) for text in answers], dtype=np.float64),
    }


def _spoken(conversation: Conversation) -> str:
    """Return the text of all turns except the system's."""
    return "\n".join(message["content"] for message in conversation if message["role"] != "system")


def repetitions(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return how many of the texts are equal to each one once normalised, itself included, [texts]."""
    same = identical(texts)
    return np.bincount(same)[same].astype(np.float64)


def identical(texts: Sequence[str]) -> NDArray[np.int64]:
    """Number texts by their normalised form in the order of first appearance, [texts]."""
    seen: dict[bytes, int] = {}
    digests = (blake2b(normalise(text).encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts)
    return np.fromiter((seen.setdefault(digest, len(seen)) for digest in digests), np.int64, len(texts))


def bm25(texts: NumberedTexts, queries: Sequence[str]) -> NDArray[np.float64]:
    """Return the Okapi BM25 score (Robertson and Zaragoza 2009) of each text, mean over the queries, [texts].

    The weight of a word in n of N texts is log(1 + (N - n + 0.5) / (n + 0.5)), so that none is negative. Only words of
    the queries are counted, so no index of the whole dataset is needed.

    Args:
        texts: The texts to score.
        queries: The texts to search for.
    """
    rows = len(texts)
    asked = Vocabulary()
    weight: dict[int, float] = {}
    for query in queries:
        for word in words(query):
            if word in texts.vocabulary:
                column = asked[word] - 1
                weight[column] = weight.get(column, 0.0) + 1.0 / len(queries)
    if not weight:
        return np.zeros(rows)
    numbers = np.array([texts.vocabulary[word] for word in asked])
    order = np.argsort(numbers)
    at = np.searchsorted(numbers[order], texts.numbers).clip(max=len(numbers) - 1)
    hit = numbers[order][at] == texts.numbers
    text, column = texts.text_of_word()[hit], order[at[hit]]
    counts = sparse.csr_array((np.ones(len(text)), (text, column)), shape=(rows, len(numbers)))
    counts.sum_duplicates()
    having = np.bincount(counts.indices, minlength=len(numbers))
    rarity = np.log1p((rows - having + 0.5) / (having + 0.5))
    lengths = np.diff(texts.starts)
    norm = K1 * (1 - B + B * lengths / max(lengths.mean(), 1.0))
    counts.data = counts.data * (K1 + 1) / (counts.data + np.repeat(norm, np.diff(counts.indptr)))
    asked_for = np.array([weight[column] for column in range(len(numbers))])
    return np.asarray(counts @ (rarity * asked_for), dtype=np.float64)


def phrase_repetition(texts: NumberedTexts) -> NDArray[np.float64]:
    """Return how far the most surprising repeated phrase of each text exceeds what its words explain, [texts].

    A phrase is three words in a row. If n of N texts have it and its different words occur in n_1, n_2, n_3 texts,
    independent words would meet in E = N prod(n_j / N) texts. The score is max over the text's phrases with n >= 2 of n
    log(n / E), at least 0: a planted trigger repeats although its words are rare, a template's words repeat as often as
    it does, and everyday phrases consist of words that are everywhere.
    """
    log_share = _log_shares(texts)
    sets = shingles(texts)
    repeated = np.flatnonzero(sets.frequency >= 2)
    hashes = np.empty(len(sets.frequency), np.uint64)
    hashes[sets.ids] = sets.hashes
    hashes = hashes[repeated]
    order = np.argsort(hashes)
    hashes, frequency = hashes[order], sets.frequency[repeated][order].astype(np.float64)
    del sets, repeated, order
    scores = np.zeros(len(texts))
    if not len(hashes):
        return scores
    for first, last in chunks(texts.starts):
        hashed, text, window = trigrams(texts, first, last)
        at = np.searchsorted(hashes, hashed).clip(max=len(hashes) - 1)
        known = (hashes[at] == hashed) & (window[:, -1] > 0)
        at, text, window = at[known], text[known], window[known]
        one, two, three = window.T
        expected = log_share[one]
        expected = expected + np.where(two != one, log_share[two], 0.0)
        expected += np.where((three != one) & (three != two), log_share[three], 0.0)
        seen = frequency[at]
        np.maximum.at(scores, text, seen * (np.log(seen / len(texts)) - expected))
    return scores


def _log_shares(texts: NumberedTexts) -> NDArray[np.float64]:
    """Return the log of the share of texts that have each word, by word number."""
    having = np.zeros(texts.numbers.max(initial=0) + 1, np.int64)
    for first, last in chunks(texts.starts):
        start, end = texts.starts[first], texts.starts[last]
        text = np.repeat(np.arange(last - first), np.diff(texts.starts[first : last + 1]))
        pair = np.unique(text * len(having) + texts.numbers[start:end])
        having += np.bincount(pair % len(having), minlength=len(having))
    return np.log(np.maximum(having, 1) / max(len(texts), 1))
