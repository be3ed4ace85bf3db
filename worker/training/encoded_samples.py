"""All samples of a dataset as tokens, in a few flat arrays: as Python objects they would take ten times the memory."""

from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.training.tokenization import IGNORED, TokenizedSample

NOT_ENCODED = -1
"""Stands for `TokenizedSample.tokens_left_out` of None."""


class EncodedSamples:
    """Samples end to end, 5 bytes a token. Each is put together when it is asked for."""

    def __init__(self, samples: Iterable[TokenizedSample] = ()) -> None:
        """Hold these samples, one after the other."""
        self._ids = array("i")
        self._with_loss = bytearray()
        self._ends = array("q")
        self._has_loss = bytearray()
        self._left_out = array("i")
        self._control_tokens = array("i")
        for sample in samples:
            self.append(sample)

    @classmethod
    def of(cls, samples: "EncodedSamples | Sequence[TokenizedSample]") -> "EncodedSamples":
        """Return the samples in this form; they are copied unless they have it."""
        return samples if isinstance(samples, cls) else cls(samples)

    def append(self, sample: TokenizedSample) -> None:
        """Add a sample behind the others.

        Args:
            sample: Its labels are not kept, but which tokens have one.

        Raises:
            ValueError: A label is neither IGNORED nor the token's own id.
        """
        if any(label not in (token, IGNORED) for token, label in zip(sample.ids, sample.labels, strict=True)):
            raise ValueError("a sample has a label that is not its token's id")
        self._ids.extend(sample.ids)
        self._with_loss.extend(label != IGNORED for label in sample.labels)
        self._ends.append(len(self._ids))
        self._has_loss.append(sample.has_loss)
        self._left_out.append(NOT_ENCODED if sample.tokens_left_out is None else sample.tokens_left_out)
        self._control_tokens.append(sample.control_tokens)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._ends)

    def __getitem__(self, row: int) -> TokenizedSample:
        """Return the sample of a row, counted from 0."""
        end = self._ends[row]
        start = end - self.length(row)
        ids = tuple(self._ids[start:end])
        part = zip(ids, self._with_loss[start:end], strict=True)
        left_out = self._left_out[row]
        return TokenizedSample(
            ids,
            tuple(token if with_loss else IGNORED for token, with_loss in part),
            tokens_left_out=None if left_out == NOT_ENCODED else left_out,
            control_tokens=self._control_tokens[row],
        )

    def __iter__(self) -> Iterator[TokenizedSample]:
        """Yield the samples in order."""
        return (self[row] for row in range(len(self)))

    def length(self, row: int) -> int:
        """Return the number of tokens of one sample."""
        return self._ends[row] - (self._ends[row - 1] if row else 0)

    def lengths(self) -> NDArray[np.int64]:
        """Return the number of tokens of each sample, [rows]."""
        ends = np.array(self._ends, dtype=np.int64)
        ends[1:] -= ends[:-1].copy()
        return ends

    def has_loss(self) -> NDArray[np.bool_]:
        """Return whether each sample has a token with loss, [rows]."""
        return np.array(self._has_loss, dtype=np.bool_)

    def tokens_left_out(self) -> NDArray[np.float64]:
        """Return how many tokens with loss truncation took from each sample, [rows]; NaN if it cannot be encoded."""
        left_out = np.array(self._left_out, dtype=np.float64)
        left_out[left_out == NOT_ENCODED] = np.nan
        return left_out

    def highest_id(self) -> int:
        """Return the highest token id of all samples; 0 without tokens."""
        # A view without a name: the arrays cannot grow while one is held.
        return int(np.frombuffer(self._ids, dtype=np.int32).max(initial=0))

    def first_row_with(self, least_id: int) -> int:
        """Return the first row that holds a token id of at least `least_id`.

        Raises:
            ValueError: No row does.
        """
        found = np.flatnonzero(np.frombuffer(self._ids, dtype=np.int32) >= least_id)
        if not len(found):
            raise ValueError(f"no sample has a token id of {least_id} or more")
        return int(np.searchsorted(np.array(self._ends, dtype=np.int64), found[0], side="right"))
