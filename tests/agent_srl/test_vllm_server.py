"""Risks: a server that hangs the run, that answers what is no sample of the model and is trained on, that gets the
same weights from every process.

Real HTTP to a small server on this machine; the real vLLM is in test_vllm.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from loopback import Loopback

from agent_srl.data.formats import write_trajectories
from agent_srl.errors import EngineError
from agent_srl.models import load_model
from agent_srl.rollout.engine import Sampling
from agent_srl.rollout.vllm_server import VllmServerEngine
from agent_srl.train.tree import Branch, branch_logprobs, pack

DRIVER = Path(__file__).with_name("scored_by_tokens.py")
ROOT = DRIVER.parents[2]
MODELS, WEIGHTS, RESET, SAMPLES = "/v1/models", "/collective_rpc", "/reset_prefix_cache", "/v1/completions"
END = 0
ASKED = ((7, 8, 9), 2, Sampling(1.0, 12, seed=3))


@pytest.fixture
def model(tiny_model):
    return load_model(str(tiny_model), torch.float32, torch.device("cpu"))


@pytest.fixture
async def server(tiny_model):
    """With other weights than those that are sent to it."""
    served = load_model(str(tiny_model), torch.float32, torch.device("cpu"))
    with torch.no_grad():
        for weight in served.parameters():
            weight.mul_(3)
    async with Loopback(served) as running:
        yield running


@pytest.fixture
async def engine(model, server):
    made = VllmServerEngine(model, {END}, url=server.url, patience_s=20)
    yield made
    await made.close()


async def test_a_server_that_behaves_gives_samples_of_the_model(engine, server, model):
    """And of the new weights after an update."""
    await engine.generate(*ASKED)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    await engine.update_weights(model)
    for completion in await engine.generate(*ASKED):
        [row] = pack([Branch(ASKED[0], completion.tokens_T, 0.0, 0.0)], 100)
        logprobs, _ = branch_logprobs(model, row, 1.0)
        torch.testing.assert_close(torch.tensor(completion.logprobs_T), logprobs.detach(), atol=1e-5, rtol=0)
    assert server.calls == {MODELS: 1, WEIGHTS: 2, RESET: 2, SAMPLES: 3}


def choice(**changes):
    """An answer whose last completion is changed."""

    def spoil(good):
        good["choices"][-1] |= changes
        return good

    return spoil


@pytest.mark.parametrize(
    ("path", "spoil", "words"),
    [
        (MODELS, lambda good: b"<html>Welcome</html>", "/v1/models .*Invalid JSON"),
        (MODELS, lambda good: b"\xff\xfe", "/v1/models .*Invalid JSON"),
        (MODELS, lambda good: [], "/v1/models"),
        (MODELS, lambda good: {"data": []}, "/v1/models .*data: .*at least 1 item"),
        (MODELS, lambda good: {"data": [{"id": None}]}, "data.0.id"),
        (WEIGHTS, lambda good: {"error": {"message": "no such method"}}, "/collective_rpc .*no such method"),
        (WEIGHTS, lambda good: b"done", "/collective_rpc .*Invalid JSON"),
        (RESET, lambda good: {}, "/reset_prefix_cache .*success: Field required"),
        (SAMPLES, lambda good: {"error": "out of blocks"}, "/v1/completions .*out of blocks"),
        (SAMPLES, lambda good: json.dumps(good).encode()[:-9], "/v1/completions .*Invalid JSON"),
        (SAMPLES, lambda good: {"choices": None}, "choices: "),
        (SAMPLES, lambda good: {"choices": good["choices"][:-1]}, "not 1 from 0 on"),
        (SAMPLES, choice(index=5), r"completions \[5\], not 1 from 0 on"),
        (SAMPLES, choice(token_ids=None), "choices.0.token_ids"),
        (SAMPLES, choice(token_ids=[]), "choices.0.token_ids"),
        (SAMPLES, choice(token_ids=["7"]), "choices.0.token_ids.0"),
        (SAMPLES, choice(token_ids=[-1] * 8), "choices.0.token_ids.0"),
        (SAMPLES, choice(token_ids=[10**6] * 8), "token 1000000, but the model's vocabulary is 49152"),
        (SAMPLES, choice(token_ids=[7] * 7), "7 tokens with 8 log-probabilities"),
        (SAMPLES, choice(token_ids=[7] * 9, logprobs={"token_logprobs": [-1.0] * 9}), "9 tokens where 8 are the most"),
        (SAMPLES, choice(logprobs=None), "choices.0.logprobs"),
        (SAMPLES, choice(logprobs={"token_logprobs": [None] * 8}), "token_logprobs.0"),
        (SAMPLES, choice(logprobs={"token_logprobs": [float("nan")] * 8}), "token_logprobs.0: .*finite"),
        (SAMPLES, choice(logprobs={"token_logprobs": [float("-inf")] * 8}), "token_logprobs.0: .*finite"),
        (SAMPLES, choice(finish_reason="abort"), "finish_reason"),
        (SAMPLES, choice(finish_reason="stop"), "does not stop at its end token"),
    ],
)
async def test_an_answer_that_makes_no_sense_is_refused_in_one_line(engine, server, path, spoil, words):
    server.spoilt[path] = spoil
    with pytest.raises(EngineError, match=words) as refused:
        await engine.generate(*ASKED)
    assert server.url in str(refused.value) and "\n" not in str(refused.value)


async def test_a_completion_that_goes_on_after_its_end_token_is_refused(engine, server):
    await engine.generate(*ASKED)
    server.spoilt[SAMPLES] = choice(token_ids=[7] * 5 + [END] + [7] * 6)
    with pytest.raises(EngineError, match="does not stop at its end token"):
        await engine.generate(*ASKED)
    server.spoilt.clear()
    assert await engine.generate(*ASKED)


@pytest.mark.parametrize("path", [MODELS, WEIGHTS, RESET, SAMPLES])
async def test_a_server_that_never_answers_is_given_up(model, server, path):
    server.silent_on = path
    engine = VllmServerEngine(model, {END}, url=server.url, patience_s=0.5)
    with pytest.raises(EngineError, match=f"did not answer {path} for 0.5 seconds"):
        await asyncio.wait_for(engine.generate(*ASKED), 20)
    await engine.close()


@pytest.mark.parametrize("raw", [b"", b"220 mail ESMTP\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"])
async def test_what_is_no_web_server_is_said_to_be_none(engine, server, raw):
    server.raw = raw
    with pytest.raises(EngineError, match="no vLLM server at"):
        await engine.generate(*ASKED)


@pytest.mark.parametrize("body", [b"[]", b'{"error": null}', b"<html>", b"null"])
async def test_a_status_of_an_error_is_told_whatever_comes_with_it(engine, server, body):
    server.raw = b"HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with pytest.raises(EngineError, match="answered /v1/models with 500"):
        await engine.generate(*ASKED)


async def train_together(server, model, trajectories, folder):
    """`agent-srl train` in two processes over gloo: its exit code and what it said."""
    write_trajectories(folder / "expert.jsonl", trajectories)
    settings = {
        "model.threads": 1,
        "model.dtype": "float32",
        "data.heldout_fraction": 0,
        "data.first_step": "true",
        "warmup.steps": 0,
        "train.max_steps": 2,
        "train.groups": 4,
        "train.samples": 3,
        "train.max_new_tokens": 6,
        "train.lr": 0.001,
        "eval.steps": 0,
        "eval.episodes": 0,
        "rollout.engine": "vllm-server",
        "rollout.url": server.url,
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(DRIVER)]
    flags = ["--trajectories", str(folder / "expert.jsonl"), "--model", str(model), "--out", str(folder / "run")]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *launcher,
        "train",
        *flags,
        *sets,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, said = await asyncio.wait_for(process.communicate(), 200)
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, said.decode()


@pytest.mark.slow
async def test_of_two_processes_the_first_alone_sends_weights(server, tiny_model, trajectories, tmp_path):
    code, said = await train_together(server, tiny_model, trajectories, tmp_path)
    assert code == 0, said
    assert server.calls[MODELS] == 2, "for the self-check and for training"
    assert server.calls[WEIGHTS] == 4, "for the self-check, before the first step and after each"
    assert server.calls[RESET] == 4, "nobody generates meanwhile"
    rows = [json.loads(line) for line in (tmp_path / "run" / "srl" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["trained_groups"] and row["sampling_logp_difference_max"] < 1e-3 for row in rows)


@pytest.mark.slow
async def test_a_server_that_takes_no_weights_ends_both_processes_with_one_line(
    server, tiny_model, trajectories, tmp_path
):
    server.spoilt[WEIGHTS] = lambda good: {"error": {"message": "no room"}}
    code, said = await train_together(server, tiny_model, trajectories, tmp_path)
    lines = [line for line in said.splitlines() if line.startswith("agent-srl:")]
    assert code and len(lines) == 1 and "no room" in lines[0], said
