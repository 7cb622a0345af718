"""From a batch of groups to changed weights: rows, losses, gradients over all processes, one optimizer step or more.

Nothing is changed before loss and gradients are known to be finite. What fails says what to set.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from agent_srl.config import TrainConfig
from agent_srl.errors import TrainingError
from agent_srl.run_folder import write_text
from agent_srl.train.advantages import advantages
from agent_srl.train.collect import Batch
from agent_srl.train.loss import importance, is_clipped, policy_loss, token_weights
from agent_srl.train.optimizer import MasterAdamW
from agent_srl.train.processes import Processes
from agent_srl.train.room import check_room, or_say, pass_cost
from agent_srl.train.sampling import deal
from agent_srl.train.support import choose_attention
from agent_srl.train.tree import Branch, TreeRow, branch_logprobs, pack

Part = list[tuple[int, list[Branch]]]
"""Groups of one optimizer step: the trajectory and the branches of each."""


class Updater:
    """Changes the weights of `model`."""

    def __init__(self, model: Any, config: TrainConfig, processes: Processes, folder: Path) -> None:
        """`folder` takes a batch whose numbers are not finite."""
        self.model, self.config, self.processes, self.folder = model, config, processes, folder
        self.on_row: Callable[[int, int], None] | None = None
        """Called after each backward pass with the rows that are done, and all of the update."""
        self.share, self.kernel = choose_attention(config.attention, model)
        self.cost = pass_cost(model, config.temperature, self.kernel, share=self.share)
        self.optimizer = MasterAdamW(model, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)

    def update(self, batch: Batch, step: int) -> dict[str, Any]:
        """One optimizer step per minibatch. Returns metrics. Raises TrainingError with the weights as they were before
        the minibatch that failed."""
        self.model.train()
        parts = minibatches(batch, self.config)
        rows = [pack(self._own(part), self.config.row_tokens, share=self.share) for part in parts]
        every = [row for part in rows for row in part]
        with self.processes.agreed(), enough_memory(every, self.config):
            check_room(every, self.cost, self.optimizer.to_come(), self.model.device)
            # The first minibatch meets the weights that its ratios refer to.
            old: list[list[torch.Tensor | None]] = [[self._logprobs(row) for row in part] for part in rows[1:]]
            old.insert(0, [None] * len(rows[0]))
        lr = self.config.lr * min(1.0, (step + 1) / max(1, self.config.lr_warmup_steps))
        sums, norms, done = Sums(), list[float](), 0
        for part, part_rows, part_old in zip(parts, rows, old, strict=True):
            own = Sums()
            with self.processes.agreed(), enough_memory(part_rows, self.config):
                for row, before in zip(part_rows, part_old, strict=True):
                    self._backward(row, before, own)
                    done += 1
                    if self.on_row:
                        self.on_row(done, len(every))
            self.optimizer.reduce(self.processes)
            norms.append(self.optimizer.clip(self.config.max_grad_norm))
            own = own.over(self.processes)
            self._finite(own.loss, norms[-1], part, step + 1)
            self.optimizer.step(lr)
            sums.add(own)
        return {"lr": lr, "grad_norm": sum(norms) / len(norms), **sums.metrics(bool(self.config.importance_cap))}

    def _own(self, part: Part) -> list[Branch]:
        """Branches that this process computes: whole trajectories, by their unique tokens."""
        trunk: dict[int, int] = defaultdict(int)
        own: dict[int, int] = defaultdict(int)
        for key, branches in part:
            trunk[key] = max([trunk[key], *(len(b.prompt) for b in branches)])
            own[key] += sum(len(b.tokens) for b in branches)
        owner = deal({key: trunk[key] + own[key] for key in trunk}, self.processes.count)
        return [b for key, branches in part if owner[key] == self.processes.rank for b in branches]

    @torch.no_grad()
    def _logprobs(self, row: TreeRow) -> torch.Tensor:
        return branch_logprobs(self.model, row, self.config.temperature, self.kernel)[0]

    def _backward(self, row: TreeRow, before: torch.Tensor | None, sums: Sums) -> None:
        config = self.config
        logprobs, entropy = branch_logprobs(self.model, row, config.temperature, self.kernel)
        old = logprobs.detach() if before is None else before
        gains = row.per_token([b.advantage for b in row.branches]).to(logprobs)
        engine = engine_logprobs(row).to(logprobs)
        trust = importance(old, engine, config.importance_cap)
        weights = row.per_token([b.weight for b in row.branches]).to(logprobs) * trust
        loss = policy_loss(logprobs, old, gains, weights, config.clip_eps, config.clip_eps_high)
        loss.backward()
        self.optimizer.collect()
        clipped = is_clipped(logprobs.detach(), old, gains, config.clip_eps, config.clip_eps_high)
        sums.row(row.size(), loss.detach(), entropy, clipped, trust, (old - engine).abs())

    def _finite(self, loss: float, norm: float, part: Part, step: int) -> None:
        """All processes have the same numbers here, so all stop. The batch is saved for a look at it."""
        if math.isfinite(loss) and math.isfinite(norm):
            return
        file = self.folder / f"broken-step-{step:06d}.json"
        if self.processes.main:
            found = {"step": step, "loss": str(loss), "grad_norm": str(norm)}
            branches = [asdict(b) for _, group in part for b in group]
            write_text(file, json.dumps(found | {"branches": branches}, indent=1) + "\n")
        raise self.processes.once(
            TrainingError(
                f"step {step}: loss {loss}, gradient norm {norm}; the weights were left alone, the batch is in {file}. "
                "Start the same command to go on from the last checkpoint; if it happens again, lower train.lr or "
                "set model.dtype=float32"
            )
        )


def minibatches(batch: Batch, config: TrainConfig) -> list[Part]:
    """The groups of each optimizer step, in order, with the weights that make a step's loss what `train.loss` names.

    Weights count over the whole batch, times the number of steps, so no group counts more in a smaller minibatch.
    """
    scored = [
        [(s.completion, a) for s, a in zip(group.samples, advantages(group, config.scale_rewards), strict=True)]
        for group in batch.groups
    ]
    usable = [[(c, a) for c, a in group if a is not None and c.tokens_T] for group in scored]
    lengths = [len(c.tokens_T) for group in usable for c, _ in group]
    steps = min(config.minibatches, len(batch.groups))
    weights = iter(token_weights(lengths, config.loss, config.max_new_tokens))
    whole: Part = []
    for key, group, found in zip(batch.trajectories, batch.groups, usable, strict=True):
        prompt, name = group.example.prompt_P, group.example.example_id
        branches = [
            Branch(prompt, c.tokens_T, a, next(weights) * steps, _known(c.tokens_T, c.logprobs_T), name)
            for c, a in found
        ]
        whole.append((key, branches))
    return [whole[i * len(whole) // steps : (i + 1) * len(whole) // steps] for i in range(steps)]


def engine_logprobs(row: TreeRow) -> torch.Tensor:
    """[C]; NaN where the engine gave none."""
    return torch.tensor([x for b in row.branches for x in b.old_logprobs or (math.nan,) * b.count])


@contextlib.contextmanager
def enough_memory(rows: list[TreeRow], config: TrainConfig) -> Iterator[None]:
    """Raises TrainingError that names the largest row where memory runs out inside."""
    if not rows:
        yield
        return
    row = max(rows, key=lambda r: r.size())
    longest = max(row.branches, key=lambda b: len(b.prompt))
    with or_say(
        f"the largest row, of {longest.name}, has {row.size()} tokens, {len(longest.prompt)} of them the trunk: lower "
        f"train.row_tokens (now {config.row_tokens}), or data.max_prompt_tokens to leave out longer trunks, or set "
        "train.gradient_checkpointing=true"
    ):
        yield


@dataclass
class Sums:
    """Over the tokens of branches; what the metrics of an update are made of."""

    totals: list[float] = field(default_factory=lambda: [0.0] * 8)
    """Rows' tokens, loss, entropy, tokens, clipped, importance, difference, tokens whose difference is known."""
    largest: list[float] = field(default_factory=lambda: [0.0] * 2)
    """Importance, difference."""

    @property
    def loss(self) -> float:
        return self.totals[1]

    def row(
        self,
        size: int,
        loss: torch.Tensor,
        entropy_C: torch.Tensor,
        clipped_C: torch.Tensor,
        importance_C: torch.Tensor,
        difference_C: torch.Tensor,
    ) -> None:
        """Add one row; `difference_C` is NaN where it is not known. One transfer from the device."""
        known = ~difference_C.isnan()
        difference = difference_C.where(known, torch.zeros_like(difference_C))
        sums = [loss, entropy_C.sum(), clipped_C.sum(), importance_C.sum(), difference.sum(), known.sum()]
        found = torch.stack([x.double() for x in (*sums, importance_C.max(), difference.max())]).tolist()
        row = [float(size), found[0], found[1], float(len(entropy_C)), *found[2:6]]
        self.add(Sums(row, found[6:]))

    def add(self, other: Sums) -> None:
        self.totals = [a + b for a, b in zip(self.totals, other.totals, strict=True)]
        self.largest = [max(a, b) for a, b in zip(self.largest, other.largest, strict=True)]

    def over(self, processes: Processes) -> Sums:
        """The sums of all processes."""
        whole = Sums()
        for part in processes.gather(self):
            whole.add(part)
        return whole

    def metrics(self, corrected: bool) -> dict[str, Any]:
        """Per token; importance as it was applied, so at most its cap; None where it was not."""
        size, loss, entropy, tokens, clipped, trust, difference, known = self.totals
        return {
            "loss": loss,
            "entropy": entropy / tokens if tokens else None,
            "clip_fraction": clipped / tokens if tokens else None,
            "importance_mean": trust / tokens if tokens and corrected else None,
            "importance_max": self.largest[0] if tokens and corrected else None,
            "sampling_logp_difference_mean": difference / known if known else None,
            "sampling_logp_difference_max": self.largest[1] if known else None,
            "trained_tokens": int(size),
        }


def _known(tokens: tuple[int, ...], logprobs: tuple[float, ...]) -> tuple[float, ...]:
    return logprobs if len(logprobs) == len(tokens) else ()
