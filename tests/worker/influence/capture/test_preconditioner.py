"""P against the optimisers' own updates: what they do to the weights must be -eta P g, and with momentum its sum."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from worker.influence.capture.preconditioner import adamw_preconditioner, momentum_of, preconditioner_of
from worker.influence.momentum import Momentum

RATE = 0.01
STEPS = 5


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """Two layers of one LoRA module; the second starts at zero, as lora_B does."""
    torch.manual_seed(0)
    return {
        "lora_A": nn.Parameter(torch.randn(4, 96, dtype=torch.float64)),
        "lora_B": nn.Parameter(torch.zeros(64, 4, dtype=torch.float64)),
    }


def draw(weights: dict[str, Tensor], generator: torch.Generator, size: float = 1.0) -> dict[str, Tensor]:
    """A gradient of uneven size for every weight, flattened; it is put in place."""
    drawn = {}
    for name, weight in weights.items():
        column = torch.logspace(-2, 0, weight.shape[1], dtype=weight.dtype)
        g = size * column * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        weight.grad = g
        drawn[name] = g.flatten().clone()
    return drawn


def taken(
    optimizer: torch.optim.Optimizer, weights: dict[str, Tensor], *, size: float = 1.0, steps: int = STEPS
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]]:
    """Of each step: its gradient, the change of each weight, and P as read after the step, all flat.

    Adafactor scales with the weight as it was before the step, so P is read with that in place.
    """
    generator = torch.Generator().manual_seed(1)
    read = preconditioner_of(optimizer)
    for _ in range(steps):
        gradient = draw(weights, generator, size)
        before = {name: w.detach().clone() for name, w in weights.items()}
        optimizer.step()
        after = {name: w.detach().clone() for name, w in weights.items()}
        with torch.no_grad():
            for name, w in weights.items():
                w.copy_(before[name])
            p = read(weights)
            for name, w in weights.items():
                w.copy_(after[name])
        assert p is not None
        yield gradient, {name: (after[name] - before[name]).flatten() for name in weights}, p


MEMORYLESS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "adamw": lambda w: torch.optim.AdamW(w, lr=RATE, betas=(0.0, 0.99), weight_decay=0.0),
    "adamw-amsgrad": lambda w: torch.optim.AdamW(w, lr=RATE, betas=(0.0, 0.9), weight_decay=0.0, amsgrad=True),
    "adamw-large-eps": lambda w: torch.optim.AdamW(w, lr=RATE, betas=(0.0, 0.99), eps=0.3, weight_decay=0.0),
    "adamw-fused": lambda w: torch.optim.AdamW(w, lr=RATE, betas=(0.0, 0.99), weight_decay=0.0, fused=True),
    "adam": lambda w: torch.optim.Adam(w, lr=RATE, betas=(0.0, 0.99)),
    "sgd": lambda w: torch.optim.SGD(w, lr=RATE),
    # d and clip_threshold so large that no update is clipped.
    "adafactor": lambda w: torch.optim.Adafactor(w, lr=RATE, d=1e9),
    "adafactor-high-rate": lambda w: torch.optim.Adafactor(w, lr=0.9, d=1e9),
    "transformers-adafactor": lambda w: transformers.Adafactor(
        w, lr=RATE, clip_threshold=1e9, relative_step=False, scale_parameter=False
    ),
    "transformers-adafactor-scaled": lambda w: transformers.Adafactor(
        w, lr=RATE, clip_threshold=1e9, relative_step=False, scale_parameter=True
    ),
}


@pytest.mark.parametrize("make", MEMORYLESS.values(), ids=MEMORYLESS)
def test_without_momentum_a_step_is_minus_eta_p_g(
    weights: dict[str, Tensor], make: Callable[[list[Tensor]], torch.optim.Optimizer]
) -> None:
    optimizer = make(list(weights.values()))
    rate = optimizer.param_groups[0]["lr"]
    for gradient, change, p in taken(optimizer, weights):
        for name in weights:
            assert p[name].shape == (weights[name].numel(),)
            assert change[name].abs().min() > 0
            # Rounding of the weights themselves leaves 1e-16 of their size in a change.
            torch.testing.assert_close(change[name], -rate * p[name] * gradient[name], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "transformers-adafactor"])
def test_p_read_before_a_step_lags_by_one(weights: dict[str, Tensor], name: str) -> None:
    """What the recorder uses: on a steady run P of the step before is P of the step, to within the step's own share
    of the second moment.
    """
    optimizer = MEMORYLESS[name](list(weights.values()))
    if name == "adamw":
        optimizer.param_groups[0]["betas"] = (0.0, 0.999)
    read, generator = preconditioner_of(optimizer), torch.Generator().manual_seed(1)
    for _ in range(200):
        draw(weights, generator)
        optimizer.step()
    lagged = read(weights)
    gradient = draw(weights, generator)
    before = {name: w.detach().clone() for name, w in weights.items()}
    optimizer.step()
    assert lagged is not None
    for layer, weight in weights.items():
        change = (weight.detach() - before[layer]).flatten()
        torch.testing.assert_close(change, -RATE * lagged[layer] * gradient[layer], rtol=0.1, atol=1e-14)


@pytest.mark.parametrize("name", ["adafactor", "transformers-adafactor"])
def test_adafactor_clips_whole_updates_and_p_leaves_that_out(weights: dict[str, Tensor], name: str) -> None:
    optimizer = MEMORYLESS[name](list(weights.values()))
    for number, (gradient, change, p) in enumerate(taken(optimizer, weights)):
        for layer in weights:
            ratio = change[layer] / (-RATE * p[layer] * gradient[layer])
            assert float(ratio.mean()) == pytest.approx(1.0, rel=1e-9)
        if number == 1:
            optimizer.param_groups[0].update({"d": 0.5} if name == "adafactor" else {"clip_threshold": 0.5})
            break
    for gradient, change, p in taken(optimizer, weights, steps=1):
        for layer in weights:
            ratio = change[layer] / (-RATE * p[layer] * gradient[layer])
            assert float(ratio.max() - ratio.min()) < 1e-9  # one factor for the whole weight ...
            assert 0.3 < float(ratio.mean()) < 0.9  # ... that is the clipping


WITH_MOMENTUM: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    # eps so large that P is constant: then all that is left is the momentum.
    "adamw": lambda w: torch.optim.AdamW(w, lr=RATE, betas=(0.8, 0.99), eps=1e9, weight_decay=0.0),
    "adam-without": lambda w: torch.optim.Adam(w, lr=RATE, betas=(0.0, 0.99), eps=1e9),
    "sgd": lambda w: torch.optim.SGD(w, lr=RATE, momentum=0.7),
    "sgd-damped": lambda w: torch.optim.SGD(w, lr=RATE, momentum=0.7, dampening=0.4),
    "sgd-nesterov": lambda w: torch.optim.SGD(w, lr=RATE, momentum=0.7, nesterov=True),
    "sgd-without": lambda w: torch.optim.SGD(w, lr=RATE),
}


@pytest.mark.parametrize("make", WITH_MOMENTUM.values(), ids=WITH_MOMENTUM)
def test_momentum_says_how_gradients_go_on_acting(
    weights: dict[str, Tensor], make: Callable[[list[Tensor]], torch.optim.Optimizer]
) -> None:
    optimizer = make(list(weights.values()))
    momentum = momentum_of(optimizer)
    gradients: list[dict[str, Tensor]] = []
    for u, (gradient, change, p) in enumerate(taken(optimizer, weights)):
        gradients.append(gradient)
        factors = momentum.step_weights(np.full(STEPS, RATE), u, u + 1)
        assert not factors[u + 1 :].any()
        for name in weights:
            total = sum(float(factor) * g[name] for factor, g in zip(factors, gradients, strict=False))
            torch.testing.assert_close(change[name], -p[name] * total, rtol=1e-7, atol=1e-15)


def test_momentum_of_each_optimizer(weights: dict[str, Tensor]) -> None:
    parameters = list(weights.values())
    assert momentum_of(torch.optim.AdamW(parameters, betas=(0.85, 0.9))) == Momentum(0.85, corrected=True)
    assert momentum_of(torch.optim.SGD(parameters, momentum=0.5)) == Momentum(0.5, corrected=False)
    assert momentum_of(torch.optim.Adafactor(parameters)).decay == 0.0
    np.testing.assert_allclose(Momentum(0.5, corrected=True).gains(3), [1.0, 0.5 / 0.75, 0.5 / 0.875])
    uneven = torch.optim.AdamW([{"params": parameters[:1], "betas": (0.5, 0.9)}, {"params": parameters[1:]}])
    with pytest.raises(ValueError, match="groups have different momentum"):
        momentum_of(uneven)
    nesterov = momentum_of(torch.optim.SGD(parameters, momentum=0.9, nesterov=True))
    assert nesterov == Momentum(0.9, corrected=False, nesterov=True)
    damped = momentum_of(torch.optim.SGD(parameters, momentum=0.9, dampening=0.1))
    assert damped == Momentum(0.9, corrected=False, dampening=0.1)
    assert momentum_of(torch.optim.SGD(parameters, dampening=0.1)) == Momentum(0.0, corrected=False)
    first_moment = transformers.Adafactor(parameters, lr=RATE, relative_step=False, beta1=0.9)
    with pytest.raises(ValueError, match="beta1=None"):
        momentum_of(first_moment)


@pytest.mark.parametrize("name", [name for name in MEMORYLESS if name != "sgd"])
def test_there_is_no_p_before_the_first_step(weights: dict[str, Tensor], name: str) -> None:
    optimizer = MEMORYLESS[name](list(weights.values()))
    read = preconditioner_of(optimizer)
    assert read(weights) is None
    next(taken(optimizer, weights))
    assert read(weights) is not None


@pytest.mark.parametrize("name", [name for name in MEMORYLESS if "sgd" not in name])
def test_p_is_zero_where_no_gradient_was_seen(weights: dict[str, Tensor], name: str) -> None:
    """As for lora_A in the first step: lora_B is zero, and so is its gradient."""
    optimizer = MEMORYLESS[name](list(weights.values()))
    draw(weights, torch.Generator().manual_seed(2))
    assert weights["lora_A"].grad is not None
    weights["lora_A"].grad.zero_()
    optimizer.step()
    p = preconditioner_of(optimizer)(weights)
    assert p is not None
    assert p["lora_A"].abs().max() == 0
    assert p["lora_B"].min() > 0


def test_p_of_half_precision_weights_is_in_float32() -> None:
    weight = nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.full_like(weight, 0.5)
    optimizer.step()
    p = preconditioner_of(optimizer)({"w": weight})
    assert p is not None
    assert p["w"].dtype == torch.float32
    assert p["w"][0] == pytest.approx(2.0, rel=0.01)


def test_a_wrapped_optimizer_is_read_through(weights: dict[str, Tensor]) -> None:
    from accelerate import Accelerator

    wrapped = Accelerator(cpu=True).prepare_optimizer(torch.optim.AdamW(weights.values(), betas=(0.7, 0.9)))
    assert momentum_of(wrapped).decay == 0.7
    draw(weights, torch.Generator().manual_seed(2))
    wrapped.step()
    p, plain = preconditioner_of(wrapped)(weights), adamw_preconditioner(wrapped.optimizer, weights)
    assert p is not None
    assert plain is not None
    assert all(torch.equal(p[name], plain[name]) for name in weights)


def test_what_is_not_known_is_refused_by_name(weights: dict[str, Tensor]) -> None:
    parameters = list(weights.values())
    for unknown in (torch.optim.NAdam(parameters), torch.optim.RMSprop(parameters), torch.optim.Adagrad(parameters)):
        for ask in (preconditioner_of, momentum_of):
            with pytest.raises(ValueError, match=f"of {type(unknown).__name__} is not known; supported are .*AdamW"):
                ask(unknown)
    with pytest.raises(ValueError, match="maximize=False"):
        preconditioner_of(torch.optim.AdamW(parameters, maximize=True))
    with pytest.raises(ValueError, match="does not train other"):
        preconditioner_of(torch.optim.AdamW(parameters))({"other": nn.Parameter(torch.ones(1))})
    relative = transformers.Adafactor(parameters)
    draw(weights, torch.Generator().manual_seed(2))
    relative.step()
    with pytest.raises(ValueError, match="relative_step=False"):
        preconditioner_of(relative)(weights)


def test_all_weights_are_read_with_one_look_at_the_device(weights: dict[str, Tensor]) -> None:
    """A fused optimiser counts its steps on the device; reading them one by one would stop it at every weight."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    for name in MEMORYLESS:
        optimizer = MEMORYLESS[name](list(weights.values()))
        draw(weights, torch.Generator().manual_seed(2))
        optimizer.step()
        read = preconditioner_of(optimizer)
        with Reads() as reads:
            read(weights)
        assert reads.count == 0, name  # tolist, the one look, is not among these


