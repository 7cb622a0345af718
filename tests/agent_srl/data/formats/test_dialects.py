"""Risk: a dialect of chat or of text that is misread: an argument lost, an answer given to the wrong call, a block of
prose taken for an action."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent_srl.data.formats import Origin, Record, Rejected, read_records
from agent_srl.data.formats.read import READERS, detect
from env_server.schema import Action, Step, Trajectory

TASK = {"role": "user", "content": "Mend it."}


def read(record: Any) -> Trajectory:
    return READERS[detect(record)](record, Origin(Path("runs/psf__requests-7.json"), 1, alone=True))


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [TASK, *messages], **more}


def call(name: str, arguments: Any, id_: str = "c0") -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def said(text: Any = "why", *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **({"tool_calls": list(calls)} if calls else {})}


def answer(text: Any, id_: str | None = "c0") -> dict[str, Any]:
    return {"role": "tool", "content": text, **({"tool_call_id": id_} if id_ else {})}


LS = Step(thought="why", action=Action(name="run", arguments={"command": "ls"}), observation="a.py")


@pytest.mark.parametrize(
    "messages",
    [
        [said("why", call("run", '{"command": "ls"}')), answer("a.py")],
        [said("why", call("run", {"command": "ls"})), answer("a.py")],
        [said("why", call("run", '{"command": "ls", "timeout": null}')), answer("a.py", None)],
        [said([{"type": "text", "text": "why"}], call("run", '{"command": "ls"}')), answer([{"text": "a.py"}])],
        [
            {"role": "assistant", "content": "why", "function_call": {"name": "run", "arguments": '{"command": "ls"}'}},
            {"role": "function", "name": "run", "content": "a.py"},
        ],
        [
            said(
                [
                    {"type": "text", "text": "why"},
                    {"type": "tool_use", "id": "u", "name": "run", "input": {"command": "ls"}},
                ]
            ),
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "u", "content": "a.py"}]},
        ],
        [
            {
                "object": "response",
                "output": [
                    {"type": "message", "content": [{"type": "output_text", "text": "why"}]},
                    {"type": "function_call", "call_id": "r", "name": "run", "arguments": '{"command": "ls"}'},
                ],
            },
            {"type": "function_call_output", "call_id": "r", "output": "a.py"},
        ],
        [said('why\n<tool_call>\n{"name": "run", "arguments": {"command": "ls"}}\n</tool_call>'), answer("a.py")],
        [
            said("why\n\n<function=run>\n<parameter=command>\nls\n</parameter>\n</function>"),
            answer("OBSERVATION:\na.py"),
        ],
        [said("why\n<function=run>\n<parameter=command>ls</parameter>"), answer("EXECUTION RESULT of [run]:\na.py")],
    ],
    ids=["json", "object", "null", "parts", "function_call", "anthropic", "responses", "hermes", "xml", "unclosed"],
)
def test_every_dialect_of_one_call_reads_the_same(messages):
    assert read(chat(*messages)).steps == [LS]


def test_conversations_may_be_json_text_sharegpt_or_a_bare_list(tmp_path):
    turn = [said("why", call("run", '{"command": "ls"}')), answer("a.py")]
    sharegpt = [
        {"from": "human", "value": "Mend it."},
        {"from": "gpt", "value": "why\n<function=run>\n<parameter=command>ls</parameter>\n</function>"},
        {"from": "human", "value": "a.py"},
    ]
    assert read({"messages": json.dumps([TASK, *turn])}).steps == [LS]
    assert read({"conversations": sharegpt}).steps == [LS]
    assert read({"trajectory": [TASK, *turn], "instance_id": "a__b-1"}).steps == [LS]
    path = tmp_path / "bare.traj.json"
    path.write_text(json.dumps([TASK, *turn]))
    [record] = read_records(path)
    assert isinstance(record, Record) and record.trajectory.steps == [LS]
    assert record.trajectory.instance_id == "bare"


def test_parallel_calls_get_their_own_answers_in_whatever_order():
    turn = said("why", call("a", "{}", "x"), call("b", "{}", "y"), call("c", "{}", "z"))
    steps = read(chat(turn, answer("of y", "y"), answer("of x", "x"), TASK, answer("of z", "z"))).steps
    assert [(s.action.name, s.observation, s.same_turn, s.thought) for s in steps if s.action] == [
        ("a", "of x", False, "why"),
        ("b", "of y", True, ""),
        ("c", "Mend it.\nof z", True, ""),
    ]


def test_ids_that_repeat_are_answered_in_order():
    twice = [said("why", call("a", "{}", "0"), call("b", "{}", "0")), answer("1st", "0"), answer("2nd", "0")]
    steps = read(chat(*twice, *twice)).steps
    assert [s.observation for s in steps] == ["1st", "2nd"] * 2


def test_turns_without_a_call_stay_as_history_with_their_reason():
    steps = read(
        chat(
            said("I think."),
            {"role": "user", "content": "Go on."},
            said("why", call("run", "{broken")),
            answer("what?"),
            said(None, call("run", '{"command": " "}')),
            answer(None),
            {**said("bad", call("run", '{"command": "rm -rf /"}')), "weight": 0},
            said("why", call("run", '{"command": "ls"}')),
        )
    ).steps
    assert [s.rejected for s in steps] == ["no action", "broken arguments", "empty action", "weight 0", ""]
    assert [s.observation for s in steps] == ["Go on.", "what?", "", "", ""]
    assert steps[0].thought == "I think." and steps[0].action is None


def test_what_a_record_lacks_is_taken_from_elsewhere():
    plain = read(chat(said("why", call("run", "{}"))))
    assert (plain.instance_id, plain.repo, plain.resolved, plain.patch) == ("psf__requests-7", "psf/requests", None, "")
    rich = read(
        chat(
            said("why", call("run", "{}")),
            instance_id="a__b-1",
            repo="x/y",
            resolved=1,
            model_patch="diff",
            reward=0.5,
            tools=[{"type": "function", "function": {"name": "run"}}],
        )
    )
    assert (rich.repo, rich.resolved, rich.patch, rich.reward, len(rich.tools)) == ("x/y", True, "diff", 0.5, 1)


def test_schemas_of_every_dialect_become_openais():
    parameters = {"type": "object", "properties": {}}
    openai = [{"type": "function", "function": {"name": "run", "parameters": parameters}}]
    turn = said("why", call("run", "{}"))
    for tools in (
        openai,
        json.dumps(openai),
        [{"name": "run", "input_schema": parameters}],
        [{"type": "function", "name": "run", "parameters": parameters}, {"type": "web_search"}, "x"],
    ):
        assert read(chat(turn, tools=tools)).tools == openai


def test_the_task_is_found_inside_the_harness_instructions():
    for text in (
        "<pr_description>\nConsider the following PR description:\nIt <b>breaks</b>.\n</pr_description> Do it.",
        "<issue_description>It <b>breaks</b>.</issue_description>",
        "We solve:\nISSUE:\nIt <b>breaks</b>.\n\n\nINSTRUCTIONS:\nNow",
        "-- EXAMPLE --\nx\n-- NEW TASK DESCRIPTION --\nIt <b>breaks</b>.\n-- END OF NEW TASK DESCRIPTION --",
    ):
        messages = [{"role": "user", "content": text}, said("why", call("run", "{}"))]
        assert read({"messages": messages}).problem_statement == "It <b>breaks</b>."


def test_xml_with_two_functions_is_no_target_and_values_keep_their_own_line_breaks():
    edit = (
        "<function=edit>\n<parameter=old_str>\n\n  a\n\n</parameter>\n<parameter=view>[1, 2]</parameter>\n</function>"
    )
    steps = read(chat(said(f"one\n{edit}"), TASK, said(f"two\n{edit}\n{edit}"), TASK)).steps
    assert steps[0].action == Action(name="edit", arguments={"old_str": "\n  a\n", "view": "[1, 2]"})
    assert [s.rejected for s in steps] == ["", "more than one block"]


def test_the_last_fenced_block_is_the_command_of_sweagent_and_nested_ones_are_not():
    text = "Look:\n```python\nx\n```\nso\n```\ncat <<'E'\n```text\nin\n```\nE\n```\n"
    turns = [said("a\n```\nls\n```"), TASK, said(text), TASK, said("c\n```\nsubmit\n```")]
    steps = read(chat(*turns)).steps
    assert [s.action.arguments.get("command") for s in steps if s.action] == [
        "ls",
        "cat <<'E'\n```text\nin\n```\nE",
        None,
    ]
    assert steps[2].action == Action(name="submit") and "Look:" in steps[1].thought


def test_code_in_a_plain_answer_is_no_action():
    record = chat(said("Hello."), TASK, said("Try\n```\nrm -rf x\n```"), TASK, said("Bye."))
    assert [s.rejected for s in read(record).steps] == ["no action"] * 3


def test_codeact_tags_are_actions():
    steps = read(
        chat(said("a <execute_bash>\nls\n</execute_bash>"), TASK, said("b <execute_ipython>x</execute_ipython>"))
    )
    assert [s.action for s in steps.steps] == [
        Action(name="execute_bash", arguments={"command": "ls"}),
        Action(name="execute_ipython", arguments={"code": "x"}),
    ]


def test_exit_messages_of_mini_are_no_answers_and_complaints_no_targets():
    block = "THOUGHT: t\n```mswea_bash_command\n{}\n```"
    record = chat(
        said(block.format("ls")),
        {"role": "user", "content": "<returncode>0</returncode>\n<output>\na.py\n</output>"},
        said(block.format("ls") + "\n" + block.format("ls")),
        {"role": "user", "content": "Format error:\n\n<error>\nExpected exactly 1 action, found 2.\n</error>"},
        said(block.format("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT")),
        {"role": "exit", "content": "diff", "extra": {"submission": "diff"}},
        trajectory_format="mini-swe-agent-1.1",
        info={"submission": "diff", "config": {"model": {"model_name": "m"}}},
    )
    trajectory = read(record)
    assert [(s.rejected, s.observation) for s in trajectory.steps] == [
        ("", "a.py"),
        ("more than one block", "Format error:"),
        ("", ""),
    ]
    assert trajectory.source == "mini-swe-agent-v2-text/m" and trajectory.patch == "diff"


def test_records_that_are_no_trajectory_are_named(tmp_path):
    path = tmp_path / "t.jsonl"
    bad: list[Any] = [{"messages": []}, {"messages": [TASK]}, {"messages": [said()]}, {"patch": "x"}, 3, None]
    path.write_text("".join(json.dumps(row) + "\n" for row in bad))
    found = list(read_records(path))
    assert len(found) == len(bad) and all(isinstance(r, Rejected) and r.reason for r in found)


def test_a_call_that_cannot_be_mistaken_is_enough_once():
    """A run of many words and one call is still a run of that harness; a fence among many answers is none."""
    words = [said("hm"), {"role": "user", "content": "Go on."}] * 4
    call_, fence = "<function=run>\n<parameter=command>ls</parameter>\n</function>", "```bash\nls\n```"
    for block in ("<mswea_bash_command>ls</mswea_bash_command>", "```mswea_bash_command\nls\n```", call_):
        assert [s.is_target for s in read(chat(*words, said(block))).steps] == [False] * 4 + [True]
    assert detect(chat(*words, said(fence))) == "chat"
