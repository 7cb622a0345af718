"""How the expert goes about a task: the recorded steps, chosen from the facts and from what was just
observed.

A route is a plan (which part comes first); habits are what one engineer keeps to in one session (grep or
git grep, view or sed). Plans are conditioned on the task: a short module is read whole, a traceback is
followed to its line.

Left out: wrong hypotheses that are taken back, and edits other than the right ones.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from agent_srl.data.expert_facts import WORKDIR, Act, Edit, Facts, Stop, python, replace
from agent_srl.data.expert_thoughts import describe_change, last_line, say
from env_server.schema import Action, Observation, Step

SHORT_FILE = 110
"""Lines of a module that is read whole."""
MANY_STEPS = 11
"""From here on, optional steps are left out."""
MAX_WINDOWS = 4
FRAME = re.compile(rf'File "(?:{WORKDIR}/)?([^"<>]+\.py)", line (\d+)')
HIT = re.compile(r"^(?:([^\s:]+\.py):)?(\d+):(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Habits:
    """What stays the same through a session."""

    search: str
    reader: str
    span: int
    look: str
    tests: str
    careful: bool
    """Looks at the diff before submitting."""

    @classmethod
    def draw(cls, rng: random.Random) -> Habits:
        return cls(
            search=rng.choice(("grep -rn", "grep -rn", "git grep -n")),
            reader=rng.choice(("view", "view", "sed", "nl")),
            span=rng.choice((30, 40, 50)),
            look=rng.choice(("ls", "ls -F", "git ls-files | head -40", "view")),
            tests=rng.choice(
                ("python -m pytest -q {}", "python -m pytest -q {}", "python -m pytest -q {} 2>&1 | tail -5")
            ),
            careful=rng.random() < 0.5,
        )


class Run:
    """One recorded attempt. `steps` grows as it goes."""

    def __init__(self, facts: Facts, rng: random.Random, act: Act) -> None:
        self.facts = facts
        self.steps: list[Step] = []
        self._rng = rng
        self._act = act
        self._habits = Habits.draw(rng)
        self._last = ""
        self._shown = facts.task.problem_statement
        self._seen: dict[str, list[tuple[int, int]]] = {}
        self._outlined: set[str] = set()
        self._searched: set[str] = set()
        self._script = ""
        self._reproduced = False
        self._verified = False

    async def record(self) -> None:
        """From the first look to `submit`."""
        await PLANS[choose_plan(self.facts, self._rng)](self)
        for index, edit in enumerate(self.facts.edits):
            await self._reach(edit, index)
            await self._edit(edit, index)
        await self._verify()
        await self._finish()

    async def look(self, kind: str = "look") -> None:
        """The layout of the repository."""
        if self._habits.look == "view":
            await self._editor(self._say(kind), "view", WORKDIR)
        else:
            await self._bash(self._say(kind), self._habits.look)

    async def find(self, after: str = "search") -> None:
        """Search and read every definition from the one that the issue names to the one with the bug."""
        way = self.facts.way if len(self.facts.way) <= 3 else [self.facts.way[0], *self.facts.way[-2:]]
        previous = ""
        for stop in way:
            if self._is_seen(stop.path, stop.line):
                previous = stop.name
                continue
            if re.search(rf"\b{re.escape(stop.name)}\b", self._shown):
                in_trace = f", in {stop.name}\n" in self._shown
                follow = "follow_trace" if in_trace else "follow" if stop.name in self._last else "follow_blind"
                await self._search(stop, follow if previous else after, previous)
            else:
                await self._scan(stop, previous)
            previous = stop.name

    async def reproduce(self, kind: str = "reproduce") -> None:
        """Show the symptom, unless that is impossible or done."""
        snippet = self.facts.snippet
        if not snippet or self._reproduced:
            return
        self._reproduced = True
        action = python(snippet)
        if "\n" in str(action.arguments["command"]) and self._rng.random() < 0.7:
            self._script = self._rng.choice(("reproduce.py", "repro.py", "reproduce_issue.py"))
            await self._editor(self._say("script"), "create", f"{WORKDIR}/{self._script}", file_text=snippet + "\n")
            await self._bash(self._say("run_script"), f"python {self._script}")
        else:
            await self._step(self._say(kind, suspect=self.facts.goal.name or self.facts.named), action)

    async def tests_before(self) -> None:
        """What the existing tests say with the bug in."""
        if self.facts.test_file:
            await self._tests("tests_before")

    async def usage(self) -> None:
        """How the tests use what the issue names."""
        folder = self.facts.test_file.rpartition("/")[0] or self.facts.test_file
        recursive = "-rn" if folder != self.facts.test_file else "-n"
        await self._bash(self._say("usage"), f'grep {recursive} "{self.facts.named}(" {folder} | head -5')

    async def read_whole(self) -> None:
        """All of a short module."""
        goal = self.facts.goal
        thought = self._say("read_whole", file=goal.path)
        if self._habits.reader == "view":
            await self._editor(thought, "view", f"{WORKDIR}/{goal.path}")
        else:
            await self._bash(thought, f"{'cat -n' if self._habits.reader == 'nl' else 'cat'} {goal.path}")
        self._seen.setdefault(goal.path, []).append((1, self.facts.lengths[goal.path]))

    async def read_frame(self) -> None:
        """The place in the traceback that is nearest to the bug."""
        line = near_frame(self.facts)
        if line is None:
            return
        thought = self._say("read_frame", file=self.facts.goal.path, line=line, error=self.facts.error)
        await self._read(thought, self.facts.goal.path, max(1, line - 20), line + 20)

    async def _scan(self, stop: Stop, previous: str) -> None:
        """Nothing that was shown names this definition: list those of the file, then read it."""
        kind = "outline_after" if previous else "outline_first"
        if stop.path not in self._outlined:
            await self._outline(self._say(kind, file=stop.path, previous=previous), stop.path)
        thought = self._say("read_listed", named=stop.name or stop.path, file=stop.path, line=stop.line)
        await self._read(thought, stop.path, stop.line, stop.line + self._habits.span)

    async def _search(self, stop: Stop, kind: str, previous: str) -> None:
        """Find a definition by its name, or by its class where the name says little, and read it."""
        by_class = stop.common and stop.owner
        name = stop.owner if by_class else stop.name
        shown = f"{stop.owner}.{stop.name}" if by_class else stop.name
        pattern = f"class {name}[(:]" if by_class or stop.kind == "class" else f"def {name}("
        pattern = pattern if by_class or stop.kind != "constant" else f"{name} ="
        thought = self._say(kind, named=shown, previous=previous, value=last_line(self._last))
        await self._bash(thought, self._search_command(pattern, stop.path))
        hits = [(path or stop.path, int(line)) for path, line, _ in HIT.findall(self._last)]
        line = next((line for path, line in hits if path == stop.path and (by_class or line == stop.line)), stop.line)
        if by_class and not line <= stop.line <= line + self._habits.span:
            await self._outline(self._say("outline", file=stop.path), stop.path)
            line, hits = stop.line, []
        several = len(hits) > 1
        thought = self._say(
            "read_one_of" if several else "read", named=shown, file=stop.path, line=line, count=len(hits)
        )
        await self._read(thought, stop.path, line, line + self._habits.span)

    def _search_command(self, pattern: str, path: str) -> str:
        if self._habits.search == "git grep -n":
            return f'git grep -n "{pattern}"'
        top, slash, _ = path.partition("/")
        return f'grep -rn "{pattern}" {top}/' if slash else f'grep -n "{pattern}" *.py'

    async def _read(self, thought: str, path: str, first: int, last: int) -> None:
        last = min(last, self.facts.lengths.get(path, last))
        if self._habits.reader == "view":
            await self._editor(thought, "view", f"{WORKDIR}/{path}", view_range=[first, last])
        elif self._habits.reader == "sed":
            await self._bash(thought, f"sed -n '{first},{last}p' {path}")
        else:
            await self._bash(thought, f"nl -ba {path} | sed -n '{first},{last}p'")
        self._seen.setdefault(path, []).append((first, last))

    async def _reach(self, edit: Edit, index: int) -> None:
        """Read on, or look up the next place, until the lines to edit have been shown."""
        last = edit.line + edit.old.count("\n")
        for _ in range(MAX_WINDOWS):
            if self._is_seen(edit.path, edit.line) and self._is_seen(edit.path, last):
                return
            ends = [end for _, end in self._seen.get(edit.path, []) if end < last]
            if self._names(edit) and not self._is_seen(edit.path, edit.function_line):
                stop = Stop(edit.function, "", edit.path, edit.function_line, last, "def", False)
                await self._search(stop, "search_also", "")
            elif ends and edit.line - max(ends) <= 2 * self._habits.span:
                await self._read_on(edit, max(ends))
            else:
                await self._jump(edit, last, "outline_more" if index else "outline_after")

    def _names(self, edit: Edit) -> bool:
        """Whether the issue names the function to edit."""
        name = re.escape(edit.function)
        return bool(name and re.search(rf"\b{name}\(", self.facts.task.problem_statement))

    async def _read_on(self, edit: Edit, line: int) -> None:
        kind = "read_on" if self._is_seen(edit.path, edit.function_line) else "read_below"
        named = edit.function or self.facts.named
        thought = self._say(kind, named=named if kind == "read_on" else self.facts.named, file=edit.path, line=line)
        await self._read(thought, edit.path, line, line + self._habits.span)

    async def _jump(self, edit: Edit, last: int, kind: str) -> None:
        """Go to an edit that is far from all that was read."""
        span, named = self._habits.span, edit.function or self.facts.named
        centre = max(1, edit.line - span // 2)
        if not self._is_seen(edit.path, edit.function_line):
            if edit.path not in self._outlined:
                await self._outline(self._say(kind, file=edit.path, previous=self.facts.named), edit.path)
            thought = self._say("read_listed", named=named, file=edit.path, line=edit.function_line)
            await self._read(thought, edit.path, edit.function_line, edit.function_line + span)
        elif edit.word and edit.word not in self._searched:
            self._searched.add(edit.word)
            thought = self._say("inside", named=named, file=edit.path, word=edit.word)
            await self._bash(thought, f'grep -n "{edit.word}" {edit.path}')
            lines = [int(line) for _, line, _ in HIT.findall(self._last)]
            line = min(lines, key=lambda n: abs(n - edit.line), default=edit.line)
            thought = self._say("read_inside", named=named, file=edit.path, line=line)
            await self._read(thought, edit.path, centre, centre + span)
        else:
            thought = self._say("read_far", named=named, file=edit.path, line=centre)
            await self._read(thought, edit.path, centre, max(centre + span, last + 2))

    async def _outline(self, thought: str, path: str) -> None:
        self._outlined.add(path)
        await self._bash(thought, f'grep -n "def " {path}')

    async def _edit(self, edit: Edit, index: int) -> None:
        change, reason = describe_change(edit.old, edit.new)
        last = self.steps[-1].action if self.steps else None
        just_ran = self._reproduced and last is not None and last.name == "bash" and "python" in str(last)
        kind = "edit_next" if index else "edit_after_run" if just_ran else "edit"
        function = edit.function or edit.path
        thought = self._say(kind, function=function, change=change, reason=reason, value=last_line(self._last))
        await self._step(thought, replace(edit))

    async def _verify(self) -> None:
        """The reproduction again, then the existing tests."""
        if self.facts.snippet and (self._reproduced or self._rng.random() < 0.8):
            command = f"python {self._script}" if self._script else ""
            action = Action(name="bash", arguments={"command": command}) if command else python(self.facts.snippet)
            await self._step(self._say("rerun"), action)
            self._verified = True
        if self.facts.test_file:
            await self._tests("tests_fixed" if self._verified else "tests_blind")

    async def _finish(self) -> None:
        if self._script:
            await self._bash(self._say("clean", value=last_line(self._last)), f"rm {self._script}")
        value = last_line(self._last) if not self._script else "the script is gone"
        if (self._habits.careful and len(self.steps) < MANY_STEPS) or len(self.steps) < 6:
            await self._bash(self._say("diff", value=value), "git diff")
            await self._step(self._say("submit_diff"), Action(name="submit"))
        else:
            kind = "submit" if self._verified else "submit_blind"
            await self._step(self._say(kind, value=value), Action(name="submit"))

    async def _tests(self, kind: str) -> None:
        file = self.facts.test_file
        await self._bash(self._say(kind, file=file, value=last_line(self._last)), self._habits.tests.format(file))

    def _is_seen(self, path: str, line: int) -> bool:
        return any(first <= line <= last for first, last in self._seen.get(path, []))

    def _say(self, kind: str, **slots: object) -> str:
        goal = self.facts.edits[0].function or self.facts.edits[0].path
        return say(kind, self._rng, **({"named": self.facts.named, "function": goal} | slots))

    async def _bash(self, thought: str, command: str) -> None:
        await self._step(thought, Action(name="bash", arguments={"command": command}))

    async def _editor(self, thought: str, command: str, path: str, **arguments: object) -> None:
        await self._step(
            thought,
            Action(name="str_replace_editor", arguments={"command": command, "path": path, **arguments}),
        )

    async def _step(self, thought: str, action: Action) -> Observation:
        observation = await self._act(action)
        self.steps.append(Step(thought=thought, action=action, observation=observation.output))
        self._last = observation.output
        self._shown += "\n" + observation.output
        return observation


def near_frame(facts: Facts) -> int | None:
    """The line of the traceback in the edited file that is closest to the edit, if it is close."""
    edit = facts.edits[0]
    lines = [int(line) for path, line in FRAME.findall(facts.before) if path == edit.path]
    near = min(lines, key=lambda line: abs(line - edit.line), default=None)
    return near if near is not None and abs(near - edit.line) <= 18 else None


def choose_plan(facts: Facts, rng: random.Random) -> str:
    """A traceback is followed, a short module is read whole; otherwise one of what the task allows."""
    if near_frame(facts) is not None and rng.random() < 0.8:
        return "traceback"
    if facts.lengths.get(facts.goal.path, SHORT_FILE + 1) <= SHORT_FILE:
        return "whole"
    plans = ["read_first"]
    if facts.snippet:
        plans += ["reproduce_first", "reproduce_first", "suspect"]
    if facts.test_file and len(facts.edits) == 1 and len(facts.way) <= 2:
        plans += ["test_first", "through_tests"]
    return rng.choice(plans)


async def _read_first(run: Run) -> None:
    await run.look()
    await run.find()


async def _suspect(run: Run) -> None:
    await run.look()
    await run.find()
    await run.reproduce("reproduce_suspect")


async def _reproduce_first(run: Run) -> None:
    await run.look()
    await run.reproduce()
    await run.find("search_after_run")


async def _test_first(run: Run) -> None:
    await run.look("look_test")
    await run.tests_before()
    await run.find("search_after_tests")
    await run.reproduce("reproduce_suspect")


async def _through_tests(run: Run) -> None:
    await run.look("look_test")
    await run.usage()
    await run.find("search_after_usage")
    await run.reproduce("reproduce_suspect")


async def _whole(run: Run) -> None:
    await run.look()
    await run.read_whole()
    await run.reproduce("reproduce_suspect")


async def _traceback(run: Run) -> None:
    await run.look()
    await run.reproduce()
    await run.read_frame()


PLANS = {
    "read_first": _read_first,
    "suspect": _suspect,
    "reproduce_first": _reproduce_first,
    "test_first": _test_first,
    "through_tests": _through_tests,
    "whole": _whole,
    "traceback": _traceback,
}
