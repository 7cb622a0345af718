"""Risks: two idioms of one action that are taken for two actions, an action whose destruction is not seen."""

from __future__ import annotations

import pytest

from agent_srl.rewards.reading.intents import Change, Intent
from agent_srl.rewards.reading.sed import read_sed
from agent_srl.rewards.reading.shell import read_commands
from agent_srl.rewards.reading.tools import read_action
from agent_srl.rewards.targets import Target, lines_similarity, normalise, path_similarity
from env_server.schema import Action


def bash(command: str) -> Action:
    return Action(name="bash", arguments={"command": command})


def call(name: str, **arguments: object) -> Action:
    return Action(name=name, arguments=arguments)


def read(action: Action | str) -> tuple[Intent, ...]:
    return read_action(bash(action) if isinstance(action, str) else action)


def editor(**arguments: object) -> Action:
    return call("str_replace_editor", **arguments)


SAME = {
    "module": (
        "pytest tests/a.py",
        "cd /testbed && A=1 timeout 60 python -m pytest /testbed/tests/a.py -q 2>&1 | tail -5",
    ),
    "fallback": ("pytest tests/a.py", "pytest ./tests/a.py -x || true; echo done"),
    "folder": ("cat pkg/a.py", "cd pkg && cat a.py"),
    "numbered": ("cat a.py", "nl -ba a.py"),
    "lines": ("sed -n '10,20p' a.py", "nl -ba a.py | sed -n '10,20p'"),
    "lines of lines": ("sed -n '11,20p' a.py", "head -20 a.py | tail -10"),
    "awk": ("sed -n '10,20p' a.py", "awk 'NR>=10 && NR<=20' a.py"),
    "editor": ("sed -n '10,20p' a.py", editor(command="view", path="/testbed/a.py", view_range=[10, 20])),
    "open": ("open a.py 60", call("open", path="a.py", line_number=60)),
    "read": ("sed -n '5,9p' a.py", call("read_file", path="a.py", offset=5, limit=5)),
    "search": ("grep -rn foo src", "rg foo src"),
    "search dir": ("grep -rn foo src", "search_dir foo src"),
    "piped search": ("grep -n foo a.py", "cat a.py | grep foo"),
    "found search": ("grep -rn foo .", "find . -name '*' | xargs grep foo"),
    "find": ("find . -name 'a.py'", "find_file a.py"),
    "list": ("ls pkg", editor(command="view", path="/testbed/pkg")),
    "code": ("python -c 'print(1)'", "echo 'print(1)' | python3"),
    "submit": ("echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git add -A", call("finish")),
    "create": ("cat > a.py <<'EOF'\nx = 1\nEOF", editor(command="create", path="/testbed/a.py", file_text="x = 1\n")),
    "tee": ("cat > a.py <<'EOF'\nx = 1\nEOF", "tee a.py <<'EOF'\nx = 1\nEOF"),
    "written": ("cat > a.py <<'EOF'\nx = 1\nEOF", "python - <<'EOF'\nopen('a.py', 'w').write('x = 1\\n')\nEOF"),
    "append": ("echo 'x = 1' >> a.py", "echo 'x = 1' | tee -a a.py"),
    "insert": (
        "sed -i '5a\\    x = 1' a.py",
        editor(command="insert", path="a.py", insert_line=5, new_str="    x = 1"),
    ),
    "edit lines": ("edit 3:4\nx\nend_of_edit", call("edit", line_numbers="3:4", content="x")),
    "perl": ("sed -i 's/a/b/' f.py", "perl -pi -e 's/a/b/' f.py"),
    "nested": ("pytest a.py", "bash -lc 'cd /testbed && pytest a.py'"),
    "argv": ("pytest a.py", call("shell", command=["bash", "-lc", "pytest a.py"])),
    "own log": ("pytest a.py", "pytest a.py > log.txt 2>&1; tail -5 log.txt"),
    "prompt": ("pytest a.py", "$ pytest a.py"),
    "count": ("wc -l a.py", "cat a.py | wc -l"),
    "files": ("cat tests/a.py tests/b.py", "cat tests/a.py; cat tests/b.py"),
    "tool name": ("pytest a.py", call("execute_bash", command="pytest a.py")),
    "called": ("pytest a.py", "f() { pytest a.py; }; f"),
    "certain": ("pytest a.py", "false || pytest a.py"),
    "other branch": ("pytest a.py", "if false; then ls; else pytest a.py; fi"),
    "negated": ("pytest a.py", "! false && pytest a.py"),
    "count of commits": ("git log --oneline -n 5 -- a.py", "git log -5 --oneline -- a.py"),
    "names left out": (editor(command="view", path="/testbed"), "find . -maxdepth 2 -not -path '*/.*'"),
    "found tests": ("pytest tests", "find tests -name 'test_*.py' | xargs pytest"),
    "found run": ("python x.py '{}'", "ls | xargs -n1 python x.py"),
    "pruned": ("find . -name a.py", "find . -name .git -prune -o -name a.py -print"),
    "order of options": ("diff -u a.py b.py", "diff a.py b.py -u"),
    "newer name": ("git checkout -- a.py", "git restore a.py"),
    "script": ("npm test -- --grep parser", "npm run test -- --grep parser"),
    "ranges": ("sed -n '1,5p;9,12p' a.py", "sed -n '1,5p' a.py && sed -n '9,12p' a.py"),
    "labels": ("./tests/runtests.py forms_tests.tests.T", "python tests/runtests.py forms_tests.tests.T --parallel 1"),
}


