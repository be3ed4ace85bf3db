"""Coverage of the intervals of mu over simulated runs whose truth is known.

The truth of a row is the expectation of its mu over the signals that its draws could have given, with the run's own
weights and reference law; the variance between seeds is no part of it.
"""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from worker.influence.momentum import Momentum
from worker.influence.observations import Observations, Steps
from worker.influence.statistics.mu import estimate_mu, group_mu_with_interval

ADAM = Momentum(0.9, corrected=True)
NO_MOMENTUM = Momentum(0.0, corrected=False)

Floats = NDArray[np.float64]
ROWS, BATCH, BLOCK = 400, 8, 10
TOP = np.arange(ROWS) < ROWS // 20


def heavy_tailed(generator: Generator) -> Floats:
    """Student t with 4.4 degrees of freedom, excess kurtosis 15, as per-draw effects of real runs have over rows."""
    m = generator.standard_t(4.4, ROWS)
    return m[np.argsort(-np.abs(m))]


def planted(generator: Generator) -> Floats:
    """One row in twenty pushes hard."""
    return np.where(TOP, generator.normal(4, 1, ROWS), generator.normal(0, 0.4, ROWS))


def laplace(generator: Generator) -> Floats:
    m = generator.laplace(size=ROWS)
    return m[np.argsort(-np.abs(m))]


Law = tuple[Callable[[Generator], Floats], float, float, float]
LAWS: dict[str, Law] = {
    # distribution of the true means; alpha and beta of the noise; degrees of freedom of a row's own scatter around it
    "heavy-tailed, unequal variances": (heavy_tailed, 1.0, 0.15, np.inf),
    "heavy-tailed, equal variances": (heavy_tailed, 1.0, 0.0, np.inf),
    "heavy-tailed, slightly unequal": (heavy_tailed, 1.0, 0.03, np.inf),
    "planted, unequal variances": (planted, 1.0, 0.15, np.inf),
    "laplace, unequal variances": (laplace, 0.5, 0.15, np.inf),
}
SCATTERED: Law = (heavy_tailed, 0.3, 0.15, 3.0)


def simulated(
    generator: Generator, law: Law, *, most: int = 3
) -> tuple[Observations, Steps, Floats, NDArray[np.int64]]:
    """A run, the truth in units of the run's weights before division by its reference, and n of each row.

    The rows are drawn once, twice or three times, a third of each; blocks differ in scale and offset.
    """
    distribution, alpha, beta, freedom = law
    m = distribution(generator)
    n = generator.permutation(np.arange(ROWS) % most + 1)
    order = np.concatenate([generator.permutation(np.flatnonzero(n > epoch)) for epoch in range(most)])
    step = np.arange(len(order)) // BATCH
    count = int(step[-1]) + 1
    block = np.arange(count) // BLOCK
    scale, offset = generator.uniform(0.5, 2.0, block[-1] + 1), generator.normal(size=block[-1] + 1)
    variance = alpha + beta * m**2
    if np.isfinite(freedom):
        variance *= freedom / generator.chisquare(freedom, ROWS)
    noise = np.sqrt(variance[order]) * generator.normal(size=len(order))
    signal = offset[block[step]] + scale[block[step]] * (m[order] + noise)
    steps = Steps(np.linspace(1, 0.1, count), generator.uniform(0.5, 1, count), np.bincount(step), block)
    weight = ADAM.step_weights(steps.learning_rate) * steps.clip
    truth = np.bincount(order, (weight / steps.batch_size)[step] * scale[block[step]], ROWS) * (m - m.mean())
    return Observations(order, step, signal[:, None], np.zeros((len(order), 1))), steps, truth, n


def reference_of(observations: Observations, steps: Steps) -> float:
    """The denominator of mu, from its definition. Blocks have 80 draws, and the last joins the one before if short."""
    block = steps.block.copy()
    drawn = np.bincount(block[observations.step])
    if drawn[-1] < 32:
        block[block == block[-1]] -= 1
    variance = np.array(
        [observations.effect[block[observations.step] == b, 0].var(ddof=1) for b in range(block[-1] + 1)]
    )
    weight = ADAM.step_weights(steps.learning_rate) * steps.clip
    return float(np.sqrt(np.sum(weight**2 * variance[block] / steps.batch_size)))


