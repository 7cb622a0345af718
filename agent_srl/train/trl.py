"""`--trainer trl`: the same step examples, prompts, rewards and settings in TRL's GRPOTrainer (TRL 1.16).

Prompts go in as text whose tokens are proven to be ours; rewards are read from `completion_ids`, since TRL's decoded
text has lost the special tokens. The order of examples is our loop's without its refill. Checkpoints are TRL's own.
Left out, because TRL has none of it: filter and refill, trees, a resume that is exact. One number differs: TRL divides
advantages by the sample standard deviation (divisor G-1) plus 1e-4, we by the population's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from json import JSONDecodeError
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError

from agent_srl.config import Config, TrainConfig
from agent_srl.errors import ConfigError, TrainingError
from agent_srl.policy import Policy
from agent_srl.train.metrics import JsonLines, batch_metrics, sample_record
from agent_srl.train.sampling import take, trajectories
from agent_srl.types import Completion, Group, Sample, StepExample

_LACKS = (
    "TRL has no refill or filter of groups without signal, no token trees, and its own checkpoints, not exact resume"
)

Record = dict[str, Any]
_DAMAGED = (EOFError, UnpicklingError, SafetensorError, JSONDecodeError)
"""What readers of a checkpoint's files raise, beside torch's RuntimeError for a zip file that is cut off."""


_UNREAD = ("refill_rounds", "partial_batch", "max_staleness", "max_empty_batches", "importance_cap", "attention")
"""Keys of `train` that only our loop reads. Shipped configs set some, so they are named, not refused."""


def what_trl_lacks(train: TrainConfig) -> str:
    """A line for the start of a run; it names the keys whose values, other than the defaults, have no effect."""
    fields = TrainConfig.model_fields
    names = ", ".join(f"train.{key}" for key in _UNREAD if getattr(train, key) != fields[key].default)
    return f"training in TRL's GRPOTrainer: {_LACKS}" + (f"; without effect there: {names}" if names else "")


def check_trl(config: Config) -> None:
    """Whether this run can go through TRL. Raises ConfigError."""
    if find_spec("trl") is None:
        raise ConfigError("train.trainer=trl needs TRL: pip install 'agent-srl[train]', or use train.trainer=own")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("train.trainer=trl runs in one process here: start it without accelerate launch")
    if config.rollout.engine != "transformers":
        raise ConfigError(
            f"rollout.engine={config.rollout.engine} needs train.trainer=own: TRL generates by itself here"
        )
    if config.train.minibatches > 1:
        raise ConfigError("train.minibatches needs train.trainer=own: TRL would count each as a step of its own")
    if config.model.lora.rank:
        raise ConfigError("model.lora needs train.trainer=own: our adapters are not TRL's")
    if config.train.eval_every:
        raise ConfigError("train.eval_every needs train.trainer=own: TRL cannot choose the best model by our steps")


def train_with_trl(
    learner: Policy, examples: list[StepExample], config: Config, folder: Path, on_step: Callable[[Record], None]
) -> None:
    """Train `learner.model` for `config.train.max_steps` updates; goes on from TRL's newest checkpoint in `folder`.

    Writes `metrics.jsonl` and `samples.jsonl` as our loop does. Raises TrainingError.
    """
    from transformers.trainer_callback import PrinterCallback
    from trl import GRPOTrainer

    if not examples:
        raise TrainingError("no step example to train on: see the dropped steps above and raise the data limits")
    train, model, tokenizer = config.train, learner.model, learner.tokenizer
    if not train.max_steps:
        return
    done, newest = _newest(folder / "trl")
    # float32 weights under autocast are TRL's way to bfloat16, and stand for our float32 masters.
    dtype, ends = model.dtype, model.generation_config.eos_token_id
    model.float().set_attn_implementation("sdpa")
    model.generation_config.eos_token_id = tokenizer.eos_token_id  # the only end that our engine knows
    scorer = _Scorer(learner, examples)
    wanted = train.max_steps * train.groups
    chunks, _ = take(trajectories(examples), train.chunk, config.seed, 0, wanted)
    places = [place for chunk in chunks for place in chunk][:wanted]
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=[scorer.similarity],
        args=grpo_config(config, folder / "trl", _micro_batch(examples, train), dtype == torch.bfloat16, model.device),
        train_dataset=_dataset(tokenizer, examples, places),
        optimizers=_optimizer(model, train),
        callbacks=[_recorder(scorer, train, folder, done, on_step)],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=newest)
    except Exception as error:
        if newest and (isinstance(error, _DAMAGED) or "PytorchStreamReader" in str(error)):
            raise TrainingError(
                f"{newest} is no whole checkpoint ({error}): delete it and start the same command again"
            ) from error
        raise
    finally:
        model.generation_config.eos_token_id = ends
    model.to(dtype)


def grpo_config(config: Config, folder: Path, micro_batch: int, bf16: bool, device: torch.device) -> Any:
    """Our settings in TRL's words. One generation per update, so samples are on-policy and no ratio is clipped."""
    from trl import GRPOConfig

    train = config.train
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=train.max_steps,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=train.groups * train.samples // micro_batch,
        num_generations=train.samples,
        max_completion_length=train.max_new_tokens,
        temperature=train.temperature,
        loss_type=train.loss,
        scale_rewards=train.scale_rewards,
        epsilon=train.clip_eps,
        epsilon_high=train.clip_eps_high,
        beta=0.0,
        max_grad_norm=train.max_grad_norm,
        learning_rate=train.lr,
        seed=config.seed,
        shuffle_dataset=False,
        bf16=bf16,
        use_cpu=device.type == "cpu",
        gradient_checkpointing=train.gradient_checkpointing,
        logging_steps=1,
        save_steps=train.checkpoint_every,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
    )


