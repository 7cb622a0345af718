"""Risk: a reader that loses turns, invents them, or learns from what the harness refused.

The recount knows nothing of our readers: it walks the raw JSON.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from real_files import FILES, SHARED, load, needs_real_files, read

from agent_srl.data.formats import read_records, read_trajectories, write_trajectories
from agent_srl.data.formats.write import WRITERS
from agent_srl.errors import DataError

pytestmark = needs_real_files


def recount(name: str, record: dict[str, Any]) -> tuple[int, int]:
    """(turns of the agent, those that hold an action the harness accepted)."""
    if name == "openhands_events.jsonl":
        taken = [e for e in record["history"] if e.get("action") in ("run", "run_ipython", "finish")]
        return len(taken), len(taken)
    if name == "nebius_swe_agent.json":
        texts = [m["text"] for m in record["trajectory"] if m["role"] == "ai"]
        return len(texts), sum(text.count("```") >= 2 for text in texts)
    if name == "swe_agent_traj":
        turns = record.get("trajectory") or [m for m in record["history"] if m["role"] == "assistant"]
        return len(turns), sum(bool(turn["action"].strip()) for turn in turns)
    replies = [(i, m) for i, m in enumerate(record["messages"]) if m["role"] == "assistant"]
    if name == "mini_swe_agent_v1_text.jsonl.gz":
        answers = [record["messages"][i + 1]["content"] for i, _ in replies]
        return len(replies), sum("EXACTLY ONE action" not in answer[:60] for answer in answers)
    if name == "swe_smith_xml.json":
        return len(replies), sum(len(re.findall("<function=", m["content"])) == 1 for _, m in replies)
    return len(replies), sum(bool(m.get("tool_calls")) for _, m in replies)


@pytest.mark.parametrize("name", FILES)
def test_totals_equal_an_independent_recount_of_the_agents_turns(name):
    for record, found in zip(load(name), read(name), strict=True):
        trajectory = found.trajectory
        first_calls = [step for step in trajectory.steps if not step.same_turn]
        assert (len(first_calls), sum(step.is_target for step in first_calls)) == recount(name, record)
        assert trajectory.problem_statement.strip() and len({s.rejected for s in trajectory.steps}) <= 3


def test_the_two_large_files_hold_what_is_known_of_them():
    text = [record.trajectory for record in read("mini_swe_agent_v1_text.jsonl.gz")]
    reasons = Counter(step.rejected for t in text for step in t.steps)
    assert len(text) == 300 and sum(reasons.values()) == 11_513
    assert reasons == {"": 11_135, "more than one block": 376, "no action": 2}
    calls = [record.trajectory for record in read("mini_swe_agent_v2_tool_calls.jsonl.gz")]
    steps = [step for t in calls for step in t.steps]
    assert len(calls) == 22 and len(steps) == 1_732
    assert all(step.is_target and not step.same_turn for step in steps)  # exactly one action a turn


@pytest.mark.parametrize("name", FILES)
def test_the_format_is_told_and_can_be_named(name):
    assert {record.format for record in read(name)} == {FILES[name]}
    assert list(read_records(SHARED / name, FILES[name])) == read(name)


def test_parallel_calls_share_their_turn_and_keep_their_own_answers():
    raw = load("swe_gym_openhands.json")
    found = [record.trajectory for record in read("swe_gym_openhands.json")]
    calls = [c["id"] for r in raw for m in r["messages"] for c in m.get("tool_calls") or []]
    assert sum(step.action is not None for t in found for step in t.steps) == len(calls)
    answers = {m["tool_call_id"]: m["content"] for m in raw[0]["messages"] if m["role"] == "tool"}
    ids = [c["id"] for m in raw[0]["messages"] for c in m.get("tool_calls") or []]
    acted = [step for step in found[0].steps if step.action is not None]
    assert any(step.same_turn for step in acted)
    for call_id, step in zip(ids, acted, strict=True):
        assert step.observation in answers.get(call_id, "")


@pytest.mark.parametrize("name", FILES)
def test_what_is_converted_to_the_canonical_format_reads_back_the_same(name, tmp_path):
    found = [record.trajectory for record in read(name)[:40]]
    write_trajectories(tmp_path / "t.jsonl", found)
    assert read_trajectories(tmp_path / "t.jsonl", strict=True)[0] == found


@pytest.mark.parametrize("to", ["chat", "swe-smith-xml"])
@pytest.mark.parametrize("name", FILES)
def test_chat_and_xml_keep_the_actions_answers_and_targets_of_real_runs(name, to, tmp_path):
    found = [record.trajectory for record in read(name)[:40]]
    writable = [t for t in found if _fits(t, to)]
    assert len(writable) >= 0.9 * len(found)
    write_trajectories(tmp_path / "t.jsonl", writable, to)
    again = read_trajectories(tmp_path / "t.jsonl", strict=True)[0]
    for before, after in zip(writable, again, strict=True):
        assert [s.is_target for s in after.steps] == [s.is_target for s in before.steps]
        for old, new in zip(before.steps, after.steps, strict=True):
            if old.action is None or to == "chat":
                assert new.action == old.action
            else:
                assert new.action is not None and new.action.name == old.action.name
                assert new.action.arguments.keys() == old.action.arguments.keys()
            assert new.observation.strip() == old.observation.strip()


def _fits(trajectory: Any, to: str) -> bool:
    try:
        WRITERS[to](trajectory)
    except DataError:
        return False
    return True
