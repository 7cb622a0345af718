"""Our attention function, registered with transformers: SDPA, a token tree, or decoding on shared trunks.

With `tree=` in the forward's keyword arguments the row is a token tree (`train.attention`). With `shared_prefix=` each
row attends to as much of its trunk as is its prompt, and to its own tokens. A trunk is stored once for all prompts that
are prefixes of it, and once more beside others where it is short; nothing is copied per row or token. Left out: sliding
windows, attention sinks and soft caps (refused), and paged memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import pad

from agent_srl.errors import ModelError
from agent_srl.train.attention import TreePlan

ATTENTION = "agent_srl"
_COMPACT = 0.85
"""Storage is compacted when at most this share of its rows still decodes."""
_SPREAD = 0.75
"""Trunks shorter than this share of the longest one beside them are multiplied on their own: what a row computes beyond
its prompt is thrown away. So are rows of one trunk."""
_STACK_TOKENS = 16_384
"""Short trunks are copied side by side up to this many tokens, because many small products take longer than one."""


@dataclass(frozen=True)
class _Stack:
    """Trunks multiplied together: S of them, at most P tokens long, each with at most N rows."""

    keys: list[torch.Tensor]
    """[S, H, P, D] per layer; of a single trunk a view."""
    values: list[torch.Tensor]
    trunks: list[int]


@dataclass(frozen=True)
class _Grid:
    """The active rows of a stack."""

    stack: _Stack
    rows: torch.Tensor
    """[S, N], where each stands among the active rows; places without a row hold any, and what comes of it is left."""
    shortest: int
    """Tokens of its trunk that every row attends to."""
    longest: int
    beyond: torch.Tensor | None
    """[S, N, longest - shortest], True past the end of a row's prompt; None if all are equally long."""


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
        self._stack()
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
        self._stack()

    def _stack(self) -> None:
        """Put trunks of about one length side by side."""
        shortest: dict[int, int] = dict(zip(self.trunk_of, self.prompt_of, strict=True))  # the last one of a trunk
        groups: list[list[int]] = []
        for trunk in sorted(shortest, key=self._size, reverse=True):
            longest = self._size(groups[-1][0]) if groups else 0
            alike = groups and min(shortest[groups[-1][0]], shortest[trunk]) >= _SPREAD * longest
            if alike and longest * (len(groups[-1]) + 1) <= _STACK_TOKENS:
                groups[-1].append(trunk)
            else:
                groups.append([trunk])
        self._stacks = [self._side_by_side(group) for group in groups]

    def _size(self, trunk: int) -> int:
        return int(self.trunk_k[trunk][0].shape[1])

    def _side_by_side(self, trunks: list[int]) -> _Stack:
        def stacked(of: list[list[torch.Tensor]]) -> list[torch.Tensor]:
            layers = zip(*(of[trunk] for trunk in trunks), strict=True)
            if len(trunks) == 1:
                return [layer[0][None] for layer in layers]
            longest = self._size(trunks[0])
            return [torch.stack([pad(one, (0, 0, 0, longest - one.shape[1])) for one in layer]) for layer in layers]

        return _Stack(stacked(self.trunk_k), stacked(self.trunk_v), trunks)

    def _place(self) -> None:
        """Lay the active rows out on the stacks."""
        all_active = len(self.active) == len(self.trunk_of)
        device = self._own_k[0].device
        self._stored = slice(None) if all_active else torch.tensor(self.active, device=device)  # a slice copies nothing
        rows_of: dict[int, list[int]] = {}
        for place, row in enumerate(self.active):
            rows_of.setdefault(self.trunk_of[row], []).append(place)
        prompts = [self.prompt_of[row] for row in self.active]
        self._grids: list[_Grid] = []
        back, size = [0] * len(prompts), 0
        for stack in self._stacks:
            for part in _parts([rows_of.get(trunk, []) for trunk in stack.trunks], prompts):
                grid = _grid(stack, part, prompts, device)
                self._grids.append(grid)
                for i, of in enumerate(part):
                    for j, row in enumerate(of, start=size + i * grid.rows.shape[1]):
                        back[row] = j
                size += grid.rows.numel()
        self._back = torch.tensor(back, device=device)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
        """One new token per active row. q [A, heads, 1, D], k and v [A, H, 1, D] -> [A, 1, heads, D]."""
        rows, t = self._stored, self.length
        self._own_k[layer][rows, :, t] = k[:, :, 0]
        self._own_v[layer][rows, :, t] = v[:, :, 0]
        own_k, own_v = self._own_k[layer][rows, :, : t + 1], self._own_v[layer][rows, :, : t + 1]
        q_rows = q[:, :, 0].unflatten(1, (k.shape[1], -1)) * scaling  # [A, H, heads/H, D]
        scores = q_rows @ own_k.transpose(-1, -2)
        parts = [_attend_grid(grid, layer, q_rows, scores) for grid in self._grids]
        trunk, own = (torch.cat(each)[self._back] for each in zip(*parts, strict=True))
        out = trunk + own @ own_v
        return out.flatten(1, 2).unsqueeze(1)


def _attend_grid(
    grid: _Grid, layer: int, q_rows: torch.Tensor, own_scores: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the trunks give the rows of a grid [S * N, H, heads/H, D], and the weights of their own tokens [S * N, H,
    heads/H, t + 1]."""
    keys = grid.stack.keys[layer][:, :, : grid.longest]
    values = grid.stack.values[layer][:, :, : grid.longest]
    scores = _together(q_rows[grid.rows]) @ keys.transpose(-1, -2)  # [S, H, N * heads/H, longest]
    each = (-1, q_rows.shape[2])
    if grid.beyond is not None:
        tail = scores.unflatten(2, each)[..., grid.shortest :]
        tail.masked_fill_(grid.beyond[:, None, :, None], float("-inf"))
    scores = torch.cat([scores, _together(own_scores[grid.rows])], dim=-1)
    weights = scores.softmax(-1, dtype=torch.float32).to(q_rows.dtype)
    of_trunk, of_own = weights.split([grid.longest, own_scores.shape[-1]], dim=-1)
    out, own = (x.unflatten(2, each).transpose(1, 2).flatten(0, 1) for x in (of_trunk @ values, of_own))
    return out, own


def _together(x: torch.Tensor) -> torch.Tensor:
    """[S, N, H, g, X] -> [S, H, N * g, X]."""
    return x.transpose(1, 2).flatten(2, 3)


def _parts(rows: list[list[int]], prompts: list[int]) -> list[list[list[int]]]:
    """The rows of a stack, by trunk, as one part; those of a single trunk, whose prompts may differ widely, as parts
    of about one length."""
    if len(rows) > 1:
        return [rows] if any(rows) else []
    parts: list[list[list[int]]] = []
    for row in rows[0]:
        if parts and prompts[row] >= _SPREAD * prompts[parts[-1][0][0]]:
            parts[-1][0].append(row)
        else:
            parts.append([[row]])
    return parts


def _grid(stack: _Stack, rows: list[list[int]], prompts: list[int], device: torch.device) -> _Grid:
    """`rows` are those of each trunk of the stack; `prompts` the tokens of every active row's prompt."""
    width, some = max(map(len, rows)), next(of[0] for of in rows if of)
    padded = torch.tensor([of + [some] * (width - len(of)) for of in rows])
    sizes = torch.tensor(prompts)[padded]
    shortest, longest = int(sizes.min()), int(sizes.max())
    beyond = None
    if shortest < longest:
        beyond = (torch.arange(shortest, longest) >= sizes[..., None]).to(device)
    return _Grid(stack, padded.to(device), shortest, longest, beyond)


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
