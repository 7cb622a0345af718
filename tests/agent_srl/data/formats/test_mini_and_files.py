"""Readers: what the harness rejected is never learnt from, and one broken record never costs a file."""

import gzip
import json
import os
from pathlib import Path

import pytest

from agent_srl.data.benchmark import Benchmark
from agent_srl.data.formats import read_trajectories, repo_of, write_trajectories
from agent_srl.errors import DataError
from env_server.schema import Action, Step, Trajectory

TASK = "<pr_description>\nConsider the following PR description:\nIt breaks.\n</pr_description>\n<instructions>"
SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git add -A && git diff --cached"


def block(thought: str, *commands: str) -> str:
    return thought + "".join(f"\n\n```bash\n{command}\n```" for command in commands)


def output(text: str, code: int = 0) -> str:
    return f"<returncode>{code}</returncode>\n<output>\n{text}\n</output>"


def text_record(*turns: tuple[str, str], **more: object) -> dict[str, object]:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": TASK}]
    for said, answer in turns:
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": answer}]
    return {"instance_id": "django__django-11099", "resolved": True, "messages": messages} | more


def call_record(calls: list[tuple[str, dict[str, object]]], content: str = "why") -> dict[str, object]:
    tool_calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for i, (name, arguments) in enumerate(calls)
    ]
    messages: list[dict[str, object]] = [
        {"role": "user", "content": TASK},
        {"role": "assistant", "content": content, "tool_calls": tool_calls},
    ]
    for i in range(len(calls)):
        messages.append({"role": "tool", "tool_call_id": f"c{i}", "content": output(f"out{i}")})
    return {"instance_id": "psf__requests-1", "messages": messages, "info": {"submission": "diff"}}


def write(path: Path, *records: object) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n")
    return path


def read_one(tmp_path: Path, record: object) -> Trajectory:
    trajectories, rejected = read_trajectories(write(tmp_path / "t.jsonl", record))
    assert not rejected
    return trajectories[0]


def test_text_turns_become_steps_with_bare_thoughts_and_outputs(tmp_path: Path):
    record = text_record(
        (block("THOUGHT: look around", "ls -la"), output("a.py\nb.py")),
        (block("THOUGHT: done", SUBMIT), "diff --git a/x b/x\n+1\n"),
        submission="diff --git a/x b/x\n+1\n",
        model="@google/gemini",
    )
    trajectory = read_one(tmp_path, record)
    assert trajectory.steps == [
        Step(
            thought="look around",
            action=Action(name="bash", arguments={"command": "ls -la"}),
            observation="a.py\nb.py",
        ),
        Step(thought="done", action=Action(name="submit"), observation=""),
    ]
    assert trajectory.problem_statement == "It breaks."
    assert trajectory.repo == "django/django"
    assert trajectory.patch.startswith("diff --git")
    assert trajectory.source == "mini-swe-agent-v1/google/gemini"
    assert trajectory.resolved is True


def test_a_rejected_turn_is_history_but_no_target(tmp_path: Path):
    complaint = "Please always provide EXACTLY ONE action in triple backticks, found 2 actions.\n\nPlease format"
    record = text_record(
        (block("THOUGHT: an example", "rm -rf example", "ls"), complaint),
        ("THOUGHT: no block at all", complaint),
        (block("THOUGHT: now", "ls"), output("a.py")),
    )
    steps = read_one(tmp_path, record).steps
    assert [step.rejected for step in steps] == ["more than one block", "no action", ""]
    assert steps[0].action.arguments["command"] == "rm -rf example\nls"
    assert steps[0].observation == "Please always provide EXACTLY ONE action in triple backticks, found 2 actions."
    assert steps[1].action is None and steps[1].thought == "no block at all"


def test_a_cut_output_says_so_and_a_silent_failure_shows_its_code(tmp_path: Path):
    cut = (
        "<returncode>0</returncode>\n<warning>\ntoo long\n</warning><output_head>\nHEAD\n</output_head>\n"
        "<elided_chars>\n2918 characters elided\n</elided_chars>\n<output_tail>\nTAIL\n</output_tail>"
    )
    record = text_record(
        (block("a", "cat f"), cut), (block("b", "false"), output("", 1)), (block("c", "ls"), output("x"))
    )
    observations = [step.observation for step in read_one(tmp_path, record).steps]
    assert observations == ["HEAD\n[... 2918 characters left out ...]\nTAIL", "(exit code 1)", "x"]


def test_output_that_talks_about_output_tags_is_kept_whole(tmp_path: Path):
    inner = "<output>\nnested\n</output>\nand more"
    record = text_record((block("a", "cat log"), output(inner)))
    assert read_one(tmp_path, record).steps[0].observation == inner


