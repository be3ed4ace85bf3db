"""All samples of a dataset as tokens, and which of them were left out, cut, or hold control tokens."""

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict

from service.contract.failure import ErrorCode
from service.contract.spec import AuditTurns
from worker.training.encoded_samples import EncodedSamples
from worker.training.errors import TrainingError, at_row
from worker.training.rendering import Messages, RefusedRowError
from worker.training.tokenization import TokenizedSample, encode

FIRST_ROWS = 10
"""Rows that are named of those that something is to be said of."""

MOST_LEFT_OUT = 0.5
"""Share of the rows above which an audit is none of this dataset any more, and fails."""


class NotedRows(BaseModel):
    """Rows that something is to be said of: how many, and which are the first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = 0
    first: tuple[int, ...] = ()

    def and_row(self, row: int) -> "NotedRows":
        """These rows and one more, behind them."""
        return NotedRows(count=self.count + 1, first=(*self.first, row)[:FIRST_ROWS])


class EncodingFacts(BaseModel):
    """What was noted of the samples while they were encoded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    left_out: NotedRows = NotedRows()
    """Rows that cannot be encoded for this model."""
    reason: str = ""
    """Why not, of the first of them."""
    control_tokens: NotedRows = NotedRows()
    """Rows whose contents spell control tokens of the model."""
    answers_cut: NotedRows = NotedRows()
    """Rows that lose tokens of an answer, or of another turn with loss, to truncation."""
    answer_tokens_cut: int = 0
    """Those tokens, of all rows."""


LEFT_OUT = TokenizedSample((), (), tokens_left_out=None)
"""What stands for a row that cannot be encoded: nothing with loss, so that it is never drawn."""


def encode_rows(
    conversations: Iterable[Messages],
    tokenizer: Any,
    *,
    max_length: int,
    turns: AuditTurns = "assistant",
    on_row: Callable[[int], None] = lambda done: None,
) -> tuple[EncodedSamples, EncodingFacts]:
    """Encode a dataset; a row that cannot be encoded is left out and noted.

    Args:
        conversations: The messages of every row, in order.
        tokenizer: The model's.
        max_length: In tokens; longer conversations lose their end.
        turns: Which have loss.
        on_row: Is told after each row how many are done.

    Returns:
        One sample a row, LEFT_OUT for those that cannot be encoded, and what was noted.

    Raises:
        TrainingError: More than half of the rows cannot be encoded, or no row can be.
    """
    samples = EncodedSamples()
    left_out, control_tokens, answers_cut = NotedRows(), NotedRows(), NotedRows()
    reason, tokens_cut = "", 0
    for row, messages in enumerate(conversations):
        try:
            with at_row(row):
                sample = encode(messages, tokenizer, max_length=max_length, turns=turns)
        except RefusedRowError as error:
            reason = reason or str(error)
            left_out, sample = left_out.and_row(row), LEFT_OUT
        if sample.control_tokens:
            control_tokens = control_tokens.and_row(row)
        if sample.tokens_left_out:
            answers_cut = answers_cut.and_row(row)
            tokens_cut += sample.tokens_left_out
        samples.append(sample)
        on_row(len(samples))
    if left_out.count > MOST_LEFT_OUT * len(samples):
        raise TrainingError(
            ErrorCode.BAD_CONFIG,
            f"{left_out.count} of {len(samples)} rows cannot be encoded for this model; the first is row "
            f"{left_out.first[0]}: {reason}.",
            "Change these rows, or use another model or a base model without a chat template.",
        )
    return samples, EncodingFacts(
        left_out=left_out,
        reason=reason,
        control_tokens=control_tokens,
        answers_cut=answers_cut,
        answer_tokens_cut=tokens_cut,
    )
