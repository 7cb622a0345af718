"""Risks: a step prompt that is no prefix of its trajectory, a rejected step that is learnt, a leak across the split."""

from __future__ import annotations

import pytest

from agent_srl.config import DataConfig
from agent_srl.data.actions import FORMATS, choose_format
from agent_srl.data.render import Renderer
from agent_srl.data.steps import IGNORE, StepBuilder, split
from agent_srl.rewards.parse import parse_reply
from env_server.schema import Step


@pytest.fixture(params=["smollm2", "qwen2.5"])
def renderer(request, tokenizer):
    return Renderer(tokenizer if request.param == "smollm2" else request.getfixturevalue("qwen"))


def build(renderer, trajectories, **config):
    return StepBuilder(renderer, FORMATS["xml"], DataConfig(**config)).build(trajectories)


def test_full_context_prompts_are_exact_token_prefixes_of_each_other(renderer, trajectories):
    data = build(renderer, trajectories[:1])
    assert [e.step for e in data.examples] == [0, 2, 3, 4]
    for before, after in zip(data.examples, data.examples[1:], strict=False):
        assert after.prompt_P[: len(before.prompt_P)] == before.prompt_P
    second = data.examples[2]
    assert (
        second.prompt_P[len(data.examples[1].prompt_P) :][: len(data.examples[1].target_T)] == data.examples[1].target_T
    )


def test_prompt_and_target_read_like_the_template(renderer, trajectories):
    example = build(renderer, trajectories[:1]).examples[-1]
    text = renderer.tokenizer.decode(example.prompt_P + example.target_T)
    messages = [
        {"role": "system", "content": FORMATS["xml"].system_prompt},
        {"role": "user", "content": trajectories[0].problem_statement},
    ]
    for shown in StepBuilder(renderer, FORMATS["xml"], DataConfig()).rounds(trajectories[0].steps):
        messages.append({"role": "assistant", "content": shown.reply})
        messages.append({"role": "user", "content": shown.observation})
    messages.pop()
    assert renderer.tokenizer.apply_chat_template(messages, tokenize=False).startswith(text)


def test_window_shows_the_last_rounds_only(renderer, trajectories):
    example = build(renderer, trajectories[:1], context="window", rounds=2).examples[-1]
    text = renderer.tokenizer.decode(example.prompt_P)
    assert "Mend it." in text and "Search for" in text and "Look around." not in text


def test_rejected_steps_are_no_targets_and_never_learnt_from_history(renderer, trajectories):
    data = build(renderer, trajectories[:1])
    assert data.dropped == {"more than one block": 1}
    last = data.examples[-1]
    learnt = renderer.tokenizer.decode([label for label in last.labels_P if label != IGNORE])
    assert "Search for" in learnt and "Two at once." not in learnt and "def value_0" not in learnt


def test_first_and_last_steps_are_targets_by_choice(renderer, trajectories):
    data = build(renderer, trajectories[:1], first_step=False, last_step=False)
    assert [e.step for e in data.examples] == [2, 3]


def test_long_replies_are_dropped_and_counted(renderer, trajectories):
    data = build(renderer, trajectories, max_target_tokens=40)
    assert data.dropped["reply too long"] > 0
    assert all(len(e.target_T) <= 40 for e in data.examples)


def test_observations_are_clipped_by_a_static_rule(renderer):
    text = "".join(f"{i} " for i in range(50_000))
    clipped = renderer.clip(text, 64)
    assert len(renderer.encode(clipped)) < 90
    assert clipped.startswith("0 1 2") and clipped.rstrip().endswith("49999") and "characters left out" in clipped


def test_a_turn_without_a_call_is_history_and_no_target(renderer, trajectories):
    talk = Step(action=None, thought="I only talk.", observation="Act!")
    trajectories[0].steps.insert(1, talk)
    data = build(renderer, trajectories[:1])
    assert data.dropped["no action"] == 1 and 1 not in [e.step for e in data.examples]
    last = data.examples[-1]
    assert "I only talk." in renderer.tokenizer.decode(last.prompt_P)
    assert "I only talk." not in renderer.tokenizer.decode([label for label in last.labels_P if label != IGNORE])
    assert data.examples[1].step == 3


def test_an_action_that_the_format_cannot_say_is_shown_and_never_learnt(renderer, trajectories):
    trajectories[0].steps[3].action.arguments["new_str"] = "x</parameter>\ny"
    data = build(renderer, trajectories[:1])
    assert data.dropped["no exact text in the format xml"] == 1
    last = data.examples[-1]
    assert "x</parameter>" in renderer.tokenizer.decode(last.prompt_P)
    assert "x</parameter>" not in renderer.tokenizer.decode([label for label in last.labels_P if label != IGNORE])


def test_what_holds_the_end_token_is_never_learnt(renderer, trajectories):
    trajectories[0].steps[2].action.arguments["command"] = f"grep '{renderer.eos}' pkg"
    trajectories[0].steps[3].thought = f"I see {renderer.eos} there."
    data = build(renderer, trajectories[:1])
    assert data.dropped["no exact text in the format xml"] == 1
    last, end = data.examples[-1], renderer.tokenizer.eos_token_id
    assert last.labels_P.count(end) == 2 and all(e.target_T.count(end) == 1 for e in data.examples)


@pytest.mark.parametrize("name", ["xml", "hermes"])
def test_the_experts_own_tokens_read_back_as_its_action(renderer, trajectories, name):
    trajectories[0].steps[3].action.arguments["new_str"] = "  if x:\n\treturn 'é  <b>' # 1 ,  2 .\r\n\n"
    data = StepBuilder(renderer, FORMATS[name], DataConfig()).build(trajectories[:1])
    assert len(data.examples) == 4
    for example in data.examples:
        parsed = parse_reply(renderer.decode(example.target_T), FORMATS[name])
        assert parsed == (trajectories[0].steps[example.step].thought, example.expert)


def test_the_action_begins_where_the_thought_ends(renderer, trajectories):
    for example in build(renderer, trajectories[:1]).examples:
        action = renderer.tokenizer.decode(example.target_T[example.action_start :])
        assert action == FORMATS["xml"].write(example.expert) + renderer.eos


def test_held_out_repositories_are_never_trained_on(trajectories):
    train, heldout = split(trajectories, DataConfig(heldout_fraction=0.3), seed=1)
    assert train and heldout and len(train) + len(heldout) == len(trajectories)
    assert not {t.repo for t in train} & {t.repo for t in heldout}
    assert split(trajectories, DataConfig(heldout_fraction=0.3), seed=1) == (train, heldout)
    train, heldout = split(trajectories, DataConfig(heldout_repos=["pkg2"]), seed=1)
    assert {t.repo for t in heldout} == {"pkg2"}


def test_with_one_repository_whole_trajectories_are_held_out(trajectories):
    train, heldout = split(trajectories[::3], DataConfig(), seed=0)
    assert len(train) == len(heldout) == 1


def test_the_simplest_format_that_can_write_every_action_is_chosen(trajectories):
    assert choose_format("auto", trajectories).name == "xml"
    for t in trajectories:
        t.steps = [s for s in t.steps if s.action.name != "str_replace_editor"]
    assert choose_format("auto", trajectories).name == "bash"
