"""Losses: GRPO's clipped policy loss (arXiv 2510.25992, equation 1, KL coefficient 0) and its variants.

Pure functions. C are the tokens of all samples, one after the other. Names and meanings are those of TRL's GRPOTrainer.
"""

from __future__ import annotations

import torch


def policy_loss(
    logprobs_C: torch.Tensor,
    old_logprobs_C: torch.Tensor,
    advantages_C: torch.Tensor,
    weights_C: torch.Tensor,
    clip: float,
    clip_high: float | None = None,
) -> torch.Tensor:
    """Scalar: sum over tokens of weight * -min(ratio A, clipped ratio A), clipped to [1 - clip, 1 + clip_high].

    `clip_high` None is `clip`; a larger one leaves rare good tokens room to grow (clip-higher, arXiv 2503.14476, 3.1).
    """
    ratio = torch.exp(logprobs_C - old_logprobs_C)
    clipped = ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    gain = torch.minimum(ratio * advantages_C, clipped * advantages_C)
    return -(weights_C * gain).sum()


def token_weights(lengths: list[int], loss: str, max_new_tokens: int) -> list[float]:
    """The weight of a sample's tokens, per sample; `lengths` are those of all samples of the batch.

    `grpo`: the mean over samples of the mean over tokens. `dapo` (arXiv 2503.14476): the mean over all tokens, so long
    samples count more. `dr_grpo` (arXiv 2503.20783): the sum over samples * `max_new_tokens`, so no length counts more.
    """
    if loss == "grpo":
        return [1 / (length * len(lengths)) for length in lengths]
    total = sum(lengths) if loss == "dapo" else len(lengths) * max_new_tokens
    return [1 / total for _ in lengths]


def importance(old_logprobs_C: torch.Tensor, engine_logprobs_C: torch.Tensor, cap: float) -> torch.Tensor:
    """[C]: min(exp(trainer - engine), cap), no gradient: how much likelier a token is under the trainer's weights.

    It corrects for an engine that computes otherwise, and for samples that older weights drew. 1 where the engine's
    log-probability is not known (NaN); `cap` 0 turns the correction off. Truncated importance sampling, token by token.
    """
    difference = (old_logprobs_C - engine_logprobs_C).detach()
    if not cap:
        return torch.ones_like(difference)
    return torch.exp(difference).clamp(max=cap).where(~engine_logprobs_C.isnan(), torch.ones_like(difference))


def is_clipped(
    logprobs_C: torch.Tensor,
    old_logprobs_C: torch.Tensor,
    advantages_C: torch.Tensor,
    clip: float,
    clip_high: float | None = None,
) -> torch.Tensor:
    """[C] bool: tokens that `policy_loss` gives no gradient, because the policy went far enough their way."""
    ratio = torch.exp(logprobs_C - old_logprobs_C)
    high = clip if clip_high is None else clip_high
    return ((ratio < 1 - clip) & (advantages_C < 0)) | ((ratio > 1 + high) & (advantages_C > 0))
