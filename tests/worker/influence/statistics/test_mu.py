"""mu and its interval against slow plain formulas and against simulated runs whose truth is known."""

import numpy as np
import pytest
from numpy.random import Generator

from worker.influence.momentum import Momentum
from worker.influence.observations import Observations, Steps
from worker.influence.statistics.mu import estimate_mu, group_mu, group_mu_with_interval

ADAM = Momentum(0.9, corrected=True)
NO_MOMENTUM = Momentum(0.0, corrected=False)


def run_of(
    generator: Generator, *, rows: int = 64, epochs: int = 3, batch: int = 8, true: np.ndarray | None = None
) -> tuple[Observations, Steps]:
    """A simulated run: signals of mean `true` [rows] and unit noise, in blocks with other scales and offsets."""
    true = np.zeros(rows) if true is None else true
    order = np.concatenate([generator.permutation(rows) for _ in range(epochs)])
    step = np.arange(len(order)) // batch
    count = int(step[-1]) + 1
    block = np.arange(count) // 5
    scale, offset = generator.uniform(0.5, 2.0, block[-1] + 1), generator.normal(size=block[-1] + 1)
    signal = offset[block[step]] + scale[block[step]] * (true[order] + generator.normal(size=len(order)))
    steps = Steps(
        learning_rate=np.linspace(1.0, 0.1, count),
        clip=generator.uniform(0.5, 1.0, count),
        batch_size=np.bincount(step),
        block=block,
    )
    return Observations(order, step, signal[:, None], np.zeros((len(order), 1))), steps


