"""Weights of steps against what the optimisers themselves do, in float64, and against slow plain sums."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worker.influence.capture.preconditioner import momentum_of, preconditioner_of
from worker.influence.momentum import Momentum
from worker.influence.observations import Observations, Steps
from worker.influence.statistics.drift import predicted_drift

ADAM = Momentum(0.9, corrected=True)
NO_MOMENTUM = Momentum(0.0, corrected=False)
STEPS = 12

OPTIMIZERS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "sgd": lambda w: torch.optim.SGD(w),
    "sgd-momentum": lambda w: torch.optim.SGD(w, momentum=0.9),
    "sgd-dampening": lambda w: torch.optim.SGD(w, momentum=0.9, dampening=0.3),
    "sgd-dampening-without-momentum": lambda w: torch.optim.SGD(w, dampening=0.3),
    "sgd-nesterov": lambda w: torch.optim.SGD(w, momentum=0.9, nesterov=True),
    # eps so large that P is 1 / eps, whatever the gradients are: what is left is the momentum.
    "adam": lambda w: torch.optim.Adam(w, betas=(0.9, 0.99), eps=1e12),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_weight_is_how_far_the_gradient_of_one_step_moves_the_parameters(
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
) -> None:
    """One run for each step: its gradient is one and all others are zero."""
    rate = np.random.default_rng(0).uniform(0.1, 1.0, STEPS)
    for t in range(STEPS):
        weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = make([weight])
        places = [0.0]
        for u in range(STEPS):
            optimizer.param_groups[0]["lr"] = rate[u]
            weight.grad = torch.tensor([float(u == t)], dtype=torch.float64)
            optimizer.step()
            places.append(float(weight.detach()) * float(optimizer.param_groups[0].get("eps", 1.0)))
        momentum = momentum_of(optimizer)
        assert momentum.step_weights(rate)[t] == pytest.approx(-places[-1], rel=1e-9)
        for start, stop in [(0, 3), (3, 4), (4, STEPS)]:
            moved = places[start] - places[stop]
            assert momentum.step_weights(rate, start, stop)[t] == pytest.approx(moved, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "weight_decay": 0.05},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.05},
    ],
    ids=["plain", "dampening", "nesterov", "decay", "nesterov-decay"],
)
def test_samples_and_weight_decay_make_up_all_that_sgd_does_to_a_probe_loss(options: dict[str, float]) -> None:
    """A probe loss that is linear in the parameters, and samples whose losses are not: signals by autograd."""
    torch.manual_seed(0)
    batch, width = 4, 6
    weight = nn.Parameter(torch.randn(width, dtype=torch.float64))
    x, y = torch.randn(STEPS, batch, width, dtype=torch.float64), torch.randn(STEPS, batch, dtype=torch.float64)
    direction = torch.randn(width, dtype=torch.float64)
    optimizer = torch.optim.SGD([weight], lr=0.1, **options)
    momentum, read = momentum_of(optimizer), preconditioner_of(optimizer)
    rate, signal, decayed, losses = [], [], [], []
    for t in range(STEPS):
        losses.append(float((direction @ weight).detach()))
        rate.append(0.1 / (1 + t))
        optimizer.param_groups[0]["lr"] = rate[-1]
        p = read({"weight": weight})
        assert p is not None
        each = torch.tanh(x[t] @ weight).sub(y[t]).square()
        for n in range(batch):
            (gradient,) = torch.autograd.grad(each[n], weight, retain_graph=True)
            signal.append(float(direction @ (p["weight"] * gradient)))
        decayed.append(options.get("weight_decay", 0.0) * float((direction @ weight).detach()))
        optimizer.zero_grad()
        each.mean().backward()
        optimizer.step()
    losses.append(float((direction @ weight).detach()))

    step = np.repeat(np.arange(STEPS), batch)
    found = predicted_drift(
        Observations(np.arange(len(step)), step, np.array(signal)[:, None], np.zeros((len(step), 1))),
        Steps(np.array(rate), np.ones(STEPS), np.full(STEPS, batch), np.zeros(STEPS, dtype=np.int64)),
        np.array([0, 3, STEPS]),
        np.array(losses)[[0, 3, STEPS]],
        momentum=momentum,
    )
    # What the decay pulls goes through the same momentum, and is no sample's.
    pulled = [-momentum.step_weights(np.array(rate), a, b) @ decayed for a, b in ((0, 3), (3, STEPS))]
    assert not decayed[0] or np.abs(pulled).min() > 1e-3
    np.testing.assert_allclose(found.realised, found.predicted + pulled, rtol=1e-9)


def test_the_weights_of_sgd_are_not_those_of_adam() -> None:
    """Adam corrects its mean for the start, so that early gradients count more than in SGD's plain sum."""
    rate = np.ones(200)
    ratio = ADAM.step_weights(rate) / (0.1 * Momentum(0.9, corrected=False).step_weights(rate))
    assert ratio[[0, 4, 9]] == pytest.approx([3.0, 1.6, 1.2], abs=0.05)
    assert ratio[100:] == pytest.approx(np.ones(100), rel=1e-4)


def test_the_weights_of_adam_are_the_double_sum() -> None:
    rate, b1 = np.array([0.3, 0.1, 0.7, 0.2, 0.05]), 0.9
    slow = [sum(rate[u - 1] * (1 - b1) * b1 ** (u - t) / (1 - b1**u) for u in range(t, 6)) for t in range(1, 6)]
    np.testing.assert_allclose(ADAM.step_weights(rate), slow, rtol=1e-12)
    np.testing.assert_allclose(NO_MOMENTUM.step_weights(rate), rate, rtol=1e-12)


@pytest.mark.parametrize(
    "momentum", [ADAM, Momentum(0.9, corrected=False, dampening=0.2), Momentum(0.9, corrected=False, nesterov=True)]
)
def test_weights_of_parts_add_up_and_end_where_the_gradient_has_gone(momentum: Momentum) -> None:
    rate = np.random.default_rng(0).uniform(0.1, 1, STEPS)
    parts = [momentum.step_weights(rate, a, b) for a, b in [(0, 4), (4, 5), (5, STEPS)]]
    np.testing.assert_allclose(sum(parts), momentum.step_weights(rate), rtol=1e-12)
    assert (parts[0][4:] == 0).all()
    assert (parts[1][:5] > 0).all()