def assert_covered(law: Law, runs: int, *, low: float = 0.93, high: float = 0.97) -> None:
    """Bounds on the true coverage; a finite number of runs adds three standard errors, clustered by run."""
    generator = np.random.default_rng(1)
    share: dict[str, list[float]] = defaultdict(list)
    for _ in range(runs):
        observations, steps, truth, n = simulated(generator, law)
        found = estimate_mu(observations, steps, rows=ROWS, momentum=ADAM)
        truth = truth / reference_of(observations, steps)
        inside = (found.low <= truth) & (truth <= found.high)
        for draws in (1, 2, 3):
            share[f"bulk, n = {draws}"].append(inside[~TOP & (n == draws)].mean())
            if (TOP & (n == draws)).any():
                share[f"top 5 %, n = {draws}"].append(inside[TOP & (n == draws)].mean())
        assert np.isfinite(found.low[n == 1]).all()
    coverage = {name: float(np.mean(values)) for name, values in share.items()}
    print({name: round(value, 4) for name, value in coverage.items()})
    for name, values in share.items():
        slack = 3 * np.std(values) / np.sqrt(len(values)) if runs < 2000 else 0.0
        assert low - slack <= coverage[name] <= high + slack, (name, coverage)


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
def test_intervals_cover_in_some_runs(law: Law) -> None:
    assert_covered(law, 60)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
def test_intervals_cover_93_to_97_times_in_100_over_2000_runs(law: Law) -> None:
    assert_covered(law, 2000)


@pytest.mark.slow
def test_intervals_cover_rows_whose_variance_scatters_around_the_function() -> None:
    """Each row has a variance of its own, v 3 / chi^2_3: a law that statistics of two draws can hardly tell from a
    steeper function. Never too short; the bulk's may be a little long.
    """
    assert_covered(SCATTERED, 500, high=0.985)


def test_intervals_are_each_rows_own_where_too_few_are_drawn_twice() -> None:
    """Without a fit, n = 2 takes the t of one degree of freedom, 12.7, and n = 1 has no interval."""
    generator = np.random.default_rng(2)
    rows = np.concatenate([np.arange(60), np.arange(10)])
    steps = Steps(np.ones(7), np.ones(7), np.full(7, 10), np.zeros(7, dtype=np.int64))
    signal = generator.normal(size=70)
    observations = Observations(rows, np.arange(70) // 10, signal[:, None], np.zeros((70, 1)))
    found = estimate_mu(observations, steps, rows=60, momentum=NO_MOMENTUM)
    assert np.isnan(found.low[10:]).all()
    # Equal weights, so mu is a multiple of the mean, with the error of the window's mean beside the row's own.
    unit = 1 / 10 / np.sqrt(7 * signal.var(ddof=1) / 10)
    error = np.sqrt(2 * (signal[:10] - signal[60:]) ** 2 / 2 + 4 * signal.var(ddof=1) / 70)
    np.testing.assert_allclose(found.high[:10] - found.mu[:10], 12.7062047 * unit * error, rtol=1e-6)


def test_group_intervals_cover() -> None:
    """Of 20 rows that push, and of 3; over 300 runs within three binomial standard errors of 95 %."""
    generator = np.random.default_rng(3)
    for members in (TOP, np.arange(ROWS) < 3):
        inside = []
        for _ in range(300):
            observations, steps, truth, _ = simulated(generator, LAWS["planted, unequal variances"])
            expected = truth[members].sum() * ROWS / (ROWS - members.sum()) / reference_of(observations, steps)
            found = group_mu_with_interval(observations, steps, members, momentum=ADAM)
            inside.append(found.low <= expected <= found.high)
        assert np.mean(inside) == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / 300)), members.sum()
