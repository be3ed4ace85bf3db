"""Which tokens have loss, what truncation leaves, and that a loss does not depend on its batch."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.training.errors import TrainingError
from worker.training.tokenization import IGNORED, TokenizedSample, encode

CPU = torch.device("cpu")
CHATML = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Uno."},
    {"role": "user", "content": "Two?"},
    {"role": "assistant", "content": "Dos."},
]


def answered(sample: TokenizedSample, tokenizer: Any) -> str:
    return tokenizer.decode([label for label in sample.labels if label != IGNORED])


def test_every_answer_has_loss_with_its_end_mark_and_nothing_else_does(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    sample = encode(CONVERSATION, tokenizer, max_length=500)
    assert tokenizer.decode(list(sample.ids)) == (
        "<system>Be brief.</><user>One?</><assistant>Uno.</><user>Two?</><assistant>Dos.</>"
    )
    assert answered(sample, tokenizer) == "Uno.</>Dos.</>"
    assert not sample.truncated


def test_a_base_model_without_template_gets_a_plain_form(tokenizer: Any) -> None:
    sample = encode(CONVERSATION[1:3], tokenizer, max_length=500)
    assert tokenizer.decode(list(sample.ids)) == "<|bos|>User: One?\n\nAssistant: Uno.<|eos|>"
    assert answered(sample, tokenizer) == "Uno.<|eos|>"


@settings(max_examples=50, deadline=None)
@given(prompt=st.text(min_size=1, max_size=40), answer=st.text(min_size=1, max_size=40))
def test_labels_find_any_answer(tokenizer_text: Any, prompt: str, answer: str) -> None:
    sample = encode(
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], tokenizer_text, max_length=2000
    )
    assert answered(sample, tokenizer_text) == f"{answer}</>"


@pytest.fixture(scope="module")
def tokenizer_text(tiny_folder: Any) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = CHATML
    return tokenizer


def test_long_conversations_lose_their_end(tokenizer: Any) -> None:
    tokenizer.chat_template = CHATML
    whole = encode(CONVERSATION, tokenizer, max_length=500)
    cut = encode(CONVERSATION, tokenizer, max_length=50)
    assert cut.truncated
    assert cut.ids == whole.ids[:50]
    assert cut.has_answer
    nothing = encode(CONVERSATION, tokenizer, max_length=20)
    assert nothing.truncated
    assert not nothing.has_answer


def test_a_template_that_rewrites_history_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(TrainingError, match="continuation"):
        encode(CONVERSATION[1:3], tokenizer, max_length=500)
