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
_SHORTEST = 1024
_SHAPES = 64
"""Compiled at most, far more than there are lengths up to a million tokens, with a gradient and without."""


def flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: TreePlan, scale: float) -> torch.Tensor:
    """q [1, heads, N, D], k and v [1, H, N, D] -> [1, heads, N, D]."""
    size = padded(plan.size)
    q, k, v = (pad(x, (0, 0, 0, size - plan.size)) for x in (q, k, v))
    attend = _compiled() if q.device.type == "cuda" else flex_attention
    mask = block_mask(plan, size, q.device)
    out = attend(q, k, v, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out[:, :, : plan.size]


def padded(size: int) -> int:
    """The length that a row of `size` tokens gets: one of two per power of two, since each is compiled anew.

    Blocks of padding see themselves alone and take no time."""
    step = max(_SHORTEST, (1 << (size - 1).bit_length()) // 4)
    return -(-size // step) * step


@cache
def _compiled() -> Any:
    # Beyond its limit, 8 by default, dynamo falls back to an attention that builds all scores.
    torch._dynamo.config.recompile_limit = max(_SHAPES, torch._dynamo.config.recompile_limit)
    return torch.compile(flex_attention, dynamic=False)


@lru_cache(maxsize=2)
def block_mask(plan: TreePlan, size: int, device: torch.device) -> BlockMask:
    """What `plan` lets each of `size` places see, `size` a multiple of BLOCK; padding sees itself.

    Kept for all layers of a row and for its backward pass.
    """
    entered, left = (x.to(device) for x in walk(plan, size))

    def sees(_b: Any, _h: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (entered[key] <= entered[query]) & (entered[query] < left[key])

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


def walk(plan: TreePlan, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[size] each: when a walk over the tree of tokens, depth first, enters a token, and when it has left all below it.

    A token sees those that it hangs below, so one comparison serves trees of any depth, and one compiled kernel.
    """
    above = [-1] * size
    for start, stop, context in _stretches(plan, size):
        above[start:stop] = [max((high for _, high in context), default=0) - 1, *range(start, stop - 1)]
    below = [1] * size + [0]
    for place in reversed(range(size)):
        below[above[place]] += below[place]
    entered, free = [0] * size, [0] * (size + 1)  # the last one, -1, stands for what is above every root
    for place in range(size):
        entered[place] = free[above[place]]
        free[above[place]] += below[place]
        free[place] = entered[place] + 1
    first = torch.tensor(entered, dtype=torch.int32)
    return first, first + torch.tensor(below[:-1], dtype=torch.int32)


def _listed(blocks: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts [1, 1, blocks] and key blocks [1, 1, blocks, blocks], those that count first."""
    counts = blocks.sum(-1, dtype=torch.int32)
    order = torch.argsort((~blocks).to(torch.int8), dim=-1, stable=True).to(torch.int32)
    return counts[None, None].to(device), order[None, None].to(device)
