"""From conversations to token ids: labels on turns that have loss, contents as text and nothing else, truncation."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from service.contract.failure import ErrorCode
from service.contract.spec import AuditTurns
from worker.training.errors import TrainingError
from worker.training.rendering import Messages, RefusedRowError, Rendering, TrainedTurn, render

IGNORED = -100
"""Label of a token without loss. It still carries gradient through later tokens, so nothing else is masked."""


@dataclass(frozen=True)
class TokenizedSample:
    """One conversation as tokens."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    """The same ids, IGNORED where the token is not part of a turn that has loss."""
    tokens_left_out: int | None = 0
    """Tokens of turns with loss that truncation took, without their end-of-turn marks; None: the conversation has no
    tokens, since it cannot be encoded."""
    control_tokens: int = 0
    """Control tokens of the model that contents spell out, truncated ones included. They are encoded as text."""

    @property
    def has_loss(self) -> bool:
        """Whether any token has loss. The first token is never predicted."""
        return any(label != IGNORED for label in self.labels[1:])

    @property
    def count_with_loss(self) -> int:
        """How many tokens have loss."""
        return sum(label != IGNORED for label in self.labels[1:])


Token = tuple[int, int, int]
"""Its id, and the start and end of its characters in the text."""


def encode(messages: Messages, tokenizer: Any, *, max_length: int, turns: AuditTurns = "assistant") -> TokenizedSample:
    """Tokenise one conversation; every assistant turn has loss, its end-of-turn mark included.

    Args:
        messages: The turns, each with a role and a content.
        tokenizer: The model's, with its chat template; a fast one, since slow ones do not say where a token stands.
        max_length: In tokens; longer conversations lose their end.
        turns: With `all` the contents of the other turns have loss as well.

    Returns:
        The tokens. A control token that a content spells out is encoded as the text that it is.

    Raises:
        RefusedRowError: The conversation cannot be rendered, or no set of tokens is the text of its turns with loss.
        TrainingError: The tokenizer or its template takes no conversation.
    """
    read = read_conversation(messages, tokenizer, turns)
    ids = tuple(token for token, _, _ in read.tokens)
    labels = tuple(token if part else IGNORED for token, part in zip(ids, read.parts, strict=True))
    return TokenizedSample(
        ids[:max_length],
        labels[:max_length],
        tokens_left_out=sum(part == CONTENT for part in read.parts[max_length:]),
        control_tokens=read.control_tokens,
    )


@dataclass(frozen=True)
class ReadConversation:
    """A whole conversation as tokens, and where each stands in its text."""

    rendering: Rendering
    tokens: Sequence[Token]
    parts: Sequence[int]
    """CONTENT or END_MARK for each token with loss, 0 for all others."""
    control_tokens: int


def read_conversation(messages: Messages, tokenizer: Any, turns: AuditTurns = "assistant") -> ReadConversation:
    """Render a conversation and find its tokens.

    Args:
        messages: As for `encode`, as the others are.
        tokenizer: The model's, a fast one.
        turns: Which turns have loss.

    Raises:
        TrainingError: The tokenizer does not say which characters a token stands for.
        RefusedRowError: The conversation cannot be trained on, as `encode` says.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TrainingError(
            ErrorCode.BAD_CONFIG,
            "The model's tokenizer does not say which characters a token stands for.",
            "Use a model with a fast tokenizer (tokenizer.json).",
        )
    rendering = render(messages, tokenizer, turns)
    tokens, control_tokens = _tokens(rendering, tokenizer)
    return ReadConversation(rendering, tokens, _labelled(rendering, tokens), control_tokens)


# ------------------------------------------------------------ tokens


def _tokens(rendering: Rendering, tokenizer: Any) -> tuple[list[Token], int]:
    """The text's tokens, and how many control tokens its contents spell out."""
    control = _control_ids(tokenizer)
    spelled: dict[str, list[Token]] = {}
    contents = iter([*rendering.contents, (len(rendering.text) + 1, len(rendering.text) + 1)])
    start, end = next(contents)
    tokens, count = [], 0
    for token in _encoded(rendering.text, tokenizer):
        number, left, right = token
        if number not in control:
            tokens.append(token)
            continue
        # Some control tokens take the white space beside them, which is no sign of where they come from.
        text = rendering.text[left:right]
        core_left, core_right = right - len(text.lstrip()), left + len(text.rstrip())
        while core_left >= end:
            start, end = next(contents)
        unknown = number == tokenizer.unk_token_id and text.strip() != tokenizer.unk_token
        if core_right <= start or core_left >= core_right or unknown:
            tokens.append(token)
            continue
        count += 1
        if text not in spelled:
            spelled[text] = _as_text(text, tokenizer, control)
        tokens += [(own, left + own_left, left + own_right) for own, own_left, own_right in spelled[text]]
    return tokens, count


