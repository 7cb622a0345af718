"""Risk: what mini-swe-agent 2 writes is misread: a refused reply, its two text modes, observations as JSON."""

import json
from pathlib import Path

import pytest
from mini_records import SUBMIT, block, call_record, output, read_one, text_record

from env_server.schema import Action


def complaint(error: str, response: object = None, **more: object) -> dict[str, object]:
    """As mini-swe-agent 2 keeps a reply that it refused: only inside its own message."""
    content = f"Tool call error:\n\n<error>\n{error}\n</error>\n\nHere is general guidance"
    extra = {"interrupt_type": "FormatError", "response": response, **more}
    return {"role": "user", "content": content, "extra": extra}


def chosen(content: str, *calls: tuple[str, str]) -> dict[str, object]:
    tool_calls = [{"id": "r", "type": "function", "function": {"name": n, "arguments": a}} for n, a in calls]
    return {"choices": [{"message": {"content": content, "tool_calls": tool_calls}}]}


def test_refused_replies_of_v2_are_rejected_steps_and_their_complaints_neither_task_nor_output(tmp_path: Path):
    record = call_record([("bash", {"command": "ls"})])
    responses = {"object": "response", "output": [{"type": "function_call", "name": "cat", "arguments": "{}"}]}
    task, *rest = record["messages"]
    record["messages"] = [
        task,
        complaint("No tool calls found.", chosen("I will look.")),
        *rest,
        complaint("Unknown tool 'edit'.", chosen("An editor.", ("edit", '{"path": "a"}'))),
        complaint("Unknown tool 'cat'.", responses),
        complaint("No name.", chosen("Broken.", ("", "{}"))),
        complaint("lost", "ModelResponse(...)"),
    ]
    trajectory = read_one(tmp_path, record)
    assert trajectory.problem_statement == "It breaks."
    assert [(s.thought, s.action and s.action.name, s.rejected, s.observation) for s in trajectory.steps] == [
        ("I will look.", None, "no action", "Tool call error:"),
        ("why", "bash", "", "out0"),
        ("An editor.", "edit", "refused by its harness", "Tool call error:"),
        ("", "cat", "refused by its harness", "Tool call error:"),
        ("Broken.", None, "no action", "Tool call error:"),
        ("", None, "no action", "Tool call error:"),
    ]


@pytest.mark.parametrize(
    "error", ["Tool call error:", "Format error:", "Your previous response reached the output token limit"]
)
def test_a_complaint_about_a_reply_that_was_not_kept_is_no_output_of_the_step_before(tmp_path: Path, error: str):
    record = call_record([("bash", {"command": "ls"}), ("bash", {"command": "pwd"})])
    record["messages"].append({"role": "user", "content": f"{error}\n\nHere is general guidance"})
    assert [(s.observation, s.is_target) for s in read_one(tmp_path, record).steps] == [("out0", True), ("out1", True)]


def test_a_command_that_the_user_refused_is_no_target(tmp_path: Path):
    record = call_record([("bash", {"command": "rm -rf /"})])
    refusal = {"role": "user", "content": "No!", "extra": {"interrupt_type": "UserRejection"}}
    record["messages"].append(refusal)
    [step] = read_one(tmp_path, record).steps
    assert (step.rejected, step.observation) == ("refused by its harness", "out0\nNo!")


def test_a_further_task_of_the_user_refuses_nothing(tmp_path: Path):
    record = call_record([("bash", {"command": "ls"})])
    further = {"role": "user", "content": "More.", "extra": {"interrupt_type": "UserNewTask"}}
    record["messages"].append(further)
    assert read_one(tmp_path, record).steps[0].is_target


def test_a_comment_of_the_user_before_the_first_reply_is_no_task(tmp_path: Path):
    record = text_record((block("a", "ls"), output("x")))
    record["messages"].insert(2, {"role": "user", "content": "Wait.", "extra": {"interrupt_type": "UserInterruption"}})
    record["messages"][1]["content"] = "Plain task."
    assert read_one(tmp_path, record).problem_statement == "Plain task."


@pytest.mark.parametrize(
    ("fences", "name"),
    [
        (("```bash\n", "\n```"), "mini-swe-agent-v1"),
        (("```mswea_bash_command\n", "\n```"), "mini-swe-agent-v2-text"),
        (("<mswea_bash_command>", "</mswea_bash_command>"), "mini-swe-agent-v2-xml"),
    ],
)
def test_every_text_mode_is_told_and_read(tmp_path: Path, fences: tuple[str, str], name: str):
    one, two = (fences[0] + command + fences[1] for command in ("ls", "pwd"))
    record = text_record((f"THOUGHT: t\n\n{two}", output("/")), (one, output("y")))
    record["messages"] += [complaint("found 2", model_response=f"Two.\n{two}\n{two}"), complaint("found 0")]
    trajectory = read_one(tmp_path, record)
    assert trajectory.source == f"{name}/unknown"
    assert [(s.action and s.action.arguments["command"], s.rejected) for s in trajectory.steps] == [
        ("pwd", ""),
        ("ls", ""),
        ("pwd\npwd", "more than one block"),
        (None, "no action"),
    ]


@pytest.mark.parametrize(
    ("shown", "meant"),
    [
        ({"returncode": 0, "output": "a.py\n"}, "a.py"),
        ({"returncode": 2, "output": "no\n"}, "no\n(exit code 2)"),
        ({"returncode": 1, "output": ""}, "(exit code 1)"),
        ({"returncode": -1, "output": "", "exception_info": "not executed"}, "not executed\n(exit code -1)"),
        (
            {"returncode": 0, "output_head": "H\n", "output_tail": "T\n", "elided_chars": 7, "warning": "long"},
            "H\n[... 7 characters left out ...]\nT",
        ),
        ({"output": "the program's own JSON"}, '{"output": "the program\'s own JSON"}'),
    ],
)
def test_json_observations_are_what_the_command_printed(tmp_path: Path, shown: dict[str, object], meant: str):
    record = call_record([("bash", {"command": "x"})]) | {"trajectory_format": "mini-swe-agent-1.1"}
    record["messages"][-1]["content"] = json.dumps(shown)
    assert read_one(tmp_path, record).steps[0].observation == meant


def test_json_observations_alone_tell_mini_swe_agent(tmp_path: Path):
    record = call_record([("bash", {"command": SUBMIT})])
    record["messages"][-1]["content"] = '{\n  "returncode": 0,\n  "output": "diff"\n}'
    assert read_one(tmp_path, record).steps[0].action == Action(name="submit")
