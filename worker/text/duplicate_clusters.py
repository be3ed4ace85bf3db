"""Near-duplicates: rows with nearly the same text, which are one piece of evidence and get one p-value."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from worker.text.minhash import BANDS, SLOTS, Signatures, band_keys, signatures_of_hashes
from worker.text.text_scores import identical
from worker.text.turns import answer, prompt
from worker.text.words import SIMILAR, Shingles, number, shingles

COMMON = 0.05
"""A trigram in more than this share of the different texts is boilerplate, if it is also in more than COMMON_TEXTS of
them."""

COMMON_TEXTS = 20
"""A trigram in no more texts than this is never boilerplate: in small datasets 5 % are few texts."""

WINDOW = 32
"""Number of neighbours in a band, on each side, that a text is compared with."""

COMPARISONS = 64
"""Comparisons per text, on average; beyond that number texts stay separate."""

FIRST_SAMPLES = 1_000
"""Number of samples to look at first when counting up to a few different ones; then four times as many each time."""

PAIRS_AT_ONCE = 20_000
"""Pairs compared at once, which bounds the memory of intermediate arrays."""

TEXTS_AT_ONCE = 1_000
"""Texts whose signatures are computed at once, for the same reason."""


def sample_clusters(messages: Sequence[Sequence[Mapping[str, str]]]) -> NDArray[np.int64]:
    """Return the cluster of each sample, [rows], named by the cluster's first row.

    Two samples are in one cluster if both their prompts and their answers are near-duplicates
    (`near_duplicate_clusters`): the same long prompt with another answer teaches something else, and so does the same
    answer to another prompt.
    """
    asked = near_duplicate_clusters([prompt(turns) for turns in messages])
    both = asked * (len(messages) + 1) + near_duplicate_clusters([answer(turns) for turns in messages])
    _, first, inverse = np.unique(both, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def count_different(messages: Iterable[Sequence[Mapping[str, str]]], enough: int) -> int:
    """Count the `sample_clusters` of the fewest first samples that have enough of them, or of all samples.

    Clustering 100,000 samples takes half a minute; whether ten of them differ is nearly always known after the first
    thousand.

    Args:
        messages: [rows], the conversations; no more are taken than are looked at.
        enough: The number of clusters at which counting may stop.

    Returns:
        `enough` or more if the samples looked at have as many clusters, otherwise the number of clusters of all
        samples.
    """
    left = iter(messages)
    looked_at = list(islice(left, FIRST_SAMPLES))
    while True:
        different = len(np.unique(sample_clusters(looked_at)))
        more = [] if different >= enough else list(islice(left, 3 * len(looked_at)))
        if not more:
            return different
        looked_at += more


def sample_texts(messages: Sequence[Sequence[Mapping[str, str]]]) -> NDArray[np.int64]:
    """Number samples by their text, [rows]: equal numbers where prompt and answer are equal once normalised.

    Samples with the same number are also in the same one of `sample_clusters`.
    """
    asked, answered = identical([prompt(turns) for turns in messages]), identical([answer(turns) for turns in messages])
    return _by_first_appearance(asked * (len(messages) + 1) + answered)


def near_duplicate_clusters(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return the cluster of each text, [texts], numbered by first appearance; the same in every process.

    Texts that are equal once normalised are in one cluster. So are texts whose sets of word trigrams have a Jaccard
    similarity of at least 0.8, both over all trigrams and over those that are not boilerplate (found in more than 5 %
    of the different texts, and in more than 20), and texts connected through others.

    Mistaken joins cost power, so texts stay separate in case of doubt: texts of a template that differ in a slot (short
    ones share no trigram, a frequent template's own trigrams are boilerplate), and clusters of more than 5 % of the
    different texts, whose shared trigrams count as boilerplate too.

    Candidates come from MinHash bands (`worker.text.minhash`) and are then compared exactly.
    Up to 33 texts in a band are all compared with each other; in larger bands only neighbours are, at most 64
    comparisons per text in total, so that time and memory grow with the dataset and not with its square.
    """
    same = identical(texts)
    _, representative = np.unique(same, return_index=True)
    joined = _near([texts[at] for at in representative])
    return _by_first_appearance(joined[same])


def _near(texts: Sequence[str]) -> NDArray[np.int64]:
    """Return the component of each text, [texts], for texts that are all different."""
    everything = shingles(number(texts))
    boilerplate = everything.frequency > max(COMMON_TEXTS, COMMON * len(texts))
    comparison = _Comparison(everything, boilerplate)
    component = np.arange(len(texts))
    # A text can only be similar to another if it shares most of its trigrams with some other text.
    kept = np.flatnonzero(comparison.shared / np.maximum(comparison.size, 1) >= SIMILAR)
    if len(kept) < 2:
        return component
    signature = _signatures(everything, boilerplate, kept)
    rejected = np.empty(0, np.int64)
    left = COMPARISONS * len(kept)
    edges: list[NDArray[np.int64]] = []
    local = np.arange(len(kept))
    for pairs in _candidates(signature):
        pairs = pairs[local[pairs[:, 0]] != local[pairs[:, 1]]]
        # Sorted by hand: numpy's unique hashes integers, at ten times the time for these.
        key = np.sort(pairs[:, 0] * len(kept) + pairs[:, 1])
        key = key[np.diff(key, prepend=-1) > 0]
        key = np.setdiff1d(key, rejected, assume_unique=True)[:left]
        left -= len(key)
        one, other = key // len(kept), key % len(kept)
        alike = comparison.alike(kept[one], kept[other])
        rejected = np.sort(np.concatenate([rejected, key[~alike]]), kind="stable")
        if alike.any():
            edges.append(np.stack([one[alike], other[alike]]))
            local = _components(np.concatenate(edges, axis=1), len(kept))
        if left <= 0:
            break
    component[kept] = kept[np.unique(local, return_index=True)[1]][local]
    return component


