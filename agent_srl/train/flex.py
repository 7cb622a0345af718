"""Flex attention over a token tree, for CUDA. The block mask comes from the tree's ranges, in time linear in blocks.

Left out: CPUs, where torch has no backward pass for it (forward alone runs there, uncompiled, which is how the tests
compare it).
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

from agent_srl.train.attention import TreePlan

BLOCK = 128
_BUCKET = 1024
"""Rows are padded to a multiple of this, so that few sizes are compiled."""


def flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: TreePlan, scale: float) -> torch.Tensor:
    """q [1, heads, N, D], k and v [1, H, N, D] -> [1, heads, N, D]."""
    size = -(-plan.size // _BUCKET) * _BUCKET
    q, k, v = (pad(x, (0, 0, 0, size - plan.size)) for x in (q, k, v))
    attend = _compiled() if q.device.type == "cuda" else flex_attention
    mask = block_mask(plan, size, q.device)
    out = attend(q, k, v, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out[:, :, : plan.size]


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=False)


@lru_cache(maxsize=2)
def block_mask(plan: TreePlan, size: int, device: torch.device) -> BlockMask:
    """What `plan` lets each of `size` places see, `size` a multiple of BLOCK; padding sees itself.

    Kept for all layers of a row and for its backward pass.
    """
    own, low, high = (x.to(device) for x in _ranges(plan, size))

    def sees(_b: Any, _h: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        visible = (key <= query) & (key >= own[query])
        for depth in range(low.shape[0]):
            visible = visible | ((key >= low[depth, query]) & (key < high[depth, query]))
        return visible

    touched, full = block_visibility(plan, size)
    partial = _listed(touched & ~full, device)
    whole = _listed(full, device)
    return BlockMask.from_kv_blocks(*partial, *whole, BLOCK_SIZE=BLOCK, mask_mod=sees)


def block_visibility(plan: TreePlan, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[blocks, blocks] each: whether any query of a block sees any key of another, and whether all see all."""
    blocks = size // BLOCK
    seen = torch.zeros(blocks, blocks, dtype=torch.bool)
    whole = torch.ones(blocks, blocks, dtype=torch.bool)
    for start, stop, context in _stretches(plan, size):
        for block in range(start // BLOCK, (stop - 1) // BLOCK + 1):
            first, last = max(start, block * BLOCK), min(stop, (block + 1) * BLOCK) - 1
            all_of_it = torch.zeros(blocks, dtype=torch.bool)
            for low, high in (*context, (start, last + 1)):
                seen[block, low // BLOCK : (high - 1) // BLOCK + 1] = True
            for low, high in (*context, (start, first + 1)):  # what even the first of these queries sees
                all_of_it[-(-low // BLOCK) : high // BLOCK] = True
            whole[block] &= all_of_it
    return seen, whole & seen


def _stretches(plan: TreePlan, size: int) -> list[tuple[int, int, tuple[tuple[int, int], ...]]]:
    """(start, stop, context) of every stretch, padding as stretches of one token."""
    found = []
    for bundle in plan.bundles:
        start = bundle.start
        for length in bundle.sizes:
            found.append((start, start + length, bundle.context))
            start += length
    return found + [(place, place + 1, ()) for place in range(plan.size, size)]


def _ranges(plan: TreePlan, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per place: where its own stretch starts [size], and the ranges of its context, low and high [depth, size]."""
    depth = max((len(b.context) for b in plan.bundles), default=0)
    own = torch.arange(size, dtype=torch.int32)
    low, high = (torch.zeros(depth, size, dtype=torch.int32) for _ in range(2))
    for start, stop, context in _stretches(plan, size):
        own[start:stop] = start
        for i, (first, end) in enumerate(context):
            low[i, start:stop], high[i, start:stop] = first, end
    return own, low, high


def _listed(blocks: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts [1, 1, blocks] and key blocks [1, 1, blocks, blocks], those that count first."""
    counts = blocks.sum(-1, dtype=torch.int32)
    order = torch.argsort((~blocks).to(torch.int8), dim=-1, stable=True).to(torch.int32)
    return counts[None, None].to(device), order[None, None].to(device)
