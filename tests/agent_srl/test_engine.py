"""Risks: shared trunks that change what is generated or are computed twice, seeds that do not hold, failed, closed or
cancelled calls that hang others, models that need another attention than ours."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, MistralConfig

from agent_srl.errors import EngineError
from agent_srl.models import load_model
from agent_srl.rollout.attention import ATTENTION, register_attention
from agent_srl.rollout.engine import Sampling
from agent_srl.rollout.hf import TransformersEngine
from agent_srl.train.tree import Branch, branch_logprobs, pack

PROMPTS = [tuple(range(100, 140)), tuple(range(100, 120)), (7, 8, 9)]
STEPS = [tuple(range(100, 100 + size)) for size in (160, 90, 44, 41, 7)]
"""Steps of one trajectory: some close together, some far apart."""
WINDOWS = [(*range(100, 160), *range(start, start + 40)) for start in (300, 400, 500)]
"""Prompts with a common beginning only."""
LONG = tuple(100 + i * i % 997 for i in range(2600))
PIECES = [*(LONG[:size] for size in (2600, 2049, 1025, 1024, 1000, 5)), (*LONG[:1500], *range(1200))]
"""Prompts that end within, at the end of and after a piece, and one that goes on from the middle of one."""


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(str(tiny_model), torch.float32, torch.device("cpu"))


@pytest.fixture
def computed(model):
    """Tokens that went through the model, as a list with one number per pass."""
    counts = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, ids, out: counts.append(out.shape[:-1].numel()))
    yield counts
    hook.remove()


async def generate(model, requests, end=frozenset({-1}), **options):
    engine = TransformersEngine(model, set(end), **options)
    found = await asyncio.gather(*(engine.generate(p, n, s) for p, n, s in requests))
    await engine.close()
    return found


@pytest.mark.parametrize("prompts", [PROMPTS, STEPS, WINDOWS, PIECES, [*PROMPTS, *STEPS, *WINDOWS]])
@pytest.mark.parametrize("max_rows", [96, 2])
async def test_greedy_equals_transformers_generate(model, prompts, max_rows):
    found = await generate(model, [(p, 1, Sampling(0, 12)) for p in prompts], max_rows=max_rows)
    for prompt, [completion] in zip(prompts, found, strict=True):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=-1)
        assert list(completion.tokens_T) == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("prompts", [STEPS, WINDOWS, PIECES, [*STEPS, *WINDOWS, *PROMPTS]])
async def test_logprobs_are_those_of_a_dense_forward_pass(model, prompts):
    """With rows that end at different tokens, so that storage is compacted on the way."""
    end = set(range(0, model.config.vocab_size, 30))
    requests = [(p, 4, Sampling(0.7, 24, seed=i)) for i, p in enumerate(prompts)]
    found = await generate(model, requests, end=end)
    assert len({len(c.tokens_T) for completions in found for c in completions}) > 5
    for prompt, completions in zip(prompts, found, strict=True):
        for c in completions:
            [row] = pack([Branch(prompt, c.tokens_T, 0.0, 0.0)], 10_000)
            logprobs, _ = branch_logprobs(model, row, 0.7)
            torch.testing.assert_close(torch.tensor(c.logprobs_T), logprobs.detach(), atol=1e-5, rtol=0)


async def test_a_trajectory_is_computed_once_however_many_rows_it_has(model, computed):
    other = [tuple(range(900, 900 + size)) for size in (50, 20)]
    interleaved = [STEPS[4], other[1], STEPS[0], other[0], STEPS[2]]
    await generate(model, [(STEPS[0], 1, Sampling(0, 1))])  # the self-check
    check = sum(computed) - len(STEPS[0])
    computed.clear()
    await generate(model, [(p, 3, Sampling(1.0, 1)) for p in interleaved], max_rows=4)
    assert sum(computed) == check + len(STEPS[0]) + len(other[0])


async def test_a_common_beginning_is_computed_once(model, computed):
    await generate(model, [(p, 2, Sampling(1.0, 1)) for p in WINDOWS])
    assert [n for n in computed if n > 20] == [100, 40, 40]


async def test_a_seed_gives_the_same_tokens_whoever_shares_the_batch(model):
    sampling = Sampling(1.0, 16, seed=5)
    [alone] = await generate(model, [(PROMPTS[1], 4, sampling)])
    together = await generate(
        model, [(p, 4, Sampling(1.0, 16, seed=i)) for i, p in enumerate(PROMPTS)] + [(PROMPTS[1], 4, sampling)]
    )
    assert [c.tokens_T for c in together[-1]] == [c.tokens_T for c in alone]
    assert len({c.tokens_T for c in alone}) > 1


async def test_the_callers_thread_generates_the_same_as_one_apart(model):
    requests = [(p, 3, Sampling(1.0, 12, seed=4)) for p in PROMPTS]
    apart, inline = [await generate(model, requests, inline=alone) for alone in (False, True)]
    assert inline == apart


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


@pytest.mark.parametrize("prompt", [(10**9,), ("no token",), ()])
async def test_a_failed_batch_raises_and_the_next_one_works(model, prompt):
    engine = TransformersEngine(model, {-1})
    with pytest.raises(EngineError, match="generation failed"):
        await engine.generate(prompt, 1, Sampling(0, 2))
    assert await engine.generate((5,), 1, Sampling(0, 2))
    await engine.close()


def wait_for_passes(computed):
    while len(computed) < 5:
        time.sleep(0.01)


async def test_a_cancelled_call_stops_and_does_not_stop_others(model, computed):
    engine = TransformersEngine(model, {-1}, max_rows=2)
    long = asyncio.create_task(engine.generate((5,), 2, Sampling(1.0, 3000)))
    waiting = asyncio.create_task(engine.generate((6,), 2, Sampling(1.0, 3000)))
    await asyncio.to_thread(wait_for_passes, computed)
    waiting.cancel()
    long.cancel()
    assert await asyncio.wait_for(engine.generate((7,), 1, Sampling(0, 2)), 60)
    assert len(computed) < 2000
    await engine.close()


async def test_others_get_their_turn_between_two_passes(model, computed):
    """Sandboxes are served by the thread that generates."""
    engine, turns = TransformersEngine(model, {-1}, inline=True), 0
    call = asyncio.create_task(engine.generate((5,), 1, Sampling(0, 20)))
    while not call.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= len(computed) > 20
    await engine.close()


async def test_others_get_their_turn_while_a_long_prompt_is_computed(model, computed):
    engine, turns = TransformersEngine(model, {-1}, inline=True), [0]
    await engine.generate((5,), 1, Sampling(0, 1))  # the self-check
    computed.clear()
    call = asyncio.create_task(engine.generate(LONG, 1, Sampling(0, 1)))
    while not call.done():
        await asyncio.sleep(0)
        turns.append(sum(computed))
    assert turns[-1] == len(LONG) and max(after - before for before, after in pairwise(turns)) <= 512
    await engine.close()


@pytest.mark.parametrize("inline", [True, False])
async def test_a_model_that_was_trained_is_so_again_when_nobody_waits_any_more(model, computed, inline):
    model.train()
    engine = TransformersEngine(model, {-1}, inline=inline)
    call = asyncio.create_task(engine.generate((5,), 2, Sampling(1.0, 3000)))
    await asyncio.to_thread(wait_for_passes, computed)
    assert not model.training
    call.cancel()
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
    assert model.training
    model.eval()
    await engine.close()


async def test_closing_answers_whoever_waits(model, computed):
    engine = TransformersEngine(model, {-1}, max_rows=1)
    calls = [asyncio.create_task(engine.generate((i,), 1, Sampling(1.0, 3000))) for i in (5, 6)]
    await asyncio.to_thread(wait_for_passes, computed)
    await engine.close()
    for call in calls:
        with pytest.raises(EngineError, match="closed"):
            await call
    with pytest.raises(EngineError, match="closed"):
        await engine.generate((5,), 1, Sampling(0, 1))


LONGROPE = {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE |= {"rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MistralConfig(sliding_window=16), "sliding window of 16: set rollout.engine=vllm"),
        (
            LlamaConfig(head_dim=8, max_position_embeddings=64, rope_parameters=LONGROPE),
            "16 beyond which its longrope rotary embedding changes: set rollout.engine=vllm",
        ),
        (
            LlamaConfig(head_dim=8, max_position_embeddings=16, rope_parameters=DYNAMIC),
            "16 beyond which its dynamic rotary embedding changes: lower data.max_prompt_tokens",
        ),
        (
            LlamaConfig(head_dim=8, max_position_embeddings=16),
            "the model's 16 positions .*: lower data.max_prompt_tokens",
        ),
    ],
)
async def test_more_tokens_than_the_model_sees_as_in_training_are_refused(tiny, config, words):
    model = tiny(config)
    with pytest.raises(EngineError, match=f"a prompt of 3 tokens and 14 new ones exceed .*{words}"):
        await generate(model, [(PROMPTS[2], 1, Sampling(0, 14))])
    [[completion]] = await generate(model, [(PROMPTS[2], 1, Sampling(0, 13))])
    expected = model.generate(torch.tensor([PROMPTS[2]]), max_new_tokens=13, do_sample=False, eos_token_id=-1)
    assert list(completion.tokens_T) == expected[0, 3:].tolist()


async def test_a_stretched_model_generates_beyond_the_positions_it_had_before(tiny):
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 16}
    model = tiny(LlamaConfig(head_dim=8, max_position_embeddings=16, rope_parameters=yarn))
    [[completion]] = await generate(model, [(PROMPTS[2], 1, Sampling(0, 40))])
    expected = model.generate(torch.tensor([PROMPTS[2]]), max_new_tokens=40, do_sample=False, eos_token_id=-1)
    assert list(completion.tokens_T) == expected[0, 3:].tolist()


@pytest.mark.parametrize(
    ("caps", "words"),
    [
        ({"attn_logit_softcapping": None, "final_logit_softcapping": 0.01}, "cannot be decoded on shared trunks"),
        ({"attn_logit_softcapping": 2.0, "final_logit_softcapping": None}, "caps attention"),
    ],
)
async def test_a_model_with_another_attention_is_refused(tiny, caps, words):
    with pytest.raises(EngineError, match=words):
        await generate(tiny(Gemma2Config(head_dim=8, **caps)), [(PROMPTS[2], 1, Sampling(0, 4))])


@pytest.mark.parametrize("special", [False, True])
async def test_the_coarse_numbers_of_half_precision_are_no_reason_to_refuse(special):
    model = load_model("smollm2", torch.bfloat16, torch.device("cpu"))
    [[completion]] = await generate(model, [(tuple(range(1, 9)) if special else PROMPTS[1], 1, Sampling(0, 2))])
    assert len(completion.tokens_T) == 2


async def test_in_half_precision_another_attention_is_still_refused(tiny):
    model = tiny(Gemma2Config(head_dim=8, attn_logit_softcapping=None, final_logit_softcapping=0.01)).bfloat16()
    model.get_output_embeddings().weight.data *= 20
    with pytest.raises(EngineError, match="cannot be decoded on shared trunks"):
        await generate(model, [(PROMPTS[2], 1, Sampling(0, 4))])


@pytest.fixture
def tiny():
    def make(config):
        register_attention()
        torch.manual_seed(0)
        config.update({"vocab_size": 200, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2})
        config.update({"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0})
        return AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION)

    return make
