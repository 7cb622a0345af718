"""Risk: a file that does not give back what was written, or that another tool reads differently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_srl.data.formats import Origin, read_trajectories, write_trajectories
from agent_srl.data.formats.atif import read_atif, write_atif
from agent_srl.data.formats.read import READERS, detect
from agent_srl.data.formats.write import WRITERS
from agent_srl.errors import DataError
from env_server.schema import Action, Failure, Step, Trajectory

HERE = Origin(Path("x.json"), 1, alone=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT, lambda v: st.lists(v) | st.dictionaries(TEXT, v)
)
ACTIONS = st.builds(Action, name=TEXT.filter(bool), arguments=st.dictionaries(TEXT, VALUES, max_size=3))
NUMBERS = st.floats(-5, 5)
STEPS = st.builds(
    Step,
    thought=TEXT,
    action=st.none() | ACTIONS,
    observation=TEXT,
    rejected=st.sampled_from(["", "failed edit"]),
    same_turn=st.booleans(),
    prompt_ids=st.none() | st.lists(st.integers(0, 9)),
    completion_ids=st.none() | st.lists(st.integers(0, 9)),
    logprobs=st.none() | st.lists(NUMBERS),
    reward=st.none() | NUMBERS,
)
TRAJECTORIES = st.builds(
    Trajectory,
    instance_id=TEXT.filter(bool),
    repo=TEXT,
    problem_statement=TEXT,
    steps=st.lists(STEPS, min_size=1, max_size=5),
    source=TEXT,
    resolved=st.none() | st.booleans(),
    patch=TEXT,
    reward=st.none() | NUMBERS,
    failure=st.none() | st.builds(Failure, kind=st.just("infra"), reason=TEXT),
    tools=st.lists(st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": TEXT}, optional={"x": VALUES})})),
)


@given(TRAJECTORIES)
@settings(max_examples=100, deadline=None)
def test_the_canonical_format_holds_everything(trajectory):
    written = json.loads(json.dumps(write_atif(trajectory)))
    assert detect(written) == "atif"
    assert read_atif(written, HERE) == trajectory


def test_a_turn_is_one_step_with_its_calls_and_token_ids_where_atif_has_a_place():
    steps = [
        Step(thought="t", action=Action(name="a"), observation="1", completion_ids=[5], logprobs=[-0.5], reward=0.25),
        Step(action=Action(name="b"), observation="2", same_turn=True, rejected="failed edit"),
        Step(thought="just words", action=None, observation="3"),
    ]
    trajectory = Trajectory(instance_id="a__b-1", repo="a/b", problem_statement="p", steps=steps, source="s", patch="d")
    written = write_atif(trajectory)
    task, turn, words = written["steps"]
    assert written["schema_version"] == "ATIF-v1.8" and written["extra"]["patch"] == "d"
    assert (task["source"], task["message"]) == ("user", "p")
    assert [call["function_name"] for call in turn["tool_calls"]] == ["a", "b"]
    assert turn["metrics"] == {"completion_token_ids": [5], "logprobs": [-0.5]} and turn["extra"] == {"reward": 0.25}
    assert turn["tool_calls"][1]["extra"] == {"rejected": "failed edit"}
    assert [r["source_call_id"] for r in turn["observation"]["results"]] == [
        c["tool_call_id"] for c in turn["tool_calls"]
    ]
    assert "tool_calls" not in words and words["observation"]["results"] == [{"content": "3"}]


def foreign(**step: Any) -> dict[str, Any]:
    agent: dict[str, Any] = {
        "step_id": 3,
        "source": "agent",
        "message": "look",
        "tool_calls": [{"tool_call_id": "c1", "function_name": "bash", "arguments": {"command": "ls"}}],
        "observation": {"results": [{"source_call_id": "c1", "content": "a.py\n"}]},
        "metrics": {"prompt_tokens": 10, "completion_token_ids": [1, 2, 3], "logprobs": [-0.1, -0.2, -0.3]},
    }
    return {
        "schema_version": "ATIF-v1.6",
        "session_id": "psf__requests-1",
        "agent": {"name": "mini-swe-agent", "version": "2.4.6", "model_name": "m"},
        "steps": [
            {"step_id": 1, "source": "system", "message": "sys"},
            {"step_id": 2, "source": "user", "message": [{"type": "text", "text": "task"}]},
            agent | step,
            {"step_id": 4, "source": "user", "message": "Go on."},
        ],
    }


def test_files_of_other_tools_are_read_by_the_specification():
    trajectory = read_atif(foreign(reasoning_content="hm"), HERE)
    [step] = trajectory.steps
    assert (trajectory.instance_id, trajectory.source, trajectory.problem_statement) == (
        "psf__requests-1",
        "atif/mini-swe-agent/m",
        "task",
    )
    assert (step.thought, step.observation, step.completion_ids) == ("hm\n\nlook", "a.py\n\nGo on.", [1, 2, 3])


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"is_copied_context": True}, "copied context"),
        ({"llm_call_count": 0, "metrics": None}, "no model call"),
        ({"tool_calls": None}, "no action"),
        (
            {"tool_calls": [{"tool_call_id": "c", "function_name": "bash", "arguments": {"command": ""}}]},
            "empty action",
        ),
    ],
)
def test_what_must_not_be_trained_on_is_no_target(more, reason):
    assert [step.rejected for step in read_atif(foreign(**more), HERE).steps] == [reason]


def small(*steps: Step) -> Trajectory:
    return Trajectory(
        instance_id="a__b-1",
        repo="a/b",
        problem_statement="It breaks.",
        steps=list(steps),
        source="s",
        resolved=True,
        patch="d",
        reward=1.0,
    )


EDIT = Action(name="edit", arguments={"path": "/x", "old_str": "\n  a", "new_str": "b\n\n", "note": "\nq"})
RUN = small(
    Step(thought="t", action=EDIT, observation="Edited."),
    Step(thought="two", action=Action(name="bash", arguments={"command": "ls"}), observation="1"),
    Step(action=Action(name="bash", arguments={"command": "pwd"}), observation="2", same_turn=True),
    Step(thought="words", action=None, observation="?"),
    Step(thought="bad", action=Action(name="bash", arguments={"command": "x"}), rejected="weight 0", observation="y"),
    Step(thought="end", action=Action(name="submit")),
)


def again(record: dict[str, Any]) -> Trajectory:
    copied = json.loads(json.dumps(record))
    return READERS[detect(copied)](copied, HERE)


def test_chat_gives_back_all_but_what_it_says_it_loses():
    written = WRITERS["chat"](RUN)
    read = again(written)
    assert {t["function"]["name"] for t in written["tools"]} == {"edit", "bash", "submit"}
    assert read == RUN.model_copy(update={"tools": written["tools"]})


def test_swe_smith_xml_gives_back_all_but_what_it_says_it_loses():
    read = again(WRITERS["swe-smith-xml"](RUN))
    assert read == small(*(s.model_copy(update={"same_turn": False}) for s in RUN.steps))


def test_an_argument_that_would_end_the_xml_is_refused_or_left_out(tmp_path):
    breaks = small(Step(action=Action(name="bash", arguments={"command": "echo '</parameter>'"})))
    with pytest.raises(DataError, match="a__b-1"):
        write_trajectories(tmp_path / "t.jsonl", [breaks], "swe-smith-xml")
    left_out = write_trajectories(tmp_path / "t.jsonl", [breaks, RUN], "swe-smith-xml", strict=False)
    assert len(left_out) == 1 and len(read_trajectories(tmp_path / "t.jsonl")[0]) == 1


def harbor(*steps: dict[str, Any], name: str = "mini-swe-agent") -> dict[str, Any]:
    """As Harbor's converter writes a run of mini-swe-agent: results without ids, complaints among them."""
    turns = [{"source": "agent", "llm_call_count": 1, **step} for step in steps]
    task = {"source": "user", "message": "<pr_description>It breaks.</pr_description>"}
    return {"schema_version": "ATIF-v1.6", "agent": {"name": name}, "steps": [task, *turns]}


