"""Over templates and tokenizers: each token's place in its message holds the token's own characters."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.chat_templates import TEMPLATES
from tests.support.chat_texts import PAIRS, SPACED_SENTENCE, squeezed
from tests.support.tokenizers import KINDS, tokenizer_of
from worker.training.rendering import RefusedRowError
from worker.training.token_places import Place, merged, token_places
from worker.training.tokenization import IGNORED, encode


def said(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": content} for number, content in enumerate(contents)]


@settings(max_examples=15, deadline=None)
@given(data=st.data(), contents=st.lists(SPACED_SENTENCE, min_size=2, max_size=6))
@pytest.mark.parametrize(("template", "kind"), PAIRS)
@pytest.mark.parametrize("turns", ["assistant", "all"])
def test_every_visible_character_of_the_turns_with_loss_has_one_place(
    template: str, kind: str, turns: Any, data: st.DataObject, contents: list[str]
) -> None:
    contents = [content.replace("<think>", "I").replace("</think>", "so") for content in contents]
    messages = said(*contents[: len(contents) // 2 * 2])
    tokenizer = tokenizer_of(kind, TEMPLATES[template])
    length = data.draw(st.sampled_from([10_000, 20]))
    try:
        sample = encode(messages, tokenizer, max_length=length, turns=turns)
    except RefusedRowError:
        return
    places = token_places(messages, tokenizer, max_length=length, turns=turns)
    assert len(places) == sample.count_with_loss
    stretches, _ = merged(places, [0.0] * len(places))
    for (one, _), (next_one, _) in pairwise(stretches):
        assert one.message != next_one.message or one.end <= next_one.start
    for number, message in enumerate(messages):
        own = [place for place, _ in stretches if place.message == number]
        assert all(0 <= place.start < place.end <= len(message["content"]) for place in own)
        shown = squeezed("".join(message["content"][place.start : place.end] for place in own))
        if turns == "assistant" and message["role"] != "assistant":
            assert not own
        elif length == 10_000:
            assert shown == squeezed(message["content"])
        else:
            assert squeezed(message["content"]).startswith(shown)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("template", ["qwen 3", "llama 3"])
def test_a_place_holds_the_token_s_own_characters(template: str, kind: str) -> None:
    """With thinking that the template drops from an earlier answer, and outer white space that it strips."""
    messages = said("Which lamp?", "<think> No </think>\n\n  A paper lamp. ", "Two hats?", "A cap  and\na beret!\n")
    tokenizer = tokenizer_of(kind, TEMPLATES[template])
    try:
        sample = encode(messages, tokenizer, max_length=1000)
    except RefusedRowError:
        pytest.skip("the tokenizer lacks a character of it")
    labels = [label for label in sample.labels[1:] if label != IGNORED]
    seen = {1: "", 3: ""}
    for label, place in zip(labels, token_places(messages, tokenizer, max_length=1000), strict=True):
        if place is None:
            continue
        own = messages[place.message]["content"][place.start : place.end]
        seen[place.message] += own
        text = tokenizer.decode([label])
        if label != tokenizer.unk_token_id and text.isascii():
            assert squeezed(text) == squeezed(own)
    assert squeezed(seen[3]) == "Acapandaberet!"
    assert squeezed(seen[1]).endswith("Apaperlamp.")


def test_a_character_of_several_tokens_is_one_stretch(tokenizer: Any) -> None:
    """The tiny model's tokenizer has a token a byte."""
    messages = said("?", "é😀x")
    places = token_places(messages, tokenizer, max_length=1000)
    assert places == [
        *[Place(1, 0, 1)] * 2, *[Place(1, 1, 2)] * 4, Place(1, 2, 3), None,
    ]  # fmt: skip
    stretches, elsewhere = merged(places, [1.0, 2.0, 1.0, 1.0, 1.0, 1.0, -3.0, 0.5])
    assert stretches == [(Place(1, 0, 1), 3.0), (Place(1, 1, 2), 4.0), (Place(1, 2, 3), -3.0)]
    assert elsewhere == 0.5


def test_what_lies_behind_the_limit_has_no_place(tokenizer: Any) -> None:
    messages = said("?", "Uno dos tres")
    whole = token_places(messages, tokenizer, max_length=1000)
    sample = encode(messages, tokenizer, max_length=30)
    cut = token_places(messages, tokenizer, max_length=30)
    assert 0 < len(cut) == sample.count_with_loss < len(whole)
    assert cut == whole[: len(cut)]
