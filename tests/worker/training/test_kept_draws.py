"""What a run keeps of its draws in files and joined tensors is, bit for bit, what each pass found."""

from typing import Any

import numpy as np
import pytest
import torch

from service.contract.spec import ModelSpec, TrainingConfig
from worker.influence.capture import appended_rows
from worker.influence.capture.per_sample_gradients import lora_layers
from worker.influence.capture.recorder import SIGNALS, Recorder, _Contraction
from worker.influence.directions import ProbeShape, plan
from worker.training.batches import Outputs
from worker.training.encoded_samples import EncodedSamples
from worker.training.loop import train
from worker.training.lora import with_lora
from worker.training.measurement import EncodedProbe, Measurement
from worker.training.models import load_model
from worker.training.tokenization import IGNORED, TokenizedSample

CONFIG = TrainingConfig(learning_rate=1e-3, epochs=3, batch_size=5, micro_batch_size=2, dtype="float32")


def samples() -> list[TokenizedSample]:
    generator = torch.Generator().manual_seed(11)
    made = []
    for number in range(23):
        ids = torch.randint(3, 250, (6 + number % 7,), generator=generator).tolist()
        made.append(TokenizedSample(tuple(ids), tuple([IGNORED] * 2 + ids[2:])))
    return made


@pytest.mark.parametrize("flat", [False, True], ids=["a list", "flat arrays"])
def test_nothing_is_lost_or_changed(tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, *, flat: bool) -> None:
    monkeypatch.setattr(appended_rows, "PARTS", 7)
    losses: list[torch.Tensor] = []
    inner: list[torch.Tensor] = []
    signals: list[Any] = []
    note, contracted = Measurement.outputs, _Contraction.signals

    def outputs(self: Measurement, found: Outputs, *rest: Any) -> None:
        note(self, found, *rest)
        assert found.inner is not None
        losses.append(found.losses.detach().clone())
        inner.append(found.inner.half().clone())

    def contracted_signals(self: _Contraction) -> Any:
        signals.append(contracted(self))
        return signals[-1]

    monkeypatch.setattr(Measurement, "outputs", outputs)
    monkeypatch.setattr(_Contraction, "signals", contracted_signals)
    base, _ = load_model(tiny_spec, CONFIG, torch.device("cpu"), cache=None)  # type: ignore[arg-type]
    model = with_lora(base, CONFIG)
    recorder = Recorder(lora_layers(model), plan([ProbeShape(np.arange(6) % 3, has_reference=True)], seed=0))
    probe = EncodedProbe(samples()[:6], samples()[6:12])
    given = EncodedSamples(samples()) if flat else samples()
    outcome = train(model, given, CONFIG, pad=0, probes=[probe], recorder=recorder)

    observations, steps = recorder.result()
    product, norm = recorder.products()
    kept = dict(zip(SIGNALS, (observations.effect, product, observations.alignment, norm), strict=True))
    recorded = len(torch.cat(losses))
    assert len(observations) == recorded >= 3 * 23
    missing = 2 * CONFIG.batch_size  # Draws of the warm-up have no signal.
    for name, values in kept.items():
        expected = torch.cat([getattr(own, name) for own in signals]).numpy()
        assert len(expected) == recorded - missing > 7 * 2
        assert values[missing:].astype(np.float32).tobytes() == expected.tobytes(), name
        assert np.isnan(values[:missing]).all()
    assert torch.equal(outcome.by_products.loss.whole(), torch.cat(losses))  # type: ignore[arg-type]
    assert torch.equal(outcome.by_products.inner.whole(), torch.cat(inner))  # type: ignore[arg-type]
    taken, taken_steps, *others = recorder.take_result()
    before = [*vars(observations).values(), *vars(steps).values(), product, norm]
    after = [*vars(taken).values(), *vars(taken_steps).values(), *others]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        recorder.products()
    assert recorder.unit_direction(0), "directions stay"
