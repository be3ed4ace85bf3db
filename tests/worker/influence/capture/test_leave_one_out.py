"""mu against retraining: the same model, seed and order, one sample's slots dropped, AdamW with momentum."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from worker.influence.capture.per_sample_gradients import lora_layers
from worker.influence.capture.preconditioner import adamw_preconditioner
from worker.influence.capture.probe_gradients import probe_gradients
from worker.influence.capture.recorder import Recorder, is_aligned
from worker.influence.directions import ProbeShape, plan
from worker.influence.momentum import Momentum
from worker.influence.observations import Observations, Steps
from worker.influence.statistics.mu import estimate_mu
from worker.training.batches import collate, forward
from worker.training.tokenization import IGNORED, TokenizedSample

ADAM = Momentum(0.9, corrected=True)

CPU = torch.device("cpu")
SAMPLES, BATCH, EPOCHS, REFRESH, RATE, CLIP = 24, 4, 2, 3, 2e-4, 0.7
WARM_UP = 30
"""Steps on other samples, not recorded, after which no single sample decides AdamW's second moment."""


def random_samples(count: int, seed: int, *, shared: Sequence[int] = ()) -> list[TokenizedSample]:
    """Random token samples; those numbered in `shared` answer with tokens of the probe's own range."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        length = int(torch.randint(6, 20, (1,), generator=generator))
        low, high = (3, 20) if number in shared else (20, 250)
        ids = torch.randint(low, high, (length,), generator=generator).tolist()
        prompt = max(1, length // 3)
        made.append(TokenizedSample(tuple(ids), tuple([IGNORED] * prompt + ids[prompt:])))
    return made


def losses(model: Any, samples: Sequence[TokenizedSample]) -> torch.Tensor:
    return forward(model, collate(samples, pad=0, device=CPU)).losses


class Trainer:
    """A warmed-up model that every arm starts from, with its optimiser."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.weights = {name: layer.weight for name, layer in lora_layers(model).items()}
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=RATE, betas=(0.9, 0.999), weight_decay=0.0)
        self.data = random_samples(SAMPLES, 1, shared=range(6))
        self.probe = random_samples(4, 2, shared=range(4))
        warm = random_samples(BATCH * WARM_UP, 3)
        for start in range(0, len(warm), BATCH):
            (losses(model, warm[start : start + BATCH]).sum() / BATCH).backward()
            self._step()
        self._start = copy.deepcopy((model.state_dict(), self.optimizer.state_dict()))

    def _step(self) -> float:
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights.values(), CLIP))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return min(1.0, CLIP / (norm + 1e-6))

    def probe_loss(self) -> float:
        with torch.no_grad():
            return float(losses(self.model, self.probe).mean())

    def run(self, *, dropped: int | None = None, recorder: Recorder | None = None) -> float:
        """Q after the run. A dropped sample's gradient is zero in its slots; the divisor stays."""
        self.model.load_state_dict(self._start[0])
        self.optimizer.load_state_dict(copy.deepcopy(self._start[1]))
        order = np.concatenate([np.random.default_rng(epoch).permutation(SAMPLES) for epoch in range(EPOCHS)])
        for step, rows in enumerate(order.reshape(-1, BATCH)):
            batch = [self.data[row] for row in rows]
            if recorder is None:
                keep = torch.tensor([row != dropped for row in rows])
                ((losses(self.model, batch) * keep).sum() / BATCH).backward()
                self._step()
                continue
            preconditioner = adamw_preconditioner(self.optimizer, self.weights)
            assert preconditioner is not None
            if step % REFRESH == 0:
                items = [(list(range(4)), partial(losses, self.model, self.probe))]
                found = probe_gradients(self.model, recorder.gradients, self.weights, items, items_of=is_aligned)
                recorder.set_directions([[found]], preconditioner)
            with recorder.batch(rows.tolist(), preconditioner, batch_size=BATCH):
                (losses(self.model, batch).sum() / BATCH).backward()
            recorder.end_step(learning_rate=RATE, clip=self._step())
        return self.probe_loss()


def after_warm_up(observations: Observations, steps: Steps) -> tuple[Observations, Steps]:
    """Steps counted as the optimiser counts them, for its bias correction."""
    ahead = np.ones(WARM_UP)
    return (
        Observations(observations.row, observations.step + WARM_UP, observations.effect, observations.alignment),
        Steps(
            np.append(ahead * RATE, steps.learning_rate),
            np.append(ahead, steps.clip),
            np.append((ahead * BATCH).astype(np.int64), steps.batch_size),
            np.append((ahead * 0).astype(np.int64), steps.block),
        ),
    )


def test_mu_orders_samples_as_retraining_without_them_does(lora_model: Any) -> None:
    trainer = Trainer(lora_model())
    recorder = Recorder(
        lora_layers(trainer.model), plan([ProbeShape(np.zeros(4, np.int64), has_reference=False)], seed=0)
    )
    plain = trainer.run()
    recorded = trainer.run(recorder=recorder)
    assert recorded == plain  # watching changes nothing
    observations, steps = after_warm_up(*recorder.result())
    recorder.remove()
    rise = np.array([trainer.run(dropped=row) - plain for row in range(SAMPLES)])

    mu = estimate_mu(observations, steps, rows=SAMPLES, momentum=ADAM).mu
    weight = ADAM.step_weights(steps.learning_rate) * steps.clip / steps.batch_size
    # A dropped slot takes away the whole of s, and not what it has above the mean; mu is centred.
    whole = np.bincount(observations.row, weight[observations.step] * observations.effect[:, 0])
    figures = {
        "mu": spearmanr(mu, rise).statistic,
        "uncentred": spearmanr(whole, rise).statistic,
        "slope": float(whole @ rise / (whole @ whole)),
    }
    print({name: round(float(value), 3) for name, value in figures.items()})
    assert steps.clip[WARM_UP:].min() < 0.5  # clipping takes part
    assert figures["mu"] >= 0.85
    assert figures["uncentred"] >= 0.85
    assert figures["slope"] == pytest.approx(1, abs=0.2)
