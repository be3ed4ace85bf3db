"""The paper's composition against simulation with known signals."""

import numpy as np
import pytest

from worker.influence.momentum import Momentum
from worker.influence.observations import Observations, Steps
from worker.influence.statistics.mu import estimate_mu
from worker.influence.statistics.mu_composed import composed_mu, composed_squares

ADAM = Momentum(0.9, corrected=True)
NO_MOMENTUM = Momentum(0.0, corrected=False)

ROWS, BATCH, EPOCHS = 400, 8, 3


def simulated(seed: int, noise: float, m: np.ndarray) -> tuple[Observations, Steps]:
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(ROWS) for _ in range(EPOCHS)])
    step = np.arange(len(order)) // BATCH
    signal = 5 + m[order] + noise * generator.normal(size=len(order))
    count = int(step[-1]) + 1
    steps = Steps(np.ones(count), np.ones(count), np.full(count, BATCH), np.arange(count) // 50)
    return Observations(order, step, signal[:, None], np.zeros((len(order), 1))), steps


def test_without_noise_it_is_the_formula_and_the_root_of_n_over_b_above_mu() -> None:
    """Without momentum and with equal rates mu_i = sqrt(n/N) m/sigma and the composition sqrt(n/B) |m|/sigma."""
    m = np.random.default_rng(0).normal(size=ROWS)
    observations, steps = simulated(1, 0.0, m)
    steps = Steps(steps.learning_rate, steps.clip, steps.batch_size, np.zeros(len(steps), dtype=np.int64))
    found = composed_mu(observations, steps, rows=ROWS, momentum=NO_MOMENTUM)
    signal = observations.effect[:, 0]
    np.testing.assert_allclose(
        found, np.sqrt(EPOCHS / BATCH) * np.abs(m - m.mean()) / signal.std(ddof=1), rtol=1e-9, atol=1e-12
    )
    mu = estimate_mu(observations, steps, rows=ROWS, momentum=NO_MOMENTUM).mu
    np.testing.assert_allclose(found, np.sqrt(ROWS / BATCH) * np.abs(mu), rtol=1e-9, atol=1e-12)


def test_noise_is_taken_off() -> None:
    """Mean over 200 runs: the truth with the noise taken off, 1 + noise^2 / m^2 times as much without."""
    m = np.where(np.arange(ROWS) < 40, 2.0, -0.2)
    noise = 1.5
    sigma = np.sqrt(m.var() + noise**2)
    squares = np.array([composed_squares(*simulated(seed, noise, m), rows=ROWS, momentum=ADAM) for seed in range(200)])
    truth = EPOCHS / BATCH * (m - m.mean()) ** 2 / sigma**2
    raw = EPOCHS / BATCH * noise**2 / sigma**2
    by_run = squares[:, :40].mean(1)
    error = by_run.std() / np.sqrt(len(by_run))
    assert error < 0.02 * truth[0]
    assert by_run.mean() == pytest.approx(truth[0], abs=3 * error + 0.02 * truth[0])
    assert raw > 0.5 * truth[0]  # what would be left in
    assert squares[:, 40:].mean() == pytest.approx(truth[-1], abs=0.05 * raw)


def test_single_draws_borrow_the_noise_or_have_no_composition() -> None:
    observations, steps = simulated(3, 1.0, np.zeros(ROWS))
    once = np.ones(len(observations), dtype=bool)
    once[ROWS:] = observations.row[ROWS:] >= 100
    part = Observations(observations.row[once], observations.step[once], observations.effect[once], np.zeros((1, 1)))
    squares = composed_squares(part, steps, rows=ROWS + 1, momentum=ADAM)
    assert abs(squares[:100].mean()) < 3 * squares[:100].std() / 10
    assert squares[ROWS] == 0  # never drawn
    first = observations.step < ROWS // BATCH
    alone = Observations(
        observations.row[first], observations.step[first], observations.effect[first], np.zeros((1, 1))
    )
    assert np.isnan(composed_mu(alone, steps, rows=ROWS, momentum=ADAM)).all()
