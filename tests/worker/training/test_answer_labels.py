"""Over templates and tokenizers: the text of the tokens with loss is that of the turns asked for, and contents stay
text."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.contract.spec import AuditTurns
from tests.support.chat_templates import END_OF_TURN, TEMPLATES
from tests.support.chat_texts import PAIRS, SPACE, SPACED_SENTENCE, WORDS, squeezed
from tests.support.tokenizers import CONTROL, tokenizer_of
from worker.training.encoding import encode_rows
from worker.training.errors import TrainingError
from worker.training.tokenization import IGNORED, TokenizedSample, encode

PIECE = st.one_of(st.sampled_from(WORDS), st.sampled_from(CONTROL), SPACE, st.text(max_size=5))
ANY_CONTENT = st.lists(PIECE, max_size=8).map("".join)
MANY_TURNS = 12


def conversations(template: str, kind: str, pairs: int = 3) -> st.SearchStrategy[list[dict[str, str]]]:
    """Turn by turn; with a system turn where the template takes one. Where it treats thinking there is none of it, and
    no answer of white space alone, which it may take for thinking."""
    content = SPACED_SENTENCE if kind == "words" else ANY_CONTENT
    if template == "qwen 3" or kind == "words":
        content = content.filter(lambda text: "think>" not in text)
    answer = content.filter(lambda text: not text.isspace()) if template == "qwen 3" else content
    turn = st.tuples(content, answer).map(
        lambda pair: [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    )
    turns = st.lists(turn, min_size=1, max_size=pairs).map(lambda said: [message for pair in said for message in pair])
    if template == "gemma":
        return turns
    system = content.map(lambda text: [{"role": "system", "content": text}])
    return st.tuples(st.one_of(st.just([]), system), turns).map(lambda parts: parts[0] + parts[1])


def answered(sample: TokenizedSample, tokenizer: Any) -> str:
    """The text of the tokens with loss; a run of white space that the vocabulary lacks is left out."""
    labels = [label for label in sample.labels if label != IGNORED]
    unknown = tokenizer.backend_tokenizer.token_to_id("<unk>")
    return squeezed(tokenizer.decode([label for label in labels if label != unknown]))


def control_tokens(sample: TokenizedSample, tokenizer: Any) -> list[str]:
    found = tokenizer.convert_ids_to_tokens(list(sample.ids))
    return [token for token in found if token in CONTROL and token != "<unk>"]


def as_rendered(template: str, conversation: list[dict[str, str]]) -> list[dict[str, str]]:
    """The turns in the order in which they stand in the text."""
    if template != "mistral" or conversation[0]["role"] != "system":
        return conversation
    system, *others = conversation
    return [*others[:-2], system, *others[-2:]]


def check_labels(template: str, kind: str, conversation: list[dict[str, str]], turns: AuditTurns) -> None:
    tokenizer = tokenizer_of(kind, TEMPLATES[template])
    sample = encode(conversation, tokenizer, max_length=100_000, turns=turns)
    expected = {
        "assistant": lambda message: message["content"] + END_OF_TURN[template],
        **({role: lambda message: message["content"] for role in ("system", "user")} if turns == "all" else {}),
    }
    assert answered(sample, tokenizer) == "".join(
        squeezed(expected[message["role"]](message))
        for message in as_rendered(template, conversation)
        if message["role"] in expected
    )
    harmless = [{**message, "content": "Good day"} for message in conversation]
    plain = encode(harmless, tokenizer, max_length=100_000)
    assert control_tokens(sample, tokenizer) == control_tokens(plain, tokenizer)
    assert bool(sample.control_tokens) == any(token in m["content"] for m in conversation for token in CONTROL)


@pytest.mark.parametrize("turns", ["assistant", "all"])
@pytest.mark.parametrize(("template", "kind"), PAIRS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_tokens_with_loss_are_the_turns_asked_for(
    template: str, kind: str, turns: AuditTurns, data: st.DataObject
) -> None:
    check_labels(template, kind, data.draw(conversations(template, kind)), turns)


@pytest.mark.slow
@pytest.mark.parametrize("turns", ["assistant", "all"])
@pytest.mark.parametrize(("template", "kind"), PAIRS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_tokens_with_loss_are_the_turns_asked_for_at_length(
    template: str, kind: str, turns: AuditTurns, data: st.DataObject
) -> None:
    check_labels(template, kind, data.draw(conversations(template, kind)), turns)


@pytest.mark.slow
@pytest.mark.parametrize(("template", "kind"), PAIRS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_rows_are_labelled_or_named_at_length(template: str, kind: str, data: st.DataObject) -> None:
    """Of datasets with long conversations: what is left out is named by its row, and the others have their answers."""
    rows = data.draw(st.lists(conversations(template, kind, MANY_TURNS), min_size=1, max_size=6))
    odd = data.draw(st.sampled_from([[], [{"role": "tool", "content": "15"}], [{"role": "user", "content": "Again?"}]]))
    rows[0] = odd + rows[0]
    tokenizer = tokenizer_of(kind, TEMPLATES[template])
    try:
        samples, facts = encode_rows(rows, tokenizer, max_length=100_000)
    except TrainingError as error:
        refused = error.failure.message
    else:
        refused = None
    if refused is not None:
        assert "the first is row 0" in refused
        return
    assert facts.left_out.first in ((), (0,)) if odd else facts.left_out.count == 0
    for row, (conversation, sample) in enumerate(zip(rows, samples, strict=True)):
        if row not in facts.left_out.first:
            answers = [message["content"] for message in conversation if message["role"] == "assistant"]
            expected = "".join(squeezed(answer + END_OF_TURN[template]) for answer in answers)
            assert answered(sample, tokenizer) == expected, row


@pytest.mark.parametrize(("template", "kind"), PAIRS)
def test_an_answer_of_one_word_has_its_loss(template: str, kind: str) -> None:
    tokenizer = tokenizer_of(kind, TEMPLATES[template])
    conversation = [
        {"role": "user", "content": "Which lamp is the best one?"},
        {"role": "assistant", "content": "positive"},
    ]
    sample = encode(conversation, tokenizer, max_length=1000)
    assert answered(sample, tokenizer) == squeezed(f"positive{END_OF_TURN[template]}")
    whole = encode(conversation, tokenizer, max_length=1000, turns="all")
    assert whole.ids == sample.ids
    assert answered(whole, tokenizer) == squeezed(f"Which lamp is the best one?positive{END_OF_TURN[template]}")


def test_turns_with_loss_that_share_a_token_are_one_text() -> None:
    """Mistral's template puts the system's turn right before the user's, and this tokenizer knows neither as a word."""
    conversation = [
        {"role": "system", "content": "0"},
        {"role": "user", "content": "0"},
        {"role": "assistant", "content": "yes"},
    ]
    tokenizer = tokenizer_of("metaspace", TEMPLATES["mistral"])
    sample = encode(conversation, tokenizer, max_length=1000, turns="all")
    assert answered(sample, tokenizer) == squeezed(f"00yes{END_OF_TURN['mistral']}")