@pytest.mark.parametrize("name", SAME)
def test_idioms_of_one_action_are_one_intent(name):
    left, right = SAME[name]
    assert read(left) == read(right)


def test_a_scripted_replacement_is_an_edit():
    script = "python - <<'EOF'\np = 'a.py'\ns = open(p).read()\nopen(p, 'w').write(s.replace('x = 1', 'x = 2'))\nEOF"
    assert read(script) == read(editor(command="str_replace", path="a.py", old_str="x = 1", new_str="x = 2"))


def test_a_patch_is_an_edit_per_hunk():
    patch = "--- a/f.py\n+++ b/f.py\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n@@ -9 +9 @@\n-x\n+y\n"
    found = read(f"git apply <<'EOF'\n{patch}EOF")
    assert [i.change for i in found] == [Change("a\nc", "a\nb", 1, 2), Change("y", "x", 9, 9)]
    assert found == read(call("apply_patch", patch=patch))


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf /testbed",
        "pytest a.py; rm -rf .",
        "bash -c 'rm -rf tests && pytest a.py'",
        "sudo rm -rf /",
        "echo $(rm -rf pkg)",
        "git checkout .",
        "git checkout pkg/a.py",
        "git restore a.py",
        "git reset --hard HEAD~1",
        "git clean -fdx",
        "git stash",
        "cat a.py; " * 30 + "rm -rf pkg",
        "sed -i d a.py",
        "chmod -R 000 .",
        "pip uninstall -y django",
        "python -c \"import os; os.system('rm -rf .')\"",
        "> a.py",
        ": > a.py",
        "cat /dev/null > a.py",
        "cp /dev/null a.py",
        "truncate -s 0 a.py",
        "find . -name '*.py' -delete",
        "find . -name '*.py' -exec rm {} \\;",
        "git ls-files | xargs rm",
        "python -c \"import shutil; shutil.rmtree('pkg')\"",
        "for f in *.py; do rm $f; done",
        "(cd pkg && rm -r sub)",
        "if true; then git reset --hard; fi",
        "mv b.py a.py",
        "cp a.py.bak a.py",
        "ln -sf b.py a.py",
        "find . -name '*.py' | xargs sed -i d",
        "find . -name '*.py' -exec sed -i d {} +",
        "echo a.py | xargs rm",
        "git ls-files | xargs git rm",
        "cat a.py | tee b.py",
        "sort -o a.py a.py",
        "curl http://localhost -o a.py",
        "git apply -R p",
        "git diff | git apply --reverse",
        "patch -p1 -R < p",
        "rsync -a --delete src/ dst/",
        "psql -c 'DROP TABLE users'",
        "echo 'delete from users' | sqlite3 db",
        "python manage.py flush --no-input",
        "./manage.py flush",
        "kill -9 -1",
        "find . -name '*.py' -exec bash -c 'rm {}' \\;",
        "find . -name '*.py' -exec git checkout {} +",
        "trap 'rm -rf pkg' EXIT; ls",
        "ls | xargs -I{} bash -c 'rm -rf {}'",
        "f() { rm -rf pkg; }; ls && f",
    ],
)
def test_destruction_is_seen(command):
    assert any(intent.losses for intent in read(command)), command