class _Comparison:
    """Exact Jaccard similarity of pairs, over all trigrams and over those that are not boilerplate."""

    def __init__(self, sets: Shingles, boilerplate: NDArray[np.bool_]) -> None:
        rows = len(sets.starts) - 1
        # A trigram of one text alone is in no intersection; without these, the matrices are much smaller.
        met = sets.frequency >= 2
        column = np.cumsum(met) - 1
        keep = met[sets.ids]
        text = sets.text_of_shingle()
        shape = (rows, int(met.sum()))
        self._all = _incidence(text[keep], column[sets.ids[keep]], shape)
        self._sizes = sets.sizes()
        telling = ~boilerplate[sets.ids]
        self.size = np.bincount(text[telling], minlength=rows)
        """[texts]: trigrams that are not boilerplate."""
        self._telling = _incidence(text[keep & telling], column[sets.ids[keep & telling]], shape)
        self.shared = np.diff(self._telling.indptr)
        """[texts]: number of those trigrams that another text has too."""

    def alike(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether each pair reaches SIMILAR over both sets of trigrams, [pairs]."""
        result = np.zeros(len(one), dtype=bool)
        small, large = np.sort(np.stack([self.size[one], self.size[other]]), axis=0)
        open_ = np.flatnonzero(small / large >= SIMILAR)
        for matrix, sizes in ((self._telling, self.size), (self._all, self._sizes)):
            passed = []
            for start in range(0, len(open_), PAIRS_AT_ONCE):
                part = open_[start : start + PAIRS_AT_ONCE]
                both = matrix[one[part]].multiply(matrix[other[part]]).sum(axis=1)
                either = sizes[one[part]] + sizes[other[part]] - both
                passed.append(part[both / either >= SIMILAR])
            open_ = np.concatenate([*passed, np.empty(0, np.int64)])
        result[open_] = True
        return result


def _incidence(text: NDArray[np.int32], column: NDArray[np.int64], shape: tuple[int, int]) -> sparse.csr_array:
    """Return the matrix of texts by trigrams; 1 where the text has the trigram."""
    return sparse.csr_array((np.ones(len(text), np.int32), (text, column)), shape=shape)


def _signatures(sets: Shingles, boilerplate: NDArray[np.bool_], texts: NDArray[np.int64]) -> Signatures:
    """Return MinHash signatures of the texts over trigrams that are not boilerplate; each text needs one."""
    parts = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        spans = [slice(sets.starts[text], sets.starts[text + 1]) for text in texts[start : start + TEXTS_AT_ONCE]]
        telling = [sets.hashes[span][~boilerplate[sets.ids[span]]] for span in spans]
        starts = np.r_[0, np.cumsum([len(hashes) for hashes in telling])]
        parts.append(signatures_of_hashes(np.concatenate(telling), starts))
    return np.concatenate(parts)


def _candidates(signature: Signatures) -> Iterator[NDArray[np.int64]]:
    """Yield pairs [pairs, 2] of texts that share a band and are neighbours in it, nearest neighbours first."""
    keys = [band_keys(signature[:, band * SLOTS : (band + 1) * SLOTS]) for band in range(BANDS)]
    # Within a band, texts that also share the next one are most likely similar: sort them next to each other.
    orders = [np.lexsort((keys[(band + 1) % BANDS], keys[band])) for band in range(BANDS)]
    for distance in range(1, WINDOW + 1):
        found = []
        for key, order in zip(keys, orders, strict=True):
            same = np.flatnonzero(key[order[distance:]] == key[order[:-distance]])
            found.append(np.sort(np.stack([order[same], order[same + distance]], axis=1), axis=1))
            if distance == 1:
                yield found.pop()
        if distance > 1:
            pairs = np.concatenate(found)
            if not len(pairs):
                return
            yield pairs


def _components(edges: NDArray[np.int64], nodes: int) -> NDArray[np.int64]:
    """Return the connected component of each node, [nodes]."""
    graph = sparse.coo_array((np.ones(edges.shape[1], np.int8), (edges[0], edges[1])), shape=(nodes, nodes))
    return np.asarray(connected_components(graph.tocsr(), directed=False)[1], dtype=np.int64)


def _by_first_appearance(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the same partition, numbered 0, 1, ... in the order in which its parts first appear."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
