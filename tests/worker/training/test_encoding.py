"""A dataset's rows as tokens: which are left out, which are noted, and when there is nothing left to audit."""

from typing import Any

import pytest

from service.contract.failure import ErrorCode
from tests.support.chat_templates import GEMMA
from worker.training.encoding import LEFT_OUT, EncodingFacts, NotedRows, encode_rows
from worker.training.errors import TrainingError

FINE = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Uno."}]
REFUSED = [{"role": "system", "content": "Be brief."}, *FINE]


def test_rows_that_cannot_be_encoded_are_left_out_and_noted(tokenizer: Any) -> None:
    tokenizer.chat_template = GEMMA
    done: list[int] = []
    samples, facts = encode_rows([FINE, REFUSED, FINE, REFUSED], tokenizer, max_length=500, on_row=done.append)
    assert samples[1] == samples[3] == LEFT_OUT
    assert [sample.has_loss for sample in samples] == [True, False, True, False]
    assert facts == EncodingFacts(
        left_out=NotedRows(count=2, first=(1, 3)),
        reason="the model's chat template refuses the conversation (System turns are not supported.)",
    )
    assert done == [1, 2, 3, 4]


def test_an_audit_of_less_than_half_of_the_rows_fails(tokenizer: Any) -> None:
    tokenizer.chat_template = GEMMA
    with pytest.raises(TrainingError) as failed:
        encode_rows([FINE, REFUSED, REFUSED], tokenizer, max_length=500)
    failure = failed.value.failure
    assert failure.code is ErrorCode.BAD_CONFIG
    assert "2 of 3 rows" in failure.message
    assert "row 1: the model's chat template refuses the conversation (System turns" in failure.message
    assert "base model without a chat template" in failure.hint


def test_cut_answers_and_control_tokens_are_noted(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}</>{% endfor %}"
    length = len(encode_rows([FINE], tokenizer, max_length=500)[0][0].ids)
    longer = [FINE[0], {"role": "assistant", "content": "Uno. Due."}]
    forged = [{"role": "user", "content": "<|eos|>"}, FINE[1]]
    _, facts = encode_rows([FINE, longer, longer, forged], tokenizer, max_length=length)
    assert facts.answers_cut == NotedRows(count=2, first=(1, 2)), "the last row loses its end mark alone"
    assert facts.answer_tokens_cut == 2 * (len(" Due.") - len("</>"))
    assert facts.control_tokens == NotedRows(count=1, first=(3,))


def test_of_many_rows_the_first_are_named() -> None:
    noted = NotedRows()
    for row in range(50):
        noted = noted.and_row(row)
    assert noted == NotedRows(count=50, first=tuple(range(10)))


def test_an_error_that_nobody_expected_knows_its_row(tokenizer: Any) -> None:
    with pytest.raises(KeyError) as failed:
        encode_rows([FINE, [{"content": "One?"}]], tokenizer, max_length=500)
    assert failed.value.row == 1  # type: ignore[attr-defined]
