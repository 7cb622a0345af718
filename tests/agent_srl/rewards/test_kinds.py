"""Risks: parallel calls matched badly, weights that do not add up, batches out of order, a blocked event loop."""

from __future__ import annotations

import asyncio
import random
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_srl.rewards import batch
from agent_srl.rewards.assignment import assign, matched_share
from agent_srl.rewards.batch import score_batch, score_batch_async
from agent_srl.rewards.kinds import REWARDS, score, score_calls
from env_server.schema import Action


def bash(command: str) -> Action:
    return Action(name="bash", arguments={"command": command})


WORTHS = st.integers(1, 4).flatmap(
    lambda n: st.integers(1, 4).flatmap(
        lambda m: st.lists(st.lists(st.floats(0, 1), min_size=m, max_size=m), min_size=n, max_size=n)
    )
)


@given(WORTHS)
def test_the_assignment_is_the_best_there_is(worth):
    pairs = assign(worth)
    few, many = sorted((len(worth), len(worth[0])))
    assert len(pairs) == few == len({i for i, _ in pairs}) == len({j for _, j in pairs})
    wide = worth if len(worth) <= len(worth[0]) else [list(column) for column in zip(*worth, strict=True)]
    best = max(sum(wide[i][j] for i, j in enumerate(chosen)) for chosen in permutations(range(many), few))
    assert sum(worth[i][j] for i, j in pairs) == pytest.approx(best)


def test_what_is_left_over_costs_on_either_side():
    assert matched_share([[1.0]], [1.0], [1.0]) == 1
    assert matched_share([[1.0, 0.0]], [1.0], [1.0, 1.0]) == matched_share([[1.0], [0.0]], [1.0, 1.0], [1.0]) == 2 / 3
    assert matched_share([], [], [1.0]) == 0


@pytest.mark.parametrize("kind", ["ratio", "structured"])
def test_parallel_calls_are_matched_in_any_order(kind):
    calls = [bash("ls"), bash("pytest a.py"), bash("cat b.py")]
    assert score_calls(kind, calls[::-1], calls).value == 1
    fewer, more = score_calls(kind, calls[:2], calls).value, score_calls(kind, [*calls, bash("pip list")], calls).value
    assert 0.75 < fewer < 1 and 0.75 < more < 1
    assert score_calls(kind, [], calls).value == 0
    assert score_calls(kind, calls[:1], calls[:1]) == score(kind, calls[0], calls[0])


def test_a_mean_by_weights_names_every_part():
    left, right = bash("pytest a.py"), bash("pytest b.py")
    mixed = score({"ratio": 1, "structured": 3}, left, right)
    ratio, structured = score("ratio", left, right), score("structured", left, right)
    assert mixed.value == pytest.approx((ratio.value + 3 * structured.value) / 4)
    assert mixed.parts == ratio.parts | structured.parts
    assert {"structured", "structured.kind", "structured.gate"} <= mixed.parts.keys()


def test_reference_kinds_are_what_they_say():
    left, right = bash("ls"), bash("cd /testbed && ls")
    assert [score(kind, left, right).value for kind in ("exact", "tool_name")] == [1, 1]
    assert [score(kind, left, Action(name="submit")).value for kind in ("exact", "tool_name")] == [0, 0]
    assert set(REWARDS) == {"ratio", "tokens", "structured", "exact", "tool_name"}


def test_a_pool_keeps_the_order(monkeypatch):
    monkeypatch.setattr(batch, "POOL_FROM", 8)
    rng = random.Random(0)
    commands = [f"sed -n '{rng.randrange(90)},{rng.randrange(90, 200)}p' f{i % 7}.py" for i in range(40)]
    pairs = [(bash(a), bash(b)) for a, b in zip(commands, commands[::-1], strict=True)]
    assert score_batch("structured", pairs, processes=2) == [score("structured", a, b) for a, b in pairs]


async def test_a_batch_does_not_block_the_event_loop():
    pairs = [(bash(f"cat <<EOF > f{i}.py\n" + "x = 1\n" * 200 + "EOF"), bash("y = 2\n" * 200)) for i in range(30)]
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticking = asyncio.create_task(tick())
    scores = await score_batch_async({"ratio": 1.0}, pairs)
    ticking.cancel()
    assert len(scores) == len(pairs) and ticks >= 3


def test_exact_is_the_same_tool_and_the_same_arguments_in_any_order():
    edit = {"command": "str_replace", "path": "a.py", "old_str": "a", "new_str": "b"}
    turned = dict(reversed(edit.items()))
    assert score("exact", Action(name="editor", arguments=turned), Action(name="editor", arguments=edit)).value == 1.0
    assert score("exact", bash("cd /testbed && ls"), bash("ls")).value == 1.0
    assert score("exact", Action(name="think", arguments={"command": "ls"}), bash("ls")).value == 0.0
