"""Risks: a prompt over its budget, an old observation kept while a newer one goes, a silent loss of history."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_srl.config import DataConfig
from agent_srl.config_file import load_config
from agent_srl.data.actions import FORMATS
from agent_srl.data.contexts import Round, Size, fit
from agent_srl.data.render import Renderer
from agent_srl.data.steps import StepBuilder
from agent_srl.errors import ConfigError
from env_server.schema import Action, Step, Trajectory

SIZES = st.lists(st.builds(Size, st.integers(1, 50), st.integers(1, 200), st.integers(3, 9)), min_size=1, max_size=8)


def total(shown: list[Round], rounds: list[Round], sizes: list[Size]) -> int:
    by_reply = {r.reply: (r, s) for r, s in zip(rounds, sizes, strict=True)}
    pairs = [(r, *by_reply[r.reply]) for r in shown]
    return sum(s.reply + (s.observation if r == whole else s.placeholder) for r, whole, s in pairs)


@given(SIZES, st.integers(0, 1500))
def test_a_budget_keeps_the_newest_and_drops_the_oldest(sizes, room):
    rounds = [Round(f"reply {i}", f"output {i}", f"[{i} left out]") for i in range(len(sizes))]
    shown = fit(rounds, sizes, room)
    kept, own = rounds[-len(shown) :], sizes[-len(shown) :]
    elided = [a != b for a, b in zip(shown, kept, strict=True)]
    gone = [e or s.observation <= s.placeholder for e, s in zip(elided, own, strict=True)]
    assert [r.reply for r in shown] == [r.reply for r in kept] and shown[-1] == kept[-1]
    assert total(shown, rounds, sizes) <= room or len(shown) == 1
    assert all(gone[: max((i for i, e in enumerate(elided) if e), default=0)])  # the oldest give way first
    if len(shown) < len(rounds):
        assert all(gone[:-1])  # and all of them before a round is dropped
    elif any(elided):
        last = max(i for i, e in enumerate(elided) if e)  # and none without need
        assert total(shown, rounds, sizes) + own[last].observation - own[last].placeholder > room


@pytest.fixture
def long_run() -> Trajectory:
    steps = [
        Step(
            thought=f"Thought {i}.",
            action=Action(name="bash", arguments={"command": f"cat file_{i}.py"}),
            observation="".join(f"{i}:{n} " for n in range(40)),
        )
        for i in range(8)
    ]
    return Trajectory(instance_id="i", repo="r", problem_statement="It is BROKEN.", steps=steps, source="test")


LIMITS = {"problem_tokens": 64, "observation_tokens": 512, "thought_tokens": 16, "action_tokens": 64}


@pytest.mark.parametrize("name", ["xml", "hermes", "bash"])
def test_budget_prompts_fit_and_say_what_they_left_out(tokenizer, long_run, name):
    renderer = Renderer(tokenizer)
    full = StepBuilder(renderer, FORMATS[name], DataConfig(**LIMITS)).build([long_run]).examples
    room = len(full[5].prompt_P)
    config = DataConfig(context="budget", budget_tokens=room, **LIMITS)
    builder = StepBuilder(renderer, FORMATS[name], config)
    data = builder.build([long_run])
    assert len(data.examples) == 8 and builder.build([long_run]).examples == data.examples
    assert all(len(e.prompt_P) <= room for e in data.examples)
    text = tokenizer.decode(data.examples[-1].prompt_P)
    assert "It is BROKEN." in text and "6:39" in text and "0:39" not in text
    left_out = len(long_run.steps[0].observation.strip())
    assert re.search(rf"\[{left_out} characters of output left out\]", text)
    assert "Thought 0." in text and "cat file_0.py" in text
    assert [e.prompt_P for e in data.examples[:6]] == [e.prompt_P for e in full[:6]]


def test_a_step_whose_newest_round_alone_is_over_budget_is_dropped_and_counted(tokenizer, long_run):
    config = DataConfig(context="budget", budget_tokens=660, **LIMITS)
    data = StepBuilder(Renderer(tokenizer), FORMATS["hermes"], config).build([long_run])
    assert data.dropped["prompt too long"] == 7


def test_labels_stand_where_the_shown_replies_stand(tokenizer, long_run):
    config = DataConfig(context="budget", budget_tokens=1300, **LIMITS)
    example = StepBuilder(Renderer(tokenizer), FORMATS["xml"], config).build([long_run]).examples[-1]
    learnt = tokenizer.decode([label for label in example.labels_P if label != -100])
    shown = tokenizer.decode(example.prompt_P)
    assert learnt.count("<function=bash>") == shown.count("<function=bash>\n<parameter=command>cat")
    assert "left out" in shown and "left out" not in learnt


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["data.context=full", "data.rounds=4"], "data.rounds=4 needs data.context=window"),
        (["data.context=full", "data.budget_tokens=4000"], "needs data.context=budget"),
        (["data.context=budget"], "data.budget_tokens=0 must lie between"),
        (["data.context=budget", "data.budget_tokens=100"], "must lie between"),
        (["data.context=budget", "data.budget_tokens=99999"], "data.max_prompt_tokens"),
        (["data.context=sliding"], "data.context"),
    ],
)
def test_combinations_that_mean_nothing_are_refused(sets, message):
    with pytest.raises(ConfigError, match=message):
        load_config("swe/quickstart", sets)
