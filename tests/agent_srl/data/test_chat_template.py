"""Risks: Hermes texts that drift from the model's own template, a training template that differs where it should not,
a template or a tokenizer whose step prompts are no prefixes."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest

from agent_srl.config import DataConfig
from agent_srl.data.actions import FORMATS, make_format
from agent_srl.data.render import Renderer, UnstableText
from agent_srl.data.steps import StepBuilder
from agent_srl.errors import DataError
from env_server.schema import Action, Step, Trajectory

DROPS_THOUGHTS = r"""
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' and '</think>' in m.content %}
    {%- if loop.index0 > ns.last %}
        {{- '<think>\n' + m.content.split('</think>')[0].split('<think>')[-1].strip('\n') + '\n</think>\n\n' }}
    {%- endif %}
    {{- m.content.split('</think>')[-1].lstrip('\n') }}
{%- else %}{{- m.content }}{%- endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
"""As Qwen3's does: thoughts before the last user message go, and the last one stands between blank lines."""


def with_template(tokenizer, template: str):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


@pytest.fixture(params=["smollm2", "qwen2.5"])
def qwen3_like(request, tokenizer):
    base = tokenizer if request.param == "smollm2" else request.getfixturevalue("qwen")
    return with_template(base, DROPS_THOUGHTS)


RUN = Trajectory(
    instance_id="i",
    repo="r",
    problem_statement="It is broken.",
    source="test",
    steps=[
        Step(thought="Look.", action=Action(name="bash", arguments={"command": "ls -la\n"}), observation="a.py\n<b> é"),
        Step(
            thought="Read it.",
            action=Action(
                name="str_replace_editor", arguments={"command": "view", "path": "/testbed/a.py", "view_range": [1, -1]}
            ),
            observation="1\tx",
        ),
        Step(thought="Done.", action=Action(name="submit"), observation="Submitted."),
    ],
)


@pytest.mark.parametrize("tools", ["default", "declared"])
def test_hermes_prompts_are_the_tokens_of_the_models_own_tool_calls(qwen, tools):
    described = {"name": "bash", "description": "Läuft <b>", "parameters": {"type": "object", "properties": {}}}
    fmt = (
        FORMATS["hermes"]
        if tools == "default"
        else make_format("hermes", [{"type": "function", "function": described}])
    )
    data = StepBuilder(Renderer(qwen), fmt, DataConfig()).build([RUN])
    messages = [{"role": "system", "content": fmt.instruction}, {"role": "user", "content": RUN.problem_statement}]
    for step, found in zip(RUN.steps, data.examples, strict=True):
        native = {"messages": messages, "tools": list(fmt.tools), "add_generation_prompt": True}
        assert list(found.prompt_P) == qwen.apply_chat_template(
            native["messages"], tools=native["tools"], add_generation_prompt=True, return_dict=False
        )
        call = {"type": "function", "function": step.action.model_dump()}
        messages.append({"role": "assistant", "content": f"<think>{step.thought}</think>", "tool_calls": [call]})
        text = qwen.apply_chat_template(messages, tools=list(fmt.tools), tokenize=False)
        assert text == qwen.decode(found.prompt_P + found.target_T) + "\n"
        messages.append({"role": "tool", "content": step.observation})


def test_hermes_is_refused_where_the_template_writes_calls_in_another_form(qwen):
    other = with_template(qwen, qwen.chat_template.replace('"arguments": ', '"parameters": '))
    with pytest.raises(DataError, match=r"data\.action_format=xml"):
        StepBuilder(Renderer(other), FORMATS["hermes"], DataConfig())


def test_a_template_without_tools_takes_hermes_calls_as_text(tokenizer):
    data = StepBuilder(Renderer(tokenizer), FORMATS["hermes"], DataConfig()).build([RUN])
    text = tokenizer.decode(data.examples[-1].prompt_P)
    assert "<tools>" in text and "<tool_response>\na.py\n<b> é\n</tool_response>" in text


@pytest.mark.parametrize("name", ["xml", "hermes"])
def test_a_template_that_drops_earlier_thoughts_is_replaced_and_says_so(qwen3_like, name):
    renderer = Renderer(qwen3_like)
    assert "chatml_thoughts.jinja" in renderer.note and "drops earlier thoughts" in renderer.note
    examples = StepBuilder(renderer, FORMATS[name], DataConfig()).build([RUN]).examples
    assert len(examples) == 3
    for before, after in pairwise(examples):
        assert after.prompt_P[: len(before.prompt_P) + len(before.target_T)] == before.prompt_P + before.target_T
    assert "<think>\nLook.\n</think>\n\n" in qwen3_like.decode(examples[-1].prompt_P)


def test_the_training_template_gives_the_originals_tokens_for_what_that_keeps(qwen3_like):
    original = with_template(qwen3_like, DROPS_THOUGHTS)
    example = StepBuilder(Renderer(qwen3_like), FORMATS["xml"], DataConfig()).build([RUN]).examples[0]
    messages = [
        {"role": "system", "content": FORMATS["xml"].system_prompt},
        {"role": "user", "content": RUN.problem_statement},
    ]
    assert list(example.prompt_P) == original.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    content = f"<think>{RUN.steps[0].thought}</think>\n{FORMATS['xml'].write(RUN.steps[0].action)}"
    messages.append({"role": "assistant", "content": content})
    whole = original.apply_chat_template(messages, return_dict=False)
    assert whole[: len(example.prompt_P + example.target_T)] == list(example.prompt_P + example.target_T)


def test_the_training_template_writes_tools_as_the_hermes_format_does(qwen3_like):
    """Qwen3's own template does, so ours must where it takes its place."""
    tokenizer = with_template(qwen3_like, DROPS_THOUGHTS)
    Renderer(tokenizer)
    again = Renderer(tokenizer)  # as after saving and loading: the training template is the model's own now
    assert again.note == ""
    StepBuilder(again, FORMATS["hermes"], DataConfig())
    assert "<tools>" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}], tools=list(FORMATS["hermes"].tools), tokenize=False
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"'\n</think>\n\n'", r"'\n</think>\n\n\n'"),  # no shipped template sets thoughts apart like this
        ("loop.index0 > ns.last", "false"),  # drops the last thought too
        ("{{- m.content }}", "{{- m.content | upper }}"),
    ],
)
def test_a_template_that_no_training_template_equals_is_refused(tokenizer, old, new):
    assert old in DROPS_THOUGHTS
    with pytest.raises(DataError, match="rewrites earlier turns"):
        Renderer(with_template(tokenizer, DROPS_THOUGHTS.replace(old, new)))


def test_a_template_that_refuses_a_system_message_is_named(tokenizer):
    template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(DataError, match="System role not supported"):
        Renderer(with_template(tokenizer, template))


def test_a_token_across_the_border_of_two_turns_is_noticed(tokenizer):
    renderer = Renderer(tokenizer)
    with pytest.raises(UnstableText, match="border of two turns"):
        renderer.segments("s", ["u", "\n\nreply", "u"])


def test_a_trajectory_that_the_template_would_change_costs_its_steps_alone(tokenizer):
    trimming = with_template(
        tokenizer, tokenizer.chat_template.replace("message['content']", "message['content'].replace('odd', '')")
    )
    assert trimming.chat_template != tokenizer.chat_template
    odd = RUN.model_copy(update={"instance_id": "o", "problem_statement": "an odd one"})
    data = StepBuilder(Renderer(trimming), FORMATS["xml"], DataConfig()).build([odd, RUN])
    assert {e.instance_id for e in data.examples} == {"i"} and len(data.examples) == 3
    assert data.dropped == {"text that the chat template changes": 3}
