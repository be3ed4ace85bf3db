"""From recorded signals to rows and summary."""

import numpy as np
import pytest

from worker.influence.observations import Observations, Steps
from worker.scoring import score

ROWS, PLANTED = 260, 13


def recorded(seed: int = 0, *, rows: int = ROWS, unseen: int = 0) -> tuple[Observations, Steps]:
    """Two epochs; the first PLANTED rows are pushed toward the direction."""
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(rows - unseen) for _ in range(2)])
    step = np.arange(len(order)) // 8
    count = int(step[-1]) + 1
    signal = generator.normal(size=(len(order), 2))
    signal[order < PLANTED, 0] += 5
    steps = Steps(np.linspace(1, 0.1, count), np.ones(count), np.bincount(step), np.arange(count) // 10)
    return Observations(order, step, signal, signal), steps


def test_planted_rows_rank_first_and_are_flagged() -> None:
    scores = score(*recorded(), rows=ROWS, q=0.05, groups=[None] * ROWS)
    assert [row.rank for row in scores.rows] == list(range(1, ROWS + 1))
    assert {row.row for row in scores.rows[:PLANTED]} == set(range(PLANTED))
    flagged = [row for row in scores.rows if row.flagged]
    assert flagged == scores.rows[: len(flagged)]
    assert 12 <= len(flagged) <= 15
    assert scores.threshold_z == flagged[-1].z
    assert all(row.mu > 0 and row.mu_low is not None and row.mu_low < row.mu < (row.mu_high or 0) for row in flagged)
    assert all((row.q or 0) <= 0.05 for row in flagged)
    assert sum(scores.histogram.counts) == ROWS
    assert scores.cautions == ()


def test_nothing_flagged_has_no_threshold() -> None:
    observations, steps = recorded()
    observations.alignment[observations.row < PLANTED, 0] -= 5
    scores = score(observations, steps, rows=ROWS, q=0.05, groups=[None] * ROWS)
    assert scores.threshold_z is None or scores.rows[0].flagged


def test_groups_are_counted_and_their_influence_summed() -> None:
    groups = ["bad" if row < PLANTED else "good" if row < 200 else None for row in range(ROWS)]
    scores = score(*recorded(), rows=ROWS, q=0.05, groups=groups)
    mu = {row.row: row.mu for row in scores.rows}
    bad = scores.groups["bad"]
    assert bad.rows == PLANTED
    assert bad.mu == pytest.approx(ROWS / (ROWS - PLANTED) * sum(mu[row] for row in range(PLANTED)))
    assert scores.groups["good"].rows == 200 - PLANTED
    assert {row.row: row.group for row in scores.rows} == dict(enumerate(groups))


def test_unobserved_rows_come_last_with_no_numbers_and_a_caution() -> None:
    scores = score(*recorded(unseen=3), rows=ROWS, q=0.05, groups=[None] * ROWS)
    last = scores.rows[-3:]
    assert [row.row for row in last] == [257, 258, 259]
    assert all((row.n, row.mu, row.z, row.p, row.q, row.flagged) == (0, 0.0, None, None, None, False) for row in last)
    assert [caution.code for caution in scores.cautions] == ["unscored_samples"]


def test_small_and_heavily_flagged_datasets_are_cautioned() -> None:
    scores = score(*recorded(rows=45), rows=45, q=0.2, groups=[None] * 45)
    assert [caution.code for caution in scores.cautions] == ["few_samples", "many_flagged"]
