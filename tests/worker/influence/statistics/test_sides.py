"""The side of a sample, from two columns whose truth is planted."""

import numpy as np
import pytest

from tests.support.simulation import epochs_of, observe
from worker.influence.observations import Observations, Steps
from worker.influence.statistics.detection import Detection, detect, statistic
from worker.influence.statistics.sides import difference_error, sides


def detections(observations: Observations, steps: Steps, rows: int) -> tuple[Detection, Detection]:
    unwanted, reference = (detect(*statistic(observations, steps, rows=rows, direction=k), q=0.05) for k in (0, 1))
    return unwanted, reference


def two_columns(generator: np.random.Generator, rows: int) -> np.ndarray:
    """Each sample's own values on both columns, variance 1, correlated at 0.5."""
    shared = generator.normal(size=(rows, 1))
    return np.sqrt(0.5) * (shared + generator.normal(size=(rows, 2)))


def test_poison_is_toward_hard_negatives_are_against_the_bulk_is_neither() -> None:
    """At the distances measured on real sets: (4.4, 2.6) and (1.1, 5.2)."""
    generator = np.random.default_rng(0)
    person = two_columns(generator, 1200)
    # Z of a sample seen twice: its own variance is 1, that of its mean's noise 0.25.
    person[:60] += np.sqrt(1.25) * np.array([4.4, 2.6])
    person[60:120] += np.sqrt(1.25) * np.array([1.1, 5.2])
    observations, steps = epochs_of(generator, person, 2, noise=np.sqrt(0.5))
    found = sides(observations, steps, *detections(observations, steps, 1200))
    poison, hard, bulk = found[:60], found[60:120], found[120:]
    # The samples' own differences vary by 1.1 around 1.8 and -4.1: some poison truly leans to neither side.
    assert poison.count("toward") >= 36
    assert poison.count("against") <= 3
    assert hard.count("against") >= 54
    assert hard.count("toward") == 0
    assert bulk.count(None) >= 1060


def test_equal_columns_are_put_on_a_side_one_time_in_ten() -> None:
    """Both sides together: 5 % each when a sample's true values are equal, over 30 runs."""
    generator = np.random.default_rng(1)
    both = flagged = 0
    for _ in range(30):
        person = np.repeat(generator.normal(size=(500, 1)), 2, axis=1)
        person[:10] += 5.5
        observations, steps = epochs_of(generator, person, 3)
        found = sides(observations, steps, *detections(observations, steps, 500))[:10]
        flagged += 10 - found.count(None)
        both += found.count("both")
    assert flagged >= 200
    assert 0.85 <= both / flagged <= 0.97


def test_error_is_the_spread_over_repeated_runs() -> None:
    """Same samples, new noise: the standard deviation of x_u - x_r, for samples seen twice and four times."""
    generator = np.random.default_rng(2)
    rows = 500
    person = two_columns(generator, rows)
    row = np.r_[np.arange(rows), np.arange(rows), np.arange(100), np.arange(100)]
    differences, errors = [], []
    for _ in range(60):
        signal = person[row] + generator.normal(size=(len(row), 2))
        observations, steps = observe(signal, row, np.zeros(len(row), dtype=np.int64))
        unwanted, reference = detections(observations, steps, rows)
        differences.append(unwanted.null.standardise(unwanted.z) - reference.null.standardise(reference.z))
        errors.append(difference_error(observations, steps, unwanted, reference))
    spread, error = np.array(differences).std(0), np.array(errors).mean(0)
    for members in (slice(0, 100), slice(100, 500)):
        assert np.sqrt((spread[members] ** 2).mean()) == pytest.approx(error[members].mean(), rel=0.15)


def test_without_a_second_draw_the_error_is_the_bulks_spread() -> None:
    generator = np.random.default_rng(3)
    observations, steps = epochs_of(generator, two_columns(generator, 1000), 1, noise=0.0)
    found = difference_error(observations, steps, *detections(observations, steps, 1000))
    assert found == pytest.approx(np.full(1000, 1.0), rel=0.12)


def test_unobserved_samples_have_no_side_and_columns_must_match() -> None:
    generator = np.random.default_rng(4)
    observations, steps = epochs_of(generator, two_columns(generator, 100), 2)
    found = sides(observations, steps, *detections(observations, steps, 103))
    assert found[100:] == [None] * 3
    observations.alignment[5, 1] = np.nan
    with pytest.raises(ValueError, match="same draws"):
        sides(observations, steps, *detections(observations, steps, 103))
