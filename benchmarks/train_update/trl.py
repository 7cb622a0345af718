"""TRL's side: `GRPOTrainer.train()` for one step, unpatched, timed by its own public hooks.

update  A `rollout_func` hands TRL the given rows instead of generating, a reward function their rewards. From there
        all is TRL's: it pads the prompts of the batch on the left to the longest and the completions on the right,
        normalises the rewards, shuffles, splits into micro-batches, and for each runs `training_step` (`_compute_loss`,
        backward); then it clips and steps its AdamW. The clock runs from the end of the reward function to
        `on_step_end`.
sample  No `rollout_func`: TRL tokenises the prompts and calls transformers' `generate` with the end token suppressed.
        The clock runs from `on_step_begin` to the end of the reward function, which then stops the step.

`trl` has gradient checkpointing off, which makes it faster than its default; `trl_thrifty` has it on. float32; no KL
term.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from agent_srl.rewards.similarity import ratio
from benchmarks.train_update.job import CLIP, LR, MAX_GRAD_NORM, Clock, Job, load_tokenizer, text
from benchmarks.train_update.shapes import Shape


class _Enough(Exception):
    """Generation and reward are measured; the update is not wanted."""


class _Timed(TrainerCallback):  # type: ignore[misc]
    def __init__(self, clock: Clock, task: str) -> None:
        self._clock, self._task = clock, task

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._task == "sample":
            self._clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._clock.stop()

    def scored(self) -> None:
        """The reward function has ended."""
        if self._task == "sample":
            self._clock.stop()
            raise _Enough
        self._clock.start()


def measure(job: Job, shape: Shape, folder: Path) -> Clock:
    """One task on a model from `folder`, timed without loading."""
    clock = Clock()
    timed = _Timed(clock, job.task)
    prompts = shape.prompts(job.model.vocabulary, job.seed)
    trainer = _trainer(job, shape, folder, prompts, timed)
    with contextlib.suppress(_Enough):
        trainer.train()
    return clock


def _trainer(job: Job, shape: Shape, folder: Path, prompts: list[tuple[int, ...]], timed: _Timed) -> Any:
    from datasets import Dataset

    given, expert = shape.rewards(job.seed), text(prompts[0][: shape.new])

    def reward(completions: list[str], **columns: Any) -> list[float]:
        values = given if job.task == "update" else [ratio(one, expert) for one in completions]
        timed.scored()
        return values

    def rollout(texts: list[str], trainer: Any) -> dict[str, Any]:
        repeated = [list(prompt) for prompt in prompts for _ in range(shape.samples)]
        completions = [list(tokens) for tokens in shape.completions(job.model.vocabulary, job.seed)]
        return {"prompt_ids": repeated, "completion_ids": completions, "logprobs": None}

    trainer = GRPOTrainer(
        model=str(folder),
        processing_class=load_tokenizer(folder),
        reward_funcs=[reward],
        args=_config(job, shape, folder),
        train_dataset=Dataset.from_dict({"prompt": [text(prompt) for prompt in prompts]}),
        rollout_func=rollout if job.task == "update" else None,
        callbacks=[timed],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _config(job: Job, shape: Shape, folder: Path) -> Any:
    micro_batch = min(job.micro_batch, shape.rows)
    return GRPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=1,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=shape.rows // micro_batch,
        num_generations=shape.samples,
        max_completion_length=shape.new,
        generation_kwargs={"min_new_tokens": shape.new},
        loss_type="grpo",
        epsilon=CLIP,
        learning_rate=LR,
        max_grad_norm=MAX_GRAD_NORM,
        adam_beta2=0.99,
        shuffle_dataset=False,
        gradient_checkpointing=job.arm == "trl_thrifty",
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        seed=job.seed,
    )