# ------------------------------------------------------------ 8-bit Adam


@pytest.fixture
def bitsandbytes() -> Any:
    return pytest.importorskip("bitsandbytes", reason="8-bit Adam is proved where bitsandbytes is installed")


@pytest.mark.parametrize("kind", ["Adam8bit", "AdamW8bit", "PagedAdamW8bit", "AdamW32bit", "AdamW"])
def test_8_bit_adam_within_the_error_of_its_quantiser(bitsandbytes: Any, kind: str) -> None:
    """Its step uses v before rounding and its state holds v after it, so P is off by the rounding of sqrt(v)."""
    torch.manual_seed(0)
    # The small one keeps its state in 32 bits, and the size of the large one is no multiple of a block.
    weights: dict[str, Tensor] = {"large": nn.Parameter(torch.zeros(90, 111)), "small": nn.Parameter(torch.zeros(8, 9))}
    optimizer = getattr(bitsandbytes.optim, kind)(weights.values(), lr=RATE, betas=(0.0, 0.99), weight_decay=0.0)
    assert preconditioner_of(optimizer)(weights) is None
    assert momentum_of(optimizer) == Momentum(0.0, corrected=True)
    for gradient, change, p in taken(optimizer, weights):
        for name in weights:
            quantised = optimizer.state[weights[name]]["state2"].dtype == torch.uint8
            assert quantised == ("8bit" in kind and name == "large")
            predicted = -RATE * p[name] * gradient[name]
            if not quantised:
                torch.testing.assert_close(change[name], predicted, rtol=1e-4, atol=1e-8)
                continue
            assert float((p[name] > 0).double().mean()) > 0.95
            errors = (predicted / change[name] - 1).abs()
            cosine = torch.nn.functional.cosine_similarity(predicted, change[name], dim=0)
    if "8bit" not in kind:
        return
    # After the last step. Small values are coarse: a block's smallest are a thousandth of its largest.
    assert errors.median() < 0.02
    assert errors.quantile(0.95) < 0.1
    assert cosine > 0.998