def shown(*contents: str) -> dict[str, Any]:
    return {"results": [{"content": content} for content in contents]}


def bash(command: str) -> dict[str, Any]:
    return {"tool_call_id": command, "function_name": "bash", "arguments": {"command": command}}


END = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && cat patch"
JSON = '{\n  "returncode": 1,\n  "output": "no\\n"\n}'


@pytest.mark.parametrize(
    "steps",
    [
        [
            {"message": "t", "reasoning_content": "t", "tool_calls": [bash("ls")], "observation": shown(JSON, "{c}")},
            {"message": "", "tool_calls": [bash(END)]},
        ],
        [
            {"message": "t\n<mswea_bash_command>ls</mswea_bash_command>", "observation": shown(JSON, "{c}")},
            {"message": f"<mswea_bash_command>{END}</mswea_bash_command>"},
        ],
    ],
    ids=["calls", "text"],
)
@pytest.mark.parametrize(
    "complaint", ["Tool call error:\n\n<error>", "Your previous response reached the output token limit"]
)
def test_what_harbor_made_of_mini_swe_agent_reads_as_the_run_itself(steps, complaint):
    record = json.loads(json.dumps(harbor(*steps)).replace("{c}", json.dumps(complaint)[1:-1]))
    assert again(record).steps == [
        Step(thought="t", action=Action(name="bash", arguments={"command": "ls"}), observation="no\n(exit code 1)"),
        Step(action=Action(name="submit")),
    ]


def test_parallel_calls_that_harbor_left_without_ids_get_their_own_results():
    record = harbor({"message": "t", "tool_calls": [bash("a"), bash("b")], "observation": shown("1", "2")})
    assert [step.observation for step in again(record).steps] == ["1", "2"]


def test_our_own_files_of_mini_swe_agent_are_taken_as_they_stand():
    action = Action(name="bash", arguments={"command": END})
    run = small(Step(action=action, observation=JSON)).model_copy(update={"source": "mini-swe-agent"})
    assert again(WRITERS["atif"](run)) == run


def test_a_task_in_a_system_step_is_enough_and_none_is_refused_clearly():
    record = harbor({"message": "t", "tool_calls": [bash("ls")]}, name="swe-agent")
    record["steps"][0]["source"] = "system"
    assert again(record).problem_statement == "It breaks."
    record["steps"][0]["message"] = "You are an agent."
    with pytest.raises(ValueError, match="no task"):
        again(record)
