"""Our side: the loop's own `Updater` on given rows, as trees or one row per sample, and our engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import torch

from agent_srl.config import TrainConfig
from agent_srl.models import load_model
from agent_srl.rewards.similarity import ratio
from agent_srl.rollout.engine import Sampling
from agent_srl.rollout.hf import TransformersEngine
from agent_srl.train.collect import Batch
from agent_srl.train.processes import Processes
from agent_srl.train.update import Updater
from agent_srl.types import Completion, Group, Sample, StepExample
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
from env_server.schema import Action


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
    if job.arm == "thrifty":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    updater = Updater(model, train_config(job.arm, shape), Processes(), folder)
    batch = make_batch(shape, job.model.vocabulary, job.seed)
    clock.start()
    updater.update(batch, 0)
    clock.stop()
    return clock


def train_config(arm: str, shape: Shape) -> TrainConfig:
    """`thrifty` recomputes activations in smaller passes, `dense` gives every sample a row."""
    return TrainConfig(
        lr=LR,
        lr_warmup_steps=0,
        max_grad_norm=MAX_GRAD_NORM,
        clip_eps=CLIP,
        max_new_tokens=shape.new,
        row_tokens=THRIFTY_TOKENS if arm == "thrifty" else ROW_TOKENS,
        attention="dense" if arm == "dense" else "auto",
        gradient_checkpointing=arm == "thrifty",
    )


def make_batch(shape: Shape, vocabulary: int, seed: int) -> Batch:
    """The rows as groups that the loop would have sampled."""
    prompts, groups = shape.prompts(vocabulary, seed), []
    samples = [
        Sample(Completion(tokens, (), True), "", "", None, reward)
        for tokens, reward in zip(shape.completions(vocabulary, seed), shape.rewards(seed), strict=True)
    ]
    for i, prompt in enumerate(prompts):
        example = StepExample(f"made#{i}", "made", "made", i, prompt, Action(name="submit"), (), (), None)
        groups.append(Group(example, tuple(samples[i * shape.samples : (i + 1) * shape.samples])))
    return Batch(groups, [i // shape.steps for i in range(len(groups))], groups, {})


async def _sample(model: Any, folder: Path, prompts: list[tuple[int, ...]], shape: Shape, seed: int) -> list[float]:
    """All prompts at once through the engine, no end token, then the reward of every completion's text."""
    tokenizer, engine = load_tokenizer(folder), TransformersEngine(model, set())
    asked = (engine.generate(p, shape.samples, Sampling(1.0, shape.new, seed + i)) for i, p in enumerate(prompts))
    groups = await asyncio.gather(*asked)
    await engine.close()
    expert = text(prompts[0][: shape.new])
    texts = [tokenizer.decode(completion.tokens_T) for group in groups for completion in group]
    return [ratio(one, expert) for one in texts]