def test_tool_calls_become_steps_and_keep_their_own_answers(tmp_path: Path):
    record = call_record([("bash", {"command": "ls"}), ("bash", {"command": "pwd"}), ("python", {"code": "1"})])
    steps = read_one(tmp_path, record).steps
    assert [(s.action.name, s.observation, s.thought) for s in steps] == [
        ("bash", "out0", "why"),
        ("bash", "out1", ""),
        ("python", "out2", ""),
    ]


def test_broken_records_are_skipped_counted_and_named(tmp_path: Path):
    good = text_record((block("a", "ls"), output("x")))
    path = write(
        tmp_path / "t.jsonl",
        '{"instance_id": "cut',
        good,
        {"steps": []},
        [1],
        {"instance_id": "x", "messages": [{"role": "assistant", "content": "no block"}]},
        {"something": "else"},
    )
    trajectories, rejected = read_trajectories(path)
    assert len(trajectories) == 1
    assert [r.line for r in rejected] == [1, 3, 4, 5, 6]
    assert all(str(r).startswith(f"{path}:{r.line}: ") and r.reason for r in rejected)


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "deep/folder/t.jsonl"])
def test_what_is_written_reads_back_the_same(tmp_path: Path, name: str):
    step = Step(
        thought="ü\u2028",
        action=Action(name="bash", arguments={"command": "echo '\n'"}),
        observation="\x0b☃\r\n",
    )
    trajectory = Trajectory(instance_id="a__b-1", repo="a/b", problem_statement="p", steps=[step], source="s")
    write_trajectories(tmp_path / name, [trajectory, trajectory])
    assert read_trajectories(tmp_path / name) == ([trajectory, trajectory], [])
    assert [p.name for p in (tmp_path / name).parent.iterdir() if p.is_file()] == [Path(name).name]


def test_a_json_file_holds_a_list_or_one_record(tmp_path: Path):
    record = text_record((block("a", "ls"), output("x")))
    for content in ([record, record], record):
        path = tmp_path / "t.json"
        path.write_text(json.dumps(content, indent=2))
        assert len(read_trajectories(path)[0]) == (2 if isinstance(content, list) else 1)


def test_unreadable_files_say_what_to_do_in_one_line(tmp_path: Path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "plain.jsonl.gz").write_text("{}")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}" * 1000)[:-9])
    (tmp_path / "none.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "bad.json").write_text("{")
    for name in (
        "missing.jsonl",
        "empty.jsonl",
        "plain.jsonl.gz",
        "cut.jsonl.gz",
        "none.jsonl",
        "bad.json",
        ".",
    ):
        with pytest.raises(DataError) as caught:
            read_trajectories(tmp_path / name)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "t.jsonl"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="No space left"):
        write_trajectories(path, [])
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("t.jsonl", "old")]


def test_gzip_and_parquet_are_told_by_their_first_bytes(tmp_path: Path):
    line = json.dumps(text_record((block("a", "ls"), output("x"))))
    table = pytest.importorskip("pyarrow").Table.from_pylist([json.loads(line)])
    (tmp_path / "packed").write_bytes(gzip.compress(f"{line}\n{line}\n".encode()))
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "table.jsonl")
    assert [len(read_trajectories(tmp_path / name)[0]) for name in ("packed", "table.jsonl")] == [2, 1]


def test_a_pipe_is_read_once(tmp_path: Path):
    reader, writer = os.pipe()
    os.write(writer, json.dumps(text_record((block("a", "ls"), output("x")))).encode())
    os.close(writer)
    assert len(read_trajectories(f"/dev/fd/{reader}")[0]) == 1
    os.close(reader)


def test_a_missing_list_is_not_told_to_be_recorded(tmp_path: Path):
    with pytest.raises(DataError, match=r"no such file: .*ids\.jsonl; check the path"):
        Benchmark([str(tmp_path / "ids.jsonl")])


@pytest.mark.parametrize(
    ("instance_id", "repo"),
    [
        ("django__django-123", "django/django"),
        ("scikit-learn__scikit-learn-13135", "scikit-learn/scikit-learn"),
        ("psf__requests.abc123", "psf/requests"),
        ("plain", "plain"),
    ],
)
def test_the_repository_is_read_off_the_instance(instance_id: str, repo: str):
    assert repo_of(instance_id) == repo


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
        complaint("lost", "ModelResponse(...)"),
    ]
    trajectory = read_one(tmp_path, record)
    assert trajectory.problem_statement == "It breaks."
    assert [(s.thought, s.action and s.action.name, s.rejected, s.observation) for s in trajectory.steps] == [
        ("I will look.", None, "no action", "Tool call error:"),
        ("why", "bash", "", "out0"),
        ("An editor.", "edit", "refused by its harness", "Tool call error:"),
        ("", "cat", "refused by its harness", "Tool call error:"),
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
