"""Readers: what the harness rejected is never learnt from, and one broken record never costs a file."""

import gzip
import json
import os
from pathlib import Path

import pytest
from mini_records import SUBMIT, block, call_record, output, read_one, text_record, write

from agent_srl.data.benchmark import Benchmark
from agent_srl.data.formats import read_trajectories, repo_of, write_trajectories
from agent_srl.errors import DataError
from env_server.schema import Action, Step, Trajectory


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
