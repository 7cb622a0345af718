"""Risk: a reader that crashes on what it does not expect. Whatever a file holds, a record is read, or skipped with a
reason."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from real_files import FILES, load, needs_real_files

from agent_srl.config import DataConfig
from agent_srl.data.curate import mask
from agent_srl.data.formats import READERS, Origin, Record
from agent_srl.data.formats.read import read_value
from agent_srl.data.formats.write import WRITERS
from agent_srl.errors import DataError

KEYS = st.sampled_from(
    [
        "messages",
        "conversations",
        "trajectory",
        "history",
        "steps",
        "agent",
        "role",
        "from",
        "content",
        "value",
        "text",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "id",
        "tool_call_id",
        "observation",
        "action",
        "args",
        "cause",
        "source",
        "thought",
        "response",
        "schema_version",
        "message",
        "results",
        "info",
        "instance",
        "environment",
        "replay_config",
        "test_result",
        "resolved",
        "extra",
        "metrics",
        "tools",
        "function_call",
    ]
) | st.text(max_size=3)
XML = "<function=a>\n<parameter=b>c</parameter>\n</function>"
WORDS = st.sampled_from(
    ["user", "assistant", "ai", "tool", "system", "agent", "run", "message", "ATIF-v1.8", "{}", "[", XML, "submit"]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
JSON = st.recursive(LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(KEYS, v, max_size=6), max_leaves=30)
HERE = Origin("x.jsonl", 1)
MASKS = DataConfig(mask_failed_edits=True, mask_reverted_edits=True, max_thought_chars=5)


def survives(value: Any, format: str) -> None:
    read = read_value(value, HERE, format)
    if not isinstance(read, Record):
        assert read.reason and "\n" not in read.reason
        return
    steps = mask(read.trajectory, MASKS).steps
    assert steps and all(step.rejected for step in steps if not step.is_target)
    for write in WRITERS.values():
        try:
            write(read.trajectory)
        except DataError as error:
            assert "cannot" in str(error)


@given(JSON, st.sampled_from(["auto", *READERS]))
@example({"history": [{"action": None, "observation": []}]}, "auto")
@example({"messages": "[{"}, "auto")
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_arbitrary_json_never_crashes_a_reader(value, format):
    survives(value, format)


@needs_real_files
@pytest.mark.parametrize("name", FILES)
def test_mutated_real_records_never_crash_a_reader(name):
    records = load(name)[:3]
    for seed in range(60):
        rng = random.Random(f"{name} {seed}")
        record = copy.deepcopy(rng.choice(records))
        for _ in range(rng.randrange(1, 6)):
            mutate(record, rng)
        survives(record, rng.choice(["auto", FILES[name], *READERS]))


ODD: list[Any] = [None, True, 0, -1.5, "", "x", "\x00", [], {}, [None], [[]], {"type": "text"}, "`" * 7, ["a", 1]]


def mutate(value: Any, rng: random.Random) -> None:
    """Changes one place: replaced, deleted, doubled, or moved."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.75:
            value = value[key]
            continue
        kind = rng.randrange(4)
        if kind == 0:
            del value[key]
        elif kind == 1:
            value[key] = copy.deepcopy(value[rng.choice(keys)])
        elif kind == 2 and isinstance(value[key], str):
            value[key] = value[key][: rng.randrange(len(value[key]) + 1)]
        else:
            value[key] = rng.choice(ODD)
        return
