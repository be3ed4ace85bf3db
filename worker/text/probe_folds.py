"""Divides the items of a probe into folds that share no sentence, so that items can be held out."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from worker.text.words import number, shingles, words

FOLDS = 5
"""Most folds; each costs a probe gradient of its own."""

ROWS_AT_ONCE = 256
"""Items compared with all others at once, which bounds the memory."""

SIMILAR = 0.5
"""Two items with at least this Jaccard similarity of word trigrams say the same in other words."""

_SENTENCE_END = re.compile(r"(?<=[.!?…؟।])[\"'»”’)\]]*\s+|[。！？｡\n\r\u2028\u2029]")
"""Where a sentence ends: marks of Latin, Arabic, Devanagari and CJK scripts, and line ends."""

Item = tuple[str, str, str | None]
"""Prompt, unwanted answer, and reference answer or None."""


def probe_folds(items: Sequence[Item]) -> NDArray[np.int64]:
    """Return the fold of each probe item, [items], 0 to at most 4, numbered by first appearance.

    Items that share a sentence, in any field, or half of their trigrams are in one fold, directly or through others; so
    a fold that is held out shares no sentence with the rest. The resulting clusters are assigned to the folds from the
    largest down, each to the fold with fewest items. There is only one fold if all items are connected: then none can
    be held out.
    """
    clusters = _clusters(items)
    sizes = np.bincount(clusters, minlength=1)
    load = np.zeros(min(FOLDS, len(sizes)), np.int64)
    fold = np.empty(len(sizes), np.int64)
    for cluster in np.argsort(-sizes, kind="stable"):
        fold[cluster] = np.argmin(load)
        load[fold[cluster]] += sizes[cluster]
    dealt = fold[clusters]
    order = {number: rank for rank, number in enumerate(dict.fromkeys(dealt.tolist()))}
    return np.array([order[number] for number in dealt.tolist()], dtype=np.int64)


def sentences(item: Item) -> set[str]:
    """Return the sentences of an item's fields as normalised words; sentences without a word are left out."""
    texts = [text for text in item if text is not None]
    return {" ".join(found) for text in texts for part in _SENTENCE_END.split(text) if (found := words(part))}


def _clusters(items: Sequence[Item]) -> NDArray[np.int64]:
    """Return the connected component of each item, in a graph that links items by sentences and similarity."""
    held = [sentences(item) for item in items]
    numbers = {text: rank for rank, text in enumerate(dict.fromkeys(text for found in held for text in sorted(found)))}
    edges = [(item, len(items) + numbers[text]) for item, found in enumerate(held) for text in found]
    graph = np.concatenate([np.array(edges, np.int64).reshape(-1, 2), _alike(items)])
    nodes = len(items) + len(numbers)
    matrix = sparse.coo_array((np.ones(len(graph), np.int8), (graph[:, 0], graph[:, 1])), shape=(nodes, nodes))
    labels = connected_components(matrix.tocsr(), directed=False)[1][: len(items)]
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _alike(items: Sequence[Item]) -> NDArray[np.int64]:
    """Return the pairs [pairs, 2] of items with a trigram similarity of at least SIMILAR."""
    sets = shingles(number("\n".join(text for text in item if text is not None) for item in items))
    shape = (len(items), len(sets.frequency))
    incidence = sparse.csr_array((np.ones(len(sets.ids), np.int32), sets.ids, sets.starts), shape=shape)
    sizes, found = sets.sizes(), [np.empty((0, 2), np.int64)]
    for start in range(0, len(items), ROWS_AT_ONCE):
        both = (incidence[start : start + ROWS_AT_ONCE] @ incidence.T).tocoo()
        either = sizes[both.row + start] + sizes[both.col] - both.data
        close = both.data / either >= SIMILAR
        found.append(np.stack([both.row[close] + start, both.col[close]], axis=1).astype(np.int64))
    return np.concatenate(found)
