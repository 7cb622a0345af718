"""Generation by transformers on the training model itself: prefixes computed once, rows decoded together.

A prompt that is a prefix of another one in the batch is not computed at all, all samples of a prompt share one copy of
its keys and values, and finished rows leave the batch. Left out: continuous batching (a batch
runs until its last row ends).
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from agent_srl.errors import EngineError
from agent_srl.rollout.attention import SharedPrefix
from agent_srl.rollout.engine import Sampling
from agent_srl.types import Completion


@dataclass
class _Request:
    prompt: tuple[int, ...]
    n: int
    sampling: Sampling
    result: asyncio.Future[list[Completion]]


@dataclass
class _Prefix:
    """Keys and values [1, H, P, D] per layer, and the logits [V] after the last token."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    logits: torch.Tensor


class TransformersEngine:
    """Batches concurrent requests and runs them on `model` in a thread."""

    def __init__(self, model: Any, end_tokens: set[int], *, max_rows: int = 96) -> None:
        self._model, self._end_tokens, self._max_rows = model, end_tokens, max_rows
        self._waiting: list[_Request] = []
        self._worker: asyncio.Task[None] | None = None
        # One thread of its own: glibc keeps a heap for each thread that ever allocated.
        self._thread = ThreadPoolExecutor(1, "engine")
        self.tokens_decoded = 0

    async def generate(self, prompt_P: tuple[int, ...], n: int, sampling: Sampling) -> list[Completion]:
        """See `Engine.generate`."""
        request = _Request(prompt_P, n, sampling, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._serve())
        return await request.result

    async def update_weights(self, model: Any) -> None:
        """The engine shares the trainer's model; another one replaces it."""
        self._model = model

    async def close(self) -> None:
        if self._worker is not None and not self._worker.done():
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._thread.shutdown(wait=False)

    async def _serve(self) -> None:
        await asyncio.sleep(0)  # let everything that was asked for at the same time arrive
        while self._waiting:
            batch = self._next_batch()
            try:
                results = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, batch)
            except (RuntimeError, ValueError, IndexError) as error:
                for request in batch:
                    if not request.result.done():
                        request.result.set_exception(EngineError(f"generation failed: {error}"))
                continue
            for request, completions in zip(batch, results, strict=True):
                if not request.result.done():
                    request.result.set_result(completions)

    def _next_batch(self) -> list[_Request]:
        """Requests of one length limit, up to the row limit."""
        limit = self._waiting[0].sampling.max_new_tokens
        batch: list[_Request] = []
        for request in (r for r in self._waiting if r.sampling.max_new_tokens == limit):
            if batch and sum(r.n for r in batch) + request.n > self._max_rows:
                break
            batch.append(request)
        taken = {id(r) for r in batch}
        self._waiting = [r for r in self._waiting if id(r) not in taken]
        return batch

    @torch.no_grad()
    def _run(self, batch: list[_Request]) -> list[list[Completion]]:
        training = self._model.training
        self._model.eval()
        try:
            prompts = list(dict.fromkeys(r.prompt for r in batch))
            prefixes = self._prefill(prompts)
            group = [prompts.index(r.prompt) for r in batch for _ in range(r.n)]
            return self._decode(self._decode_state(prefixes, group, batch), prefixes, batch)
        finally:
            self._model.train(training)

    def _prefill(self, prompts: list[tuple[int, ...]]) -> list[_Prefix]:
        """One forward pass per prompt that is no prefix of a longer one; the others are slices of it."""
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        trunks: list[tuple[tuple[int, ...], Any, torch.Tensor]] = []
        found: dict[int, _Prefix] = {}
        for i in order:
            prompt = prompts[i]
            trunk = next((t for t in trunks if t[0][: len(prompt)] == prompt), None)
            if trunk is None:
                ids = torch.tensor([prompt], device=self._model.device)
                out = self._model.base_model(input_ids=ids, use_cache=True)
                trunk = (prompt, out.past_key_values, out.last_hidden_state[0])
                trunks.append(trunk)
            size, layers = len(prompt), trunk[1].layers
            found[i] = _Prefix(
                [layer.keys[:, :, :size] for layer in layers],
                [layer.values[:, :, :size] for layer in layers],
                self._head(trunk[2][size - 1 : size])[0],
            )
        return [found[i] for i in range(len(prompts))]

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., width] -> [..., V] in float32."""
        return self._model.get_output_embeddings()(hidden).float()  # type: ignore[no-any-return]

    def _decode_state(self, prefixes: list[_Prefix], group: list[int], batch: list[_Request]) -> SharedPrefix:
        device, layers = self._model.device, range(len(prefixes[0].keys))
        longest = max(p.keys[0].shape[2] for p in prefixes)
        first = prefixes[0].keys[0]
        shape = (len(group), first.shape[1], batch[0].sampling.max_new_tokens, first.shape[3])
        mask = torch.zeros(len(prefixes), longest, dtype=torch.bool, device=device)
        for b, prefix in enumerate(prefixes):
            mask[b, : prefix.keys[0].shape[2]] = True
        return SharedPrefix(
            prefix_k=[_stack([p.keys[i] for p in prefixes], longest) for i in layers],
            prefix_v=[_stack([p.values[i] for p in prefixes], longest) for i in layers],
            prefix_mask=mask,
            suffix_k=[first.new_zeros(shape) for _ in layers],
            suffix_v=[first.new_zeros(shape) for _ in layers],
            group=torch.tensor(group, device=device),
            active=torch.arange(len(group), device=device),
        )

    def _decode(self, state: SharedPrefix, prefixes: list[_Prefix], batch: list[_Request]) -> list[list[Completion]]:
        device, limit = self._model.device, batch[0].sampling.max_new_tokens
        row_of = [r for r in batch for _ in range(r.n)]
        heat = torch.tensor([r.sampling.temperature for r in row_of], device=device)
        sizes = torch.tensor([len(r.prompt) for r in row_of], device=device)
        uniforms = _uniforms(batch).to(device)
        logits = torch.stack([prefixes[g].logits for g in state.group.tolist()])
        tokens: list[list[int]] = [[] for _ in row_of]
        logprobs: list[list[float]] = [[] for _ in row_of]
        alive = torch.arange(len(row_of), device=device)
        for t in range(limit):
            picked, chosen = _pick(logits, heat[alive], uniforms[alive, t])
            for row, token, logprob in zip(alive.tolist(), picked.tolist(), chosen.tolist(), strict=True):
                tokens[row].append(token)
                logprobs[row].append(logprob)
            self.tokens_decoded += len(alive)
            going = torch.tensor([token not in self._end_tokens for token in picked.tolist()], device=device)
            if t + 1 == limit or not going.any():
                break
            alive = alive[going]
            state.go_on(going, t)
            out = self._model.base_model(
                input_ids=picked[going, None],
                position_ids=(sizes[alive] + t)[:, None],
                use_cache=False,
                shared_prefix=state,
            )
            logits = self._head(out.last_hidden_state[:, 0])
        done = iter(
            [Completion(tuple(t), tuple(p), t[-1] in self._end_tokens) for t, p in zip(tokens, logprobs, strict=True)]
        )
        return [[next(done) for _ in range(r.n)] for r in batch]


def _stack(parts: list[torch.Tensor], length: int) -> torch.Tensor:
    """[1, H, P_i, D] parts -> [B, H, length, D], zero-padded on the right."""
    _, heads, _, size = parts[0].shape
    out = parts[0].new_zeros(len(parts), heads, length, size)
    for b, part in enumerate(parts):
        out[b, :, : part.shape[2]] = part[0]
    return out


def _uniforms(batch: list[_Request]) -> torch.Tensor:
    """[R, T] numbers in [0, 1), from each request's own seed: they do not depend on who shares the batch."""
    draws = []
    for request in batch:
        generator = torch.Generator().manual_seed(request.sampling.seed)
        draws.append(torch.rand(request.n, request.sampling.max_new_tokens, generator=generator))
    return torch.cat(draws)


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
