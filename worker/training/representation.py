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
"""Representations of one answer: of all its tokens and of its last (docs/decisions/0048)."""


def inner_representation(hidden: Sequence[Tensor], answer: Tensor) -> Tensor:
    """Represent each sample's answer by the model's inner layers: its tokens on average, and its last token.

    Args:
        hidden: Hidden states [batch, time, width] before the first layer and after each.
        answer: bool [batch, time], the positions that predict a token with loss.

    Returns:
        [batch, INNER_PARTS, at most INNER_WIDTH], float32: the mean over the inner layers of `answer_representation`,
        over all positions of `answer` and over the last of them. NaN for a sample without such a position.
    """
    layers = len(hidden) - 1
    first, last = (round(share * layers) for share in INNER)
    chosen = hidden[first + 1 : last + 1] or hidden[-1:]
    parts = torch.stack(
        [
            torch.stack([answer_representation(layer, positions) for layer in chosen]).mean(0)
            for positions in (answer, _last_of(answer))
        ],
        dim=1,
    )
    return parts if parts.shape[2] <= INNER_WIDTH else parts @ _projection(parts.shape[2], parts.device)


def _last_of(answer: Tensor) -> Tensor:
    """Return the mask [batch, time] of each sample's last position; without a position, none."""
    behind = answer.flip(1).cumsum(1).flip(1)
    return answer & (behind == 1)


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
