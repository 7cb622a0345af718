"""The better half of a pair: an action that an engineer takes for the expert's, or for a near miss of it in the right
place.

Each function gives None where it does not apply. The harmless rewrites of `harmless` belong here too.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from benchmarks.reward_ranking import harmless
from benchmarks.reward_ranking.forms import (
    Call,
    Delete,
    ListDir,
    Replace,
    Run,
    Search,
    Substitute,
    Tests,
    View,
    Window,
    Write,
    raw_words,
)
from env_server.schema import Action

REMARK = "# keep in step with the tests"
_LINE_START = re.compile(r"\n*(?:[ \t]+\S|def |class |from |import |@)")
"""A text that begins where a line does: a line of remark may go before it."""


def other_reader(call: Call, rng: random.Random) -> Action | None:
    """The same lines of the same file through another reader."""
    if not isinstance(call.form, View) or not call.is_shell:
        return None
    path, first, last = call.form.path, call.form.first, call.form.last
    if first is None:
        bodies = [f"cat {path}", f"cat -n {path}", f"nl -ba {path}"]
    else:
        lines = f"sed -n '{first},{last}p'"
        bodies = [f"{lines} {path}", f"nl -ba {path} | {lines}", f"cat -n {path} | {lines}", f"cat {path} | {lines}"]
        bodies.append(f"head -n {last} {path}" + (f" | tail -n +{first}" if first > 1 else ""))
    return call.say(rng.choice([b for b in bodies if b != call.body]))


def plain_search(call: Call, rng: random.Random) -> Action | None:
    """`cat F | grep P` and `grep P F` are the same search."""
    if not isinstance(call.form, Search) or len(call.form.paths) != 1:
        return None
    flags, path = [*call.form.flags], call.form.paths[0]
    if call.body.startswith("cat "):
        return call.say(" ".join(["grep", *flags, call.form.pattern, path]))
    if any(f.startswith(("-r", "-R", "-l", "--include")) or "r" in f[:3] for f in flags) or "." not in path[1:]:
        return None
    return call.say(f"cat {path} | " + " ".join(["grep", *flags, call.form.pattern]))


def other_runner(call: Call, rng: random.Random) -> Action | None:
    """Another way to start the same script or the same tests."""
    if isinstance(call.form, Run):
        return call.say(_swap_python(call.body))
    if not isinstance(call.form, Tests):
        return None
    runner = call.form.runner
    if runner.endswith("pytest"):
        others = [r for r in ("pytest", "python -m pytest", "python3 -m pytest") if r != runner]
    elif runner.endswith("runtests.py"):
        script = runner.split()[-1].removeprefix("./")
        others = [r for r in (f"./{script}", f"python {script}", f"python3 {script}") if r != runner]
    else:
        others = ["python bin/test"]
    return call.say(call.body.replace(runner, rng.choice(others), 1))


def more_output(call: Call, rng: random.Random) -> Action | None:
    """The same tests told to say more, or all of the test's file."""
    if not isinstance(call.form, Tests) or not call.form.runner.endswith("pytest"):
        return None
    if "::" in call.body:
        return call.say(re.sub(r"(\.py)(?:::[\w\[\]-]+)+", r"\1", call.body))
    return call.say(f"{call.body} {'-v' if '-v' not in call.form.flags else '-x'}")


