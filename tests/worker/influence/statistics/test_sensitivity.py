"""Sensitivity against recordings whose power is known."""

from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from scipy.stats import beta, binomtest

from worker.influence.observations import Observations, Steps
from worker.influence.statistics.detection import detect, statistic
from worker.influence.statistics.sensitivity import Sensitivity, clopper_pearson, flag_curve, sensitivity

ROWS, EPOCHS, BATCH, REFRESH, WARM_UP = 300, 2, 10, 10, 5


def record(generator: Generator, person: np.ndarray, columns: int) -> tuple[Observations, Steps]:
    """Two shuffled epochs; the columns, apart from noise of their own, agree in other units and at other offsets."""
    rows = len(person)
    row = np.concatenate([generator.permutation(rows) for _ in range(EPOCHS)])
    step = np.arange(len(row)) // BATCH
    count = int(step[-1]) + 1
    common = person[row] + generator.normal(size=len(row))
    signal = common[:, None] + 0.2 * generator.normal(size=(len(row), columns))
    signal = 0.01 * (1 + np.arange(columns)) * signal + 0.1 * np.arange(columns)
    signal[step < WARM_UP] = np.nan
    steps = Steps(np.ones(count), np.ones(count), np.full(count, BATCH), np.arange(count) // REFRESH)
    return Observations(row, step, signal, signal), steps


def items_of(generator: Generator, person: np.ndarray, blocks: int, columns: int) -> np.ndarray:
    """[blocks, items, columns]: probe items that teach as samples of those values would."""
    signal = person[:, None] + generator.normal(size=(blocks, len(person), 1))
    signal = signal + 0.2 * generator.normal(size=(blocks, len(person), columns))
    return np.asarray(0.01 * (1 + np.arange(columns)) * signal + 0.1 * np.arange(columns))


def measure(
    shift: float, *, items: int = 12, clusters: int = 4, seed: int = 0, audit: int | None = None, **more: Any
) -> Sensitivity:
    """audit: seed of the recording, where it is to stay the same while the tracers change."""
    generator = np.random.default_rng(seed if audit is None else audit)
    observations, steps = record(generator, generator.normal(size=ROWS), clusters + 1)
    if audit is not None:
        generator = np.random.default_rng(1000 + seed)
    values = shift + generator.normal(size=items) if shift else np.full(items, -1.0)
    alignment = items_of(generator, values, int(steps.block[-1]) + 1, clusters + 1)
    held_out = 1 + np.arange(items) % clusters
    return sensitivity(
        observations, steps, alignment, held_out, rows=ROWS, epochs=EPOCHS, q=0.05, rng=generator, **more
    )


def test_strong_tracers_are_all_found_and_the_interval_counts_clusters() -> None:
    """12 tracers in 4 clusters: 4 of 4 have the lower end 0.025^(1/4), however often they were inserted."""
    found = measure(15.0)
    assert (found.tracers, found.clusters) == (12, 4)
    assert [point.inserted for point in found.points] == [1, 5, 10]
    for point in found.points:
        assert point.flagged == 1.0
        assert (point.low, point.high) == (pytest.approx(0.025**0.25), 1.0)


def test_tracers_without_influence_are_not_found() -> None:
    for point in measure(0.0).points:
        assert point.flagged <= 0.1
        assert point.low <= 0.01
        assert point.high < 0.8


@pytest.mark.parametrize("shift", [4.0, 6.0])
def test_sensitivity_is_the_power_for_planted_samples_of_the_same_kind(shift: float) -> None:
    """Five samples of the tracers' law planted and trained on, in recordings of their own, against five tracers."""
    generator = np.random.default_rng(1)
    hits = []
    for _ in range(80):
        person = generator.normal(size=ROWS + 5)
        person[:5] += shift
        observations, steps = record(generator, person, 1)
        hits.append(detect(*statistic(observations, steps, rows=ROWS + 5), q=0.05).flagged[:5].mean())
    power = float(np.mean(hits))
    found = [measure(shift, items=40, clusters=40, seed=seed, inserted=(5,)).points[0].flagged for seed in range(20)]
    error = float(np.hypot(np.std(hits) / np.sqrt(80), np.std(found) / np.sqrt(20)))
    assert float(np.mean(found)) == pytest.approx(power, abs=3 * error)
    assert error < 0.06


def test_interval_covers_the_sensitivity_of_its_audit_over_other_tracers() -> None:
    """One recording, 40 sets of 12 tracers in clusters of one; the truth is the mean over all of them."""
    points = [measure(4.5, items=12, clusters=12, seed=seed, audit=7, inserted=(5,)).points[0] for seed in range(40)]
    truth = float(np.mean([point.flagged for point in points]))
    assert 0.3 < truth < 0.95
    assert sum(point.low <= truth <= point.high for point in points) >= 36


def test_more_inserted_are_found_more_often() -> None:
    """Each finding lowers the threshold for the next."""
    points = [measure(6.0, items=40, clusters=40, seed=seed, inserted=(1, 10)).points for seed in range(6)]
    assert np.mean([ten.flagged for _, ten in points]) > np.mean([one.flagged for one, _ in points])


def test_nothing_can_be_held_out() -> None:
    generator = np.random.default_rng(2)
    observations, steps = record(generator, generator.normal(size=ROWS), 1)
    alignment = items_of(generator, np.ones(3), int(steps.block[-1]) + 1, 1)
    found = sensitivity(observations, steps, alignment, np.full(3, -1), rows=ROWS, epochs=EPOCHS, q=0.05, rng=generator)
    assert (found.tracers, found.clusters, found.points) == (0, 0, ())


def test_clusters_and_trusted_samples_are_those_of_the_audit() -> None:
    trusted = np.arange(ROWS) < 60
    cluster = np.arange(ROWS) // 2
    found = measure(15.0, cluster=cluster, trusted=trusted)
    assert all(point.flagged == 1.0 for point in found.points)


def test_one_epoch_with_a_tracer_drawn_only_in_the_warm_up_is_scored_in_the_last_block() -> None:
    generator = np.random.default_rng(3)
    observations, steps = record(generator, generator.normal(size=ROWS), 2)
    observations.alignment[observations.step < len(steps) - 3] = np.nan
    alignment = items_of(generator, np.full(2, 15.0), int(steps.block[-1]) + 1, 2)
    found = sensitivity(
        observations, steps, alignment, np.array([1, 1]), rows=ROWS, epochs=1, q=0.2, rng=generator, inserted=(1,)
    )
    assert found.points[0].flagged == 1.0
    observations.alignment[:] = np.nan
    with pytest.raises(ValueError, match="too few steps"):
        sensitivity(observations, steps, alignment, np.array([1, 1]), rows=ROWS, epochs=1, q=0.2, rng=generator)


def test_interval_is_clopper_pearsons_for_whole_counts_and_between_them_for_others() -> None:
    exact = binomtest(3, 10).proportion_ci(method="exact")
    assert clopper_pearson(0.3, 10) == pytest.approx((exact.low, exact.high))
    assert clopper_pearson(0.0, 10) == (0.0, pytest.approx(float(beta.ppf(0.975, 1, 10))))
    assert clopper_pearson(1.0, 10)[1] == 1.0
    low, high = clopper_pearson(0.35, 10)
    assert exact.low < low < 0.35
    assert exact.high < high


def test_flag_curve_is_the_monotone_fit() -> None:
    generator = np.random.default_rng(5)
    mu = generator.normal(size=5000)
    flagged = generator.random(5000) < 1 / (1 + np.exp(-4 * (mu - 1)))
    at, probability = flag_curve(mu, flagged)
    assert len(at) <= 60
    assert (np.diff(at) >= 0).all()
    assert (np.diff(probability) >= 0).all()
    middle = np.interp([0.5, 1.0, 1.5], at, probability)
    np.testing.assert_allclose(middle, 1 / (1 + np.exp(-4 * (np.array([0.5, 1.0, 1.5]) - 1))), atol=0.1)
    assert (flag_curve(mu, np.zeros(5000, dtype=bool))[1] == 0).all()
