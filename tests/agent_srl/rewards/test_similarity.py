"""Risks: a broken format that is scored, an action that is compared with its wrapper, a matcher with autojunk."""

from __future__ import annotations

import difflib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_srl.data.actions import FORMATS
from agent_srl.rewards.blocks import matches
from agent_srl.rewards.parse import parse_reply, write_reply
from agent_srl.rewards.similarity import MAX_CHARS, bare_call, ratio
from env_server.schema import Action

EDIT = Action(
    name="str_replace_editor",
    arguments={"command": "str_replace", "path": "/testbed/a.py", "old_str": "a < b", "new_str": "a <= b\n"},
)
BASH = Action(name="bash", arguments={"command": "cd /testbed && python -m pytest tests/test_views.py -x -q"})


@pytest.mark.parametrize("action", [EDIT, BASH, Action(name="submit")])
def test_what_is_written_is_read_back(action):
    reply = write_reply("why not", action, FORMATS["xml"])
    assert parse_reply(reply, FORMATS["xml"]) == ("why not", action)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "ls",
        "<think>a</think>",
        "<think></think>\n<function=bash>\n<parameter=command>ls</parameter>\n</function>",
        "<think>a</think>\n<function=bash>\n<parameter=command>ls</parameter>\n</function> and more",
        "<think>a</think>\n<function=bash>\n<parameter=command>ls</parameter>\n</function>\n<function=submit>\n</function>",
        "<think>a</think>\n<function=bash>\n<parameter=command>ls\n</function>",
        "<think>a<think>b</think>\n<function=submit>\n</function>",
        "prose\n<think>a</think>\n<function=submit>\n</function>",
    ],
)
def test_anything_but_a_thought_and_one_action_is_a_broken_format(reply):
    assert parse_reply(reply, FORMATS["xml"]) is None


def test_two_bash_blocks_are_a_broken_format():
    assert parse_reply("<think>a</think>\n```bash\nls\n```\n```bash\npwd\n```", FORMATS["bash"]) is None
    assert parse_reply("<think>a</think>\n```bash\nls\n```", FORMATS["bash"]) is not None


def test_a_thought_of_too_few_words_is_a_broken_format():
    reply = write_reply("hm", BASH, FORMATS["xml"])
    assert parse_reply(reply, FORMATS["xml"], min_thought_words=2) is None


def test_only_the_bare_call_is_compared():
    assert bare_call(BASH) == "python -m pytest tests/test_views.py -x -q"
    assert bare_call(Action(name="execute_bash", arguments=BASH.arguments)) == bare_call(BASH)
    assert bare_call(EDIT) == "str_replace /testbed/a.py\na < b\na <= b\n"
    assert ratio("ls", bare_call(BASH)) < 0.15  # 0.68 with the wrapper


def test_near_identical_long_edits_score_high():
    left = "".join(f"line {i} of a long edit\n" for i in range(60))
    assert ratio(left, left.replace("line 30", "row 30")) > 0.98  # about 0.07 with autojunk


@given(st.text("abc \n", max_size=60), st.text("abc \n", max_size=60))
def test_ratio_is_exactly_what_difflib_says(left, right):
    assert ratio(left, right) == difflib.SequenceMatcher(None, left, right, autojunk=False).ratio()


@given(st.text("ab ", min_size=40, max_size=80), st.text("ab ", min_size=40, max_size=80))
def test_counting_the_work_changes_no_block(left, right):
    """The loop that counts, made to run by a budget below the certain bound but above the work."""
    straight = sum(b.size for b in difflib.SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks())
    assert matches(left, right, budget=60_000) == straight


def test_repetitive_texts_are_scored_in_bounded_time():
    """Four thousand brackets took 38 s: a policy that repeats itself stopped the training."""
    started = time.process_time()
    assert 0 < ratio("(" * MAX_CHARS, "$(" * MAX_CHARS) < 1
    assert time.process_time() - started < 5


@given(st.text(max_size=80), st.text(max_size=80))
def test_ratio_is_bounded_and_one_only_for_equals(left, right):
    value = ratio(left, right)
    assert 0 <= value <= 1
    assert (value == 1) == (left == right)