def _as_text(text: str, tokenizer: Any, control: frozenset[int]) -> list[Token]:
    """The tokens of a text, none of which is a control token though the text spells one."""
    found = list(_encoded(text, tokenizer, split_special_tokens=True))
    if not control.intersection(number for number, _, _ in found):
        return found
    # Some vocabularies know it as a word as well; its letters are no control tokens, at the worst unknown.
    found = [
        (number, place + left, place + right)
        for place, letter in enumerate(text)
        for number, left, right in _encoded(letter, tokenizer, split_special_tokens=True)
    ]
    if (control - {tokenizer.unk_token_id}).intersection(number for number, _, _ in found):
        raise RefusedRowError("it spells a control token that the model's tokenizer cannot encode as text")
    return found


@lru_cache(maxsize=4)
def _control_ids(tokenizer: Any) -> frozenset[int]:
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added.union(tokenizer.all_special_ids))


def _encoded(text: str, tokenizer: Any, *, split_special_tokens: bool = False) -> Iterator[Token]:
    try:
        found = tokenizer(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            split_special_tokens=split_special_tokens,
        )
    except MemoryError:
        raise
    except Exception as error:  # The tokenizers library raises this very class.
        raise RefusedRowError(f"the model's tokenizer cannot encode it ({type(error).__name__})") from error
    return (
        (number, left, right) for number, (left, right) in zip(found["input_ids"], found["offset_mapping"], strict=True)
    )


# ------------------------------------------------------------ labels

CONTENT = 1
"""Marks a token with loss that is part of a turn's content."""

END_MARK = 2
"""Marks a token with loss that is part of the mark behind a turn."""


def _labelled(rendering: Rendering, tokens: Sequence[Token]) -> list[int]:
    """Say of each token whether it is part of a turn with loss: CONTENT or END_MARK, else 0.

    Raises RefusedRowError unless the text of these tokens is those turns' text, white space at its ends aside.
    """
    text = rendering.text
    turns = iter([*rendering.trained, TrainedTurn(-1, len(text) + 1, len(text) + 1, len(text) + 2)])
    turn = next(turns)
    covered = turn.start
    parts = []
    for _, left, right in tokens:
        while left >= turn.end:
            _check_gap(text[covered : turn.content_end])
            turn = next(turns)
            covered = max(covered, turn.start)
        own = text[max(left, turn.start) : min(right, turn.end)]
        # A word may take the space before it along. Space that begins before the turn is not the turn's.
        if not own or (left < turn.start and own.isspace()):
            parts.append(0)
            continue
        beside = text[left : turn.start].strip() or text[turn.end : right].strip()
        if beside and _untrained(rendering, left, right):
            raise RefusedRowError("the model's tokenizer joins a turn's text and what stands beside it in one token")
        _check_gap(text[covered : min(left, turn.content_end)])
        covered = max(covered, right)
        parts.append(CONTENT if left < turn.content_end else END_MARK)
    for rest in (turn, *turns):
        _check_gap(text[max(covered, rest.start) : rest.content_end])
    return parts


def _untrained(rendering: Rendering, left: int, right: int) -> bool:
    """Whether between these places stands anything that has no loss, white space aside.

    Turns that both have loss may be joined in one token, where only white space parts them.
    """
    return any(
        not rendering.text[place].isspace() and not any(turn.start <= place < turn.end for turn in rendering.trained)
        for place in range(left, right)
    )


def _check_gap(text: str) -> None:
    # Tokenizers may drop what has no shape of its own: space, controls, formats, marks.
    if any(unicodedata.category(character)[0] not in "ZCM" for character in text if not character.isspace()):
        raise RefusedRowError("the model's tokenizer has no tokens for part of a turn")
