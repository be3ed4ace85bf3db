"""Predicted and realised change of a probe loss, on models small enough to compute both."""

import numpy as np
import pytest
import torch

from worker.influence.momentum import Momentum
from worker.influence.observations import Observations, Steps
from worker.influence.statistics.drift import predicted_drift

ADAM = Momentum(0.9, corrected=True)
NO_MOMENTUM = Momentum(0.0, corrected=False)


def test_exact_where_the_probe_loss_is_linear_and_the_preconditioner_fixed() -> None:
    """Adam's first moment over fixed P and G by hand: every interval's change comes out to rounding, the momentum of
    steps before it included.
    """
    generator = np.random.default_rng(0)
    steps_taken, batch, width, b1 = 23, 4, 6, 0.9
    direction, p = generator.normal(size=width), generator.uniform(0.5, 2, width)
    rate, clip = generator.uniform(0.01, 0.1, steps_taken), generator.uniform(0.3, 1, steps_taken)
    gradients = generator.normal(size=(steps_taken, batch, width))
    theta, moment, losses = np.zeros(width), np.zeros(width), []
    measured_at = [0, 5, 10, 11, 23]
    for t in range(steps_taken):
        if t in measured_at:
            losses.append(direction @ theta)
        moment = b1 * moment + (1 - b1) * clip[t] * gradients[t].mean(0)
        theta -= rate[t] * p * moment / (1 - b1 ** (t + 1))
    losses.append(direction @ theta)
    signal = (gradients * p) @ direction
    step = np.repeat(np.arange(steps_taken), batch)
    observations = Observations(np.arange(len(step)), step, signal.reshape(-1, 1), np.zeros((len(step), 1)))
    steps = Steps(rate, clip, np.full(steps_taken, batch), np.zeros(steps_taken, dtype=np.int64))
    found = predicted_drift(observations, steps, np.array(measured_at), np.array(losses), momentum=ADAM)
    np.testing.assert_allclose(found.predicted, np.diff(losses), rtol=1e-10)
    np.testing.assert_allclose(found.realised, np.diff(losses), rtol=1e-12)
    assert found.step.tolist() == measured_at[1:]
    assert found.slope == pytest.approx(1, rel=1e-10)
    assert found.correlation == pytest.approx(1, rel=1e-10)

    # A gradient credited to its own step alone is another number.
    plain = predicted_drift(observations, steps, np.array(measured_at), np.array(losses), momentum=NO_MOMENTUM)
    assert np.abs(plain.predicted - plain.realised).max() > 0.1 * np.abs(plain.realised).max()


def logistic_run(rate: float, *, warm: int = 0) -> tuple[Observations, Steps, np.ndarray, np.ndarray]:
    """Logistic regression by torch's AdamW in float64; G refreshed every 5 steps, P as the last step applied it."""
    torch.manual_seed(0)
    x = torch.randn(160, 8, dtype=torch.float64)
    y = (x @ torch.randn(8, dtype=torch.float64) + torch.randn(160, dtype=torch.float64) > 0).double()
    probe_x, probe_y = torch.randn(20, 8, dtype=torch.float64) + 0.5, torch.zeros(20, dtype=torch.float64)
    theta = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([theta], lr=rate, betas=(0.9, 0.999), weight_decay=0.0)
    order = torch.cat([torch.randperm(160) for _ in range(10)]).reshape(-1, 8)

    def probe_loss() -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(probe_x @ theta, probe_y)

    losses, effects, direction = [], [], torch.zeros(8, dtype=torch.float64)
    for t, rows in enumerate(order):
        if t % 5 == 0:
            loss = probe_loss()
            losses.append(loss.item())
            direction = torch.autograd.grad(loss, theta)[0]
        residual = torch.sigmoid(x[rows] @ theta.detach()) - y[rows]
        own = residual[:, None] * x[rows]
        if t > warm:
            second = optimizer.state[theta]["exp_avg_sq"] / (1 - 0.999 ** float(optimizer.state[theta]["step"]))
            effects.append((own @ (direction / (second.sqrt() + 1e-8))).numpy())
        else:
            effects.append(np.full(8, np.nan))
        optimizer.zero_grad()
        theta.grad = own.mean(0)
        optimizer.step()
    losses.append(probe_loss().item())
    count = len(order)
    observations = Observations(
        order.flatten().numpy(), np.repeat(np.arange(count), 8), np.concatenate(effects)[:, None], np.zeros((1, 1))
    )
    steps = Steps(np.full(count, rate), np.ones(count), np.full(count, 8), np.arange(count) // 5)
    return observations, steps, np.arange(0, count + 1, 5), np.array(losses)


def test_logistic_regression_with_adamw_follows_the_prediction() -> None:
    """From step 30 on, when the second moment no longer jumps."""
    observations, steps, at, losses = logistic_run(1e-3, warm=30)
    found = predicted_drift(observations, steps, at, losses, momentum=ADAM)
    assert len(found.step) >= 30
    assert found.correlation > 0.98
    assert found.slope == pytest.approx(1, abs=0.05)
    plain = predicted_drift(observations, steps, at, losses, momentum=NO_MOMENTUM)
    assert plain.correlation < 0.7


def test_intervals_that_were_not_recorded_are_left_out() -> None:
    observations, steps, at, losses = logistic_run(1e-3, warm=9)
    found = predicted_drift(observations, steps, at, losses, momentum=ADAM)
    # Steps 0 to 9 have no signal, yet move the weights by momentum until about step 20.
    assert found.step.tolist() == at[5:].tolist()
    weight = sum(0.1 * 0.9 ** (u - t) / (1 - 0.9 ** (u + 1)) for u in range(20, 25) for t in range(10, u + 1))
    assert found.recorded[0] == pytest.approx(weight / 5, rel=1e-9)
    assert found.recorded[-1] > 0.999
    assert len(found.predicted) == len(found.realised) == len(found.recorded) == len(at) - 5
    nothing = predicted_drift(observations, steps, at[:2], losses[:2], momentum=ADAM)
    assert len(nothing.step) == 0
    assert np.isnan(nothing.slope)
    assert np.isnan(nothing.correlation)


def test_losses_that_do_not_fit_the_steps_are_refused() -> None:
    observations, steps, at, losses = logistic_run(1e-3)
    for wrong_at, wrong in [(at[:-1], losses), (at[::-1], losses), (at + 1, losses)]:
        with pytest.raises(ValueError, match="number of steps taken before it"):
            predicted_drift(observations, steps, wrong_at, wrong, momentum=ADAM)
