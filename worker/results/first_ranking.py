"""Which samples a run takes a closer look at while it still has its model: a first ranking of its own recording."""

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
"""Samples that are looked at in any case, of all probes together."""

LEAST_OF_PROBE, MOST_OF_PROBE = 8, 100
"""Of each probe."""

TOKENS_SHARE = 0.02
"""Of the tokens that a run trains on: above LEAST, so many may be looked at, of all probes together."""

BOTH_VIEWS = 200_000
"""Draws up to which the ranking is by both views, as the audit's own will be; the discriminant of more would hold back
the run for minutes, and takes memory beside the model's. Then it is by gradients alone."""


def first_ranking(
    recording: Recording, rows: int, messages: Callable[[], Sequence[Sequence[Mapping[str, str]]]]
) -> list[Integers]:
    """Rank the samples of one run by Z, without near-duplicates, kinds and other seeds.

    Args:
        recording: Of the run.
        rows: Samples of the dataset.
        messages: Gives those of every row; called where both views are taken.

    Returns:
        Of each probe the rows that have a Z, the most suspicious first. Empty where nothing can be told apart.
    """
    viewed = recording
    try:
        if len(recording.observations) <= BOTH_VIEWS:
            text = sample_texts(messages())
            viewed = with_views([recording], text, text)[0][0]
        return [_ranked(viewed, probe, rows) for probe in range(len(recording.held_out))]
    except IndistinguishableError:
        # The step that combines the seeds says what is wrong.
        return [np.empty(0, dtype=np.int64) for _ in recording.held_out]


def chosen(ranking: Sequence[Integers], lengths: Sequence[int], tokens: int) -> list[Integers]:
    """Choose the samples that are looked at.

    Args:
        ranking: Of each probe, rows from the first on.
        lengths: Tokens of each row.
        tokens: That the run trained on.

    Returns:
        Of each probe its first rows: its part of LEAST, and up to MOST_OF_PROBE while there are tokens left of its part
        of TOKENS_SHARE.
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
    column = recording.column(probe, Kind.UNWANTED)
    assert column is not None
    z, _ = statistic(recording.observations, recording.steps, rows=rows, direction=column)
    known = np.flatnonzero(np.isfinite(z))
    return known[np.argsort(-z[known], kind="stable")].astype(np.int64)
