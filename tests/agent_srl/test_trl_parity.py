"""Risk: our loss is another one than TRL's of the same name. Same rows in both: equal loss, equal gradients.

TRL's side is `GRPOTrainer._compute_loss` of a real trainer on its own padded micro-batches; ours are trees. Ratios lie
on both sides of the clip range.
"""

from __future__ import annotations

import random

import pytest
import torch

pytest.importorskip("trl", reason="TRL is not installed")

from agent_srl.train.loss import policy_loss, token_weights
from agent_srl.train.tree import Branch, branch_logprobs, pack

CLIP, HIGHER, LONGEST, TEMPERATURE = 0.2, 0.28, 9, 0.7


@pytest.fixture(scope="module")
def model(tiny_model):
    from agent_srl.models import load_model

    return load_model(str(tiny_model), torch.float32, torch.device("cpu"))


@pytest.fixture(scope="module")
def rows():
    """Two prompts, one the beginning of the other, with four completions each: (prompt, tokens, advantage)."""
    draw = random.Random(0)
    trunk = tuple(draw.randrange(100, 2000) for _ in range(23))
    return [
        (prompt, tuple(draw.randrange(100, 2000) for _ in range(size)), draw.uniform(-2, 2))
        for prompt in (trunk[:14], trunk)
        for size in (1, 4, 7, LONGEST)
    ]


@pytest.fixture(scope="module")
def old(model, rows):
    """Log-probabilities of an older policy: up to a third apart, so that some ratios are clipped."""
    draw = random.Random(1)
    found = {}
    with torch.no_grad():
        for prompt, tokens, _ in rows:
            now, _ = branch_logprobs(model, pack([Branch(prompt, tokens, 0.0, 1.0)], 10_000)[0], TEMPERATURE)
            found[prompt, tokens] = [value + draw.uniform(-0.33, 0.33) for value in now.tolist()]
    return found


def gradients(model):
    """One vector; clears them."""
    found = torch.cat([p.grad.flatten() for p in model.parameters()]).clone()
    model.zero_grad()
    return found


def ours(model, rows, old, loss: str, high):
    weights = token_weights([len(tokens) for _, tokens, _ in rows], loss, LONGEST)
    branches = [Branch(p, t, a, w, tuple(old[p, t])) for (p, t, a), w in zip(rows, weights, strict=True)]
    total = 0.0
    for row in pack(branches, 10_000):
        now, _ = branch_logprobs(model, row, TEMPERATURE)
        before = torch.tensor([value for b in row.branches for value in b.old_logprobs])
        gains = row.per_token([b.advantage for b in row.branches])
        part = policy_loss(now, before, gains, row.per_token([b.weight for b in row.branches]), CLIP, high)
        part.backward()
        total += part.item()
    return total, gradients(model)


def trl(folder_of_model, tokenizer, rows, old, loss: str, high, micro_batch: int, folder):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    steps = len(rows) // micro_batch
    config = GRPOConfig(
        output_dir=str(folder),
        loss_type=loss,
        epsilon=CLIP,
        epsilon_high=high,
        temperature=TEMPERATURE,
        max_completion_length=LONGEST,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=steps,
        num_generations=4,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
    )
    data = Dataset.from_list([{"prompt": "unused"}])
    trainer = GRPOTrainer(
        str(folder_of_model),
        lambda completions, **_: [0.0] * len(completions),
        config,
        data,
        processing_class=tokenizer,
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = steps
    count = torch.tensor(sum(len(tokens) for _, tokens, _ in rows))
    total = 0.0
    for start in range(0, len(rows), micro_batch):
        batch = padded(rows[start : start + micro_batch], old, tokenizer.pad_token_id)
        part = trainer._compute_loss(trainer.model, batch | {"num_items_in_batch": count})
        part.backward()
        total += part.item()
    return total, gradients(trainer.model)


def padded(rows, old, pad: int) -> dict[str, torch.Tensor]:
    """As TRL pads: prompts on the left, completions on the right."""
    from trl.trainer.utils import pad as pad_rows

    prompts = [torch.tensor(prompt) for prompt, _, _ in rows]
    tokens = [torch.tensor(tokens) for _, tokens, _ in rows]
    before = [torch.tensor(old[prompt, tokens]) for prompt, tokens, _ in rows]
    return {
        "prompt_ids": pad_rows(prompts, pad, "left"),
        "prompt_mask": pad_rows([torch.ones_like(p) for p in prompts], 0, "left"),
        "completion_ids": pad_rows(tokens, pad, "right"),
        "completion_mask": pad_rows([torch.ones_like(t) for t in tokens], 0, "right"),
        "old_per_token_logps": pad_rows(before, 0.0, "right"),
        "advantages": torch.tensor([advantage for _, _, advantage in rows]),
    }


@pytest.mark.parametrize(("micro_batch", "high"), [(8, None), (2, None), (4, HIGHER)])
@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo"])
def test_loss_and_gradients_equal_trl(model, tiny_model, tokenizer, rows, old, loss, high, micro_batch, tmp_path):
    loss_ours, grad_ours = ours(model, rows, old, loss, high)
    loss_trl, grad_trl = trl(tiny_model, tokenizer, rows, old, loss, high, micro_batch, tmp_path)
    assert grad_trl.norm() > 0.01
    assert loss_ours == pytest.approx(loss_trl, abs=1e-6)
    assert (grad_ours - grad_trl).norm() / grad_trl.norm() <= 1e-5


def test_the_rows_reach_both_sides_of_the_clip_range(model, rows, old):
    """Otherwise parity would say nothing about clipping."""
    ratios = []
    for prompt, tokens, _ in rows:
        now, _ = branch_logprobs(model, pack([Branch(prompt, tokens, 0.0, 1.0)], 10_000)[0], TEMPERATURE)
        ratios += (now.detach() - torch.tensor(old[prompt, tokens])).exp().tolist()
    assert (
        min(ratios) < 1 - CLIP
        and max(ratios) > 1 + HIGHER
        and any(1 + CLIP < r < 1 + HIGHER for r in ratios)
        and any(abs(r - 1) < CLIP for r in ratios)
    )