@pytest.mark.parametrize("per_block", [5, 1])
def test_mu_is_the_formula(per_block: int) -> None:
    """Blocks of 40 draws each, and blocks of 8, of which four are joined until a mean rests on 32."""
    observations, steps = run_of(np.random.default_rng(1), rows=40, epochs=2)
    steps = Steps(steps.learning_rate, steps.clip, steps.batch_size, np.arange(len(steps)) // per_block)
    # Ten steps of 8 draws: two windows either way; what is left over below 32 draws joins the last.
    window = (np.arange(10) >= (5 if per_block == 5 else 4)).astype(int)
    weight = ADAM.step_weights(steps.learning_rate) * steps.clip
    signal, of_draw = observations.effect[:, 0], window[observations.step]
    mean = {b: signal[of_draw == b].mean() for b in (0, 1)}
    variance = {b: signal[of_draw == b].var(ddof=1) for b in (0, 1)}
    variance_of_drift = sum(weight[t] ** 2 * variance[window[t]] / steps.batch_size[t] for t in range(len(steps)))
    found = estimate_mu(observations, steps, rows=40, momentum=ADAM)
    for row in range(40):
        drift = sum(
            weight[t] * (signal[i] - mean[of_draw[i]]) / steps.batch_size[t]
            for i, t in enumerate(observations.step)
            if observations.row[i] == row
        )
        assert found.mu[row] == pytest.approx(drift / np.sqrt(variance_of_drift), rel=1e-9, abs=1e-12)


def test_batches_of_one_sample_refreshed_at_every_step_are_centred_over_their_neighbours() -> None:
    generator = np.random.default_rng(8)
    order = np.concatenate([generator.permutation(100) for _ in range(2)])
    signal = generator.normal(size=200) + 3.0 * (order < 5)
    steps = Steps(np.ones(200), np.ones(200), np.ones(200, dtype=np.int64), np.arange(200))
    found = estimate_mu(
        Observations(order, np.arange(200), signal[:, None], np.zeros((200, 1))), steps, rows=100, momentum=NO_MOMENTUM
    )
    assert found.mu[:5].min() > 2 * np.abs(found.mu[5:]).mean()


def test_mu_is_free_of_units_and_signed() -> None:
    observations, steps = run_of(np.random.default_rng(2))
    found = estimate_mu(observations, steps, rows=64, momentum=ADAM)
    scaled = Observations(observations.row, observations.step, -3e4 * observations.effect, observations.alignment)
    np.testing.assert_allclose(estimate_mu(scaled, steps, rows=64, momentum=ADAM).mu, -found.mu, rtol=1e-9, atol=1e-12)


def test_rows_without_signal_have_no_effect_and_single_draws_no_interval() -> None:
    generator = np.random.default_rng(3)
    observations, steps = run_of(generator, rows=32, epochs=1)
    signal = observations.effect.copy()
    signal[observations.step == 0] = np.nan
    found = estimate_mu(
        Observations(observations.row, observations.step, signal, observations.alignment), steps, rows=33, momentum=ADAM
    )
    assert np.isnan(found.low).all()  # no row was drawn twice: there is no variance to borrow either
    assert found.mu[32] == 0
    assert (found.mu[observations.row[observations.step == 0]] == 0).all()
    nothing = Observations(observations.row, observations.step, signal * np.nan, observations.alignment)
    with pytest.raises(ValueError, match="too few steps"):
        estimate_mu(nothing, steps, rows=32, momentum=ADAM)


def test_a_draw_scored_after_the_last_step_has_no_weight() -> None:
    observations, steps = run_of(np.random.default_rng(4), rows=32, epochs=2)
    late = Observations(
        np.append(observations.row, 0),
        np.append(observations.step, len(steps)),
        np.vstack([observations.effect, [[1e6]]]),
        np.vstack([observations.alignment, [[0.0]]]),
    )
    longer = Steps(
        np.append(steps.learning_rate, 0.0),
        np.append(steps.clip, 1.0),
        np.append(steps.batch_size, 1),
        np.append(steps.block, steps.block[-1]),
    )
    without = estimate_mu(observations, steps, rows=32, momentum=ADAM)
    np.testing.assert_allclose(estimate_mu(late, longer, rows=32, momentum=ADAM).mu, without.mu)


def test_the_reference_law_is_the_spread_of_independent_draws() -> None:
    """Over runs that draw every batch independently, sum_i mu_i (the drift of Q) has standard deviation 1."""
    generator = np.random.default_rng(5)
    population = generator.normal(size=400)
    drifts = []
    for _ in range(400):
        row = generator.integers(0, 400, size=8 * 40)
        step = np.repeat(np.arange(40), 8)
        steps = Steps(np.linspace(1, 0.2, 40), np.ones(40), np.full(40, 8), np.zeros(40, dtype=np.int64))
        weight = ADAM.step_weights(steps.learning_rate)
        # Centred at the population's mean, which the run itself does not know.
        drifts.append(np.sum(weight[step] * population[row] / 8))
    found = np.std(drifts)
    reference = np.sqrt(np.sum(weight**2) * population.var() / 8)
    assert found == pytest.approx(reference, rel=0.12)


def test_group_mu_is_the_sum_scaled_to_leaving_the_group_out() -> None:
    mu = np.array([1.0, 2.0, -1.0, 0.5])
    members = np.array([True, True, False, False])
    assert group_mu(mu, members) == pytest.approx(4 / 2 * 3.0)
    assert np.isnan(group_mu(mu, np.ones(4, dtype=bool)))
    assert np.isnan(group_mu(mu, np.zeros(4, dtype=bool)))


def test_a_groups_mu_is_that_of_its_members_and_lies_in_its_interval() -> None:
    observations, steps = run_of(
        np.random.default_rng(10), rows=200, epochs=2, true=np.where(np.arange(200) < 20, 4, 0)
    )
    flat = Steps(np.ones(len(steps)), np.ones(len(steps)), steps.batch_size, np.zeros(len(steps), dtype=np.int64))
    members = np.arange(200) < 20
    found = group_mu_with_interval(observations, flat, members, momentum=ADAM)
    own = estimate_mu(observations, flat, rows=200, momentum=ADAM)
    assert found.mu == pytest.approx(200 / 180 * own.mu[:20].sum(), rel=1e-12)
    assert found.low < found.mu < found.high
    for nobody in (np.zeros(200, dtype=bool), np.ones(200, dtype=bool)):
        assert np.isnan(group_mu_with_interval(observations, flat, nobody, momentum=ADAM).mu)
