"""Risks: a step prompt that is no prefix of its trajectory, a rejected step that is learnt, a leak across the split."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_srl.config import DataConfig
from agent_srl.data.actions import FORMATS, choose_format
from agent_srl.data.render import Renderer
from agent_srl.data.steps import IGNORE, StepBuilder, split
from agent_srl.errors import DataError

QWEN = Path(__file__).resolve().parents[3] / "shared" / "data" / "tokenizers" / "qwen2.5"


@pytest.fixture(params=["smollm2", "qwen2.5"])
def renderer(request, tokenizer):
    if request.param == "smollm2":
        return Renderer(tokenizer)
    if not QWEN.is_dir():
        pytest.skip("the Qwen2.5 tokenizer is not on this machine")
    from agent_srl.models import load_tokenizer

    return Renderer(load_tokenizer(str(QWEN)) if (QWEN / "config.json").exists() else _from_folder(QWEN))


def _from_folder(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


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
    messages = [{"role": "system", "content": FORMATS["xml"].system_prompt}]
    builder = StepBuilder(renderer, FORMATS["xml"], DataConfig())
    for i, turn in enumerate(builder.turns(trajectories[0].problem_statement, trajectories[0].steps)[:-1]):
        messages.append({"role": "assistant" if i % 2 else "user", "content": turn})
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


def test_a_template_that_drops_thoughts_is_refused(tokenizer):
    import copy

    qwen3_like = copy.deepcopy(tokenizer)
    qwen3_like.chat_template = tokenizer.chat_template.replace(
        "message['content']", "message['content'].split('</think>')[-1]"
    )
    assert qwen3_like.chat_template != tokenizer.chat_template
    with pytest.raises(DataError, match="rewrites earlier turns"):
        Renderer(qwen3_like)


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
