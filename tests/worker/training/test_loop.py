"""The instrumented run is the plain run; layouts do not matter; every sample is seen."""

from typing import Any

import numpy as np
import pytest
import torch

from service.contract.failure import ErrorCode
from service.contract.protocol import MetricEvent
from service.contract.spec import ModelSpec, TrainingConfig
from worker.influence.capture.per_sample_gradients import lora_layers
from worker.influence.capture.recorder import Recorder
from worker.influence.directions import ProbeShape, plan
from worker.training.batches import collate
from worker.training.errors import TrainingError
from worker.training.loop import learning_rate_of, train
from worker.training.lora import with_lora
from worker.training.measurement import EncodedProbe
from worker.training.models import load_model
from worker.training.refresh_schedule import warm_up_of
from worker.training.representation import inner_representation
from worker.training.tokenization import IGNORED, TokenizedSample

CPU = torch.device("cpu")


@pytest.fixture
def samples() -> list[TokenizedSample]:
    generator = torch.Generator().manual_seed(11)
    made = []
    for number in range(37):
        ids = torch.randint(3, 250, (6 + number % 11,), generator=generator).tolist()
        made.append(TokenizedSample(tuple(ids), tuple([IGNORED] * 2 + ids[2:])))
    return made


def run(
    spec: ModelSpec, samples: list[TokenizedSample], config: TrainingConfig, *, instrumented: bool, **options: Any
) -> tuple[dict[str, torch.Tensor], Recorder | None, Any]:
    base, _ = load_model(spec, config, CPU, cache=None)  # type: ignore[arg-type]  # a local model needs no cache
    model = with_lora(base, config)
    directions = plan([ProbeShape(np.arange(9) % 3, has_reference=True)], seed=0)
    recorder = Recorder(lora_layers(model), directions) if instrumented else None
    probes = [EncodedProbe(samples[:9], samples[3:12])] if instrumented else []
    outcome = train(model, samples, config, pad=0, probes=probes, recorder=recorder, **options)
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}, recorder, outcome


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_instrumented_weights_are_bit_equal_to_the_plain_ones(
    tiny_spec: ModelSpec, samples: list[TokenizedSample], dropout: float, dtype: Any
) -> None:
    config = TrainingConfig(learning_rate=1e-2, lora_dropout=dropout, dtype=dtype, epochs=3, micro_batch_size=3)
    plain, _, plain_run = run(tiny_spec, samples, config, instrumented=False)
    watched, recorder, watched_run = run(tiny_spec, samples, config, instrumented=True)
    assert any(name.endswith("lora_B.default.weight") and p.abs().max() > 0 for name, p in plain.items())
    for name, weight in plain.items():
        assert torch.equal(weight, watched[name]), name
    assert plain_run.losses == watched_run.losses
    assert recorder is not None
    assert len(recorder.result()[0]) == 3 * 37


def test_signals_do_not_depend_on_the_micro_batch(tiny_spec: ModelSpec, samples: list[TokenizedSample]) -> None:
    results = []
    for micro in (None, 3):
        config = TrainingConfig(learning_rate=1e-3, micro_batch_size=micro, dtype="float32")
        _, recorder, _ = run(tiny_spec, samples, config, instrumented=True)
        assert recorder is not None
        results.append(recorder.result()[0])
    assert results[0].row.tolist() == results[1].row.tolist()
    seen = np.isfinite(results[0].effect)
    scale = np.abs(results[0].effect[seen]).mean()
    np.testing.assert_allclose(results[1].effect[seen], results[0].effect[seen], rtol=0.02, atol=0.02 * scale)
    drawn = seen[:, 0]
    np.testing.assert_allclose(results[1].alignment[drawn], results[0].alignment[drawn], atol=2e-3)


def test_every_sample_with_an_answer_is_observed_even_in_one_epoch(
    tiny_spec: ModelSpec, samples: list[TokenizedSample]
) -> None:
    silent = TokenizedSample(samples[0].ids, tuple([IGNORED] * len(samples[0].ids)))
    config = TrainingConfig(learning_rate=1e-3, epochs=1, batch_size=4)
    weights, recorder, outcome = run(tiny_spec, [*samples, silent], config, instrumented=True)
    plain, _, _ = run(tiny_spec, [*samples, silent], config, instrumented=False)
    assert recorder is not None
    observations, steps = recorder.result()
    seen = observations.row[np.isfinite(observations.alignment[:, 0])]
    assert sorted(seen) == list(range(37))  # each once; the one without an answer never
    assert outcome.steps == 10
    assert warm_up_of(10) == 2
    late = steps.learning_rate == 0
    assert late.sum() == 2  # the eight draws of the warm-up, scored again
    assert all(torch.equal(weights[name], plain[name]) for name in weights)


