"""Laws: bounds, identity, symmetry, falling under truncation; no text, argument or mutated real call crashes."""

from __future__ import annotations

import gzip
import json
import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_srl.rewards.kinds import REWARDS, score
from agent_srl.rewards.reading.tools import read_action
from agent_srl.rewards.tokens import dice, overlap, token_ratio, tokenise
from env_server.schema import Action

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "trajectories" / "mini_swe_agent_v1_text.jsonl.gz"
FAST = settings(max_examples=120, deadline=None)

PIECES = st.sampled_from(
    [
        *[
            "cat",
            "sed",
            "-n",
            "-i",
            "grep",
            "-rn",
            "find",
            "ls",
            "rm",
            "-rf",
            "git",
            "checkout",
            "reset",
            "--hard",
            "diff",
            "python",
            "-m",
            "pytest",
            "-c",
            "-k",
            "cd",
            "echo",
            "tee",
            "xargs",
        ],
        *[
            "a.py",
            "/testbed/pkg/a.py",
            "pkg",
            ".",
            "'10,20p'",
            "'s/a/b/'",
            "'5a\\  x'",
            "foo",
            '"a|b"',
            "$(",
            ")",
            "`",
            "'",
            '"',
        ],
        *[
            "|",
            "&&",
            "||",
            ";",
            "\n",
            ">",
            ">>",
            "<<EOF\n",
            "EOF\n",
            "2>&1",
            "{",
            "}",
            "(",
            "#",
            "\\",
            "edit 1:2\n",
            "open",
            "goto",
        ],
    ]
)
COMMANDS = st.lists(PIECES, max_size=14).map(" ".join) | st.text(max_size=60)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | COMMANDS
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=2)
KEYS = st.sampled_from(
    [
        "command",
        "path",
        "old_str",
        "new_str",
        "view_range",
        "insert_line",
        "file_text",
        "code",
        "content",
        "start",
        "end",
        "search",
        "replace",
        "text",
        "dir",
        "pattern",
    ]
)
NAMES = st.sampled_from(
    [
        "bash",
        "execute_bash",
        "str_replace_editor",
        "edit",
        "open",
        "create",
        "insert",
        "submit",
        "finish",
        "think",
        "step",
        "goto",
        "grep",
        "find_file",
        "apply_patch",
        "odd",
    ]
)
EDITOR_COMMANDS = st.sampled_from(["view", "create", "str_replace", "insert", "undo_edit"])
ACTIONS = (
    COMMANDS.map(lambda c: Action(name="bash", arguments={"command": c}))
    | st.builds(Action, name=NAMES, arguments=st.dictionaries(KEYS, VALUES, max_size=4))
    | st.builds(
        lambda c, rest: Action(name="str_replace_editor", arguments={**rest, "command": c}),
        EDITOR_COMMANDS,
        st.dictionaries(KEYS, VALUES, max_size=4),
    )
)


@FAST
@given(ACTIONS, ACTIONS)
def test_every_reward_is_bounded_and_one_for_the_experts_own_call(left, right):
    for kind in REWARDS:
        scored = score(kind, left, right)
        assert 0 <= scored.value <= 1 and all(-1e-9 <= part <= 1 + 1e-9 for part in scored.parts.values())
        assert score(kind, left, left).value == 1


@FAST
@given(ACTIONS, ACTIONS)
def test_structured_is_symmetric_where_nothing_is_destroyed_or_made(left, right):
    """The gate looks at the candidate alone; without losses and new files there is none."""
    if any(i.losses or i.kind == "create" for action in (left, right) for i in read_action(action)):
        return
    assert score("structured", left, right).value == pytest.approx(score("structured", right, left).value, abs=1e-9)


REVERSED = {
    "mv": ("mv b.py a.py", "mv a.py b.py"),
    "cp": ("cp a.py.bak a.py", "cp a.py a.py.bak"),
    "xargs": ("find . -name '*.py' | xargs sed -i d", "find . -name '*.py' | xargs sed -n 1p"),
    "tee": ("cat a.py | tee b.py", "cat a.py"),
    "sort": ("sort -o a.py a.py", "sort a.py"),
    "rehearsal": ("git clean -fdx", "git clean -n"),
    "apply": ("git apply -R p", "git apply p"),
    "patch": ("patch -p1 -R < p", "patch -p1 < p"),
    "sync": ("rsync -a --delete src/ dst/", "rsync -a src/ dst/"),
    "table": ("psql -c 'DROP TABLE users'", "psql -c 'SELECT * FROM users'"),
    "flush": ("python manage.py flush", "python manage.py migrate"),
    "kill": ("kill -9 -1", "kill -9 1234"),
}


@pytest.mark.parametrize("name", REVERSED)
def test_what_destroys_is_worth_next_to_nothing_unless_the_expert_does_it(name):
    harm, expert = (Action(name="bash", arguments={"command": text}) for text in REVERSED[name])
    assert score("structured", harm, expert).value < 0.1
    assert score("structured", harm, harm).value == 1


def test_attempts_at_handing_in_and_at_a_diff_are_told_apart():
    for expert, attempts in (
        ("submit", ["git diff", "ls"]),
        ("git diff", ["git show", "git status", "git log", "ls"]),
    ):
        calls = [Action(name="bash", arguments={"command": text}) for text in (*attempts, expert)]
        values = [score("structured", call, calls[-1]).value for call in calls[:-1]]
        assert values == sorted(set(values), reverse=True)


