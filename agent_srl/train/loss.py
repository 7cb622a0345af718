"""Losses: GRPO's clipped policy loss (arXiv 2510.25992, equation 1, KL coefficient 0) and cross-entropy. Pure
functions."""

from __future__ import annotations

import torch


def policy_loss(
    logprobs_C: torch.Tensor,
    old_logprobs_C: torch.Tensor,
    advantages_C: torch.Tensor,
    weights_C: torch.Tensor,
    clip: float,
) -> torch.Tensor:
    """Scalar: sum over tokens of weight * -min(ratio A, clipped ratio A).

    With weights 1 / (length of the sample * number of samples) it is the mean over samples of the mean over tokens.
    """
    ratio = torch.exp(logprobs_C - old_logprobs_C)
    gain = torch.minimum(ratio * advantages_C, ratio.clamp(1 - clip, 1 + clip) * advantages_C)
    return -(weights_C * gain).sum()


def cross_entropy_sum(logits_TV: torch.Tensor, labels_T: torch.Tensor) -> torch.Tensor:
    """Scalar: sum of token losses; every label counts."""
    return torch.nn.functional.cross_entropy(logits_TV.float(), labels_T, reduction="sum")
