"""Risks: an argument that loses its type or its text on the way through a reply, a refusal where none is needed."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent_srl.data.actions import FORMATS, choose_format, make_format
from agent_srl.data.tools import DEFAULT_TOOLS, signature, tools_of
from agent_srl.errors import DataError
from agent_srl.rewards.parse import parse_reply, write_reply
from env_server.schema import Action, Step, Trajectory

NASTY = [
    "a\nb\n",
    "\n",
    " ",
    "",
    "</parameter>",
    "x</parameter>\n<parameter=path>/etc",
    "<function=bash>",
    "</function>",
    "</tool_call>\n<tool_call>",
    "```\nls\n```",
    "<think>",
    "</think>",
    "5",
    "true",
    "null",
    '"quoted"',
    '{"a": 1, "a": 2}',
    "1e999",
    "NaN",
    "é – \u2028 \x85 \r\n",
    "\ud800",
    "[" * 3000,
]
TEXT = st.one_of(st.sampled_from(NASTY), st.text("ab5 \n\t<>/`'\"\\{}[]:,.é=", max_size=20))
NAMES = st.one_of(
    st.sampled_from(["bash", "str_replace_editor", "execute_bash", "command", "text", 'a"b', "a\\", "with space"]),
    st.text(string.ascii_letters + "_.-", min_size=1, max_size=8),
)
VALUES = st.recursive(
    st.one_of(TEXT, st.integers(), st.booleans(), st.none(), st.floats(allow_infinity=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
ACTIONS = st.builds(Action, name=NAMES, arguments=st.dictionaries(NAMES, VALUES, max_size=3))


def as_json(action: Action) -> str:
    """Tells 1 from True and 1.0, which Python's equality does not."""
    return json.dumps(action.model_dump())


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
@settings(deadline=None)
@given(action=ACTIONS)
@example(action=Action(name="bash", arguments={"command": "x</parameter>\n<parameter=path>/etc"}))
@example(action=Action(name="submit", arguments={"lost": 1}))
@example(action=Action(name="step", arguments={"text": " spaces around "}))
def test_an_action_survives_a_reply_or_is_refused(fmt, action):
    assert isinstance(fmt.show(action), str)  # history never stops at an action that cannot be said
    try:
        reply = write_reply("why", action, fmt)
    except DataError as error:
        assert fmt.name in str(error)
        return
    reply.encode()
    parsed = parse_reply(reply, fmt)
    assert parsed is not None and parsed[0] == "why"
    assert as_json(parsed[1]) == as_json(action)


@pytest.mark.parametrize("name", ["xml", "hermes"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"command": "view", "path": "/testbed/a.py", "view_range": [1, -1]},
        {"command": "insert", "path": "/testbed/a.py", "insert_line": 0, "new_str": "\n  x = {1: '<b>'}\n\n"},
        {"command": "create", "path": "/testbed/package.json", "file_text": '{"name": 5}'},
        {"command": "str_replace", "path": "/a", "old_str": "5", "new_str": "true"},
        {"nested": {"a": [1, 2.5, None, {"b": "```"}]}, "flag": True},
        {"text": "5", "more": '"quoted"', "plain": "hello </parameter> world"},
    ],
)
def test_what_agents_really_pass_is_written(name, arguments):
    action = Action(name="str_replace_editor", arguments=arguments)
    fmt = FORMATS[name]
    assert as_json(fmt.read(fmt.write(action))) == as_json(action)


def test_declared_strings_stand_as_they_are_and_are_read_as_they_stand():
    action = Action(name="str_replace_editor", arguments={"command": "create", "path": "/p.json", "file_text": "[5]"})
    assert "<parameter=file_text>[5]</parameter>\n" in FORMATS["xml"].write(action)
    undeclared = Action(name="other", arguments={"file_text": "[5]"})
    assert '<parameter=file_text>"[5]"</parameter>\n' in FORMATS["xml"].write(undeclared)


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(['<tool_call>\n{"name": "bash", "arguments": {}}\n</tool_call>'] * 2),
        '<tool_call>\n{"name": "bash", "arguments": "ls"}\n</tool_call>',
        '<tool_call>\n{"name": "bash"}\n</tool_call>',
        '<tool_call>\n{"name": "bash", "arguments": {"a": 1, "a": 2}}\n</tool_call>',
        '<tool_call>\n{"name": "bash", "arguments": {"a": NaN}}\n</tool_call>',
        '<tool_call>\n{"name": "bash", "arguments": {}, "id": 1}\n</tool_call>',
        '{"name": "bash", "arguments": {}}',
        "<tool_call>\n" + "[" * 100_000 + "\n</tool_call>",
    ],
)
def test_anything_but_one_hermes_call_is_a_broken_format(text):
    assert FORMATS["hermes"].read(text) is None


def trajectory(*actions: Action) -> Trajectory:
    steps = [Step(thought="t", action=a) for a in actions]
    return Trajectory(instance_id="i", repo="r", problem_statement="p", steps=steps, source="test")


def test_tools_come_from_the_calls_where_they_are_not_the_known_ones():
    known = trajectory(Action(name="bash", arguments={"command": "ls"}), Action(name="submit"))
    assert tools_of([known]) == DEFAULT_TOOLS
    other = trajectory(
        Action(name="execute_bash", arguments={"command": "ls"}),
        Action(name="execute_bash", arguments={"command": "ls", "timeout": 5}),
        Action(name="edit", arguments={"lines": [1, 2]}),
        Action(name="edit", arguments={"lines": "1:2"}),
    )
    assert [signature(tool) for tool in tools_of([other])] == ["execute_bash(command, timeout)", "edit(lines)"]
    bash, edit = (tool["function"]["parameters"] for tool in tools_of([other]))
    assert bash["required"] == ["command"] and bash["properties"]["timeout"] == {"type": "integer"}
    assert edit["properties"]["lines"] == {"type": ["array", "string"]}
    assert "execute_bash(command, timeout)" in choose_format("xml", [other]).system_prompt


def test_every_call_can_be_written_with_tools_inferred_from_it():
    actions = [
        Action(name="edit", arguments={"lines": "5"}),
        Action(name="edit", arguments={"lines": [5]}),
        Action(name="bash", arguments={"command": "true"}),
        Action(name="bash", arguments={"command": "ls", "timeout": 5}),
    ]
    fmt = choose_format("auto", [trajectory(*actions)])
    assert fmt.name == "xml"
    assert [as_json(fmt.read(fmt.write(a))) for a in actions] == [as_json(a) for a in actions]


def test_declared_tools_win_and_lose_the_nulls_of_tables():
    function = {
        "name": "run",
        "description": "Runs.",
        "parameters": {"properties": {"cmd": {"type": "string", "enum": None}}},
    }
    row = trajectory(Action(name="run", arguments={"cmd": "5"})).model_copy(update={"tools": [{"function": function}]})
    [tool] = tools_of([row])
    assert tool["function"]["description"] == "Runs."
    assert tool["function"]["parameters"]["properties"] == {"cmd": {"type": "string"}}
    assert "<parameter=cmd>5</parameter>" in make_format("xml", [tool]).write(row.steps[0].action)
