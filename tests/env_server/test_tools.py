"""The tools in a real bubblewrap sandbox: what the model sees, and that nothing it writes is an exception."""

import shlex

import pytest

from env_server import editor as editor_module
from env_server.editor import Editor
from env_server.schema import Action, Observation
from env_server.tools import MAX_COMMAND_BYTES, NO_OUTPUT, TOOL_SCHEMAS, run_tool
from sandboxes.base import Limits, SandboxSpec
from sandboxes.bubblewrap import BubblewrapBackend
from sandboxes.errors import SandboxGone

FILE = "/testbed/pkg/mod.py"
TEXT = "def add(a, b):\n\treturn a - b\n\n\ndef sub(a, b):\n    return a - b\n"


class Desk:
    """A sandbox, an editor, and short names for calls."""

    def __init__(self, sandbox):
        self.sandbox = sandbox
        self.editor = Editor()

    async def call(self, name, **arguments) -> Observation:
        return await run_tool(Action(name=name, arguments=arguments), self.sandbox, self.editor, timeout_s=10.0)

    async def bash(self, command) -> Observation:
        return await self.call("bash", command=command)

    async def edit(self, command, path=FILE, **arguments) -> Observation:
        return await self.call("str_replace_editor", command=command, path=path, **arguments)

    async def content(self, path=FILE) -> bytes:
        return await self.sandbox.read(path)


@pytest.fixture
async def desk():
    backend = BubblewrapBackend()
    sandbox = await backend.acquire(SandboxSpec(limits=Limits(output_bytes=2000)))
    await sandbox.write(FILE, TEXT.encode())
    yield Desk(sandbox)
    await backend.close()


async def test_bash_reports_output_then_exit_code(desk):
    fine = await desk.bash("printf hello")
    assert (fine.output, fine.exit_code, fine.outcome) == ("hello", 0, "ok")
    failed = await desk.bash("echo out; echo err >&2; exit 3")
    assert failed.output == "out\nerr\n(exit code 3)"
    assert (failed.exit_code, failed.outcome, failed.done) == (3, "nonzero", False)
    assert (await desk.bash("true")).output == NO_OUTPUT


async def test_bash_says_what_was_cut_and_what_was_killed(desk):
    long = await desk.bash("seq 100000")
    assert long.truncated and "bytes were dropped from its middle" in long.output
    assert long.output.startswith("1\n2\n") and "100000" in long.output
    slow = await run_tool(
        Action(name="bash", arguments={"command": "echo begun; sleep 60"}),
        desk.sandbox,
        desk.editor,
        timeout_s=0.5,
    )
    assert slow.outcome == "timeout" and slow.exit_code is None
    assert slow.output == "begun\n(the command was killed: it took more than 0.5 seconds)"
    assert (await desk.bash("echo usable")).output == "usable\n"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("python", {}, "There is no tool `python`"),
        ("bash", {}, "`command`: Field required"),
        ("bash", {"command": 5}, "`command`"),
        ("bash", {"command": "ls", "speed": 1}, "`speed`: Extra inputs are not permitted"),
        ("bash", {"command": "a\0b"}, "NUL"),
        ("bash", {"command": "echo \ud800"}, "`command`"),
        ("bash", {"command": ":" + " " * MAX_COMMAND_BYTES}, "longer than"),
        ("submit", {"now": True}, "`now`"),
        ("str_replace_editor", {"command": "delete", "path": FILE}, "`command`"),
        ("str_replace_editor", {"command": "view"}, "`path`"),
        ("str_replace_editor", {"command": "view", "path": FILE, "view_range": [1]}, "`view_range`"),
        ("str_replace_editor", {"command": "view", "path": FILE, "view_range": "1-2"}, "`view_range`"),
        ("str_replace_editor", {"command": "create", "path": FILE}, "`file_text` is required"),
        ("str_replace_editor", {"command": "str_replace", "path": FILE}, "`old_str` is required"),
        ("str_replace_editor", {"command": "insert", "path": FILE, "new_str": "x"}, "`insert_line` is req"),
        ("str_replace_editor", {"command": "insert", "path": FILE, "insert_line": "x"}, "`insert_line`: In"),
    ],
)  # fmt: skip
async def test_wrong_arguments_are_an_observation(desk, name, arguments, said):
    observation = await desk.call(name, **arguments)
    assert observation.outcome == "bad_action" and not observation.done
    assert said in observation.output
    observation.model_dump_json()  # whatever the model wrote, the answer can be sent
    assert await desk.content() == TEXT.encode()


