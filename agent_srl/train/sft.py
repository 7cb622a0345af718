"""Supervised fine-tuning on the same steps: the warm-up before SRL, and the control that it is compared with.

Loss on every assistant turn of a row that may be learnt from, observations masked. Resumes from its checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from agent_srl.config import WarmupConfig
from agent_srl.data.steps import IGNORE
from agent_srl.errors import Stopped, TrainingError
from agent_srl.train.checkpoint import load_checkpoint, random_states, save_checkpoint, set_random_states
from agent_srl.train.optimizer import MasterAdamW
from agent_srl.train.room import check_room, or_say, pass_cost
from agent_srl.train.sampling import order
from agent_srl.train.stopping import Sigterm
from agent_srl.train.tree import Branch, TreeRow, branch_logprobs, pack
from agent_srl.types import StepExample

_BETAS = (0.9, 0.99)
_MAX_GRAD_NORM = 1.0
_CHECKPOINT_EVERY = 15


def fine_tune(
    model: Any,
    examples: list[StepExample],
    config: WarmupConfig,
    *,
    seed: int,
    folder: Path,
    cpu_seconds: float | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> int:
    """Train for `config.steps` updates with linear decay, or at a constant rate until `cpu_seconds` are used.

    Returns the updates made. `folder` holds the checkpoints; `on_step` gets the step and the mean token loss.

    Raises:
        TrainingError: memory runs out, or the loss or the gradients are not finite.
        Stopped: SIGTERM came; the step it came in is saved.
    """
    optimizer = MasterAdamW(model, lr=config.lr, betas=_BETAS, weight_decay=0.0)
    _check_room(model, examples, optimizer.to_come())
    saved = load_checkpoint(folder)
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
        set_random_states(saved["random"])
    step, used = (saved["step"], saved["used"]) if saved else (0, 0.0)
    model.train()
    with Sigterm() as sigterm:
        while used < cpu_seconds if cpu_seconds is not None else step < config.steps:
            started = time.process_time()
            loss = _update(model, optimizer, _rows(examples, config.rows, step, seed), _lr(config, step, cpu_seconds))
            step, used = step + 1, used + time.process_time() - started
            if on_step:
                on_step(step, loss)
            if sigterm.came or step % _CHECKPOINT_EVERY == 0:
                state = {"optimizer": optimizer.state_dict(), "step": step, "used": used, "random": random_states()}
                save_checkpoint(folder, step, state)
            if sigterm.came:
                raise Stopped(f"stopped by SIGTERM after step {step} of fine-tuning; it is saved")
    return step


def _update(model: Any, optimizer: MasterAdamW, rows: list[StepExample], lr: float) -> float:
    count = sum(_learnt(row) for row in rows)
    total = 0.0
    for row in rows:
        with or_say(
            f"fine-tuning on {row.example_id}, of {len(row.prompt_P) + len(row.target_T)} tokens: lower "
            "data.max_prompt_tokens to leave out longer steps, or set train.gradient_checkpointing=true"
        ):
            loss = _row_loss(model, row) / count
            loss.backward()
            optimizer.collect()
        total += float(loss.detach())
    norm = optimizer.clip(_MAX_GRAD_NORM)
    if not math.isfinite(total) or not math.isfinite(norm):
        raise TrainingError(
            f"fine-tuning: loss {total}, gradient norm {norm} on {', '.join(r.example_id for r in rows)}: "
            "lower warmup.lr or set model.dtype=float32"
        )
    optimizer.step(lr)
    return total


def _check_room(model: Any, examples: list[StepExample], to_come: int) -> None:
    """Whether the longest row fits, before the first one is trained on."""
    longest = max(examples, key=lambda e: len(e.prompt_P) + len(e.target_T))
    check_room([_whole(longest)], pass_cost(model, 1.0, None, share=False), to_come, model.device)


def _row_loss(model: Any, row: StepExample) -> torch.Tensor:
    """The sum of token losses, through the head that SRL uses."""
    return -branch_logprobs(model, _whole(row), 1.0)[0].sum()


def _whole(row: StepExample) -> TreeRow:
    """Prompt and reply as one sample, of which only what has a label is learnt."""
    ids, labels = row.prompt_P + row.target_T, row.labels_P + row.target_T
    learnt = tuple(label != IGNORE for label in labels[1:])
    [whole] = pack([Branch(ids[:1], ids[1:], 1.0, 1.0, name=row.example_id, learnt=learnt)], len(ids))
    return whole


def _learnt(row: StepExample) -> int:
    return sum(label != IGNORE for label in row.labels_P[1:]) + len(row.target_T)


def _rows(examples: list[StepExample], rows: int, step: int, seed: int) -> list[StepExample]:
    return [examples[i] for i in order(len(examples), seed, step * rows, rows)]


def _lr(config: WarmupConfig, step: int, cpu_seconds: float | None) -> float:
    ramp = min(1.0, (step + 1) / max(1, config.lr_warmup_steps))
    decay = 1.0 if cpu_seconds is not None else max(0.0, 1 - step / config.steps)
    return config.lr * ramp * decay
