"""Risks: vLLM that generates with weights of an earlier step, log-probabilities of another distribution, completions
without their end token, errors that do not say what to do.

In this process and as a server, where vllm is installed: `make test-vllm`.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from agent_srl.data.formats import write_trajectories
from agent_srl.errors import EngineError, ModelError
from agent_srl.rollout.attention import ATTENTION, register_attention
from agent_srl.rollout.engine import Sampling
from agent_srl.rollout.vllm import Limits, VllmEngine
from agent_srl.rollout.vllm_server import VllmServerEngine
from agent_srl.train.tree import Branch, branch_logprobs, pack
from env_server.schema import Action, Step, Trajectory

NEVER = 49_151
"""An end token that these models do not draw here."""
PROMPTS = [tuple(range(20, 60)), tuple(range(20, 45)), (7, 8, 9)]
LIMITS = Limits(max_tokens=512, memory_share=0.05, may_sleep=True)
here = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed in this environment")
pytestmark = pytest.mark.filterwarnings("ignore")


def make_model(seed: int, tokenizer, **shape):
    """Tied like small models are; weights large enough that another model's log-probabilities are far off."""
    register_attention()
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        **{"num_hidden_layers": 2, "initializer_range": 0.1, **shape},
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION)


@pytest.fixture(scope="module")
def models(tokenizer):
    return [make_model(seed, tokenizer) for seed in (0, 1)]


@pytest.fixture
def expert(tmp_path):
    """Runs so alike that a tiny model learns the format from a short warm-up."""
    steps = [
        Step(thought="Look.", action=Action(name="bash", arguments={"command": c}), observation="a.py")
        for c in ("ls", "cat a.py", "ls", "cat a.py")
    ]
    rows = [
        Trajectory(instance_id=f"p{i}__1", repo=f"p{i}", problem_statement="It is broken.", steps=steps, source="test")
        for i in range(4)
    ]
    write_trajectories(tmp_path / "expert.jsonl", rows)
    return tmp_path / "expert.jsonl"


@pytest.fixture(scope="module")
def server(models, tokenizer, tmp_path_factory):
    """A server that was started with other weights than any that are sent to it."""
    folder = tmp_path_factory.mktemp("served")
    make_model(2, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm", "--enforce-eager"]
    flags += ["--dtype", "float32", "--max-model-len", "512", "--gpu-memory-utilization", "0.05"]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), *flags]
    environment = {**os.environ, "VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)], env=environment, stdout=log, stderr=log
    )
    try:
        wait_until_up(process, f"http://127.0.0.1:{port}/health", folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def wait_until_up(process, url, log):
    for _ in range(300):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(1)
    raise AssertionError(log.read_text()[-3000:])


@pytest.fixture(params=[pytest.param("in process", marks=here), pytest.param("server", marks=here)])
async def make(request, models):
    """Engines of one kind."""
    made = []

    def engine(model=None, end_tokens=frozenset({NEVER})):
        if request.param == "server":
            url = request.getfixturevalue("server")
            made.append(VllmServerEngine(model or models[0], set(end_tokens), url=url))
        else:
            made.append(VllmEngine(model or models[0], set(end_tokens), LIMITS))
        return made[-1]

    if request.param == "server":
        request.getfixturevalue("server")
    yield engine
    for each in made:
        await each.close()


async def assert_samples_from(engine, model):
    """Greedy tokens are those of `model.generate`, log-probabilities those of a dense forward pass, at any
    temperature."""
    wanted = [(p, n, t) for p in PROMPTS for n, t in ((1, 0.0), (4, 0.6))]
    calls = [engine.generate(p, n, Sampling(t, 12, seed=i)) for i, (p, n, t) in enumerate(wanted)]
    for (prompt, n, temperature), found in zip(wanted, await asyncio.gather(*calls), strict=True):
        assert len(found) == n and len({c.tokens_T for c in found}) == n
        for c in found:
            [row] = pack([Branch(prompt, c.tokens_T, 0.0, 0.0)], 10_000)
            logprobs, _ = branch_logprobs(model, row, temperature or 1.0)
            torch.testing.assert_close(torch.tensor(c.logprobs_T), logprobs.detach(), atol=1e-3, rtol=1e-3)
        if temperature == 0:
            expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=-1)
            assert list(found[0].tokens_T) == expected[0, len(prompt) :].tolist()


async def test_it_samples_from_the_model_and_after_an_update_from_the_new_weights(make, models):
    engine = make()
    await assert_samples_from(engine, models[0])
    with torch.no_grad():
        before = {n: p.clone() for n, p in models[0].named_parameters()}
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            p.copy_(q)
    try:
        await engine.sleep()
        await engine.update_weights(models[0])
        await assert_samples_from(engine, models[1])
    finally:
        models[0].load_state_dict(before, strict=False)
    await engine.update_weights(models[0])
    await assert_samples_from(engine, models[0])


