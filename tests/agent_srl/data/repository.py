"""A small real repository with bugs that can be planted, and a service that runs it in real sandboxes."""

import difflib
import sys
from pathlib import Path

from env_server.editor import Editor
from env_server.schema import Action, Observation, SessionInfo, Task, Verdict
from env_server.tools import run_tool
from sandboxes.base import Backend, Sandbox, SandboxSpec

FILES = {
    "README.md": "Ranges of integers.\n",
    "ranges/__init__.py": "from ranges.span import Span\nfrom ranges.text import format_spans, parse\n",
    "ranges/span.py": '''"""A closed range."""


class Span:
    """From `first` to `last`, both included."""

    def __init__(self, first, last):
        if first > last:
            raise ValueError("first is after last")
        self.first = first
        self.last = last

    def __len__(self):
        return self.last - self.first + 1

    def __eq__(self, other):
        return (self.first, self.last) == (other.first, other.last)

    def touches(self, other):
        """Whether both could be merged."""
        return self.first <= other.last + 1 and other.first <= self.last + 1

    def merge(self, other):
        """The span that covers both."""
        return Span(min(self.first, other.first), max(self.last, other.last))
'''
    + "\n\n"
    + "\n\n".join(f"def unrelated_{i}(value):\n    return value * {i}\n" for i in range(40)),
    "ranges/text.py": '''"""Ranges as text."""

from ranges.span import Span


def parse(text):
    """`1-3,7` to spans."""
    spans = [_part(part) for part in text.split(",") if part.strip()]
    return _merged(spans)


def _part(part):
    first, dash, last = part.strip().partition("-")
    return Span(int(first), int(last) if dash else int(first))


def _merged(spans):
    merged = []
    for span in sorted(spans, key=lambda s: s.first):
        if merged and merged[-1].touches(span):
            merged[-1] = merged[-1].merge(span)
        else:
            merged.append(span)
    return merged


def format_spans(spans):
    """Spans to `1-3,7`."""
    return ",".join(str(s.first) if s.first == s.last else f"{s.first}-{s.last}" for s in spans)
''',
    "tests/test_text.py": """from ranges import Span, format_spans, parse


def test_one():
    assert parse("7") == [Span(7, 7)]


def test_length():
    assert len(Span(1, 3)) == 3
""",
}

BUGS = {
    "direct": [("ranges/text.py", "if s.first == s.last else", "if s.first != s.last else")],
    "raises": [("ranges/text.py", 'partition("-")', 'partition(",")')],
    "indirect": [("ranges/span.py", "max(self.last, other.last)", "min(self.last, other.last)")],
    "deleted": [("ranges/text.py", "            merged[-1] = merged[-1].merge(span)\\n", "            pass\\n")],
    "two": [
        ("ranges/span.py", "self.first <= other.last + 1 and", "self.first <= other.last and"),
        ("ranges/text.py", "int(last) if dash else", "int(first) if dash else"),
    ],
}
CALL = "format_spans(parse('1-3,4-6,9'))"


def task(bug: str) -> Task:
    """A task whose gold patch takes the bug out."""
    files = buggy(bug)
    patch = "".join(_diff(name, files[name], FILES[name]) for name in FILES if files[name] != FILES[name])
    statement = (
        f"`{CALL}` is wrong\n\n```python\nfrom ranges import format_spans, parse\n\nprint({CALL})\n```\n\n"
        "I expected `1-6,9`. The rest works."
    )
    return Task(
        instance_id=f"ranges__{bug}",
        repo="ranges",
        problem_statement=statement,
        patch=patch,
        FAIL_TO_PASS=["tests/test_text.py::test_hidden"],
        PASS_TO_PASS=["tests/test_text.py::test_one"],
    )


def buggy(bug: str) -> dict[str, str]:
    """The files with the bug in."""
    files = dict(FILES)
    for name, right, wrong in BUGS[bug]:
        right, wrong = right.replace("\\n", "\n"), wrong.replace("\\n", "\n")
        assert files[name].count(right) == 1
        files[name] = files[name].replace(right, wrong)
    return files


def _diff(name: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"a/{name}", f"b/{name}")
    return f"diff --git a/{name} b/{name}\n" + "".join(lines)


def this_python() -> SandboxSpec:
    """A sandbox with the interpreter and packages that run the tests."""
    folders = {Path(sys.prefix), Path(sys.base_prefix)}
    env = {
        "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": "/testbed",
    }
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # the plugins of this environment take a second to load
    mounts = {str(folder): folder for folder in folders if not folder.is_relative_to("/usr")}
    return SandboxSpec(read_only=mounts, env=env)


class SmallService:
    """Sessions over a real sandbox, this Python and the real tools. The verdict: is the hidden call right?"""

    def __init__(self, backend: Backend, tasks: list[Task]) -> None:
        self._backend = backend
        self._tasks = {t.instance_id: t for t in tasks}
        self._live: dict[str, tuple[Sandbox, Editor, str]] = {}

    async def create_session(self, task_id: str) -> SessionInfo:
        sandbox = await self._backend.acquire(this_python())
        for name, text in buggy(task_id.partition("__")[2]).items():
            await sandbox.write(f"/testbed/{name}", text.encode())
        commit = "git init -q && git add -A && git -c user.name=a -c user.email=a@b commit -qm base"
        assert (await sandbox.exec(commit, timeout_s=30)).exit_code == 0
        session = f"s{len(self._live)}-{task_id}"
        self._live[session] = (sandbox, Editor(), task_id)
        info = self._tasks[task_id].public()
        return SessionInfo(session_id=session, task=info, tools=[], max_steps=50, command_timeout_s=30, lease_s=60)

    async def step(self, session: str, action: Action) -> Observation:
        sandbox, editor, _ = self._live[session]
        return await run_tool(action, sandbox, editor, timeout_s=30)

    async def evaluate(self, session: str) -> Verdict:
        sandbox, _, task_id = self._live[session]
        check = f'from ranges import *; assert {CALL} == "1-6,9"'.replace('"', '\\"')
        ran = await sandbox.exec(f'python -c "{check}"', timeout_s=30)
        diff = await sandbox.exec("git add -A && git diff --cached", timeout_s=30)
        resolved = ran.exit_code == 0
        return Verdict(instance_id=task_id, resolved=resolved, reward=float(resolved), patch=diff.output)

    async def close_session(self, session: str) -> None:
        await self._live.pop(session)[0].kill()