def test_learning_rate_warms_up_and_falls_to_zero(tiny_spec: ModelSpec, samples: list[TokenizedSample]) -> None:
    metrics: list[MetricEvent] = []
    config = TrainingConfig(learning_rate=0.01, warmup_ratio=0.2, epochs=2)
    run(tiny_spec, samples, config, instrumented=True, on_step=lambda metric, total: metrics.append(metric))
    rates = [metric.learning_rate for metric in metrics]
    assert rates[:2] == pytest.approx([0.005, 0.01])
    assert rates[2:] == pytest.approx([0.01 * left / 8 for left in range(8, 0, -1)])
    assert [metric.step for metric in metrics] == list(range(1, 11))
    assert metrics[0].probe_loss is not None
    assert metrics[1].probe_loss is None


def test_default_learning_rate_follows_the_width() -> None:
    assert learning_rate_of(TrainingConfig(), 576) == pytest.approx(1e-3)
    assert learning_rate_of(TrainingConfig(), 4096) == pytest.approx(2e-4, rel=0.05)
    assert learning_rate_of(TrainingConfig(learning_rate=0.3), 576) == 0.3


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_rows(
    tiny_spec: ModelSpec, samples: list[TokenizedSample]
) -> None:
    base, _ = load_model(tiny_spec, TrainingConfig(dtype="float32"), CPU, cache=None)  # type: ignore[arg-type]
    model = with_lora(base, TrainingConfig())
    with torch.no_grad():  # the token that only row 20 holds has an embedding that is not a number
        model.get_base_model().model.embed_tokens.weight[255] = torch.nan
    poisoned = list(samples)
    ids, labels = ((*own[:3], 255, *own[4:]) for own in (samples[20].ids, samples[20].labels))
    poisoned[20] = TokenizedSample(ids, labels)
    config = TrainingConfig(epochs=1, batch_size=37)
    with pytest.raises(TrainingError, match=r"step 1, in rows 20\.$") as caught:
        train(model, poisoned, config, pad=0)
    assert caught.value.failure.code is ErrorCode.LOSS_NOT_FINITE
    assert "the model's weights" in caught.value.failure.hint, "it was the first step"


def test_nothing_to_train_on(tiny_spec: ModelSpec, samples: list[TokenizedSample]) -> None:
    silent = [TokenizedSample(s.ids, tuple([IGNORED] * len(s.ids))) for s in samples]
    with pytest.raises(TrainingError, match="No sample has a turn to learn from"):
        run(tiny_spec, silent, TrainingConfig(), instrumented=False)


@pytest.mark.parametrize("micro", [None, 3])
def test_representations_are_those_of_each_sample_and_item_alone(
    tiny_spec: ModelSpec, samples: list[TokenizedSample], micro: int | None
) -> None:
    """At a learning rate that moves nothing, so that one model is behind all of them."""
    config = TrainingConfig(learning_rate=1e-12, micro_batch_size=micro, dtype="float32")
    _, recorder, outcome = run(tiny_spec, samples, config, instrumented=True)
    assert recorder is not None
    base, _ = load_model(tiny_spec, config, CPU, cache=None)  # type: ignore[arg-type]
    alone = []
    for sample in samples:
        batch = collate([sample], pad=0, device=CPU)
        with torch.no_grad():
            hidden = base(input_ids=batch.ids, output_hidden_states=True).hidden_states
        answered = torch.zeros_like(batch.ids, dtype=torch.bool)
        answered[:, :-1] = batch.labels[:, 1:] != IGNORED
        alone.append(inner_representation(hidden, answered.long())[0])
    expected = torch.stack(alone)
    found = outcome.by_products
    assert found.turns.whole().tolist() == [1] * len(recorder.result()[0].row)
    torch.testing.assert_close(found.inner.whole().float(), expected[recorder.result()[0].row], atol=2e-3, rtol=0)
    assert len(found.inner_items) == outcome.measurements
    for (items,) in found.inner_items:
        torch.testing.assert_close(items.float(), expected[[*range(9), *range(3, 12)]], atol=2e-3, rtol=0)
