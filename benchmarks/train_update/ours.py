"""Our side: the update of `agent_srl.train.loop` on given rows, as trees or one row per sample, and our engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import torch

from agent_srl.models import load_model
from agent_srl.rewards.similarity import ratio
from agent_srl.rollout.engine import Sampling
from agent_srl.rollout.hf import TransformersEngine
from agent_srl.train.loss import policy_loss
from agent_srl.train.optimizer import MasterAdamW
from agent_srl.train.tree import Branch, branch_logprobs, pack
from benchmarks.train_update.job import (
    CLIP,
    LR,
    MAX_GRAD_NORM,
    ROW_TOKENS,
    THRIFTY_TOKENS,
    Clock,
    Job,
    load_tokenizer,
    text,
)
from benchmarks.train_update.shapes import Shape


def measure(job: Job, shape: Shape, folder: Path) -> Clock:
    """One task on a model from `folder`, timed without loading."""
    model = load_model(str(folder), torch.float32, torch.device("cpu"))
    clock = Clock()
    if job.task == "sample":
        prompts = shape.prompts(job.model.vocabulary, job.seed)
        clock.start()
        asyncio.run(_sample(model, folder, prompts, shape, job.seed))
        clock.stop()
        return clock
    branches = make_branches(shape, job.model.vocabulary, job.seed)
    optimizer = MasterAdamW(model, lr=LR, betas=(0.9, 0.99), weight_decay=0.0)
    if job.arm == "thrifty":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    row_tokens = THRIFTY_TOKENS if job.arm == "thrifty" else ROW_TOKENS
    clock.start()
    update(model, optimizer, branches, row_tokens, share=job.arm != "dense")
    clock.stop()
    return clock


def make_branches(shape: Shape, vocabulary: int, seed: int) -> list[Branch]:
    """The rows with group-normalised rewards; the loss is the mean over samples of the mean over tokens."""
    prompts, rewards = shape.prompts(vocabulary, seed), shape.rewards(seed)
    branches = []
    for i, tokens in enumerate(shape.completions(vocabulary, seed)):
        group = i // shape.samples
        mine = torch.tensor(rewards[group * shape.samples : (group + 1) * shape.samples])
        advantage = float((rewards[i] - mine.mean()) / mine.std(correction=0))
        branches.append(Branch(prompts[group], tokens, advantage, 1 / (shape.rows * shape.new)))
    return branches


def update(model: Any, optimizer: MasterAdamW, branches: list[Branch], row_tokens: int, *, share: bool) -> None:
    """Forward, backward and optimizer step, as the loop does them."""
    model.train()
    for row in pack(branches, row_tokens, share=share):
        logprobs, _ = branch_logprobs(model, row, 1.0)
        gains = row.per_token([b.advantage for b in row.branches]).to(logprobs)
        weights = row.per_token([b.weight for b in row.branches]).to(logprobs)
        policy_loss(logprobs, logprobs.detach(), gains, weights, CLIP).backward()
        optimizer.collect()
    optimizer.clip(MAX_GRAD_NORM)
    optimizer.step(LR)


async def _sample(model: Any, folder: Path, prompts: list[tuple[int, ...]], shape: Shape, seed: int) -> list[float]:
    """All prompts at once through the engine, no end token, then the reward of every completion's text."""
    tokenizer, engine = load_tokenizer(folder), TransformersEngine(model, set())
    asked = (engine.generate(p, shape.samples, Sampling(1.0, shape.new, seed + i)) for i, p in enumerate(prompts))
    groups = await asyncio.gather(*asked)
    await engine.close()
    expert = text(prompts[0][: shape.new])
    texts = [tokenizer.decode(completion.tokens_T) for group in groups for completion in group]
    return [ratio(one, expert) for one in texts]