def wider_window(call: Call, rng: random.Random) -> Action | None:
    """All of the expert's lines and a few on each side."""
    if not isinstance(call.form, View) or call.form.first is None or call.form.last is None:
        return None
    span = call.form.last - call.form.first + 1
    before, after = rng.randint(1, max(2, span // 10)), rng.randint(1, max(3, span // 8))
    return window(call, max(1, call.form.first - before), call.form.last + after)


def same_file_elsewhere(call: Call, rng: random.Random) -> Action | None:
    """The right file by the right tool, other lines or with more around each hit: related, not the same."""
    if isinstance(call.form, View) and call.form.first is not None and call.form.last is not None:
        span = call.form.last - call.form.first + 1
        return window(call, call.form.last + span, call.form.last + 2 * span)
    if isinstance(call.form, Search) and not call.tail and not any(f[1:2] in "ABCl" for f in call.form.flags):
        words = raw_words(call.body)
        return call.say(" ".join([*words, "-A 5"])) if words and words[0] == "grep" else None
    return None


def search_with_context(call: Call, rng: random.Random) -> Action | None:
    """The same search with a few lines around each hit."""
    return same_file_elsewhere(call, rng) if isinstance(call.form, Search) else None


def other_expression(call: Call, rng: random.Random) -> Action | None:
    """The same sed edit with another delimiter or written as an expression."""
    if isinstance(call.form, Delete):
        return call.say(call.body.replace("sed -i ", "sed -i -e ", 1))
    if not isinstance(call.form, Substitute):
        return None
    form, texts = call.form, call.form.old + call.form.new
    free = [d for d in "|#@" if d not in texts and d != form.delimiter]
    if not free or "\\/" in texts or "\\|" in texts:
        return call.say(call.body.replace("sed -i ", "sed -i -e ", 1)) if "-e " not in call.body else None
    d = free[0]
    return call.say(f"sed -i '{form.line}s{d}{form.old}{d}{form.new}{d}{form.flags}' {form.path}")


def less_context(call: Call, rng: random.Random) -> Action | None:
    """The same change with fewer unchanged lines around it; where there are none to spare, with a remark added."""
    if not isinstance(call.form, Replace):
        return None
    old, new = call.form.old.split("\n"), call.form.new.split("\n")
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    keep = 0 if len("\n".join(old[start : len(old) - end]).strip()) >= 30 else 1
    start, end = max(0, start - keep), max(0, end - keep)
    trimmed = old[start : len(old) - end], new[start : len(new) - end]
    if (start or end) and "".join(trimmed[0]).strip():
        return call.edited(old_str="\n".join(trimmed[0]), new_str="\n".join(trimmed[1]))
    return with_remark(call, rng)


def with_remark(call: Call, rng: random.Random) -> Action | None:
    """The whole of a written text and one remark more. Python only."""
    form = call.form
    if isinstance(form, Replace) and form.path.endswith(".py") and _LINE_START.match(form.old):
        indent = re.match(r"\n*[ \t]*", form.new)[0]  # type: ignore[index]
        return call.edited(new_str=f"{indent}{REMARK}\n{indent.lstrip(chr(10))}{form.new[len(indent) :]}")
    if isinstance(form, Window) and call.is_shell and _ends_a_line(form.text):
        return call.shell(call.prefix + re.sub(r"\nend_of_edit\s*\Z", f"  {REMARK}\nend_of_edit", call.body))
    if isinstance(form, Write) and form.path.endswith(".py"):
        if call.is_shell:
            return call.say(re.sub(r"\nEOF\s*\Z", f"\n\n{REMARK}\nEOF", call.body))
        return call.edited(file_text=form.text.rstrip("\n") + f"\n\n{REMARK}\n")
    return None


def blank_lines(call: Call, rng: random.Random) -> Action | None:
    """Empty lines at the end and trailing blanks; the code is the same."""
    form = call.form
    if isinstance(form, Write) and form.path.endswith(".py"):
        if call.is_shell:
            return call.say(re.sub(r"\n(\n?)EOF\s*\Z", r"  \n\n\n\1EOF", call.body))
        return call.edited(file_text=form.text + "  \n\n\n")
    if isinstance(form, Replace) and form.path.endswith(".py") and _ends_a_line(form.new):
        lines = [
            f"{line}  " if i % 2 and line.strip() and not line.endswith("\\") else line
            for i, line in enumerate(form.new.split("\n"))
        ]
        return call.edited(new_str="\n".join(lines)) if "\n".join(lines) != form.new and '"""' not in form.new else None
    return None


def other_tool(call: Call, rng: random.Random) -> Action | None:
    """The same view or the same new file through the other kind of tool."""
    form = call.form
    if isinstance(form, View):
        if call.is_shell:
            area = {} if form.first is None else {"view_range": [form.first, form.last]}
            path = form.path if form.path.startswith("/") else f"{harmless.WORKDIR}/{form.path.removeprefix('./')}"
            return Action(name="str_replace_editor", arguments={"command": "view", "path": path, **area})
        if form.path.endswith((".py", ".rst", ".txt", ".md", ".cfg", ".toml")):
            return call.shell(_reader(form))
    if isinstance(form, Write):
        if call.is_shell:
            path = form.path if form.path.startswith("/") else f"{harmless.WORKDIR}/{form.path.removeprefix('./')}"
            arguments = {"command": "create", "path": path, "file_text": f"{form.text}\n"}
            return Action(name="str_replace_editor", arguments=arguments)
        newline = "" if form.text.endswith("\n") else "\n"
        return call.shell(f"cat > {form.path} <<'EOF'\n{form.text.removeprefix(chr(10))}{newline}EOF")
    return None


def other_prefix(call: Call, rng: random.Random) -> Action | None:
    """Noise in front: a folder entered or not, a limit, an environment variable, a shell option."""
    if not call.is_shell or not isinstance(call.form, View | Search | Run | Tests | ListDir):
        return None
    python = isinstance(call.form, Run | Tests) and call.body.startswith(("python", "pytest"))
    noise = [
        "cd /testbed && ",
        "set -e; ",
        *(["PYTHONPATH=. ", "timeout 300 ", "PYTHONUNBUFFERED=1 "] if python else []),
    ]
    if call.prefix:
        noise = ["", "cd /testbed; "]
    return call.say(call.body, prefix=rng.choice(noise))


def harmless_pipe(call: Call, rng: random.Random) -> Action | None:
    """What only prints, through a pipe that changes nothing or little."""
    if not call.is_shell or call.tail or not isinstance(call.form, View | Search | Run | Tests | ListDir):
        return None
    return call.say(
        call.body, tail=rng.choice([" | head -100", " 2>&1", " | cat", " 2>&1 | tail -50", " 2>&1 | head -100"])
    )


def safe_look(call: Call, rng: random.Random) -> Action | None:
    """Another harmless look near the file: less than the expert's, and nothing is lost."""
    if not call.is_shell or not isinstance(call.form, View | Search):
        return None
    path = harmless.target(call.form)
    folder = path.rpartition("/")[0] or "."
    return call.say(rng.choice([f"ls -la {folder}", f"head -n 20 {path}", f"git log --oneline -5 -- {path}"]), tail="")


def plain(rewrite: Callable[[Call], Action | None]) -> Callable[[Call, random.Random], Action | None]:
    """A harmless rewrite as the better half of a pair."""

    def better(call: Call, rng: random.Random) -> Action | None:
        return rewrite(call)

    better.__name__ = rewrite.__name__
    return better


def _swap_python(body: str) -> str:
    return "python" + body.removeprefix("python3") if body.startswith("python3 ") else "python3" + body[len("python") :]


def window(call: Call, first: int, last: int) -> Action | None:
    """The same view of other lines."""
    form = call.form
    assert isinstance(form, View)
    if not call.is_shell:
        given = call.action.arguments.get("view_range")
        return call.edited(view_range=f"[{first}, {last}]" if isinstance(given, str) else [first, last])
    if call.body.startswith("head "):
        return call.say(re.sub(r"\d+", str(last), call.body, count=1)) if first == 1 else None
    body = re.sub(r"\d+(?:,\d+)?p", f"{first},{last}p", call.body, count=1)
    return call.say(body)


def _reader(form: View) -> str:
    return f"cat -n {form.path}" + ("" if form.first is None else f" | sed -n '{form.first},{form.last}p'")


def _common(left: list[str], right: list[str]) -> int:
    """Lines equal at the start, at most all but one of the shorter."""
    n = 0
    while n < min(len(left), len(right)) - 1 and left[n] == right[n]:
        n += 1
    return n


def _ends_a_line(text: str) -> bool:
    """Whether a remark may follow the last line: it is code, and no text or continuation."""
    last = text.rstrip("\n").rpartition("\n")[2].rstrip()
    return bool(last) and last[-1] not in "\\'\"" and "#" not in last and '"""' not in text
