"""The loop: sample, score, filter, refill, advantages, loss, update, checkpoint.

It owns the data cursor, so a killed run that is started again goes on exactly where its checkpoint stands. One
update per
batch, so samples are on-policy. Left out for now: several processes, engines whose weights differ from the trainer's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from agent_srl.config import TrainConfig
from agent_srl.errors import TrainingError
from agent_srl.rollout.engine import Sampling
from agent_srl.rollout.steps import StepSampler
from agent_srl.train.advantages import advantages, has_signal
from agent_srl.train.checkpoint import load_checkpoint, save_checkpoint
from agent_srl.train.choice import BestModel
from agent_srl.train.loss import policy_loss
from agent_srl.train.metrics import JsonLines, batch_metrics, sample_record
from agent_srl.train.optimizer import MasterAdamW
from agent_srl.train.sft import order
from agent_srl.train.support import choose_attention
from agent_srl.train.tree import Branch, branch_logprobs, pack
from agent_srl.types import Group, StepExample

Record = dict[str, Any]


class SRLLoop:
    """Trains `model`, which `sampler`'s engine generates with."""

    def __init__(
        self,
        model: Any,
        sampler: StepSampler,
        examples: list[StepExample],
        config: TrainConfig,
        *,
        seed: int,
        folder: Path,
        best: BestModel | None = None,
        on_step: Callable[[Record], None] | None = None,
    ) -> None:
        """`best` chooses among the models of the run; without it the last one is all there is."""
        if not examples:
            raise TrainingError("no step example to train on: see the dropped steps above and raise the data limits")
        self.model, self.sampler, self.examples, self.config, self.seed = (
            model,
            sampler,
            examples,
            config,
            seed,
        )
        self.folder, self.best, self.on_step = folder, best, on_step
        self.optimizer = MasterAdamW(model, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
        self.step = self.cursor = self.empty = 0

    async def run(self) -> None:
        """Train up to `config.max_steps`, from the newest checkpoint if there is one. Raises TrainingError."""
        self._resume()
        metrics = JsonLines(self.folder / "metrics.jsonl", keep_until_step=self.step)
        samples = JsonLines(self.folder / "samples.jsonl", keep_until_step=self.step)
        while self.step < self.config.max_steps:
            record, groups = await self._one_step()
            self.step += 1
            scored = self.best is not None and self.best.due(self.step, self.config.max_steps)
            if self.best is not None and scored:
                record |= await self.best.consider(self.step)
            metrics.write(record)
            samples.write(*(sample_record(self.step, g) for g in groups))
            if self.on_step:
                self.on_step(record)
            if scored or self.step % self.config.checkpoint_every == 0 or self.step == self.config.max_steps:
                self._save()

    async def _one_step(self) -> tuple[Record, list[Group]]:
        started, cpu = time.monotonic(), time.process_time()
        kept, sampled = await self._collect()
        sampling_s = time.monotonic() - started
        self.empty = 0 if kept else self.empty + 1
        if self.empty >= self.config.max_empty_batches:
            raise TrainingError(
                f"{self.empty} batches in a row had no group whose rewards differ: there is nothing to learn from. "
                "Warm up longer (warmup.steps), raise train.temperature or train.samples, or lower train.min_std"
            )
        record = batch_metrics(sampled, self.config.min_std)
        record = {"step": self.step + 1, **record, "trained_groups": len(kept), **self._update(kept)}
        seconds = time.monotonic() - started
        tokens = sum(len(s.completion.tokens_T) for g in sampled for s in g.samples)
        record |= {"sampling_s": sampling_s, "seconds": seconds, "cpu_s": time.process_time() - cpu}
        record["tokens_per_s"] = tokens / seconds
        return record, sampled

    async def _collect(self) -> tuple[list[Group], list[Group]]:
        """Groups with a signal, refilled at most `refill_rounds` times, and all that were sampled."""
        kept: list[Group] = []
        sampled: list[Group] = []
        for round_ in range(1 + self.config.refill_rounds):
            missing = self.config.groups - len(kept)
            if missing == 0:
                break
            places = order(len(self.examples), self.seed, self.cursor, missing)
            self.cursor += missing
            sampling = Sampling(self.config.temperature, self.config.max_new_tokens, self._sampling_seed(round_))
            groups = await self.sampler.groups([self.examples[i] for i in places], self.config.samples, sampling)
            sampled += groups
            kept += [g for g in groups if has_signal(g, self.config.min_std)]
        return kept, sampled

    def _update(self, groups: list[Group]) -> Record:
        """One optimizer step on the groups; nothing on an empty batch."""
        if not groups:
            return {"lr": 0.0, "grad_norm": None, "entropy": None}
        self.model.train()
        entropies, count = 0.0, 0
        share, kernel = choose_attention(self.config.attention, self.model)
        rows = pack(_branches(groups), self.config.row_tokens, share=share)
        for row in rows:
            logprobs, entropy = branch_logprobs(self.model, row, self.config.temperature, kernel)
            gains = row.per_token([b.advantage for b in row.branches]).to(logprobs)
            weights = row.per_token([b.weight for b in row.branches]).to(logprobs)
            policy_loss(logprobs, logprobs.detach(), gains, weights, self.config.clip_eps).backward()
            self.optimizer.collect()
            entropies, count = entropies + float(entropy.sum()), count + len(entropy)
        lr = self.config.lr * min(1.0, (self.step + 1) / max(1, self.config.lr_warmup_steps))
        norm = self.optimizer.step(lr, self.config.max_grad_norm)
        return {
            "lr": lr,
            "grad_norm": norm,
            "entropy": entropies / count,
            "trained_tokens": sum(r.size() for r in rows),
        }

    def _sampling_seed(self, round_: int) -> int:
        return (self.seed * 1_000_003 + self.step) * 101 + round_

    def _save(self) -> None:
        state = {
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "cursor": self.cursor,
            "empty": self.empty,
            "best": vars(self.best.best) if self.best and self.best.best else None,
        }
        save_checkpoint(self.folder / "checkpoints", self.step, state)
        if self.best:
            self.best.tidy()

    def _resume(self) -> None:
        saved = load_checkpoint(self.folder / "checkpoints")
        if saved is not None:
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.cursor, self.empty = saved["step"], saved["cursor"], saved["empty"]
            if self.best:
                self.best.resume(saved["best"])


def _branches(groups: list[Group]) -> list[Branch]:
    """One branch per scored sample; weights make the loss a mean over samples of the mean over tokens."""
    found = [
        (group.example.prompt_P, sample.completion.tokens_T, advantage)
        for group in groups
        for sample, advantage in zip(group.samples, advantages(group), strict=True)
        if advantage is not None and sample.completion.tokens_T
    ]
    return [Branch(p, t, a, 1 / (len(t) * len(found))) for p, t, a in found]


def threads_and_seed(threads: int, seed: int) -> None:
    """Fix what two equal runs must share."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
