"""The Trainer callback against per-sample autograd at every step's own weights, and against a run without it."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from worker.influence.capture.per_sample_gradients import lora_layers
from worker.influence.momentum import Momentum
from worker.training.callback import InfluenceCallback
from worker.training.measurement import EncodedProbe
from worker.training.tokenization import IGNORED, TokenizedSample

ROWS = 26


@pytest.fixture
def samples() -> list[TokenizedSample]:
    """Of very different lengths, so that a mean over tokens is far from a mean over samples; one has no label."""
    generator = torch.Generator().manual_seed(11)
    made = []
    for number in range(ROWS):
        ids = torch.randint(3, 250, (5 + 7 * (number % 4),), generator=generator).tolist()
        prompt = len(ids) if number == 6 else 3
        made.append(TokenizedSample(tuple(ids), tuple([IGNORED] * prompt + ids[prompt:])))
    return made


def lora(folder: Path, **options: Any) -> Any:
    torch.manual_seed(3)
    base = LlamaForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], **options))


def collate(features: list[dict[str, Any]]) -> dict[str, Tensor]:
    longest = max(len(f["input_ids"]) for f in features)
    filled = {
        key: torch.tensor([f[key] + [fill] * (longest - len(f[key])) for f in features])
        for key, fill in (("input_ids", 0), ("labels", IGNORED), ("attention_mask", 0))
    }
    return {**filled, "row": torch.tensor([f["row"] for f in features])}


def trainer(
    model: Any,
    samples: list[TokenizedSample],
    folder: Path,
    *callbacks: TrainerCallback,
    column: str = "row",
    **options: Any,
) -> Trainer:
    dataset = [
        {"input_ids": list(s.ids), "labels": list(s.labels), "attention_mask": [1] * len(s.ids), column: number}
        for number, s in enumerate(samples)
    ]
    defaults: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "seed": 5,
        "num_train_epochs": 2, "learning_rate": 5e-3, "max_grad_norm": 0.6, "remove_unused_columns": False,
        "report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "weight_decay": 0.01,
    }  # fmt: skip
    arguments = TrainingArguments(**{**defaults, **options})
    return Trainer(
        model, arguments, data_collator=collate, train_dataset=dataset, eval_dataset=dataset, callbacks=list(callbacks)
    )


class Snapshots(TrainerCallback):  # type: ignore[misc]
    """What the truth is computed from: weights and optimiser state before each step, gradients around clipping."""

    def __init__(self) -> None:
        self.models: list[Any] = []
        self.second_moments: list[dict[str, Tensor] | None] = []
        self.norms: list[float] = []
        self.rates: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **_: Any) -> None:
        self.models.append(copy.deepcopy(model.state_dict()))
        moments = {}
        for name, layer in lora_layers(model).items():
            if own := optimizer.state.get(layer.weight):
                v_hat = own["exp_avg_sq"] / (1 - 0.999 ** float(own["step"]))
                moments[name] = torch.where(v_hat > 0, 1 / (v_hat.sqrt() + 1e-8), 0.0).double().flatten()
        self.second_moments.append(moments or None)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "grad_norm" in (logs or {}):
            self.norms.append(float(logs["grad_norm"]))
            self.rates.append(float(logs["learning_rate"]))


def autograd(model: Any, samples: list[TokenizedSample]) -> dict[str, Tensor]:
    """Gradient of the mean of the samples' own mean token losses, each sample alone and unpadded, float64."""
    layers = lora_layers(model)
    total = {name: torch.zeros(layer.weight.numel(), dtype=torch.float64) for name, layer in layers.items()}
    for sample in samples:
        if not sample.has_loss:
            continue
        loss = model(input_ids=torch.tensor([sample.ids]), labels=torch.tensor([sample.labels])).loss
        found = torch.autograd.grad(loss, [layer.weight for layer in layers.values()])
        for name, gradient in zip(layers, found, strict=True):
            total[name] += gradient.double().flatten() / len(samples)
    return total