class _Scorer:
    """Our score as a reward function of TRL; keeps what it scored until the step is recorded."""

    def __init__(self, learner: Policy, examples: list[StepExample]) -> None:
        self._sampler, self._examples = learner.sampler, examples
        self._end, self._n = learner.tokenizer.eos_token_id, learner.config.train.samples
        self.groups: list[Group] = []
        self.ended = 0.0

    def similarity(self, completion_ids: list[list[int]], place: list[int], **columns: Any) -> list[float | None]:
        """One reward per completion; TRL gives the samples of a prompt side by side."""
        samples = [self._score(tuple(ids), self._examples[i]) for ids, i in zip(completion_ids, place, strict=True)]
        starts = range(0, len(samples), self._n)
        self.groups = [Group(self._examples[place[i]], tuple(samples[i : i + self._n])) for i in starts]
        self.ended = time.monotonic()
        return [sample.reward for sample in samples]

    def _score(self, tokens: tuple[int, ...], example: StepExample) -> Sample:
        return self._sampler.score(Completion(tokens, (), tokens[-1:] == (self._end,)), example)


def _recorder(scorer: _Scorer, train: TrainConfig, folder: Path, done: int, on_step: Callable[[Record], None]) -> Any:
    """A callback that writes one record per update, in the keys of our loop."""
    from transformers import TrainerCallback

    metrics = JsonLines(folder / "metrics.jsonl", keep_until_step=done)
    samples = JsonLines(folder / "samples.jsonl", keep_until_step=done)

    class Recorder(TrainerCallback):  # type: ignore[misc]
        started = cpu = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started, self.cpu = time.monotonic(), time.process_time()

        def on_log(self, args: Any, state: Any, control: Any, logs: Record, **kwargs: Any) -> None:
            if "grad_norm" not in logs:  # the summary at the end
                return
            seconds = time.monotonic() - self.started
            tokens = sum(len(s.completion.tokens_T) for g in scorer.groups for s in g.samples)
            record = {"step": state.global_step, **batch_metrics(scorer.groups, train.min_std)}
            record |= {"trained_groups": len(scorer.groups), "lr": logs["learning_rate"]}
            record |= {"grad_norm": logs["grad_norm"], "entropy": logs["entropy"]}
            record |= {"sampling_s": scorer.ended - self.started, "seconds": seconds}
            record |= {"cpu_s": time.process_time() - self.cpu, "tokens_per_s": tokens / seconds}
            metrics.write(record)
            samples.write(*(sample_record(state.global_step, group) for group in scorer.groups))
            on_step(record)

    return Recorder()


def _newest(folder: Path) -> tuple[int, str | None]:
    """The step and the path of the newest whole checkpoint: its `trainer_state.json` is written last."""
    whole = {int(p.parent.name.rpartition("-")[2]): p.parent for p in folder.glob("checkpoint-*/trainer_state.json")}
    return (max(whole), str(whole[max(whole)])) if whole else (0, None)


def _dataset(tokenizer: Any, examples: list[StepExample], places: list[int]) -> Any:
    """A row per place; a text that comes again is stored once."""
    from datasets import Dataset

    used = sorted(set(places))
    row = {i: n for n, i in enumerate(used)}
    rows = Dataset.from_dict({"prompt": [prompt_text(tokenizer, examples[i]) for i in used], "place": used})
    return rows.select([row[i] for i in places])


def prompt_text(tokenizer: Any, example: StepExample) -> str:
    """Text that TRL tokenises to exactly `example.prompt_P`. Raises TrainingError where there is none."""
    prompt, added = list(example.prompt_P), tokenizer("")["input_ids"]
    own = prompt[len(added) :] if prompt[: len(added)] == added else prompt
    text = str(tokenizer.decode(own, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if tokenizer(text, verbose=False)["input_ids"] != prompt:
        raise TrainingError(
            f"{example.example_id}: the tokenizer reads the text of its prompt back as other tokens, and TRL takes "
            "text alone: use train.trainer=own"
        )
    return text


def _micro_batch(examples: list[StepExample], train: TrainConfig) -> int:
    """The most samples that keep a padded forward pass within `row_tokens`, dividing the batch; at least 1."""
    longest = max(len(e.prompt_P) for e in examples) + train.max_new_tokens
    total = train.groups * train.samples
    return max(m for m in range(1, total + 1) if total % m == 0 and (m == 1 or m * longest <= train.row_tokens))


def _optimizer(model: Any, train: TrainConfig) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Ours: decay on every parameter, and a warm-up whose first rate is not zero."""
    adamw = torch.optim.AdamW(model.parameters(), lr=train.lr, betas=train.betas, weight_decay=train.weight_decay)
    ramp = max(1, train.lr_warmup_steps)
    return adamw, torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: min(1.0, (step + 1) / ramp))
