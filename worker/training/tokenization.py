"""From conversations to token ids: chat template, labels on the assistant's answers, truncation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.contract.failure import ErrorCode
from worker.training.errors import TrainingError

IGNORED = -100
"""Label of a token without loss. It still carries gradient through later tokens, so nothing else is masked."""


@dataclass(frozen=True)
class TokenizedSample:
    """One conversation as tokens."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    """The same ids, IGNORED where the token is not part of an answer."""
    truncated: bool

    @property
    def has_answer(self) -> bool:
        """Whether any token has loss. The first token is never predicted."""
        return any(label != IGNORED for label in self.labels[1:])


def encode(messages: Sequence[dict[str, str]], tokenizer: Any, *, max_length: int) -> TokenizedSample:
    """Tokenises one conversation; every assistant turn is an answer, its end-of-turn mark included.

    Conversations over max_length tokens lose their end.
    """
    text, answers = render(messages, tokenizer)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, labels = [], []
    spans = iter([*answers, (len(text) + 1, len(text) + 2)])
    start, end = next(spans)
    for token, (left, right) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
        while left >= end:
            start, end = next(spans)
        ids.append(token)
        labels.append(token if left >= start and right > left else IGNORED)
    return TokenizedSample(tuple(ids[:max_length]), tuple(labels[:max_length]), len(ids) > max_length)


def render(messages: Sequence[dict[str, str]], tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    """The conversation as one string and the character spans of its answers.

    Uses the tokenizer's chat template; a base model without one gets a plain form. Raises TrainingError when the
    template does not render a conversation as a continuation of its beginning, since answers could not be located.
    """
    if not getattr(tokenizer, "chat_template", None):
        return _plain(messages, tokenizer)
    text, spans = "", []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = tokenizer.apply_chat_template(list(messages[:number]), tokenize=False, add_generation_prompt=True)
        text = tokenizer.apply_chat_template(list(messages[: number + 1]), tokenize=False)
        if not text.startswith(prompt):
            raise TrainingError(
                ErrorCode.BAD_CONFIG,
                "the model's chat template does not render an answer as a continuation of its prompt",
                "use a model whose chat template is additive, or a base model without a template",
            )
        spans.append((len(prompt), len(text)))
    return text, spans


def _plain(messages: Sequence[dict[str, str]], tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    text, spans = tokenizer.bos_token or "", []
    for message in messages:
        text += f"{message['role'].capitalize()}: "
        start = len(text)
        text += message["content"]
        if message["role"] == "assistant":
            text += tokenizer.eos_token or ""
            spans.append((start, len(text)))
        text += "\n\n"
    return text[: spans[-1][1]] if spans else text, spans
