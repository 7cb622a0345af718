"""Our attention function, registered with transformers: SDPA, or a token tree or a shared prefix when told to.

With `tree=` in the forward's keyword arguments the row is a token tree (`train.attention`). With `shared_prefix=` each
row attends to its group's prefix, stored once per group, and to its own suffix. Nothing is copied per row or per token.
Left out: sliding windows and paged memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

from agent_srl.train.attention import TreePlan

ATTENTION = "agent_srl"
_COMPACT = 0.85
"""Storage is compacted when at most this share of its rows still decodes."""


@dataclass
class SharedPrefix:
    """Keys and values while decoding. B groups, R rows in all, H key-value heads, D head size, L layers (lists)."""

    prefix_k: list[torch.Tensor]
    """[B, H, P, D] each."""
    prefix_v: list[torch.Tensor]
    prefix_mask: torch.Tensor
    """[B, P], True where the prefix has a token."""
    suffix_k: list[torch.Tensor]
    """[R, H, T, D] each, filled up to `length`."""
    suffix_v: list[torch.Tensor]
    group: torch.Tensor
    """[R], the group of each row."""
    active: torch.Tensor
    """[A], the rows still decoding."""
    length: int = 0

    def __post_init__(self) -> None:
        self._place_rows()

    def go_on(self, going: torch.Tensor, length: int) -> None:
        """Only rows where `going` [A] decode on, after `length` tokens. Storage follows once much of it is finished."""
        self.active, self.length = self.active[going], length
        if len(self.active) <= _COMPACT * len(self.group):
            self._compact()

    def _compact(self) -> None:
        """Forget finished rows, prefixes that no row needs, and padding."""
        rows = self.active
        live, self.group = torch.unique(self.group[rows], return_inverse=True)
        longest = int(self.prefix_mask[live].sum(1).max())
        self.prefix_mask = self.prefix_mask[live, :longest]
        for layer in range(len(self.prefix_k)):
            self.prefix_k[layer] = self.prefix_k[layer][live, :, :longest]
            self.prefix_v[layer] = self.prefix_v[layer][live, :, :longest]
            self.suffix_k[layer], self.suffix_v[layer] = self.suffix_k[layer][rows], self.suffix_v[layer][rows]
        self.active = torch.arange(len(rows), device=rows.device)
        self._place_rows()

    def _place_rows(self) -> None:
        """`slot` [R]: each row's place within its group; `slots`: rows of the largest group."""
        seen: Counter[int] = Counter()
        places = []
        for group in self.group.tolist():
            places.append(seen[group])
            seen[group] += 1
        self.slot, self.slots = torch.tensor(places, device=self.group.device), max(seen.values())

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
        """One new token per active row. q [A, heads, 1, D], k and v [A, H, 1, D] -> [A, 1, heads, D]."""
        rows, t = self.active, self.length
        self.suffix_k[layer][rows, :, t] = k[:, :, 0]
        self.suffix_v[layer][rows, :, t] = v[:, :, 0]
        mine = slice(None) if len(rows) == len(self.group) else rows  # all: a view, nothing is copied
        suffix_k, suffix_v = self.suffix_k[layer][mine, :, : t + 1], self.suffix_v[layer][mine, :, : t + 1]
        q_rows = q[:, :, 0].unflatten(1, (k.shape[1], -1)) * scaling  # [A, H, heads/H, D]
        scores_p = self._of_rows(self._by_group(q_rows) @ self.prefix_k[layer].transpose(-1, -2), q_rows)
        hidden = ~self.prefix_mask[self.group[rows]]
        scores_p = scores_p.masked_fill(hidden[:, None, None, :], float("-inf"))
        scores_s = q_rows @ suffix_k.transpose(-1, -2)
        weights = torch.cat([scores_p, scores_s], dim=-1).softmax(-1, dtype=torch.float32).to(q.dtype)
        weights_p, weights_s = weights.split([scores_p.shape[-1], t + 1], dim=-1)
        out = self._of_rows(self._by_group(weights_p) @ self.prefix_v[layer], q_rows) + weights_s @ suffix_v
        return out.flatten(1, 2).unsqueeze(1)

    def _by_group(self, x: torch.Tensor) -> torch.Tensor:
        """[A, H, n, X] -> [B, H, slots * n, X]: rows of a group side by side, finished ones zero."""
        groups = self.prefix_mask.shape[0]
        table = x.new_zeros(groups, self.slots, *x.shape[1:])
        table[self.group[self.active], self.slot[self.active]] = x
        return table.transpose(1, 2).flatten(2, 3)

    def _of_rows(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The inverse of `_by_group`."""
        table = x.unflatten(2, (self.slots, like.shape[2])).transpose(1, 2)
        return table[self.group[self.active], self.slot[self.active]]


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
