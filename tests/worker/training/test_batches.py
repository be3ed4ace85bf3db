"""Batches cover every row, layouts waste little and change nothing, losses are those of the answers alone."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from service.contract.spec import TrainingConfig
from worker.training.batches import PASS_TOKENS, batches, collate, forward, micro_batches
from worker.training.representation import inner_representation, turns_of
from worker.training.tokenization import IGNORED, TokenizedSample

CPU = torch.device("cpu")


def test_order_is_a_permutation_an_epoch_drawn_from_the_seed() -> None:
    config = TrainingConfig(epochs=2, batch_size=4, seed=3)
    made = list(batches(range(10, 20), config))
    assert [len(batch) for batch in made] == [4, 4, 2, 4, 4, 2]
    first, second = ([row for batch in epoch for row in batch] for epoch in (made[:3], made[3:]))
    assert sorted(first) == sorted(second) == list(range(10, 20))
    assert first != second
    assert made == list(batches(range(10, 20), config))
    assert made != list(batches(range(10, 20), config.model_copy(update={"seed": 4})))


def cost(lengths: list[int], parts: list[list[int]], device: str) -> int:
    return sum(len(part) * max(lengths[i] for i in part) + PASS_TOKENS[device] for part in parts)


@given(
    st.lists(st.integers(1, 2000), min_size=1, max_size=7),
    st.one_of(st.none(), st.integers(1, 7)),
    st.sampled_from(["cpu", "cuda"]),
    st.one_of(st.none(), st.integers(1, 4000)),
)
def test_micro_batches_hold_every_sample_once_and_no_layout_by_length_is_cheaper(
    lengths: list[int], limit: int | None, device: str, tokens: int | None
) -> None:
    def allowed(part: list[int]) -> bool:
        fits = tokens is None or len(part) == 1 or len(part) * max(lengths[i] for i in part) <= tokens
        return fits and len(part) <= (limit or len(lengths))

    parts = micro_batches(lengths, limit, torch.device(device), tokens=tokens)
    assert sorted(itertools.chain(*parts)) == list(range(len(lengths)))
    assert all(allowed(part) for part in parts)
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        layout = [[order[0]]]
        for position, cut in zip(order[1:], cuts, strict=True):
            layout.append([position]) if cut else layout[-1].append(position)
        if all(allowed(part) for part in layout):
            assert cost(lengths, parts, device) <= cost(lengths, layout, device)


@pytest.fixture
def samples() -> list[TokenizedSample]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for length, prompt in ((12, 4), (30, 29), (7, 1)):
        ids = torch.randint(3, 250, (length,), generator=generator).tolist()
        made.append(TokenizedSample(tuple(ids), tuple([IGNORED] * prompt + ids[prompt:])))
    return made


def test_losses_are_means_over_answer_tokens_alone(tiny_folder: Any, samples: list[TokenizedSample]) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_folder).double().eval()
    with torch.no_grad():
        found = forward(model, collate(samples, pad=0, device=CPU)).losses
        for number, sample in enumerate(samples):
            logits = model(torch.tensor([sample.ids])).logits[0].double().log_softmax(-1)
            terms = [-logits[t - 1, label] for t, label in enumerate(sample.labels) if t and label != IGNORED]
            assert float(found[number]) == pytest.approx(float(torch.stack(terms).mean()), rel=1e-5)
        alone = forward(model, collate(samples[1:2], pad=0, device=CPU)).losses
    assert float(alone[0]) == pytest.approx(float(found[1]), rel=1e-5)


def test_hidden_states_are_the_last_layers_and_the_hook_is_gone(
    tiny_folder: Any, samples: list[TokenizedSample]
) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_folder).eval()
    batch = collate(samples, pad=0, device=CPU)
    with torch.no_grad():
        outputs = forward(model, batch)
        whole = model(batch.ids, attention_mask=batch.attention, output_hidden_states=True)
    assert whole.logits.shape == (3, 30, model.config.vocab_size)
    torch.testing.assert_close(outputs.hidden, whole.hidden_states[-1])
    assert outputs.answered.sum(1).tolist() == [8, 1, 6]
    assert not outputs.hidden.requires_grad
    assert outputs.inner is None


def test_inner_representations_come_where_they_are_asked_for(tiny_folder: Any, samples: list[TokenizedSample]) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_folder).eval()
    batch = collate(samples, pad=0, device=CPU)
    with torch.no_grad():
        outputs = forward(model, batch, turn=turns_of(batch.answered))
        states = model(batch.ids, attention_mask=batch.attention, output_hidden_states=True).hidden_states
    assert outputs.inner is not None
    torch.testing.assert_close(outputs.inner, inner_representation(states, turns_of(outputs.answered)))


def test_a_sample_without_answer_has_no_loss(tiny_folder: Any, samples: list[TokenizedSample]) -> None:
    model = LlamaForCausalLM.from_pretrained(tiny_folder).eval()
    silent = TokenizedSample(samples[0].ids, (IGNORED,) * 12)
    with torch.no_grad():
        losses = forward(model, collate([samples[0], silent], pad=0, device=CPU)).losses
    assert float(losses[1]) == 0.0
    assert float(losses[0]) > 0.0
