"""Representations of answers: of the inner layers, which tell samples apart, and of the last, for a baseline."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

INNER = (0.35, 0.7)
"""Between these shares of the depth lie the layers whose representations tell most (docs/decisions/0032)."""

INNER_WIDTH = 1024
"""Numbers kept of each representation, at most; wider ones are projected (Johnson and Lindenstrauss)."""

INNER_PARTS = 2
"""Representations of one turn: of all its tokens and of its last (docs/decisions/0048)."""

LEAST_GAP = 3
"""Tokens without loss that lie between two turns, at least: those that begin an assistant's turn in a chat template.
Within a turn a tokenizer may have one that stands for no character, and has no loss."""

MOST_TURNS = 8
"""Turns of a sample that are represented one by one; of a longer conversation, neighbouring turns share one."""


def turns_of(answer: Tensor) -> Tensor:
    """Number the turns of each sample.

    Args:
        answer: bool [batch, time], the positions that predict a token with loss. At least LEAST_GAP others lie between
            two turns; a gap within a turn is shorter.

    Returns:
        int64 [batch, time]: the turn that a position belongs to, counted from 1; 0 outside of `answer`. No sample has
        more than MOST_TURNS: of n turns, turn t is counted as turn ceil(t MOST_TURNS / n).
    """
    length = answer.shape[1]
    shortly_before = torch.stack(
        [torch.nn.functional.pad(answer, (back, 0))[:, :length] for back in range(1, LEAST_GAP + 1)]
    ).any(0)
    number = (answer & ~shortly_before).cumsum(1)
    count = number[:, -1:]
    shared = torch.where(count > MOST_TURNS, -(-number * MOST_TURNS // count.clamp_min(1)), number)
    return shared * answer


def inner_representation(hidden: Sequence[Tensor], turn: Tensor) -> Tensor:
    """Represent each turn by the model's inner layers: its tokens on average, and its last token.

    Args:
        hidden: Hidden states [batch, time, width] before the first layer and after each.
        turn: int64 [batch, time], as of `turns_of`.

    Returns:
        [turns, INNER_PARTS, at most INNER_WIDTH], float32, sample by sample: the mean over the inner layers of the mean
        hidden state, of unit length, over all positions of a turn and over the last of them.
    """
    layers = len(hidden) - 1
    first, last = (round(share * layers) for share in INNER)
    chosen = hidden[first + 1 : last + 1] or hidden[-1:]
    device = hidden[0].device
    turn = turn.to(device)
    numbers = torch.arange(1, int(turn.max()) + 1, device=device)
    every = turn[:, None, :] == numbers[:, None]
    present = every.any(2)
    last_of_each = every & (every.flip(2).cumsum(2).flip(2) == 1)
    parts = torch.stack(
        [
            torch.stack([_unit_mean(layer, turn > 0, positions)[present] for layer in chosen]).mean(0)
            for positions in (every, last_of_each)
        ],
        dim=1,
    )
    return parts if parts.shape[2] <= INNER_WIDTH else parts @ _projection(parts.shape[2], parts.device)


def _unit_mean(hidden: Tensor, answer: Tensor, positions: Tensor) -> Tensor:
    """Return the means of hidden states [batch, time, width] over positions [batch, turns, time], of unit length."""
    # Where padding holds NaN, a product with zero would keep it.
    kept = hidden.detach().float().masked_fill(~answer[..., None], 0.0)
    return torch.nn.functional.normalize(positions.float() @ kept, dim=2)


@lru_cache(maxsize=2)
def _projection(width: int, device: torch.device) -> Tensor:
    """A fixed Gaussian matrix [width, INNER_WIDTH] that keeps lengths in the mean."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(width, INNER_WIDTH, generator=generator) / INNER_WIDTH**0.5).to(device)


def answer_representation(hidden: Tensor, answer: Tensor) -> Tensor:
    """Return the mean hidden state of each sample's tokens with loss, of unit length, [batch, width], float32.

    It carries no gradient. A sample without such a token gets NaN.

    Args:
        hidden: [batch, time, width], as the forward pass computed it.
        answer: bool [batch, time]: the tokens with loss.
    """
    mask = answer.to(hidden.device)
    # Where padding holds NaN, a product with zero would keep it.
    kept = hidden.detach().float().masked_fill(~mask[..., None], 0.0)
    mean = kept.sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(mean, dim=1)


def representation_similarity(samples: Tensor, unwanted: Tensor) -> Tensor:
    """Return the cosine of each sample's representation to the mean of the unwanted answers', [samples].

    It lies between -1 and 1, and is NaN where a sample has no representation.

    Args:
        samples: [samples, width].
        unwanted: [items, width]; answers without a representation, which are NaN, are left out.
    """
    whole = unwanted[~unwanted.isnan().any(1)]
    return samples @ torch.nn.functional.normalize(whole.mean(0), dim=0)
