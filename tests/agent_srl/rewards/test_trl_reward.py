"""Risks: a reward that TRL calls in another way than we think; a broken reply that is not -1."""

from __future__ import annotations

import json

import pytest

from agent_srl.data.actions import FORMATS
from agent_srl.rewards.parse import write_reply
from agent_srl.rewards.trl import make_reward
from env_server.schema import Action

CALL = {"name": "bash", "arguments": {"command": "pytest tests/a.py"}}
ACTION = Action(**CALL)
EXPERT = json.dumps(CALL)


def called(reward, completions, experts):
    """As GRPOTrainer does: keywords, ids and the trainer's state beside the dataset's columns."""
    given = {"prompts": ["p"] * len(completions), "completion_ids": [[1]] * len(completions), "trainer_state": None}
    return reward(completions=completions, **given, expert=experts)


def test_texts_are_read_in_the_format_and_broken_ones_are_minus_one():
    reward = make_reward("structured", FORMATS["xml"])
    texts = [write_reply("run it", ACTION, FORMATS["xml"]), "pytest tests/a.py", ""]
    assert called(reward, texts, [EXPERT] * 3) == [1.0, -1.0, -1.0]
    assert reward.__name__ == "srl_structured"


def test_chat_messages_are_scored_by_their_tool_calls():
    reward = make_reward("ratio", FORMATS["xml"])
    openai = {"type": "function", "function": {"name": "bash", "arguments": json.dumps(CALL["arguments"])}}
    message = {"role": "assistant", "content": "", "tool_calls": [openai]}
    text = {"role": "assistant", "content": write_reply("run it", ACTION, FORMATS["xml"])}
    broken = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "bash", "arguments": "{"}}]}
    assert called(reward, [[message], [text], [broken], []], [EXPERT] * 4) == [1.0, 1.0, -1.0, -1.0]
    twice = [{**message, "tool_calls": [openai, openai]}]
    assert called(reward, [twice], [EXPERT]) == [pytest.approx(2 / 3)]


def test_rows_without_an_expert_are_left_to_other_rewards():
    assert called(make_reward("ratio", FORMATS["bash"]), ["x", "x"], [None, EXPERT]) == [None, -1.0]


def test_a_wrong_kind_or_column_is_named():
    with pytest.raises(KeyError, match="unknown reward 'magic'"):
        make_reward("magic", FORMATS["xml"])
    with pytest.raises(ValueError, match="a call is"):
        called(make_reward("ratio", FORMATS["xml"]), ["x"], ['"ls"'])


@pytest.mark.slow
def test_trl_trains_a_step_on_it(tiny_model, tmp_path):
    """A real GRPOTrainer: random replies are broken, so its logged reward is -1, under our name."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    rows = Dataset.from_list([{"prompt": "Fix it.", "expert": EXPERT}] * 2)
    config = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=4,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    reward = make_reward({"structured": 1.0}, FORMATS["xml"])
    trainer = GRPOTrainer(model=str(tiny_model), reward_funcs=[reward], args=config, train_dataset=rows)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "rewards/srl_structured/mean" in row]
    assert logged and logged[0]["rewards/srl_structured/mean"] == -1
