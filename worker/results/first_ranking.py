"""Which samples a run examines more closely while its model is loaded: a first ranking from its own recording."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.influence.directions import Kind
from worker.influence.errors import IndistinguishableError
from worker.influence.statistics.detection import statistic
from worker.results.recording import Recording
from worker.results.views import with_views
from worker.text.duplicate_clusters import sample_texts

Integers = NDArray[np.int64]

LEAST = 24
"""Number of samples that are examined in any case, over all probes together."""

LEAST_OF_PROBE = 8
"""Number of samples of each probe that are examined in any case, however many probes share LEAST."""

MOST_OF_PROBE = 100
"""Most samples of one probe that are examined, however many tokens the run trains on."""

TOKENS_SHARE = 0.02
"""Tokens of examined samples, as a fraction of the tokens that a run trains on, over all probes together. Beyond LEAST,
samples are examined only within it, which bounds the time that it adds to the run."""

BOTH_VIEWS = 200_000
"""Up to this many draws the ranking uses both views, as the audit's own will. With more it uses gradients alone: the
discriminant would delay the run for minutes, and needs memory while the model is loaded."""


def first_ranking(
    recording: Recording, rows: int, messages: Callable[[], Sequence[Sequence[Mapping[str, str]]]]
) -> list[Integers]:
    """Rank the samples of one run by Z, without regard to near-duplicates, kinds and other seeds.

    Args:
        recording: The recording of the run.
        rows: Number of samples of the dataset.
        messages: Returns the conversation of every row; called only if both views are used.

    Returns:
        For each probe, the rows that have a Z, the most suspicious first. Empty if the samples cannot be told apart.
    """
    viewed = recording
    try:
        if len(recording.observations) <= BOTH_VIEWS:
            text = sample_texts(messages())
            viewed = with_views([recording], text, text)[0][0]
        return [_ranked(viewed, probe, rows) for probe in range(len(recording.held_out))]
    except IndistinguishableError:
        # The step that combines the seeds reports the error.
        return [np.empty(0, dtype=np.int64) for _ in recording.held_out]


def chosen(ranking: Sequence[Integers], lengths: Sequence[int], tokens: int) -> list[Integers]:
    """Choose the samples that are examined.

    Args:
        ranking: For each probe, its rows by rank.
        lengths: [rows], number of tokens.
        tokens: Number of tokens that the run trained on.

    Returns:
        For each probe its first rows: its part of LEAST, and up to MOST_OF_PROBE as long as its part of TOKENS_SHARE
        lasts.
    """
    probes = max(len(ranking), 1)
    least, left = max(LEAST // probes, LEAST_OF_PROBE), TOKENS_SHARE * tokens / probes

    def first(rows: Integers) -> Iterator[int]:
        used = 0
        for number, row in enumerate(rows[:MOST_OF_PROBE].tolist()):
            used += lengths[row]
            if number >= least and used > left:
                return
            yield row

    return [np.fromiter(first(rows), np.int64) for rows in ranking]


def _ranked(recording: Recording, probe: int, rows: int) -> Integers:
    """Return the rows that have a Z by one probe, the largest Z first."""
    column = recording.column(probe, Kind.UNWANTED)
    assert column is not None
    z, _ = statistic(recording.observations, recording.steps, rows=rows, direction=column)
    known = np.flatnonzero(np.isfinite(z))
    return known[np.argsort(-z[known], kind="stable")].astype(np.int64)
