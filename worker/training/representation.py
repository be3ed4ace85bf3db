"""Representation similarity, a baseline: is an answer near the unwanted answers in the model's last hidden layer?"""

import torch
from torch import Tensor


def answer_representation(hidden: Tensor, answer: Tensor) -> Tensor:
    """Mean of the last hidden states over each sample's answer tokens, of unit length, [batch, width], float32.

    hidden: [batch, time, width], as the forward pass computed it; answer: bool [batch, time]. Carries no gradient. A
    sample without an answer token gets NaN.
    """
    mask = answer.to(hidden.device)
    # Where padding holds NaN, a product with zero would keep it.
    kept = hidden.detach().float().masked_fill(~mask[..., None], 0.0)
    mean = kept.sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(mean, dim=1)


def representation_similarity(samples: Tensor, unwanted: Tensor) -> Tensor:
    """Cosine of each sample's representation [samples, width] to the mean of the unwanted answers' [items, width].

    [samples], between -1 and 1; NaN where a sample has no representation. Unwanted answers without one are left out.
    """
    whole = unwanted[~unwanted.isnan().any(1)]
    return samples @ torch.nn.functional.normalize(whole.mean(0), dim=0)
