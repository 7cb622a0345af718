"""Generation by transformers on the training model itself: trunks computed and stored once, rows decoded together.

All steps of a trajectory, and all samples of a step, read the same keys and values. Finished rows leave the batch.
Left out: continuous batching (rows run until the last of them ends), and models that mask or scale attention in ways of
their own, which are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from agent_srl.errors import EngineError
from agent_srl.models import causal_model, context_tokens
from agent_srl.rollout.batching import BatchingEngine, Request
from agent_srl.rollout.decode import Row, check, decode
from agent_srl.rollout.trunks import Tokens, Trunk, prefill, trunks_of
from agent_srl.types import Completion

Outcome = tuple[Request, list[Completion] | EngineError]


class TransformersEngine(BatchingEngine):
    """Batches concurrent requests and runs them on `model` in a thread."""

    def __init__(self, model: Any, end_tokens: set[int], *, max_rows: int = 96, inline: bool = False) -> None:
        """At most `max_rows` samples decode at once; a trunk with more of them is kept until they are done."""
        super().__init__(inline=inline)
        self._model, self._end_tokens, self._max_rows = causal_model(model), end_tokens, max_rows
        self._work: Iterator[list[Outcome]] | None = None
        """The batch in hand, one pass of the model at a time."""
        self._checked = False

    async def update_weights(self, model: Any) -> None:
        """The engine shares the trainer's model; another one replaces it."""
        self._model = causal_model(model)

    async def sleep(self) -> None:
        """Holds nothing between calls."""

    def _admit(self) -> None:
        """Whole trajectories of one length limit, the one that waits longest first, up to the row limit."""
        if self._running:
            return
        limit = self._waiting[0].sampling.max_new_tokens
        able = [r for r in self._waiting if r.sampling.max_new_tokens == limit]
        by_trunk: dict[Tokens, list[Request]] = {}
        trunk_of = trunks_of(r.prompt for r in able)
        for request in able:
            by_trunk.setdefault(trunk_of[request.prompt], []).append(request)
        rows = 0
        for requests in by_trunk.values():
            rows += sum(r.n for r in requests)
            if self._running and rows > self._max_rows:
                break
            self._running += requests
        taken = set(map(id, self._running))
        self._waiting = [r for r in self._waiting if id(r) not in taken]

    def _advance(self) -> list[Outcome]:
        """One pass of the model; the outcomes come with the last one."""
        if self._work is None:
            self._work = self._batch(self._running)
        outcomes = next(self._work)
        if outcomes:
            self._work = None
        return outcomes

    def _forget(self) -> None:
        if self._work is not None:
            self._work.close()  # type: ignore[attr-defined]
            self._work = None

    @torch.no_grad()
    def _batch(self, running: list[Request]) -> Iterator[list[Outcome]]:
        """Nothing after each pass, and at the end one outcome per request."""
        refused = {request: error for request in running if (error := _refusal(self._model.config, request))}
        batch = [request for request in running if request not in refused]
        rows = {request: _rows(request) for request in batch}
        training = self._model.training
        self._model.eval()
        try:
            if not self._checked:
                for _ in check(self._model):
                    yield []
                self._checked = True
            for _ in self._passes([row for r in batch for row in rows[r]], lambda: any(r.wanted for r in batch)):
                yield []
        finally:
            self._model.train(training)
        done = {request: [row.completion(self._end_tokens) for row in rows[request]] for request in batch}
        yield [*done.items(), *refused.items()]

    def _passes(self, rows: list[Row], wanted: Callable[[], bool]) -> Iterator[None]:
        """All rows, `max_rows` at a time; rows of one trunk one after the other, so that it is computed once."""
        trunk_of = trunks_of(row.prompt for row in rows)
        order = {trunk: i for i, trunk in enumerate(dict.fromkeys(trunk_of[row.prompt] for row in rows))}
        rows = sorted(rows, key=lambda row: (order[trunk_of[row.prompt]], -len(row.prompt)))
        held: dict[Tokens, Trunk] = {}
        for start in range(0, len(rows), self._max_rows):
            if not wanted():
                return
            part = rows[start : start + self._max_rows]
            needed = dict.fromkeys(trunk_of[row.prompt] for row in part)
            held = {tokens: trunk for tokens, trunk in held.items() if tokens in needed}
            for tokens in needed:
                if tokens not in held:
                    lengths = {len(p) for p, t in trunk_of.items() if t == tokens}
                    held[tokens] = yield from prefill(self._model, tokens, lengths, list(held.values()))
            yield from decode(self._model, [held[trunk_of[row.prompt]] for row in part], part, self._end_tokens, wanted)


def _rows(request: Request) -> list[Row]:
    """Numbers come from the request's own seed, so they do not depend on who shares the batch."""
    sampling = request.sampling
    generator = torch.Generator().manual_seed(sampling.seed)
    uniforms = torch.rand(request.n, sampling.max_new_tokens, generator=generator)
    return [Row(request.prompt, sampling.temperature, uniforms[i]) for i in range(request.n)]


def _refusal(config: Any, request: Request) -> EngineError | None:
    """Where the model would not see its whole context, or see it otherwise than in training."""
    prompt, new = len(request.prompt), request.sampling.max_new_tokens
    for limit, what, way_out in _limits(config):
        if prompt + new > limit:
            return EngineError(f"a prompt of {prompt} tokens and {new} new ones exceed {what}: {way_out}")
    return None


def _limits(config: Any) -> Iterator[tuple[int, str, str]]:
    """How many tokens a prompt and its completion may have, what they exceed if they have more, and the way out.

    Rotary embeddings that change with the length of a row change all of its keys, those of a trunk included.
    """
    elsewhere, shorter = "set rollout.engine=vllm", "lower data.max_prompt_tokens or train.max_new_tokens"
    window = getattr(config, "sliding_window", None)
    if window is not None:
        yield window, f"the model's sliding window of {window}", elsewhere
    positions = context_tokens(config)
    rope = getattr(config, "rope_parameters", None) or {}
    for kind in [rope] if "rope_type" in rope else rope.values():
        name = kind["rope_type"]
        if name == "longrope":
            original = kind["original_max_position_embeddings"]
            yield original, f"the {original} beyond which its {name} rotary embedding changes", elsewhere
        elif "dynamic" in name:  # vLLM, too, takes no more than the model's positions
            original = config.max_position_embeddings
            yield original, f"the {original} beyond which its {name} rotary embedding changes", shorter
    if positions is not None:
        yield positions, f"the model's {positions} positions (max_position_embeddings)", shorter
