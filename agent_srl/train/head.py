"""The output head where it is needed, in chunks: log-probabilities and entropies without keeping any logits.

The backward pass computes the logits of a chunk again. Entropy comes from the same logits and carries no gradient.
Left out: heads with a bias, a scale or a cap; models that have one take the dense path (`support`).
"""

from __future__ import annotations

from typing import Any

import torch

_CHUNK_BYTES = 2**28
"""Of the float32 logits of one chunk."""


def logprobs_and_entropy(
    hidden_CD: torch.Tensor, weight_VD: torch.Tensor, targets_C: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability [C] of each target under softmax(hidden @ weight.T / temperature), and the entropy [C] there.

    In float32 at least; differentiable in `hidden_CD` and `weight_VD` through the log-probabilities.
    """
    return _Head.apply(hidden_CD, weight_VD, targets_C, temperature)  # type: ignore[no-any-return]


def of_logits(
    logits_CV: torch.Tensor, targets_C: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from logits that are there: the reference."""
    logprobs = torch.log_softmax(_exact(logits_CV) / temperature, dim=-1)
    with torch.no_grad():
        entropy = -torch.linalg.vecdot(logprobs.exp(), logprobs)
    return logprobs.gather(1, targets_C[:, None]).squeeze(1), entropy


def chunk_tokens(weight_VD: torch.Tensor) -> int:
    """Tokens whose logits are computed at once."""
    return max(1, _CHUNK_BYTES // (4 * int(weight_VD.shape[0])))


class _Head(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.temperature = temperature
        chosen, entropies = [], []
        for part, wanted in _chunks(weight, hidden, targets):
            logprobs = _exact(part @ weight.T).div_(temperature).log_softmax(-1)
            chosen.append(logprobs.gather(1, wanted[:, None]).squeeze(1))
            entropies.append(-torch.linalg.vecdot(logprobs.exp(), logprobs))
        entropy = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(chosen), entropy

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        hidden, weight, targets = ctx.saved_tensors
        of_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        of_weight = torch.zeros_like(weight, dtype=grads[0].dtype) if ctx.needs_input_grad[1] else None
        places = torch.arange(len(hidden), device=hidden.device)
        for place, part, wanted, gain in _chunks(weight, places, hidden, targets, grads[0] / ctx.temperature):
            slope = _exact(part @ weight.T).div_(ctx.temperature).softmax(-1).mul_(-gain[:, None])
            slope = slope.scatter_add_(1, wanted[:, None], gain[:, None]).to(weight.dtype)
            if of_hidden is not None:
                of_hidden[place] = slope @ weight
            if of_weight is not None:
                of_weight += slope.T @ part
        return of_hidden, of_weight.to(weight.dtype) if of_weight is not None else None, None, None


def _chunks(weight: torch.Tensor, *per_token: torch.Tensor) -> Any:
    """Tuples of slices whose logits fit into a chunk."""
    return zip(*(x.split(chunk_tokens(weight)) for x in per_token), strict=True)


def _exact(logits: torch.Tensor) -> torch.Tensor:
    """In float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