def test_the_quantised_state_is_read_as_its_own_library_does(bitsandbytes: Any) -> None:
    weight = nn.Parameter(torch.zeros(80, 100))
    optimizer = bitsandbytes.optim.AdamW8bit([weight], lr=RATE, betas=(0.9, 0.99), eps=1e-8)
    draw({"w": weight}, torch.Generator().manual_seed(3))
    optimizer.step()
    state = optimizer.state[weight]
    v = bitsandbytes.functional.dequantize_blockwise(
        state["state2"], absmax=state["absmax2"], code=state["qmap2"], blocksize=256
    ).flatten()
    p = preconditioner_of(optimizer)({"w": weight})
    assert p is not None
    expected = torch.where(v > 0, 1.0 / ((v / (1 - 0.99)).sqrt() + 1e-8), 0.0)
    torch.testing.assert_close(p["w"], expected, rtol=1e-5, atol=0.0)
    assert math.isfinite(float(p["w"].max()))


def test_another_block_size_is_refused(bitsandbytes: Any) -> None:
    weight = nn.Parameter(torch.zeros(80, 100))
    optimizer = bitsandbytes.optim.AdamW8bit([weight], lr=RATE)
    draw({"w": weight}, torch.Generator().manual_seed(3))
    optimizer.step()
    optimizer.state[weight]["absmax2"] = optimizer.state[weight]["absmax2"][:4]
    with pytest.raises(ValueError, match="not quantised in blocks of 256"):
        preconditioner_of(optimizer)({"w": weight})
