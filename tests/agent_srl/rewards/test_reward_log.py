"""Risks: a run that trains on another reward than its config names, a log that hides what a reward is made of."""

from __future__ import annotations

import json

import pytest

from agent_srl.data.actions import FORMATS
from agent_srl.data.render import Renderer
from agent_srl.rewards.kinds import score
from agent_srl.rewards.parse import write_reply
from agent_srl.rollout.steps import StepSampler
from agent_srl.train.metrics import batch_metrics, sample_record
from agent_srl.types import Completion, Group, StepExample
from env_server.schema import Action

EXPERT = Action(name="bash", arguments={"command": "pytest tests/a.py"})
OURS = Action(name="bash", arguments={"command": "python -m pytest tests/b.py"})
WEIGHTS = {"ratio": 1.0, "structured": 1.0}


@pytest.fixture
def group(tokenizer) -> Group:
    sampler = StepSampler(None, Renderer(tokenizer), FORMATS["xml"], reward=WEIGHTS)  # type: ignore[arg-type]
    example = StepExample(
        example_id="t#1",
        repo="r",
        instance_id="t",
        step=1,
        prompt_P=(1,),
        expert=EXPERT,
        target_T=(2,),
        labels_P=(-100,),
        previous=None,
    )

    def sample(text: str):
        ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        return sampler.score(Completion(ids, (0.0,) * len(ids), True), example)

    reply = write_reply("run them", OURS, FORMATS["xml"])
    return Group(
        example, (sample(reply), sample(write_reply("yes", EXPERT, FORMATS["xml"])), sample("pytest tests/a.py"))
    )


def test_samples_carry_the_configured_reward_and_its_parts(group):
    ours, same, broken = group.samples
    expected = score(WEIGHTS, OURS, EXPERT)
    assert (ours.reward, ours.parts) == (expected.value, expected.parts)
    assert same.reward == 1 and set(same.parts) == set(ours.parts)
    assert (broken.reward, broken.parts) == (-1, {})


def test_the_log_holds_the_mean_of_every_part_and_the_parts_of_every_sample(group):
    ours, same, _ = group.samples
    metrics = batch_metrics([group], 0.02)
    assert metrics["parts"].keys() == ours.parts.keys()
    mean = (ours.parts["structured.target"] + same.parts["structured.target"]) / 2
    assert metrics["parts"]["structured.target"] == pytest.approx(mean, abs=1e-6)
    record = json.loads(json.dumps(sample_record(3, group)))
    assert record["samples"][0]["parts"]["ratio"] == pytest.approx(ours.parts["ratio"], abs=1e-6)
    assert record["samples"][2]["parts"] == {}
