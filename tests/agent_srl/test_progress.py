"""Risk: a step of minutes in which nothing is seen to happen, or a log full of what only a terminal should show."""

from __future__ import annotations

import torch

from agent_srl.config import TrainConfig
from agent_srl.models import load_model
from agent_srl.progress import Console
from agent_srl.rollout.hf import TransformersEngine
from agent_srl.rollout.steps import StepSampler
from agent_srl.train.loop import SRLLoop
from agent_srl.types import Sample, StepExample
from env_server.schema import Action


class ByTokens(StepSampler):
    """A random model finds a signal: the reward of a sample is a number made from its tokens."""

    def score(self, completion, example):
        return Sample(completion, "", "", None, sum(completion.tokens_T) % 101 / 101)


async def test_a_step_says_which_groups_are_sampled_and_which_trees_trained(tiny_model, tmp_path):
    model = load_model(str(tiny_model), torch.float32, torch.device("cpu"))
    sampler = ByTokens(TransformersEngine(model, {2}, max_rows=3, inline=True), None, None)
    examples = [
        StepExample(f"t{i}#0", "r", f"t{i}", 0, (i + 5,) * 130, Action(name="bash"), (2,), (-100,) * 130, None)
        for i in range(3)
    ]
    config = TrainConfig(max_steps=2, groups=2, samples=3, max_new_tokens=4, row_tokens=128, refill_rounds=0)
    seen: list[tuple[int, str]] = []
    steps: list[int] = []

    def on_step(record):
        steps.append(record["step"])

    await SRLLoop(
        model,
        sampler,
        examples,
        config,
        seed=0,
        folder=tmp_path,
        on_step=on_step,
        on_progress=lambda step, note: seen.append((step, note)),
    ).run()
    each = ["1 groups sampled", "2 groups sampled", "1 of 2 trees trained", "2 of 2 trees trained"]
    assert seen == [(step, note) for step in (0, 1) for note in each] and steps == [1, 2]


def test_without_a_terminal_what_passes_is_no_line(capsys):
    with Console().live("SRL", 2) as show:
        show(0, "1 groups sampled", passing=True)
        show(1, "reward")
    assert capsys.readouterr().err == "SRL 1/2  reward\n"
