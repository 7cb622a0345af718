"""Risks: shared prefixes that change what is generated, seeds that do not hold, a failed batch that hangs callers."""

from __future__ import annotations

import asyncio

import pytest
import torch

from agent_srl.errors import EngineError
from agent_srl.models import load_model
from agent_srl.rollout.engine import Sampling
from agent_srl.rollout.hf import TransformersEngine
from agent_srl.train.tree import Branch, branch_logprobs, pack

PROMPTS = [tuple(range(100, 140)), tuple(range(100, 120)), (7, 8, 9)]


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(str(tiny_model), torch.float32, torch.device("cpu"))


async def generate(model, requests, end=frozenset({-1})):
    engine = TransformersEngine(model, set(end))
    found = await asyncio.gather(*(engine.generate(p, n, s) for p, n, s in requests))
    await engine.close()
    return found


async def test_greedy_equals_transformers_generate(model):
    found = await generate(model, [(p, 1, Sampling(0, 12)) for p in PROMPTS])
    for prompt, [completion] in zip(PROMPTS, found, strict=True):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=-1)
        assert list(completion.tokens_T) == expected[0, len(prompt) :].tolist()


async def test_logprobs_are_those_of_a_forward_pass(model):
    [completions] = await generate(model, [(PROMPTS[0], 3, Sampling(0.7, 10, seed=3))])
    for c in completions:
        [row] = pack([Branch(PROMPTS[0], c.tokens_T, 0.0, 0.0)], 999)
        logprobs, _ = branch_logprobs(model, row, 0.7)
        torch.testing.assert_close(torch.tensor(c.logprobs_T), logprobs.detach(), atol=1e-5, rtol=1e-4)


async def test_a_seed_gives_the_same_tokens_whoever_shares_the_batch(model):
    sampling = Sampling(1.0, 16, seed=5)
    [alone] = await generate(model, [(PROMPTS[1], 4, sampling)])
    together = await generate(
        model, [(p, 4, Sampling(1.0, 16, seed=i)) for i, p in enumerate(PROMPTS)] + [(PROMPTS[1], 4, sampling)]
    )
    assert [c.tokens_T for c in together[-1]] == [c.tokens_T for c in alone]
    assert len({c.tokens_T for c in alone}) > 1


async def test_rows_end_at_the_end_token_and_only_there(model):
    [free] = await generate(model, [(PROMPTS[2], 6, Sampling(1.0, 20, seed=1))])
    end = free[0].tokens_T[5]
    [ended] = await generate(model, [(PROMPTS[2], 6, Sampling(1.0, 20, seed=1))], end={end})
    for before, after in zip(free, ended, strict=True):
        stop = before.tokens_T.index(end) + 1 if end in before.tokens_T else 20
        assert after.tokens_T == before.tokens_T[:stop]
        assert after.finished == (end in before.tokens_T)


async def test_sampling_follows_the_distribution(model):
    [completions] = await generate(model, [(PROMPTS[2], 4000, Sampling(1.0, 1, seed=2))])
    logits = model(torch.tensor([PROMPTS[2]])).logits[0, -1].detach()
    expected = float(-(logits.log_softmax(-1).exp() * logits.log_softmax(-1)).sum())
    assert abs(-sum(c.logprobs_T[0] for c in completions) / 4000 - expected) < 0.05


async def test_a_failed_batch_raises_and_the_next_one_works(model):
    engine = TransformersEngine(model, {-1})
    with pytest.raises(EngineError, match="generation failed"):
        await engine.generate((10**9,), 1, Sampling(0, 2))
    assert await engine.generate((5,), 1, Sampling(0, 2))
    await engine.close()
