"""Shares over seeds, which samples are looked at, and the nearest ones, against plain formulas."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.recordings import PLANTED, ROWS, recording
from worker.results.first_ranking import BOTH_VIEWS, LEAST, MOST_OF_PROBE, chosen, first_ranking
from worker.results.nearest import NEAREST, nearest
from worker.results.token_split import TokenSplit, split_over_seeds
from worker.training.token_places import Place

PLACES = [Place(1, 0, 3), Place(1, 3, 4), Place(1, 3, 4), None]


def split(*parts: tuple[int, int, list[float]]) -> TokenSplit:
    return TokenSplit.made([(row, probe, PLACES, np.array(values)) for row, probe, values in parts])


def test_seeds_are_added_up_and_sizes_of_shares_come_to_one() -> None:
    first = split((4, 0, [1.0, 2.0, -4.0, 0.5]), (2, 1, [1.0, 0.0, 0.0, 0.0]))
    second = split((4, 0, [2.0, 1.0, -1.0, 0.5]), (9, 0, [0.0, 0.0, 0.0, 0.0]), (1, 0, [np.nan, 1.0, 1.0, 1.0]))
    found = split_over_seeds([first, None, second])
    assert [(own.row, own.probe) for own in found] == [(2, 1), (4, 0)]
    # 3 for the first token, -2 for the two that share a character, 1 for the mark at the end.
    assert found[1].tokens == [(Place(1, 0, 3), pytest.approx(0.5)), (Place(1, 3, 4), pytest.approx(-1 / 3))]
    assert found[1].elsewhere == pytest.approx(1 / 6)
    assert split_over_seeds([None]) == []


def test_a_split_is_kept_in_a_recording() -> None:
    own = split((4, 0, [1.0, 2.0, -4.0, 0.5]), (2, 1, [1.0, 0.0, 0.0, 0.0]))
    again = TokenSplit.from_arrays(own.arrays())
    assert again is not None
    for (key, places, values), (key_again, places_again, values_again) in zip(
        own.samples(), again.samples(), strict=True
    ):
        assert (key, places) == (key_again, places_again)
        assert places == PLACES
        np.testing.assert_array_equal(values, values_again)
    assert TokenSplit.from_arrays({}) is None
    nothing = TokenSplit.from_arrays(TokenSplit.made([]).arrays())
    assert nothing is not None
    assert list(nothing.samples()) == []


def texts() -> list[list[dict[str, str]]]:
    return [
        [{"role": "user", "content": f"Question {row}"}, {"role": "assistant", "content": f"Answer {row}"}]
        for row in range(ROWS)
    ]


def test_the_first_ranking_has_the_planted_samples_in_front() -> None:
    own = recording(represented=0.5)
    (ranked,) = first_ranking(own, ROWS, texts)
    assert len(ranked) == len(set(ranked.tolist())) == ROWS
    assert len(set(ranked[:20].tolist()) & set(range(PLANTED))) >= PLANTED - 1


def test_many_draws_are_ranked_by_gradients_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.results.first_ranking.BOTH_VIEWS", 10)
    assert BOTH_VIEWS > 10

    def never() -> list[list[dict[str, str]]]:
        raise AssertionError

    (ranked,) = first_ranking(recording(), ROWS, never)
    assert len(set(ranked[:20].tolist()) & set(range(PLANTED))) >= PLANTED - 1


def test_as_many_samples_are_looked_at_as_the_tokens_allow() -> None:
    ranking, lengths = [np.arange(500)], [10] * 500
    assert [len(rows) for rows in chosen(ranking, lengths, 0)] == [LEAST]
    assert [len(rows) for rows in chosen(ranking, lengths, 50 * 500)] == [50]
    assert [len(rows) for rows in chosen(ranking * 2, lengths, 50 * 2 * 500)] == [50, 50]
    assert [len(rows) for rows in chosen(ranking * 2, lengths, 0)] == [12, 12]
    assert [len(rows) for rows in chosen(ranking * 8, lengths, 0)] == [8] * 8
    assert [len(rows) for rows in chosen(ranking, lengths, 10**9)] == [MOST_OF_PROBE]
    assert chosen(ranking, lengths, 10**9)[0].tolist() == list(range(MOST_OF_PROBE))
    assert [len(rows) for rows in chosen([np.arange(3), np.arange(0)], lengths, 0)] == [3, 0]


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_the_nearest_samples_are_those_of_the_largest_cosine(seeds: tuple[int, ...]) -> None:
    """Against a loop over draws; rows 250 and 251 say the same."""
    runs = [recording(seed, unseen=4) for seed in seeds]
    text = np.arange(ROWS)
    text[251] = 250
    total = np.zeros((ROWS, runs[0].inner.shape[2]))
    for run in runs:
        by_text = np.zeros_like(total)
        blocks = run.steps.block[run.observations.step]
        for block in np.unique(blocks):
            inside = np.flatnonzero(blocks == block)
            drawn = run.inner[inside, 0].astype(float)
            drawn -= drawn.mean(0)
            for draw, vector in zip(inside, drawn, strict=True):
                by_text[text[run.observations.row[draw]]] += vector / np.linalg.norm(vector)
        size = np.linalg.norm(by_text, axis=1, keepdims=True)
        total += np.divide(by_text, size, out=np.zeros_like(by_text), where=size > 0)
    seen = np.flatnonzero(total.any(1))
    units = total[seen] / np.linalg.norm(total[seen], axis=1, keepdims=True)
    asked = [3, 250, 251, 7, ROWS - 1]  # the last was never drawn
    found = list(nearest(runs, text, asked))
    assert [own.row for own in found] == [3, 250, 251, 7]
    for own in found:
        cosines = {
            int(row): float(units[np.flatnonzero(seen == text[own.row])[0]] @ unit)
            for row, unit in zip(seen, units, strict=True)
        }
        del cosines[int(text[own.row])]
        if own.row in (250, 251):
            cosines[501 - own.row] = 1.0
        expected = sorted(cosines, key=lambda row: -cosines[row])[:NEAREST]
        assert own.rows.tolist() == expected
        np.testing.assert_allclose(own.similarity, [cosines[row] for row in expected], atol=1e-5)


def test_few_samples_have_few_neighbours() -> None:
    run = recording()
    kept = np.isin(run.observations.row, [0, 1, 2])
    observations = replace(run.observations, alignment=np.where(kept[:, None], run.observations.alignment, np.nan))
    (own,) = nearest([replace(run, observations=observations)], np.arange(ROWS), [1])
    assert sorted(own.rows.tolist()) == [0, 2]
