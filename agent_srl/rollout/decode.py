"""Decoding of many rows on their trunks, one token per pass, until each has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from agent_srl.errors import EngineError
from agent_srl.rollout.attention import SharedPrefix
from agent_srl.rollout.check import check_prompt
from agent_srl.rollout.trunks import Trunk, head, prefill
from agent_srl.types import Completion

_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-4}
"""Of log-probabilities in the self-check, on average over the vocabulary. Half precision gets 0.25: SmolLM2 in bfloat16
is off by 0.03 to 0.09, whichever two equal ways of computing it are compared."""


@dataclass(eq=False)
class Row:
    """One sample. T is the limit of new tokens."""

    prompt: tuple[int, ...]
    temperature: float
    uniforms_T: torch.Tensor
    """In [0, 1): what chance decides, per token."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def completion(self, end_tokens: set[int]) -> Completion:
        ended = bool(self.tokens) and self.tokens[-1] in end_tokens
        return Completion(tuple(self.tokens), tuple(self.logprobs), ended)


def decode(
    model: Any, trunks: list[Trunk], rows: list[Row], end_tokens: set[int], wanted: Callable[[], bool]
) -> Iterator[None]:
    """Fill `rows`, whose `trunks` stand beside them, neighbours together and longer prompts first.

    Stops after each pass of the model, and for good when nothing is `wanted` any more.
    """
    device, limit = model.device, len(rows[0].uniforms_T)
    state = _state(trunks, rows, limit)
    heat = torch.tensor([row.temperature for row in rows], device=device)
    sizes = torch.tensor([len(row.prompt) for row in rows], device=device)
    uniforms = torch.stack([row.uniforms_T for row in rows]).to(device)
    logits = torch.stack([trunk.logits[len(row.prompt)] for trunk, row in zip(trunks, rows, strict=True)])
    alive = list(range(len(rows)))
    for t in range(limit):
        picked, chosen = _pick(logits, heat, uniforms[:, t])
        tokens = picked.tolist()
        for row, token, logprob in zip(alive, tokens, chosen.tolist(), strict=True):
            rows[row].tokens.append(token)
            rows[row].logprobs.append(logprob)
        going = [token not in end_tokens for token in tokens]
        if t + 1 == limit or not any(going) or not wanted():
            return
        state.go_on(going, t)
        if not all(going):
            alive = [row for row, on in zip(alive, going, strict=True) if on]
            keep = torch.tensor(going, device=device)
            picked, heat, sizes, uniforms = picked[keep], heat[keep], sizes[keep], uniforms[keep]
        out = model.base_model(
            input_ids=picked[:, None], position_ids=(sizes + t)[:, None], use_cache=False, shared_prefix=state
        )
        logits = head(model, out.last_hidden_state[:, 0])
        yield


def check(model: Any) -> Iterator[None]:
    """Raises EngineError if one decoded token does not follow from the others as in the model's own forward pass; stops
    on the way as `prefill` does.

    That is so where a model masks or scales attention or logits in a way that is not known here.
    """
    ids = check_prompt(model.config.vocab_size)
    trunk = yield from prefill(model, ids[:-1], {len(ids) - 1}, [])
    row = Row(ids[:-1], 0.0, torch.zeros(1))
    out = model.base_model(
        input_ids=torch.tensor([ids[-1:]], device=model.device),
        position_ids=torch.tensor([[len(ids) - 1]], device=model.device),
        use_cache=False,
        shared_prefix=_state([trunk], [row], 1),
    )
    found = head(model, out.last_hidden_state[0, 0]).log_softmax(-1)
    expected = model(input_ids=torch.tensor([ids], device=model.device)).logits[0, -1].float().log_softmax(-1)
    off = float((found - expected).abs().mean())
    if not off < _TOLERANCE.get(model.dtype, 0.25):
        raise EngineError(
            f"{type(model).__name__} cannot be decoded on shared trunks (log-probabilities differ by {off:.2g} on "
            "average): set rollout.engine=vllm"
        )


def _state(trunks: list[Trunk], rows: list[Row], limit: int) -> SharedPrefix:
    unique = list({id(trunk): trunk for trunk in trunks}.values())
    place = {id(trunk): i for i, trunk in enumerate(unique)}
    return SharedPrefix(
        trunk_k=[trunk.keys for trunk in unique],
        trunk_v=[trunk.values for trunk in unique],
        trunk_of=[place[id(trunk)] for trunk in trunks],
        prompt_of=[len(row.prompt) for row in rows],
        max_tokens=limit,
    )


def _pick(logits: torch.Tensor, heat: torch.Tensor, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [A] and their log-probabilities [A] under the sampling distribution; `heat` [A] holds temperatures, 0
    is greedy.

    By inverse CDF: torch.multinomial draws one exponential per vocabulary entry and was a quarter of the decoding time.
    """
    greedy = heat == 0
    logprobs = torch.log_softmax(logits / heat.masked_fill(greedy, 1.0)[:, None], dim=-1)
    cdf = logprobs.exp().cumsum(-1)
    drawn = torch.searchsorted(cdf, (uniform * cdf[:, -1])[:, None]).squeeze(1).clamp(max=logits.shape[-1] - 1)
    tokens = torch.where(greedy, logprobs.argmax(-1), drawn)
    return tokens, logprobs.gather(1, tokens[:, None]).squeeze(1)
