"""Before anything is spent on a run: whether its model can be sampled from and trained as configured, on a few tokens.

Left out: vLLM in this process, which is compared with the model when it starts, and TRL, which trains without trees.
"""

from __future__ import annotations

from typing import Any

from agent_srl.config import Config
from agent_srl.policy import make_engine, prepare_training
from agent_srl.progress import Console
from agent_srl.rollout.check import CHECK, check_prompt
from agent_srl.train.processes import Processes
from agent_srl.train.support import choose_attention, prove_tree, why_dense


async def self_check(model: Any, end_tokens: set[int], config: Config, processes: Processes, console: Console) -> None:
    """Raises AgentSRLError where samples, log-probabilities or gradients are not those of `model`, which is left with
    the adapters that it would be trained with."""
    if processes.main and config.rollout.engine != "vllm":  # the others would ask the same of the same server
        engine = make_engine(model, end_tokens, config)
        try:
            await engine.generate(check_prompt(model.config.vocab_size), 1, CHECK)
        finally:
            await engine.close()
    if config.train.trainer == "own":
        prepare_training(model, config)
        _prove(model, config, console)


def _prove(model: Any, config: Config, console: Console) -> None:
    """The check of the token tree on this model, or why there is none."""
    share, kernel = choose_attention(config.train.attention, model)
    if share:
        prove_tree(model, config.train.temperature, kernel)
        console.say(
            "self-check passed: on a small token tree, log-probabilities and gradients equal one row per sample"
        )
    else:
        why = why_dense(model.config) or "train.attention=dense"
        console.say(f"one row per sample, no token tree: {why}")