async def test_two_policies_in_turn_each_sample_from_their_own_model(make, models):
    first, second = make(models[0]), make(models[1])
    await assert_samples_from(first, models[0])
    await assert_samples_from(second, models[1])


async def test_the_end_token_ends_a_completion_and_is_part_of_it(make):
    [free] = await make().generate(PROMPTS[2], 1, Sampling(0, 8))
    end = free.tokens_T[3]
    [ended] = await make(end_tokens={end}).generate(PROMPTS[2], 1, Sampling(0, 8))
    assert ended.tokens_T == free.tokens_T[: free.tokens_T.index(end) + 1] and ended.finished
    assert len(ended.logprobs_T) == len(ended.tokens_T) and not free.finished


async def test_a_seed_gives_the_same_tokens_and_the_next_one_others(make):
    engine = make()
    one, again, other = [await engine.generate(PROMPTS[0], 3, Sampling(1.0, 12, seed=s)) for s in (4, 4, 5)]
    assert [c.tokens_T for c in one] == [c.tokens_T for c in again]
    assert not {c.tokens_T for c in one} & {c.tokens_T for c in other}


async def test_a_prompt_that_is_too_long_fails_alone(make):
    engine = make()
    long, short = await asyncio.gather(
        engine.generate(tuple(range(20, 620)), 1, Sampling(0, 8)),
        engine.generate(PROMPTS[2], 1, Sampling(0, 8)),
        return_exceptions=True,
    )
    assert isinstance(long, EngineError) and "512" in str(long)
    assert len(short[0].tokens_T) == 8


async def test_a_cancelled_call_does_not_stop_others(make):
    engine = make()
    await engine.generate(PROMPTS[2], 1, Sampling(0, 1))
    call = asyncio.create_task(engine.generate(PROMPTS[2], 2, Sampling(1.0, 100)))
    await asyncio.sleep(0.3)
    call.cancel()
    assert await asyncio.wait_for(engine.generate(PROMPTS[1], 1, Sampling(0, 2)), 60)


@here
@pytest.mark.parametrize("kind", ["vllm", "vllm-server"])
def test_a_run_trains_on_samples_of_the_weights_it_has(kind, expert, tokenizer, request, tmp_path):
    """`agent-srl train` as it is: the trainer's log-probabilities are the engine's at every step."""
    make_model(0, tokenizer, initializer_range=0.02).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    sets = ["model.dtype=float32", "data.context=full", "warmup.steps=90", "warmup.lr=0.01", "train.max_steps=3"]
    sets += ["train.groups=3", "train.samples=4", "train.max_new_tokens=64", "train.lr=0.001", "eval.samples=2"]
    sets += ["model.threads=1", "train.temperature=1.3"]
    sets += ["eval.steps=4", f"rollout.engine={kind}"]
    if kind == "vllm":
        sets += ["rollout.memory_share=0.05", "rollout.max_tokens=512"]
    else:
        sets += [f"rollout.url={request.getfixturevalue('server')}"]
    flags = ["--trajectories", str(expert), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "run")]
    command = [sys.executable, "-m", "agent_srl", "train", "--task", "swe", *flags]
    done = subprocess.run(
        [*command, *(part for s in sets for part in ("--set", s))], capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "run" / "srl" / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["trained_groups"]]
    assert trained and all(row["grad_norm"] > 0 for row in trained)
    assert all(row["sampling_logp_difference_max"] < 1e-3 for row in trained)


@here
async def test_another_shape_in_the_same_process_is_refused(models, tokenizer):
    await VllmEngine(models[0], {NEVER}, LIMITS).generate(PROMPTS[2], 1, Sampling(0, 1))
    with pytest.raises(EngineError, match="another shape"):
        await VllmEngine(make_model(0, tokenizer, num_hidden_layers=1), {NEVER}, LIMITS).generate(
            PROMPTS[2], 1, Sampling(0, 1)
        )


@here
async def test_a_server_of_another_model_is_refused(server, tokenizer):
    engine = VllmServerEngine(make_model(0, tokenizer, num_hidden_layers=1), {NEVER}, url=server)
    with pytest.raises(EngineError, match="does not sample from this model"):
        await engine.generate(PROMPTS[2], 1, Sampling(0, 1))
    await engine.close()


async def test_no_server_says_how_to_start_one(models):
    engine = VllmServerEngine(models[0], {NEVER}, url="http://127.0.0.1:9")
    with pytest.raises(EngineError, match=r"no vLLM server at http://127.0.0.1:9 .*vllm serve"):
        await engine.generate(PROMPTS[2], 1, Sampling(0, 1))
    await engine.close()


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed here")
def test_without_vllm_the_engine_says_what_to_install(models):
    with pytest.raises(ModelError, match="vllm is not installed"):
        VllmEngine(models[0], {NEVER}, LIMITS)