def cosine(a: dict[str, Tensor], b: dict[str, Tensor], metric: dict[str, Tensor]) -> float:
    names = [name for name in metric if ".lora_B." in name]
    # Without held-out items a layer counts by 1 / size.
    first, second = (torch.cat([v[name] * metric[name] / len(metric[name]) ** 0.5 for name in names]) for v in (a, b))
    return float(torch.nn.functional.cosine_similarity(first, second, dim=0)) if second.any() else 0.0


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True}], ids=["plain", "checkpointing"])
def test_signals_are_those_of_each_sample_alone(
    tiny_folder: Path, samples: list[TokenizedSample], tmp_path: Path, options: dict[str, Any]
) -> None:
    probe = [EncodedProbe(samples[1:5], samples[8:12])]
    watch, snapshots = InfluenceCallback(probe), Snapshots()
    model = lora(tiny_folder)
    trainer(model, samples, tmp_path, watch, snapshots, logging_steps=1, **options).train()
    observations, steps = watch.recorder.result()

    assert sorted(observations.row) == sorted([*range(ROWS)] * 2)
    assert len(steps) == len(snapshots.models) == 10  # 26 rows in fives of six, the last micro-batch of two
    assert steps.batch_size.tolist() == [6, 6, 6, 6, 2] * 2
    np.testing.assert_allclose(steps.learning_rate, snapshots.rates, rtol=1e-6)
    clip = np.minimum(1.0, 0.6 / (np.array(snapshots.norms) + 1e-6))
    assert (clip < 0.9).sum() > 2
    np.testing.assert_allclose(steps.clip, clip, rtol=1e-5)
    assert watch.momentum == Momentum(0.9, corrected=True)

    truth_model = lora(tiny_folder).double().eval()
    block, target, metric = -1, {}, {}
    compared = 0
    for step in range(len(steps)):
        own = np.flatnonzero(observations.step == step)
        if np.isnan(observations.effect[own]).any():
            assert step < 2
            assert np.isnan(observations.effect[own]).all()
            continue
        truth_model.load_state_dict(snapshots.models[step])
        p = snapshots.second_moments[step]
        assert p is not None
        if steps.block[step] != block:
            block, metric = steps.block[step], p
            target = {0: autograd(truth_model, probe[0].unwanted), 1: autograd(truth_model, probe[0].reference)}
        for draw in own:
            gradient = autograd(truth_model, [samples[observations.row[draw]]])
            for k in (0, 1):
                effect = sum(float((target[k][n] * p[n] * g).sum()) for n, g in gradient.items())
                size = sum(float((target[k][n] * p[n] * g).abs().sum()) for n, g in gradient.items())
                assert observations.effect[draw, k] == pytest.approx(effect, rel=2e-4, abs=1e-5 * size)
                assert observations.alignment[draw, k] == pytest.approx(cosine(target[k], gradient, metric), abs=1e-4)
                compared += 1
    assert compared >= 80
    assert (observations.effect[observations.row == 6][-1] == 0).all()  # the row without a label


@pytest.mark.parametrize(
    "options",
    [{}, {"bf16": True}, {"gradient_checkpointing": True}, {"optim": "adafactor", "max_grad_norm": 0.0}],
    ids=["plain", "bf16", "checkpointing", "adafactor"],
)
def test_weights_are_bit_equal_to_those_of_a_run_without_it(
    tiny_folder: Path, samples: list[TokenizedSample], tmp_path: Path, options: dict[str, Any]
) -> None:
    results = []
    for callbacks in ([], [InfluenceCallback([EncodedProbe(samples[1:5])])]):
        model = lora(tiny_folder, lora_dropout=0.2)
        outcome = trainer(model, samples, tmp_path, *callbacks, num_train_epochs=1, **options).train()
        # Evaluation afterwards finds the model as it was: no hook is left to take the rows away.
        assert not model._forward_pre_hooks
        results.append(({n: p.detach().clone() for n, p in model.named_parameters()}, outcome.training_loss))
    (plain, plain_loss), (watched, watched_loss) = results
    assert plain_loss == watched_loss
    assert any("lora_B" in name and p.abs().max() > 1e-4 for name, p in plain.items())
    for name, weight in plain.items():
        assert torch.equal(weight, watched[name]), name


def test_evaluation_during_training_is_neither_recorded_nor_shown_the_rows(
    tiny_folder: Path, samples: list[TokenizedSample], tmp_path: Path
) -> None:
    watch, shown = InfluenceCallback([EncodedProbe(samples[1:5])]), []
    model = lora(tiny_folder)
    model.get_base_model().register_forward_pre_hook(lambda m, a, kw: shown.append((m.training, *kw)), with_kwargs=True)
    trainer(model, samples, tmp_path, watch, eval_strategy="steps", eval_steps=2, num_train_epochs=1).train()
    assert sorted(watch.recorder.result()[0].row) == list(range(ROWS))
    assert {training for training, *_ in shown} == {True, False}
    assert not any("row" in names for names in shown)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"label_smoothing_factor": 0.1}, "label smoothing"),
        ({"optim": "rmsprop"}, "RMSprop is not known"),
        ({"column": "number"}, "a batch has no 'row'"),
    ],
)
def test_what_it_cannot_undo_is_refused(
    tiny_folder: Path, samples: list[TokenizedSample], tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    watch = InfluenceCallback([EncodedProbe(samples[1:5])])
    run = trainer(lora(tiny_folder), samples, tmp_path, watch, **options)
    if "column" in options:
        run.data_collator = collate_without_rows
    with pytest.raises(ValueError, match=named):
        run.train()


def collate_without_rows(features: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = collate([{**f, "row": 0} for f in features])
    del batch["row"]
    return batch


def test_a_loss_of_ones_own_is_refused(tiny_folder: Path, samples: list[TokenizedSample], tmp_path: Path) -> None:
    watch = InfluenceCallback([EncodedProbe(samples[1:5])])
    run = trainer(lora(tiny_folder), samples, tmp_path, watch)
    run.compute_loss_func = lambda outputs, labels, num_items_in_batch: outputs.logits.mean()
    with pytest.raises(ValueError, match="not the model's own mean over the step's tokens"):
        run.train()


def test_dora_is_refused_before_the_first_step(
    tiny_folder: Path, samples: list[TokenizedSample], tmp_path: Path
) -> None:
    run = trainer(lora(tiny_folder, use_dora=True), samples, tmp_path, InfluenceCallback([EncodedProbe(samples[1:5])]))
    with pytest.raises(ValueError, match="magnitude"):
        run.train()