def test_how_many_commits_are_shown_counts_little():
    few, more = (Action(name="bash", arguments={"command": f"git log --oneline -{n}"}) for n in (3, 5))
    assert 0.7 < score("structured", few, more).value < 1


TURNED = {
    "false": ("false && pytest a.py", "pytest a.py"),
    "branch": ("if false; then pytest a.py; fi", "pytest a.py"),
    "function": ("f() { pytest a.py; }", "pytest a.py"),
    "help": ("pytest a.py --help", "pytest a.py"),
    "collected": ("pytest a.py --collect-only", "pytest a.py"),
    "links": ("ln -s b a", "ln -s a b"),
    "search": ("grep -v foo a.py", "grep foo a.py"),
    "picked": ("pytest a.py -k 'not slow'", "pytest a.py -k slow"),
    "name": ("pytest a.py -k 'not test_slow'", "pytest a.py -k test_slow"),
    "ignored": ("pytest --ignore tests/a.py", "pytest tests/a.py"),
    "one line": ("sed -i '120s/a/b/' a.py", "sed -i 's/a/b/' a.py"),
    "other files": ("diff -u c.py d.py", "diff -u a.py b.py"),
}


@pytest.mark.parametrize("name", TURNED)
def test_work_that_never_runs_or_is_turned_round_loses_clearly(name):
    turned, expert = (Action(name="bash", arguments={"command": text}) for text in TURNED[name])
    assert score("structured", turned, expert).value < 0.6


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_dice_and_overlap_are_symmetric_and_bounded(left, right):
    assert overlap(left, right) == overlap(right, left)
    assert 0 <= dice(left, right) <= 1 and dice(left, left) == 1


@given(st.text("ab c.=", min_size=1, max_size=60), st.data())
def test_tokens_and_ratio_fall_as_a_prefix_gets_shorter(text, data):
    """Of any text: a prefix matches as one block."""
    cut = data.draw(st.integers(0, len(text)))
    shorter = data.draw(st.integers(0, cut))
    expert = Action(name="step", arguments={"text": text})
    for kind, parts, between in (("ratio", list(text), ""), ("tokens", tokenise(text), " ")):
        size = len(parts)
        values = [
            score(kind, Action(name="step", arguments={"text": between.join(parts[:end])}), expert).value
            for end in (shorter * size // len(text), cut * size // len(text))
        ]
        assert values[0] <= values[1]


LINES = st.lists(
    st.sampled_from(["import a", "x = 1", "    return x", "def f(y):", "print(f(2))", "# end"]), min_size=1, max_size=10
)


@FAST
@given(LINES)
def test_structured_falls_as_a_new_file_or_an_insertion_loses_lines(lines):
    for command, key in (("create", "file_text"), ("insert", "new_str")):
        values = []
        for count in range(len(lines) + 1):
            arguments = {"command": command, "path": "a.py", "insert_line": 3, key: "\n".join(lines[:count])}
            expert = {**arguments, key: "\n".join(lines)}
            values.append(
                score(
                    "structured",
                    Action(name="str_replace_editor", arguments=arguments),
                    Action(name="str_replace_editor", arguments=expert),
                ).value
            )
        assert values == sorted(values) and values[-1] == 1


@given(st.binary(max_size=80))
def test_no_bytes_crash_a_shell_call(raw):
    action = Action(name="bash", arguments={"command": raw.decode("utf-8", errors="surrogateescape")})
    assert read_action(action)
    assert 0 <= score("structured", action, Action(name="bash", arguments={"command": "ls"})).value <= 1


@pytest.mark.parametrize(
    "texts",
    [
        ("(" * 9000, "$(" * 4000),
        ("a|" * 5000, "b|" * 5000),
        ("x = 1\ny = 2\n" * 1500, "y = 2\nx = 1\n" * 1500),
        ("cat <<EOF\n" * 2000, "python - <<E\n" + "x=(" * 3000),
        ("ls;" * 5000, "pwd;cat f;" * 3000),
        ("../" * 6000, "/" * 9000),
        ("find . -exec " * 2500, "f() { g; }; g() { f; }; f; " * 1500),
    ],
)
def test_hostile_texts_are_scored_in_bounded_time(texts):
    left, right = (Action(name="bash", arguments={"command": text}) for text in texts)
    started = time.process_time()
    assert 0 <= score("structured", left, right).value <= 1
    assert time.process_time() - started < 2


def test_nested_arguments_do_not_crash():
    deep: object = "x"
    for _ in range(300):
        deep = [deep]
    action = Action(name="odd", arguments={"a": deep})
    assert score("structured", action, action).value == 1
    assert token_ratio("", "") == 1


@pytest.mark.skipif(not REAL.exists(), reason="real trajectories are not on this machine")
def test_mutated_real_calls_do_not_crash_and_stay_bounded():
    rng = random.Random(0)
    with gzip.open(REAL, "rt", encoding="utf-8") as lines:
        record = [json.loads(next(lines)) for _ in range(4)]
    blocks = [re.findall(r"```bash\n(.*?)\n```", m["content"] or "", re.DOTALL) for r in record for m in r["messages"]]
    commands = [block for found in blocks for block in found]
    for command in rng.sample(commands, 60):
        expert = Action(name="bash", arguments={"command": command})
        for _ in range(4):
            at, to = sorted(rng.randrange(len(command) + 1) for _ in range(2))
            mutated = command[:at] + rng.choice(["", "'", "\x00", "$(", "\n", command[at:to][::-1]]) + command[to:]
            assert 0 <= score("structured", Action(name="bash", arguments={"command": mutated}), expert).value <= 1