@pytest.mark.parametrize("command", ["view a.py", "vim", "  nano  x"])
async def test_an_editor_that_waits_for_keys_is_refused_at_once(desk, command):
    found = await desk.bash(command)
    assert found.outcome == "bad_action" and "needs a terminal" in found.output


async def test_submit_ends(desk):
    observation = await desk.call("submit")
    assert observation.done and observation.outcome == "ok"


async def test_view_numbers_lines_and_takes_ranges(desk):
    whole = await desk.edit("view")
    assert whole.output == (
        f"Here's the result of running `cat -n` on {FILE}:\n"
        "     1\tdef add(a, b):\n     2\t\treturn a - b\n     3\t\n     4\t\n"
        "     5\tdef sub(a, b):\n     6\t    return a - b\n     7\t\n"
    )
    part = await desk.edit("view", view_range=[5, 6])
    assert part.output.endswith(":\n     5\tdef sub(a, b):\n     6\t    return a - b\n")
    assert (await desk.edit("view", view_range="[5, -1]")).output.count("\n") == 4
    for wrong in ([0, 2], [9, 10], [3, 2]):
        refused = await desk.edit("view", view_range=wrong)
        assert refused.outcome == "nonzero" and f"Invalid `view_range`: {wrong}" in refused.output


async def test_view_of_a_folder_is_two_levels_without_hidden_files(desk):
    await desk.bash("mkdir -p a/b/c .git/x .github/w; touch a/b/c/deep a/f .git/x/y .github/w/z")
    shown = (await desk.edit("view", path="/testbed")).output
    listed = [line for line in shown.splitlines() if line.startswith("/")]
    assert listed == [
        "/testbed",
        "/testbed/a",
        "/testbed/a/b",
        "/testbed/a/f",
        "/testbed/pkg",
        "/testbed/pkg/mod.py",
    ]
    hidden = (await desk.edit("view", path="/testbed/.github")).output
    assert "/testbed/.github/w/z" in hidden
    strange = "/testbed/it's; echo $(oops)"
    await desk.bash(f"mkdir {shlex.quote(strange)}; touch {shlex.quote(strange)}/in")
    assert f"{strange}/in" in (await desk.edit("view", path=strange)).output
    assert "not allowed" in (await desk.edit("view", path="/testbed", view_range=[1, 2])).output


async def test_view_of_a_long_file_is_clipped_and_says_so(desk):
    await desk.sandbox.write("/testbed/long.txt", b"some text on a line\n" * 5000)
    shown = await desk.edit("view", path="/testbed/long.txt")
    assert shown.truncated and len(shown.output) < editor_module.MAX_SHOWN_CHARS + 500
    assert "use `view_range`" in shown.output


async def test_str_replace_needs_exactly_one_match(desk):
    twice = await desk.edit("str_replace", old_str="return a - b", new_str="return a + b")
    assert twice.outcome == "nonzero" and twice.exit_code == 1
    assert "Multiple occurrences" in twice.output and "in lines [2, 6]" in twice.output
    none = await desk.edit("str_replace", old_str="return a * b", new_str="")
    assert f"did not appear verbatim in {FILE}" in none.output
    assert "is the same" in (await desk.edit("str_replace", old_str="def add", new_str="def add")).output
    assert "empty" in (await desk.edit("str_replace", old_str="", new_str="x")).output
    assert await desk.content() == TEXT.encode()


async def test_matches_that_overlap_are_not_unique(desk):
    await desk.sandbox.write("/testbed/x", b"aaa")
    assert "Multiple" in (await desk.edit("str_replace", path="/testbed/x", old_str="aa", new_str="b")).output


async def test_str_replace_edits_and_shows_the_place(desk):
    edited = await desk.edit("str_replace", old_str="\treturn a - b", new_str="\treturn a + b")
    assert edited.outcome == "ok"
    assert await desk.content() == TEXT.replace("\treturn a - b", "\treturn a + b").encode()
    assert edited.output.startswith(
        f"The file {FILE} has been edited. Here's the result of running `cat -n` on a snippet of {FILE}:\n"
        "     1\tdef add(a, b):\n     2\t\treturn a + b\n"
    )
    assert "Review the changes" in edited.output
    deleted = await desk.edit("str_replace", old_str="\n\ndef sub(a, b):\n    return a - b\n")
    assert deleted.outcome == "ok" and b"sub" not in await desk.content()


