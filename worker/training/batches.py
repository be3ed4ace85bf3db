"""Which samples make a step, how they are laid out in memory, and the loss of each; the layout changes no result."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.contract.spec import TrainingConfig
from worker.training.representation import inner_representation
from worker.training.tokenization import IGNORED, TokenizedSample

PASS_TOKENS = {"cpu": 64, "cuda": 1024}
"""What starting one more forward and backward pass costs on a device, in tokens: below this, padding is the cheaper
waste. On a GPU a pass of a large model takes the time that its thousands of kernels take to be launched, up to about
1,500 tokens (docs/decisions/0030)."""


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded tokens [batch, time] on a device."""

    ids: Tensor
    labels: Tensor
    attention: Tensor

    @cached_property
    def answered(self) -> Tensor:
        """[batch, time]: the positions that predict a token with loss."""
        found = torch.zeros_like(self.labels, dtype=torch.bool)
        found[:, :-1] = self.labels[:, 1:] != IGNORED
        return found


@dataclass(frozen=True)
class Outputs:
    """What one forward pass gives."""

    losses: Tensor
    """Mean token loss of each sample, [batch], whatever its padding and its neighbours."""
    tokens: Tensor
    """Loss of each token that has one, sample by sample, [tokens]."""
    hidden: Tensor
    """Last hidden states [batch, time, hidden], detached."""
    answered: Tensor
    """[batch, time]: `TokenBatch.answered`."""
    inner: Tensor | None
    """[turns, parts, width]: `inner_representation` of all samples' turns, sample by sample, where asked for."""


def batches(rows: Sequence[int] | NDArray[np.int64], config: TrainingConfig) -> Iterator[list[int]]:
    """The rows of every step, in order: each epoch a fresh permutation drawn from (seed, epoch)."""
    for epoch in range(config.epochs):
        order = np.random.default_rng([config.seed, epoch]).permutation(np.asarray(rows))
        for start in range(0, len(order), config.batch_size):
            yield order[start : start + config.batch_size].tolist()


def micro_batches(
    lengths: Sequence[int], limit: int | None, device: torch.device, *, tokens: int | None = None
) -> list[list[int]]:
    """Positions of a step's samples in the parts that waste the least: padding and passes weighed against each other.

    Args:
        lengths: Tokens of each sample.
        limit: The most samples of one part; None: all.
        device: Says what a pass costs.
        tokens: The most tokens, with padding, of a part of several samples; None: no limit.

    Returns:
        The parts. Samples go by length, shortest first.
    """
    one_pass = PASS_TOKENS.get(device.type, PASS_TOKENS["cpu"])
    order = sorted(range(len(lengths)), key=lambda position: (lengths[position], position))
    cost = [0.0] + [float("inf")] * len(order)
    begin = [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        most = end if tokens is None else max(1, tokens // longest)
        for start in range(max(0, end - min(limit or end, most)), end):
            total = cost[start] + (end - start) * longest + one_pass
            if total < cost[end]:
                cost[end], begin[end] = total, start
    parts, end = [], len(order)
    while end:
        parts.append(order[begin[end] : end])
        end = begin[end]
    return parts[::-1]


def collate(samples: Sequence[TokenizedSample], *, pad: int, device: torch.device) -> TokenBatch:
    """Make a batch of samples, padded to the longest.

    Args:
        samples: The samples.
        pad: The id that fills up shorter ones.
        device: Where the batch goes.
    """
    longest = max(len(sample.ids) for sample in samples)
    ids = torch.full((len(samples), longest), pad)
    labels = torch.full((len(samples), longest), IGNORED)
    attention = torch.zeros((len(samples), longest), dtype=torch.long)
    for number, sample in enumerate(samples):
        length = len(sample.ids)
        ids[number, :length] = torch.tensor(sample.ids)
        labels[number, :length] = torch.tensor(sample.labels)
        attention[number, :length] = 1
    return TokenBatch(ids.to(device), labels.to(device), attention.to(device))


def forward(model: nn.Module, batch: TokenBatch, *, turn: Tensor | None = None) -> Outputs:
    """Run the model; logits are formed at the positions that predict a token with loss and nowhere else.

    A vocabulary is large beside the hidden size, and about half of the tokens of instruction data are prompt or
    padding. Works with any causal model whose head is its output embedding.

    Args:
        model: In any mode.
        batch: On the model's device.
        turn: [batch, time], the turn that each position belongs to, as of `turns_of`. With it the hidden states of all
            layers are kept to the end of the pass, as a backward pass does anyway, and represent each turn.
    """
    answered = batch.answered
    caught: list[Tensor] = []

    def keep_answers(_head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        caught.append(inputs[0].detach())
        return (inputs[0][answered][None], *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(keep_answers)  # type: ignore[operator]
    try:
        found = model(
            input_ids=batch.ids, attention_mask=batch.attention, use_cache=False, output_hidden_states=turn is not None
        )
    finally:
        handle.remove()
    logits = found.logits[0]
    # Softmax over a vocabulary in bfloat16 would lose the small terms.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = nn.functional.cross_entropy(logits, batch.labels[:, 1:][answered[:, :-1]], reduction="none")
    sample = answered.nonzero()[:, 0]
    total = loss.new_zeros(len(batch.labels)).index_add(0, sample, loss)
    represented = None if turn is None else inner_representation(found.hidden_states, turn)
    return Outputs(total / answered.sum(1).clamp_min(1), loss, caught[0], answered, represented)
