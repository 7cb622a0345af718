"""Risks: a reward that ranks a wrong action above a right one, or pays for destruction."""

from __future__ import annotations

from itertools import pairwise

import pytest

from agent_srl.rewards.structured import structured
from env_server.schema import Action

PATH = "/testbed/pkg/store.py"
OLD = "    def get(self, key):\n        if key in self.data:\n            return self.data[key]\n        return None"
NEW = OLD.replace("key)", "key, default=None)").replace("return None", "return default")
WRONG = OLD.replace("self.data[key]", "self.data.get(key)").replace("return None", "raise KeyError(key)")
AROUND = "class Store:\n{}\n\n    def put(self, key, value):\n        self.data[key] = value\n"
SCRIPT = "import pkg\n\ns = pkg.Store()\ns.put('a', 1)\nassert s.get('b', 2) == 2\nprint('ok')\n"


def bash(command: str) -> Action:
    return Action(name="bash", arguments={"command": command})


def replace(old: str, new: str, path: str = PATH) -> Action:
    return editor(command="str_replace", path=path, old_str=old, new_str=new)


def editor(**arguments: object) -> Action:
    return Action(name="str_replace_editor", arguments=arguments)


def value(candidate: Action | str, expert: Action | str) -> float:
    left, right = (bash(a) if isinstance(a, str) else a for a in (candidate, expert))
    return structured(left, right)[0]


EDIT = replace(OLD, NEW)
LONG_NEW = (
    NEW
    + "".join(f"\n        self.log('{i}', key)" for i in range(20))
    + "\n        if 0 <= key <= limit:\n            go()"
)
LONG = replace(OLD, LONG_NEW)
TWICE = "def f(x):\n    if x:\n        return x\n    return None\n\ndef g(x):\n    check(x)\n    return None\n"
FIRST, SECOND = TWICE.replace("None", "0", 1), "0".join(TWICE.rsplit("None", 1))
DOCS = 'text = """\n# {}\n"""\nx = {}\n'


def window(text: str) -> Action:
    return bash(f"edit 1:3\n{text}\nend_of_edit")


RANKED = {
    "equivalent above wrong file": ("pytest a.py -q", ["python -m pytest a.py -q", "pytest b.py -q"]),
    "lines: near, far, other file": (
        "sed -n '10,60p' a.py",
        ["sed -n '12,62p' a.py", "cat a.py", "sed -n '300,350p' a.py", "sed -n '10,60p' b.py", "ls"],
    ),
    "more context above another change": (
        EDIT,
        [
            replace(AROUND.format(OLD), AROUND.format(NEW)),
            replace(OLD, WRONG),
            replace(OLD, NEW, "/testbed/pkg/other.py"),
        ],
    ),
    "other words above another change": (EDIT, [replace(OLD, NEW.replace("default", "fallback")), replace(OLD, WRONG)]),
    "a remark above one wrong sign in a long edit": (
        LONG,
        [
            replace(OLD, LONG_NEW.replace("limit:", "limit:  # both ends, as '#' says")),
            replace(OLD, LONG_NEW.replace("<= limit", ">= limit")),
            replace(OLD, WRONG),
        ],
    ),
    "a remark that is the change": (
        replace("x = 1  # one\n", "x = 1  # 1\n"),
        [replace("x = 1  # one\n", "x = 1  # 1\n"), replace("x = 1  # one\n", "x = 1  # two\n")],
    ),
    "a remark in a stub above another sign": (
        replace("x: int\n", "x: int\ny: str\n", "a.pyi"),
        [replace("x: int\n", "x: int\n# why\ny: str\n", "a.pyi"), replace("x: int\n", "x: int\ny: int\n", "a.pyi")],
    ),
    "the same change in another function": (
        replace(TWICE, FIRST),
        [
            replace(TWICE, TWICE.replace("    return None", "    return 0\n    # so", 1)),
            replace("        return x\n    return None", "        return x\n    return 0"),
            replace(TWICE, TWICE.replace("None", "0")),
            replace(TWICE, SECOND),
        ],
    ),
    "one file is not the repository": (
        "rm /workspace/repro.py",
        ["cd /workspace && rm repro.py", "rm /workspace/b.py", "rm -rf ."],
    ),
    "the whole above a part": (EDIT, [replace(OLD, NEW + "\n"), replace(OLD, NEW[:100]), replace(OLD, NEW[:40])]),
    "broken indentation": (EDIT, [EDIT, replace(OLD, NEW.replace("\n        ret", "\n    ret")), replace(OLD, WRONG)]),
    "right pattern, right folder": ("grep -rn foo src", ["grep -rn foo .", "grep -rn bar src", "python src"]),
    "flags in another order": ("pytest -x -q a.py -k foo", ["pytest a.py -k foo -q -x", "pytest -x -q a.py -k bar"]),
    "a flag that turns the search round": ("grep -n foo a.py", ["grep foo a.py", "grep -v foo a.py"]),
    "sed is an edit": (
        "sed -i 's/a < b/a <= b/' a.py",
        [replace("a < b", "a <= b", "a.py"), replace("a < b", "a > b", "a.py")],
    ),
    "an insertion however it is said": (
        replace("import os", "import os\nimport sys"),
        [editor(command="insert", path=PATH, insert_line=1, new_str="import sys"), replace("import os", "import re")],
    ),
    "the line of an insertion": ("sed -i '50a\\x' a.py", ["sed -i '50a\\ x' a.py", "sed -i '90a\\x' a.py"]),
    "what a script holds": (
        editor(command="create", path="/testbed/reproduce.py", file_text=SCRIPT),
        [
            f"cat > reproduce.py <<'EOF'\n{SCRIPT}EOF",
            f"cat > repro.py <<'EOF'\n{SCRIPT[:60]}\nEOF",
            "python reproduce.py",
        ],
    ),
    "near kinds above others": ("cat pkg/a.py", ["grep -n foo pkg/a.py", "pip install x"]),
    "doing nothing above destroying": ("pytest a.py", ["ls", "pytest a.py; rm -rf .git", "rm -rf /testbed"]),
    "the same deletion": ("rm reproduce.py", ["rm -f ./reproduce.py", "ls", "rm -rf *"]),
    "one file back, not all": ("git checkout a.py", ["git checkout -- a.py", "git status", "git checkout ."]),
    "text": (
        Action(name="step", arguments={"text": "Add 3 and 4 to get 7."}),
        [
            Action(name="step", arguments={"text": "3 and 4 give 7."}),
            Action(name="step", arguments={"text": "Stop here!"}),
        ],
    ),
}