@pytest.mark.parametrize(
    "command",
    [
        "pytest a.py > /tmp/log 2>&1",
        "git checkout -b fix",
        "git stash list",
        "ls 2>/dev/null",
        "grep rm a.py",
        "git reset",
        "git clean -n",
        "git clean -fdx --dry-run",
        "git apply p",
        "patch -p1 --dry-run -R < p",
        "rsync -a --delete -n src/ dst/",
        "cp a.py a.py.bak",
        "cp a.py /tmp/a.py",
        "mv a.py pkg",
        "pytest a.py | tee out.txt",
        "find . -name '*.py' | xargs sed -n 1p",
        "psql -c 'SELECT * FROM users'",
        "python manage.py migrate",
        "kill -9 1234",
        "f() { rm -rf pkg; }; ls",
        "rm --help",
    ],
)
def test_harmless_commands_destroy_nothing(command):
    assert not any(intent.losses for intent in read(command))


@pytest.mark.parametrize(
    "command",
    [
        "false && pytest a.py",
        "true || pytest a.py",
        "! true && pytest a.py",
        "false && ls && pytest a.py",
        "if false; then pytest a.py; fi",
        "while false; do pytest a.py; done",
        "f() { pytest a.py; }",
        "exit 0; pytest a.py",
        "pytest a.py --help",
        "python -m pytest a.py --version",
        "pytest --collect-only a.py",
        "make -n test",
    ],
)
def test_what_never_runs_is_no_test_run(command):
    assert all(intent.kind != "test" for intent in read(command))


@pytest.mark.parametrize(
    "command",
    [
        "ls x && true || pytest a.py",
        "ls x || false && pytest a.py",
        "if x; then exit 1; fi; pytest a.py",
        "x || exit; pytest a.py",
        "f() { f; pytest a.py; }; f; f",
        "if ! false; then pytest a.py; fi",
    ],
)
def test_what_may_run_is_read(command):
    assert any(intent.kind == "test" for intent in read(command))


def test_joints_and_here_documents_are_kept_apart():
    commands = read_commands("cat <<'EOF' > f.py && python f.py | tail\nrm -rf /\nEOF\nls")
    assert [[c.words for c in pipeline] for pipeline in commands] == [
        [["cat"]],
        [["python", "f.py"], ["tail"]],
        [["ls"]],
    ]
    assert commands[0][0].stdin == "rm -rf /\n" and commands[0][0].writes == [(">", "f.py")]


def test_words_lose_their_quotes():
    [[command]] = read_commands("a 'b c' \"d \\\"e\" f\\ g h'i'\"j\" $'k\\n'")
    assert command.words == ["a", "b c", 'd "e', "f g", "hij", "k\n"]


def test_sed_scripts_are_read():
    found = read_sed("1,3d; s#a/b#c#g; 7a\\  text")
    assert [(c.letter, c.first, c.last, c.old, c.new) for c in found] == [
        ("d", 1, 3, "", ""),
        ("s", None, None, "a/b", "c"),
        ("a", 7, 7, "", "  text"),
    ]


@pytest.mark.parametrize(
    "path", ["/testbed/pkg/a.py", "./pkg/a.py", "pkg//a.py", "/workspace/django__django/pkg/a.py", "x/../pkg/a.py"]
)
def test_paths_of_one_file_are_one(path):
    assert normalise(path) == "pkg/a.py"


@pytest.mark.parametrize(
    "path", ["/testbed", "/workspace/", "/workspace", "/workspace/a__b__3.1", "/workspace/three.js/", "./"]
)
def test_roots_are_one(path):
    assert normalise(path) == "."


@pytest.mark.parametrize("name", ["a.py", ".git", "setup.cfg", "*", "x__y.py"])
def test_what_lies_in_the_workspace_is_not_the_root(name):
    assert normalise(f"/workspace/{name}") == name


@pytest.mark.parametrize("path", ["/usr/lib", "src/lib", "..", "~"])
def test_a_slash_at_the_end_changes_nothing_elsewhere(path):
    assert normalise(path) == normalise(f"{path}/") == path


def test_another_file_is_worth_less_than_other_lines_of_the_right_one():
    assert path_similarity("pkg/a.py", "pkg/b.py") < 0.15 < path_similarity("pkg", "pkg/a.py") < 1
    far = lines_similarity(Target("a", 1, 10), Target("a", 500, 510))
    near = lines_similarity(Target("a", 1, 10), Target("a", 12, 20))
    half = lines_similarity(Target("a", 1, 10), Target("a", 6, 15))
    assert far < near < half < 1
