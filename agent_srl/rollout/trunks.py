"""Which prompts share a trunk, and the keys and values of a trunk, computed once.

A prompt that is a prefix of another one is no trunk of its own: it is read off the longer one. A trunk that begins like
one that is still held starts from its keys and values. Left out: storing such a common beginning once (each trunk holds
all of its tokens).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from agent_srl.train.tree import common_prefix

Tokens = tuple[int, ...]
_WORTH = 0.25
"""A common beginning is taken over if it is at least this share of a prompt: what follows it is computed with a mask,
which costs more per token than a pass without one."""
_PIECE = 512
"""Tokens per pass: others wait no longer than one takes. Beside one pass over all of them that costs a tenth more."""


def trunks_of(prompts: Iterable[Tokens]) -> dict[Tokens, Tokens]:
    """The trunk of each prompt: the first of the longest prompts that begins with it."""
    trunks: list[Tokens] = []
    found: dict[Tokens, Tokens] = {}
    for prompt in sorted(dict.fromkeys(prompts), key=len, reverse=True):
        trunk = next((t for t in trunks if t[: len(prompt)] == prompt), None)
        if trunk is None:
            trunk = prompt
            trunks.append(trunk)
        found[prompt] = trunk
    return found


@dataclass(frozen=True)
class Trunk:
    """A trunk of P tokens that went through the model."""

    tokens: Tokens
    keys: list[torch.Tensor]
    """[H, P, D] per layer."""
    values: list[torch.Tensor]
    logits: dict[int, torch.Tensor]
    """[V] in float32 after the first so many tokens: one entry per prompt on this trunk."""


def prefill(model: Any, tokens: Tokens, lengths: Iterable[int], held: list[Trunk]) -> Generator[None, None, Trunk]:
    """Run what no held trunk has computed through a causal language model; stops after each pass.

    `lengths` are those of the prompts on this trunk.
    """
    from transformers import DynamicCache

    places, cache, logits = sorted(set(lengths)), DynamicCache(), dict[int, torch.Tensor]()
    nearest = max(held, key=lambda trunk: common_prefix(tokens, trunk.tokens), default=None)
    # What predicts the first token of every prompt is computed here.
    start = min(common_prefix(tokens, nearest.tokens), places[0] - 1) if nearest else 0
    if nearest is None or start < _WORTH * len(tokens):
        start = 0
    else:
        for layer, (keys, values) in enumerate(zip(nearest.keys, nearest.values, strict=True)):
            cache.update(keys[None, :, :start], values[None, :, :start], layer)
    for low in range(start, len(tokens), _PIECE):
        ids = torch.tensor([tokens[low : low + _PIECE]], device=model.device)
        hidden = model.base_model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state[0]
        ends = [place for place in places if low < place <= low + _PIECE]
        logits |= dict(zip(ends, head(model, hidden[[place - 1 - low for place in ends]]), strict=True))
        yield
    return Trunk(tokens, [x.keys[0] for x in cache.layers], [x.values[0] for x in cache.layers], logits)


def head(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """[..., width] -> [..., V] in float32."""
    return model.get_output_embeddings()(hidden).float()  # type: ignore[no-any-return]
