"""Perplexity of the expert's actions under a model, teacher-forced on the expert's thoughts."""

from __future__ import annotations

import math
from typing import Any

from agent_srl.types import StepExample

_CHUNK = 16
"""Steps whose prompts are looked at for a shared trunk."""


def perplexity(model: Any, examples: list[StepExample], row_tokens: int) -> float:
    """exp of the mean negative log-likelihood per token of all actions, each with its end token.

    `row_tokens` bounds the unique tokens of one forward pass. Raises TrainingError where memory runs out,
    ValueError on no example.
    """
    import torch

    from agent_srl.train.room import or_say
    from agent_srl.train.support import choose_attention
    from agent_srl.train.tree import Branch, branch_logprobs, pack

    share, _ = choose_attention("auto", model)
    total, count, training = 0.0, 0, model.training
    model.eval()
    with torch.no_grad():
        for place in range(0, len(examples), _CHUNK):
            part = examples[place : place + _CHUNK]
            branches = [Branch(e.prompt_P, e.target_T, 0.0, 0.0, name=e.example_id) for e in part]
            starts = {branch: e.action_start for branch, e in zip(branches, part, strict=True)}
            for row in pack(branches, row_tokens, share=share):
                longest = max(row.branches, key=lambda branch: len(branch.prompt))
                with or_say(
                    f"scoring a row of {row.size()} tokens, its longest prompt is {longest.name}: "
                    f"lower train.row_tokens (now {row_tokens}), or data.max_prompt_tokens to leave out longer steps"
                ):
                    logprobs, _ = branch_logprobs(model, row, 1.0)
                for branch, own in zip(
                    row.branches, logprobs.split([len(b.tokens) for b in row.branches]), strict=True
                ):
                    action = own[starts[branch] :]
                    total, count = total - float(action.double().sum()), count + len(action)
    model.train(training)
    if not count:
        raise ValueError("no action to score")
    return math.exp(min(total / count, 700.0))
