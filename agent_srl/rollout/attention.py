"""Our attention function, registered with transformers: SDPA, a token tree, or decoding on shared trunks.

With `tree=` in the forward's keyword arguments the row is a token tree (`train.attention`). With `shared_prefix=` each
row attends to as much of its trunk as is its prompt, and to its own tokens. A trunk is stored once for all prompts that
are prefixes of it; nothing is copied per row or token. Left out: sliding windows, attention sinks and soft caps
(refused), and paged memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from agent_srl.errors import ModelError
from agent_srl.train.attention import TreePlan

ATTENTION = "agent_srl"
_COMPACT = 0.85
"""Storage is compacted when at most this share of its rows still decodes."""
_SPREAD = 0.75
"""Rows whose prompts are shorter than this share of the longest one beside them are multiplied on their own: what a row
computes beyond its prompt is thrown away."""


@dataclass(frozen=True)
class _Span:
    """Neighbouring rows on one trunk, multiplied together."""

    rows: slice
    trunk: int
    longest: int
    shortest: int
    """Prompt tokens of the first and of the last row."""
    beyond: torch.Tensor | None
    """[rows, longest - shortest], True past the end of a row's prompt; None if all are equally long."""


@dataclass
class SharedPrefix:
    """Keys and values while decoding. R rows in all, H key-value heads, D head size, L layers (lists)."""

    trunk_k: list[list[torch.Tensor]]
    """[H, P, D] per trunk and layer."""
    trunk_v: list[list[torch.Tensor]]
    trunk_of: list[int]
    """The trunk of each row, ascending."""
    prompt_of: list[int]
    """How many tokens of it are the row's prompt; descending within a trunk."""
    max_tokens: int
    """Room for a row's own tokens."""
    length: int = 0
    """Own tokens so far."""
    active: list[int] = field(init=False)
    """The rows still decoding, ascending."""

    def __post_init__(self) -> None:
        first = self.trunk_k[0][0]
        shape = (len(self.trunk_of), first.shape[0], self.max_tokens, first.shape[2])
        self._own_k = [first.new_empty(shape) for _ in self.trunk_k[0]]
        self._own_v = [first.new_empty(shape) for _ in self.trunk_k[0]]
        self.active = list(range(len(self.trunk_of)))
        self._place()

    def go_on(self, going: list[bool], length: int) -> None:
        """Only active rows that are `going` decode on, after `length` own tokens. Storage follows once much of it is
        finished."""
        self.length = length
        if all(going):
            return
        self.active = [row for row, on in zip(self.active, going, strict=True) if on]
        if len(self.active) <= _COMPACT * len(self.trunk_of):
            self._compact()
        self._place()

    def _compact(self) -> None:
        """Forget finished rows."""
        keep = torch.tensor(self.active, device=self._own_k[0].device)
        for kept in (self._own_k, self._own_v):
            for layer, old in enumerate(kept):
                kept[layer] = old.new_empty(len(keep), *old.shape[1:])
                kept[layer][:, :, : self.length] = old[keep, :, : self.length]
        self.trunk_of = [self.trunk_of[row] for row in self.active]
        self.prompt_of = [self.prompt_of[row] for row in self.active]
        self.active = list(range(len(keep)))

    def _place(self) -> None:
        """Cut the active rows into spans."""
        all_active = len(self.active) == len(self.trunk_of)
        device = self._own_k[0].device
        self._stored = slice(None) if all_active else torch.tensor(self.active, device=device)  # a slice copies nothing
        trunks, prompts = [self.trunk_of[r] for r in self.active], [self.prompt_of[r] for r in self.active]
        starts, longest = [0], prompts[0]
        for i in range(1, len(trunks)):
            if trunks[i] != trunks[i - 1] or prompts[i] < _SPREAD * longest:
                starts.append(i)
                longest = prompts[i]
        self._spans = [_span(trunks[a], prompts[a:b], a, device) for a, b in pairwise([*starts, len(trunks)])]

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
        """One new token per active row. q [A, heads, 1, D], k and v [A, H, 1, D] -> [A, 1, heads, D]."""
        rows, t = self._stored, self.length
        self._own_k[layer][rows, :, t] = k[:, :, 0]
        self._own_v[layer][rows, :, t] = v[:, :, 0]
        own_k, own_v = self._own_k[layer][rows, :, : t + 1], self._own_v[layer][rows, :, : t + 1]
        q_rows = q[:, :, 0].unflatten(1, (k.shape[1], -1)) * scaling  # [A, H, heads/H, D]
        scores = q_rows @ own_k.transpose(-1, -2)
        parts = [self._attend_span(layer, span, q_rows, scores) for span in self._spans]
        out = torch.cat([part for part, _ in parts]) + torch.cat([own for _, own in parts]) @ own_v
        return out.flatten(1, 2).unsqueeze(1)

    def _attend_span(
        self, layer: int, span: _Span, q_rows: torch.Tensor, own_scores: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the trunk gives the rows of a span [n, H, heads/H, D], and the weights of their own tokens [n, H,
        heads/H, t + 1]."""
        keys = self.trunk_k[span.trunk][layer][:, : span.longest]
        values = self.trunk_v[span.trunk][layer][:, : span.longest]
        scores = _together(q_rows[span.rows]) @ keys.transpose(-1, -2)  # [H, n * heads/H, longest]
        each = (-1, q_rows.shape[2])
        if span.beyond is not None:
            tail = scores.unflatten(1, each)[..., span.shortest :]
            tail.masked_fill_(span.beyond[None, :, None], float("-inf"))
        scores = torch.cat([scores, _together(own_scores[span.rows])], dim=-1)
        weights = scores.softmax(-1, dtype=torch.float32).to(q_rows.dtype)
        of_trunk, of_own = weights.split([span.longest, own_scores.shape[-1]], dim=-1)
        return (of_trunk @ values).unflatten(1, each).transpose(0, 1), of_own.unflatten(1, each).transpose(0, 1)


def _together(x: torch.Tensor) -> torch.Tensor:
    """[n, H, g, X] -> [H, n * g, X]."""
    return x.transpose(0, 1).flatten(1, 2)


def _span(trunk: int, prompts: list[int], start: int, device: torch.device) -> _Span:
    longest, shortest = prompts[0], prompts[-1]
    beyond = None
    if shortest < longest:
        places = torch.arange(shortest, longest, device=device)
        beyond = places >= torch.tensor(prompts, device=device)[:, None]
    return _Span(slice(start, start + len(prompts)), trunk, longest, shortest, beyond)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    shared_prefix: SharedPrefix | None = None,
    tree: TreePlan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise ModelError(
            f"{type(module).__name__} caps attention or has sinks, which is not supported: take another model"
        )
    if tree is not None:
        return tree.attend(query, key, value, kwargs["scaling"]), None
    if shared_prefix is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return out, None
    return shared_prefix.attend(int(module.layer_idx), query, key, value, kwargs["scaling"]), None


def register_attention() -> None:
    """Make `attn_implementation="agent_srl"` known to transformers. Idempotent."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
