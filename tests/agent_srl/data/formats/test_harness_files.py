"""Risk: turns of a harness's own file that are lost, doubled or paired with the wrong output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agent_srl.data.formats import Origin
from agent_srl.data.formats.read import READERS, detect
from env_server.schema import Action, Trajectory


def read(record: dict[str, Any], name: str = "x.traj") -> Trajectory:
    return READERS[detect(record)](record, Origin(Path(name), 1, alone=True))


def asked(text: str = "ISSUE:\nIt breaks.\n\nINSTRUCTIONS:\nGo") -> list[dict[str, Any]]:
    demo = {"role": "user", "content": "Here is a demonstration", "is_demo": True}
    demo_reply = {"role": "assistant", "content": "x", "action": "rm", "is_demo": True}
    return [{"role": "system", "content": "S"}, demo, demo_reply, {"role": "user", "content": text}]


def native(name: str, arguments: dict[str, Any], text: str = "why", action: str = "") -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    return {"role": "assistant", "content": text, "thought": text, "action": action, "tool_calls": [call]}


def test_native_calls_of_sweagent_come_with_name_arguments_and_the_bare_output():
    history = [*asked(), native("open", {"path": "a.py"}), {"role": "tool", "content": "OBSERVATION:\n1:x\nbash-$"}]
    turns = [
        {"thought": "why", "action": 'open "a.py"', "response": "why", "observation": "1:x", "query": asked()},
        {"thought": "hand in", "action": "submit", "response": "hand in", "observation": "diff"},
    ]
    run = read(
        {"trajectory": turns, "history": history, "info": {"submission": "diff"}, "environment": "psf__requests-1"}
    )
    assert [s.action for s in run.steps] == [Action(name="open", arguments={"path": "a.py"}), Action(name="submit")]
    assert (run.steps[0].observation, run.steps[0].thought) == ("1:x", "why")
    assert (run.instance_id, run.problem_statement, run.patch) == ("psf__requests-1", "It breaks.", "diff")


def test_text_commands_of_sweagent_are_shell_and_early_ends_are_errors():
    turns = [
        {"thought": "why\n", "action": "edit 1:1\nx\nend_of_edit\n", "response": "why\n```\n..", "observation": "ok"},
        {"thought": "Exit due to cost limit", "action": "exit_cost", "response": "", "observation": ""},
        {"thought": "hm", "action": "", "response": "hm", "observation": "no"},
    ]
    run = read({"trajectory": turns, "history": asked(), "environment": "swe_main"}, "runs/psf__requests-1.traj")
    assert run.steps[0].action == Action(name="bash", arguments={"command": "edit 1:1\nx\nend_of_edit"})
    assert [s.rejected for s in run.steps] == ["", "error turn", "no action"]
    assert run.instance_id == "psf__requests-1"


def test_a_traj_with_only_its_history_or_only_its_turns_is_enough():
    history = [*asked(), native("run", {"command": "ls"}), {"role": "tool", "content": "OBSERVATION:\na.py"}]
    only_history = read({"history": history})
    assert (only_history.steps[0].observation, len(only_history.steps)) == ("a.py", 1)
    turn = {"thought": "why", "action": "ls", "response": "why", "observation": "a.py"}
    for key in ("query", "messages"):
        assert read({"trajectory": [turn | {key: asked()}]}).problem_statement == "It breaks."
    config = json.dumps({"problem_statement": {"text": "It breaks."}})
    assert read({"trajectory": [turn], "replay_config": config}).problem_statement == "It breaks."


def test_list_contents_and_the_xml_and_fenced_styles_of_a_history():
    for text in ("why\n<command>\nls\n</command>", "why\n```\nls\n```"):
        parts = [{"role": "user", "content": [{"type": "text", "text": "It breaks."}]}]
        run = read({"history": [*parts, {"role": "assistant", "content": text}]})
        assert run.steps[0].action == Action(name="bash", arguments={"command": "ls"}) and run.steps[0].thought == "why"


def event(**fields: Any) -> dict[str, Any]:
    return fields


def model_call(action: str, call_id: str, response: str, name: str, arguments: dict[str, Any], **more: Any) -> Any:
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    reply = {"id": response, "choices": [{"message": {"content": "why", "tool_calls": [call]}}]}
    metadata = {"function_name": name, "tool_call_id": call_id, "model_response": reply}
    return event(source="agent", action=action, args={"thought": "why"}, tool_call_metadata=metadata, **more)


def test_openhands_outputs_go_to_their_cause_and_parallel_calls_share_a_turn():
    history = [
        event(id=0, source="agent", action="system", args={"content": "S"}),
        event(id=1, source="user", action="message", args={"content": "It breaks."}),
        event(id=2, source="user", action="recall", args={}),
        event(id=3, source="environment", observation="recall", cause=2, content="context"),
        model_call("run", "a", "r1", "execute_bash", {"command": "ls"}, id=4),
        model_call("read", "b", "r1", "str_replace_editor", {"command": "view", "path": "/x"}, id=5),
        event(id=6, source="agent", observation="read", cause=5, content="x = 1"),
        event(id=7, source="agent", observation="run", cause=4, content="a.py"),
        event(id=8, source="agent", action="message", args={"content": "Shall I go on?"}),
        event(id=9, source="user", action="message", args={"content": "Yes."}),
        model_call("finish", "c", "r2", "finish", {}, id=10),
    ]
    run = read({"instance_id": "a__b-1", "history": history, "test_result": {"git_patch": "diff"}})
    assert [(s.action.name if s.action else None, s.observation, s.same_turn, s.rejected) for s in run.steps] == [
        ("execute_bash", "a.py", False, ""),
        ("str_replace_editor", "x = 1", True, ""),
        (None, "Yes.", False, "no action"),
        ("finish", "", False, ""),
    ]
    assert run.steps[1].action == Action(name="str_replace_editor", arguments={"command": "view", "path": "/x"})
    assert (run.problem_statement, run.patch) == ("It breaks.", "diff")


def test_old_openhands_events_follow_each_other_flat_or_in_pairs():
    flat = [
        event(action="message", content="It breaks.", source="user"),
        event(action="run", command="ls", thought="why", keep_prompt=True, is_confirmed="confirmed", action_risk=None),
        event(observation="run", content="a.py", command="ls", exit_code=0),
        event(action="finish", outputs={}, thought="done"),
    ]
    pairs = [[flat[0], event(observation="null", content="")], [flat[1], flat[2]], [flat[3], {}]]
    for history in (flat, pairs):
        run = read({"instance_id": "a__b-1", "history": history})
        assert [s.action for s in run.steps] == [Action(name="run", arguments={"command": "ls"}), Action(name="finish")]
        assert (run.steps[0].observation, run.steps[0].thought) == ("a.py", "why")


def test_openhands_sdk_events_are_paired_by_call_and_grouped_by_reply():
    def acts(call_id: str, response: str, **more: Any) -> dict[str, Any]:
        called = {"id": call_id, "name": "terminal", "arguments": json.dumps({"command": call_id})}
        thought = [{"type": "text", "text": "why"}]
        return event(
            kind="ActionEvent", source="agent", thought=thought, tool_call=called, llm_response_id=response, **more
        )

    def seen(call_id: str, text: str) -> dict[str, Any]:
        content = {"content": [{"type": "text", "text": text}]}
        return event(kind="ObservationEvent", tool_call_id=call_id, observation=content)

    history = [
        event(kind="SystemPromptEvent", source="agent", system_prompt={"text": "S"}),
        event(kind="MessageEvent", source="user", llm_message={"role": "user", "content": [{"text": "It breaks."}]}),
        acts("a", "r1", action={"kind": "TerminalAction", "command": "a"}),
        acts("b", "r1"),
        seen("b", "of b"),
        event(kind="AgentErrorEvent", source="agent", tool_call_id="a", error="no such tool"),
        event(kind="MessageEvent", source="agent", llm_message={"role": "assistant", "content": [{"text": "Done."}]}),
    ]
    run = read({"instance_id": "a__b-1", "history": history, "git_patch": "diff"})
    assert [(s.action and s.action.arguments, s.observation, s.same_turn) for s in run.steps] == [
        ({"command": "a"}, "no such tool", False),
        ({"command": "b"}, "of b", True),
        (None, "", False),
    ]
    assert (run.problem_statement, run.source) == ("It breaks.", "openhands-sdk/unknown")


def test_nebius_text_is_read_by_sweagents_rule():
    run = read(
        {
            "instance_id": "a__b-1_7",
            "target": True,
            "model_name": "m",
            "generated_patch": "diff",
            "trajectory": [
                {"role": "system", "system_prompt": "S", "text": None},
                {"role": "user", "text": "ISSUE:\nIt breaks.\n\nINSTRUCTIONS:\n"},
                {"role": "ai", "text": "why\n```\nls\n```", "mask": True},
                {"role": "user", "text": "a.py"},
                {"role": "ai", "text": "Exit due to context window", "mask": True},
            ],
        }
    )
    assert [(s.rejected, s.observation) for s in run.steps] == [("", "a.py"), ("error turn", "")]
    assert (run.source, run.resolved, run.repo) == ("nebius-swe-agent/m", True, "a/b")