@pytest.mark.parametrize("name", RANKED)
def test_actions_are_ranked_as_an_engineer_would(name):
    expert, candidates = RANKED[name]
    values = [value(candidate, expert) for candidate in candidates]
    assert all(a > b for a, b in pairwise(values)), values


@pytest.mark.parametrize(
    ("candidate", "expert"),
    [
        (window("#define N 2"), window("#define N 3")),
        (window("#include <b>"), window("#include <a>")),
        (replace("x", "y=${#b}", "a.sh"), replace("x", "y=${#a}", "a.sh")),
        (replace("x: y", "x: http://x#b", "a.yml"), replace("x: y", "x: http://x#a", "a.yml")),
        (replace("x", "y = a //b", "a.js"), replace("x", "y = a //c", "a.js")),
        (replace(DOCS.format("A", 1), DOCS.format("B", 2)), replace(DOCS.format("A", 1), DOCS.format("C", 2))),
        (replace("# A\n'''\nx = 1", "# B\n'''\nx = 2"), replace("# A\n'''\nx = 1", "# C\n'''\nx = 2")),
        ("cat /workspace/b.py", "cat /workspace/a.py"),
    ],
)
def test_what_only_looks_like_a_remark_or_a_root_is_told_apart(candidate, expert):
    assert value(candidate, expert) < 0.85


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (("import os", "import os\nimport sys"), ("import os\nx = 1", "import os\nimport sys\nx = 1")),
        (("x = 1", "import sys\nx = 1"), ("import os\n\nx = 1", "import os\n\nimport sys\nx = 1")),
        (("f()\ng()", "f()"), ("f()\ng()\n\nh()", "f()\n\nh()")),
        (("check(x)\n    return None", "check(x)\n    return 0"), (TWICE, SECOND)),
    ],
)
@pytest.mark.parametrize("path", ["a.py", "a.js"])
def test_more_context_is_the_same_edit(narrow, wide, path):
    assert value(replace(*narrow, path), replace(*wide, path)) > 0.93
    assert value(replace(*wide, path), replace(*narrow, path)) > 0.93


def test_what_is_quoted_above_the_place_makes_no_direction():
    """Lines above the other quote are not lines counted from the end."""
    near, far = replace("c\nd\ne", "c\nx\ne"), replace("a\nb\nc\nd", "a\nz\nc\nd")
    assert value(near, far) == pytest.approx(value(far, near), abs=1e-12)


@pytest.mark.parametrize(
    "noise", ["cd /testbed && {}", "{} 2>&1", "{} | head -100", "{} || true", "{}; echo done", "A=1 {}", "# why\n{}"]
)
@pytest.mark.parametrize(
    "command", ["pytest tests/a.py", "python reproduce.py", "grep -rn foo src", "git diff", "cat a.py"]
)
def test_harmless_changes_cost_next_to_nothing(command, noise):
    assert value(noise.format(command), command) > 0.9


@pytest.mark.parametrize(
    "harm", ["{}; rm -rf pkg", "git checkout . && {}", "{} && git reset --hard", "git clean -fd; {}"]
)
def test_destruction_is_worth_next_to_nothing_unless_the_expert_does_it(harm):
    assert value(harm.format("pytest a.py"), "pytest a.py") < 0.03
    assert value(harm.format("pytest a.py"), harm.format("pytest a.py")) == 1


def test_a_typical_constant_and_the_last_command_are_worth_little():
    """0.3 to 0.5 as characters: a policy was paid for running the same script for ever."""
    targets = ["python verify_fix.py", "sed -n '1,40p' a.py", "pytest tests/test_a.py", "grep -rn foo ."]
    assert max(value("python reproduce_issue.py", target) for target in targets) < 0.25
    assert value("sed -n '10,60p' a.py", "sed -n '400,450p' a.py") < 0.35


def test_poor_attempts_are_told_apart():
    group = ["ls", "cat pkg/b.py", "grep -n foo pkg/a.py", "sed -n '1,9p' pkg/a.py", "python pkg/a.py", "cat pkg/a.py"]
    values = [value(candidate, "sed -n '100,150p' pkg/a.py") for candidate in group]
    assert len({round(v, 3) for v in values}) == len(values)


def test_parts_explain_the_value():
    _, parts = structured(replace(OLD, WRONG), EDIT)
    assert parts["kind"] == parts["target"] == parts["gate"] == 1 and parts["content"] < 0.6
    assert structured(bash("rm -rf ."), EDIT)[1]["gate"] < 0.05
