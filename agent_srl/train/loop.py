"""The loop: collect a batch, update, score, write, checkpoint.

A killed run that is started again goes on exactly where its checkpoint stands: it holds masters and optimizer, the
data cursor, the groups that wait, the random states and the best model's step. With several processes the first one
alone writes and evaluates. Left out: sampling while training.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from agent_srl.config import TrainConfig
from agent_srl.errors import Stopped, TrainingError
from agent_srl.rollout.steps import StepSampler
from agent_srl.train.advantages import has_signal
from agent_srl.train.checkpoint import load_checkpoint, random_states, save_checkpoint, set_random_states
from agent_srl.train.choice import BestModel
from agent_srl.train.collect import Batch, Collector
from agent_srl.train.metrics import JsonLines, batch_metrics, sample_record
from agent_srl.train.processes import Processes
from agent_srl.train.stopping import Sigterm
from agent_srl.train.update import Updater
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
        on_progress: Callable[[int, str], None] | None = None,
        processes: Processes | None = None,
    ) -> None:
        """`best` chooses among the models of the run; without it the last one is all there is. `on_progress` gets the
        steps that are done, and what was done of the next one."""
        if not examples:
            raise TrainingError("no step example to train on: see the dropped steps above and raise the data limits")
        self.model, self.sampler, self.config, self.seed = model, sampler, config, seed
        self.folder, self.best, self.on_step = folder, best, on_step
        self.processes = processes or Processes()
        self.collector = Collector(sampler, examples, config, seed, self.processes)
        self.updater = Updater(model, config, self.processes, folder / "checkpoints")
        self.step = self.updates = self.empty = self.sampled = 0
        if on_progress:
            self._tell(on_progress)

    async def run(self) -> None:
        """Train up to `config.max_steps`, from the newest checkpoint if there is one.

        Raises:
            TrainingError: training cannot go on.
            Stopped: SIGTERM came; the step it came in is saved.
        """
        self._resume()
        with self.processes.agreed():
            await self.sampler.engine.update_weights(self.model)
        with Sigterm() as sigterm:
            with self.processes.agreed():
                files = self._files()
            while self.step < self.config.max_steps:
                record, groups = await self._one_step()
                self.step += 1
                scored = self.best is not None and self.best.due(self.step, self.config.max_steps)
                if self.best is not None and scored:
                    record |= await self.processes.first(self._score)
                self._write(files, record, groups)
                stop = any(self.processes.gather(sigterm.came))
                due = self.step % self.config.checkpoint_every == 0 or self.step == self.config.max_steps
                if stop or scored or due:
                    self._save()
                if stop:
                    raise Stopped(f"stopped by SIGTERM after step {self.step} of {self.config.max_steps}; it is saved")

    def _tell(self, on_progress: Callable[[int, str], None]) -> None:
        def sampled() -> None:
            self.sampled += 1
            on_progress(self.step, f"{self.sampled} groups sampled")

        self.sampler.on_group = sampled
        self.updater.on_row = lambda done, of: on_progress(self.step, f"{done} of {of} trees trained")

    async def _one_step(self) -> tuple[Record, list[Group]]:
        started, cpu, self.sampled = time.monotonic(), time.process_time(), 0
        batch = await self.collector.batch(self.step, self.updates)
        sampling_s = time.monotonic() - started
        record = {"step": self.step + 1, **batch_metrics(batch.sampled, self.config.min_std)}
        self._notice_silence(batch, record)
        trained: Record = {"lr": 0.0, "grad_norm": None, "entropy": None}
        if batch.groups:
            await self.sampler.engine.sleep()
            trained = self.updater.update(batch, self.step)
            self.updates += 1
            with self.processes.agreed():
                await self.sampler.engine.update_weights(self.model)
        record |= {"trained_groups": len(batch.groups), **batch.counts, **trained}
        seconds = time.monotonic() - started
        tokens = sum(len(s.completion.tokens_T) for g in batch.sampled for s in g.samples)
        cpu_s = sum(self.processes.gather(time.process_time() - cpu))
        record |= {"sampling_s": sampling_s, "seconds": seconds, "cpu_s": cpu_s, "tokens_per_s": tokens / seconds}
        return record, batch.sampled

    def _notice_silence(self, batch: Batch, record: Record) -> None:
        """Count batches in a row that found no group with a signal."""
        found = any(has_signal(group, self.config.min_std) for group in batch.sampled)
        self.empty = 0 if found or not batch.sampled else self.empty + 1
        if self.empty >= self.config.max_empty_batches:
            raise self.processes.once(
                TrainingError(
                    f"{self.empty} batches in a row had no group whose rewards differ (zero-signal share of the last: "
                    f"{record['zero_signal']:.0%}): there is nothing to learn from. "
                    "Warm up longer (warmup.steps), raise train.temperature or train.samples, or lower train.min_std"
                )
            )

    async def _score(self) -> Record:
        assert self.best is not None
        return await self.best.consider(self.step)

    def _files(self) -> tuple[JsonLines, JsonLines] | None:
        if not self.processes.main:
            return None
        metrics = JsonLines(self.folder / "metrics.jsonl", keep_until_step=self.step)
        return metrics, JsonLines(self.folder / "samples.jsonl", keep_until_step=self.step)

    def _write(self, files: tuple[JsonLines, JsonLines] | None, record: Record, groups: list[Group]) -> None:
        if files is None:
            return
        metrics, samples = files
        metrics.write(record)
        samples.write(*(sample_record(self.step, g) for g in groups))
        if self.on_step:
            self.on_step(record)

    def _save(self) -> None:
        states = self.processes.gather(random_states())
        with self.processes.agreed():
            if not self.processes.main:
                return
            state = {
                "optimizer": self.updater.optimizer.state_dict(),
                "step": self.step,
                "updates": self.updates,
                "empty": self.empty,
                "data": self.collector.state(),
                "random": states,
                "best": vars(self.best.best) if self.best and self.best.best else None,
            }
            save_checkpoint(self.folder / "checkpoints", self.step, state)
            if self.best:
                self.best.tidy()

    def _resume(self) -> None:
        rank = self.processes.rank
        with self.processes.agreed():
            saved = load_checkpoint(self.folder / "checkpoints")
        found = self.processes.gather(saved["step"] if saved else 0)
        if len(set(found)) > 1:
            raise self.processes.once(
                TrainingError(
                    f"the processes see checkpoints of steps {found}: put --out where all of them can read it"
                )
            )
        if saved is None or rank >= len(saved["random"]):
            torch.manual_seed(self.seed + rank)
            random.seed(self.seed + rank)
        if saved is None:
            return
        with self.processes.agreed():
            self.updater.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.updates, self.empty = saved["step"], saved["updates"], saved["empty"]
            self.collector.load_state(saved["data"])
            if rank < len(saved["random"]):
                set_random_states(saved["random"][rank])
            if self.best and self.processes.main:
                self.best.resume(saved["best"])


def threads_and_seed(threads: int, seed: int) -> None:
    """Fix what two equal runs must share."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
