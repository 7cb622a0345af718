"""Risk: an edit that was refused or taken back is learnt from; or one that stood is thrown away."""

from __future__ import annotations

import pytest

from agent_srl.data.edits import failed_edits, reverted_edits
from env_server.schema import Action, Step


def bash(command: str, answer: str = "") -> Step:
    return Step(action=Action(name="bash", arguments={"command": command}), observation=answer)


def replace(old: str, new: str, path: str = "/testbed/pkg/a.py", answer: str = "The file has been edited.") -> Step:
    arguments = {"command": "str_replace", "path": path, "old_str": old, "new_str": new}
    return Step(action=Action(name="str_replace_editor", arguments=arguments), observation=answer)


def undo(path: str = "/testbed/pkg/a.py") -> Step:
    return Step(action=Action(name="str_replace_editor", arguments={"command": "undo_edit", "path": path}))


@pytest.mark.parametrize(
    "answer",
    [
        "No replacement was performed, old_str `x` did not appear verbatim in /testbed/pkg/a.py.",
        "ERROR:\nNo replacement was performed. Multiple occurrences of old_str `x` in lines [3, 9].",
        "Your proposed edit has introduced new syntax error(s). Please read this error message",
        "Invalid `path` parameter: /testbed/b.py. File does not exist.",
        "The edit was not applied.",
    ],
)
def test_a_refused_edit_has_failed(answer):
    assert failed_edits([replace("x", "y", answer=answer)]) == {0}


def test_a_shell_edit_fails_by_its_own_complaint_not_by_an_exit_code():
    steps = [
        bash("sed -i 's/(/x/' a.py", "sed: -e expression #1, char 7: Unmatched ( or \\(\n(exit code 1)"),
        bash("git apply fix.patch", "error: patch failed: a.py:3\nerror: a.py: patch does not apply\n(exit code 1)"),
        bash("cat > reproduce.py <<'EOF'\nraise ValueError\nEOF\npython reproduce.py", "ValueError\n(exit code 1)"),
        bash("grep -rn 'No replacement was performed' .", "x.py: No replacement was performed"),
    ]
    assert failed_edits(steps) == {0, 1}


def test_words_of_refusal_further_on_are_the_text_of_the_file():
    assert (
        failed_edits([replace("x", "y", answer="The file was edited.\n" + "1\n" * 300 + "no exact match found")])
        == set()
    )


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([replace("a", "b"), undo()], {0}),
        ([replace("a", "b"), replace("c", "d"), undo()], {1}),
        ([replace("a", "b"), replace("c", "d"), undo(), undo()], {0, 1}),
        ([replace("a", "b"), undo("/testbed/pkg/other.py")], set()),
        ([replace("a", "b"), bash("ls"), replace("b", "a")], {0}),
        ([replace("a", "b"), replace("b", "a", "/testbed/pkg/other.py")], set()),
        ([replace("a", "b"), bash("cd /testbed && git checkout pkg/a.py")], {0}),
        ([replace("a", "b"), bash("git checkout -- pkg")], {0}),
        ([replace("a", "b"), bash("git restore .")], {0}),
        ([replace("a", "b"), bash("git checkout pkg/ab.py && git checkout -b pkg/a.py")], set()),
        ([replace("a", "b"), bash("git stash")], {0}),
        ([replace("a", "b"), bash("git stash && python t.py; git stash pop")], set()),
        ([replace("a", "b"), bash("git stash"), bash("python t.py"), bash("git stash pop")], set()),
        ([bash("sed -i 's/a/b/' pkg/a.py"), bash("git checkout pkg/a.py")], {0}),
        ([bash("python - <<'E'\nopen('pkg/a.py', 'w').write('x > pkg/b.py')\nE"), bash("git checkout pkg/a.py")], {0}),
        (
            [bash("python - <<'E'\nopen('pkg/a.py', 'w').write('x > pkg/b.py')\nE"), bash("git checkout pkg/b.py")],
            set(),
        ),
        ([bash("git diff pkg/a.py > fix.patch"), bash("git checkout pkg/a.py")], set()),
        ([replace("a", "b"), bash("git checkout pkg/a.py"), replace("a", "c")], {0}),
        ([bash("echo 'git checkout pkg/a.py'"), replace("a", "b"), bash("git diff")], set()),
    ],
)
def test_an_edit_is_reverted_by_what_undoes_it_and_by_nothing_else(steps, expected):
    assert reverted_edits(steps) == expected


def test_an_edit_that_failed_is_not_taken_for_the_one_undone():
    steps = [replace("a", "b"), replace("c", "d", answer="No replacement was performed"), undo()]
    assert reverted_edits(steps) == {0}