@pytest.mark.parametrize(
    ("before", "line", "new", "after"),
    [
        (b"a\nb\n", 0, "x", b"x\na\nb\n"),
        (b"a\nb\n", 1, "x\n", b"a\nx\nb\n"),
        (b"a\nb\n", 2, "x\ny", b"a\nb\nx\ny\n"),
        (b"a\nb\n", 3, "x", b"a\nb\nx\n"),
        (b"a\nb", 2, "x", b"a\nb\nx"),
        (b"a\r\nb\r\n", 1, "x\ny", b"a\r\nx\r\ny\r\nb\r\n"),
        (b"", 0, "x", b"x\n"),
    ],
)
async def test_insert_puts_whole_lines_after_the_line(desk, before, line, new, after):
    await desk.sandbox.write(FILE, before)
    assert (await desk.edit("insert", insert_line=line, new_str=new)).outcome == "ok"
    assert await desk.content() == after


async def test_insert_outside_of_the_file_is_refused(desk):
    for line in (-1, 8):
        refused = await desk.edit("insert", insert_line=line, new_str="x")
        assert f"Invalid `insert_line` parameter: {line}" in refused.output and "[0, 7]" in refused.output


async def test_undo_goes_back_edit_by_edit(desk):
    assert f"No edit history found for {FILE}" in (await desk.edit("undo_edit")).output
    await desk.edit("str_replace", old_str="def add", new_str="def plus")
    once = await desk.content()
    await desk.edit("insert", insert_line=0, new_str="import os")
    assert "undone successfully" in (await desk.edit("undo_edit", path="/testbed/pkg/../pkg/mod.py")).output
    assert await desk.content() == once
    await desk.edit("undo_edit")
    assert await desk.content() == TEXT.encode()
    assert "No edit history" in (await desk.edit("undo_edit")).output


async def test_create_makes_parents_and_never_overwrites(desk):
    made = await desk.edit("create", path="/testbed/new/deep/file.txt", file_text="ä\n")
    assert made.output == "File created successfully at: /testbed/new/deep/file.txt"
    assert await desk.content("/testbed/new/deep/file.txt") == "ä\n".encode()
    await desk.sandbox.write("/testbed/empty", b"")
    for path in (FILE, "/testbed/empty"):
        assert "Cannot overwrite" in (await desk.edit("create", path=path, file_text="x")).output
    assert "is a directory" in (await desk.edit("create", path="/testbed/pkg", file_text="x")).output
    assert (await desk.edit("create", path="/usr/x", file_text="x")).outcome == "nonzero"
    assert await desk.content() == TEXT.encode()


async def test_paths_that_cannot_be_edited_are_refused(desk):
    for command, extra in (("view", {}), ("str_replace", {"old_str": "a"})):
        assert "not an absolute path" in (await desk.edit(command, path="pkg/mod.py", **extra)).output
        assert "does not exist" in (await desk.edit(command, path="/testbed/none", **extra)).output
        assert "does not exist" in (await desk.edit(command, path=f"{FILE}/below", **extra)).output
    folder = await desk.edit("str_replace", path="/testbed/pkg", old_str="a")
    assert "only the `view` command" in folder.output


async def test_bytes_around_an_edit_survive(desk):
    before = b"caf\xe9 \xff\r\nkey = 1\r\n\ttab\r\n"
    await desk.sandbox.write("/testbed/latin.txt", before)
    await desk.bash("chmod 755 latin.txt")
    done = await desk.edit("str_replace", path="/testbed/latin.txt", old_str="key = 1\n", new_str="key = 2\nb\n")
    assert done.outcome == "ok"
    done.model_dump_json()
    after = await desk.content("/testbed/latin.txt")
    assert after == before.replace(b"key = 1", b"key = 2\r\nb")
    assert (await desk.bash("stat -c %a latin.txt")).output == "755\n"


async def test_a_dead_sandbox_is_an_error_and_never_an_observation(desk):
    await desk.sandbox.kill()
    for name, arguments in (
        ("bash", {"command": "ls"}),
        ("str_replace_editor", {"command": "view", "path": FILE}),
    ):
        with pytest.raises(SandboxGone):
            await desk.call(name, **arguments)


def test_schemas_name_the_tools_of_swe_agent():
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOL_SCHEMAS}
    assert list(tools) == ["bash", "str_replace_editor", "submit"]
    assert tools["bash"]["required"] == ["command"]
    assert set(tools["str_replace_editor"]["properties"]) == {
        "command", "path", "file_text", "old_str", "new_str", "insert_line", "view_range",
    }  # fmt: skip
