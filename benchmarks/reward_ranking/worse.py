"""The worse half of a pair: an action that looks like the expert's and is wrong. None where a rule does not apply."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from benchmarks.reward_ranking import better, harmless
from benchmarks.reward_ranking.corpus import Surroundings, root, rootless
from benchmarks.reward_ranking.forms import (
    Call,
    Delete,
    Replace,
    Run,
    Search,
    Substitute,
    Tests,
    View,
    Window,
    Write,
    unquoted,
)
from env_server.schema import Action

FLIPS = (
    (" == ", " != "), (" != ", " == "), (" is not None", " is None"), (" is None", " is not None"),
    (" not in ", " in "), (" not ", " "), (" <= ", " > "), (" >= ", " < "), (" < ", " >= "), (" > ", " <= "),
    ("True", "False"), ("False", "True"), (" + ", " - "), (" - ", " + "), (" and ", " or "), (" or ", " and "),
)  # fmt: skip
_CODE = re.compile(r"[=()\[\]:]")


@dataclass(frozen=True)
class Context:
    """What a rule draws from: chance, the rest of the run, and an action of a run on another repository."""

    rng: random.Random
    around: Surroundings
    foreign: Action
    labels: list[str]
    """Test labels of the same runner in other runs."""


def wrong_file(call: Call, context: Context) -> Action | None:
    """The same call on another file that the run touched: of the same kind, a test for a test."""
    path = harmless.target(call.form)
    if not path or isinstance(call.form, Tests):
        return wrong_tests(call, context)
    name = rootless(path)
    suffix = name.rpartition(".")[2]
    known = [f for f in context.around.files if f.endswith(f".{suffix}") and not _same(f, name)]
    alike = [f for f in known if _is_test(f) == _is_test(name) and (("/" in f) == ("/" in name))]
    return harmless.with_path(call, root(path) + context.rng.choice(alike)) if alike else None


def wrong_tests(call: Call, context: Context) -> Action | None:
    """The same runner on other tests: another test file of the run, or another label of the same runner."""
    if not isinstance(call.form, Tests) or not call.is_shell:
        return None
    old = call.form.targets[0]
    file, _, test = old.partition("::")
    if file.endswith(".py"):
        files = [f for f in context.around.files if f.endswith(".py") and _is_test(f) and not _same(f, rootless(file))]
        new = root(file) + context.rng.choice(files) if files else ""
    else:
        labels = [label for label in context.labels if label.split(".")[0] != old.split(".")[0]]
        new = context.rng.choice(labels) if labels else ""
    return call.say(call.body.replace(old, new + (f"::{test}" if test else ""), 1)) if new else None


def wrong_pattern(call: Call, context: Context) -> Action | None:
    """The same search for something else that the run searched for."""
    if not isinstance(call.form, Search):
        return None
    sought = unquoted(call.form.pattern).lower()
    others = [p for p in context.around.patterns if not _overlap(sought, unquoted(p).lower())]
    return call.say(call.body.replace(call.form.pattern, context.rng.choice(others), 1)) if others else None


def inverted_search(call: Call, context: Context) -> Action | None:
    """One more flag: every line that does not match."""
    if not isinstance(call.form, Search) or any(re.fullmatch(r"-\w*[vlL]\w*", f) for f in call.form.flags):
        return None
    if not call.body.startswith("grep "):
        return None
    bundle = re.match(r"grep -([rniEw]+) ", call.body)
    return call.say(f"grep -{bundle[1]}v {call.body[bundle.end() :]}" if bundle else f"grep -v {call.body[5:]}")


def wrong_lines(call: Call, context: Context) -> Action | None:
    """The same call far away in the same file: no line in common."""
    form, far = call.form, context.rng.choice((400, 1000, 2000))
    if isinstance(form, View) and form.first is not None and form.last is not None:
        return better.window(call, form.first + far, form.last + far) if far > form.last - form.first else None
    if isinstance(form, Substitute) and form.line:
        return call.say(call.body.replace(f"'{form.line}s", f"'{int(form.line) + far}s", 1))
    if isinstance(form, Delete):
        last = f",{form.last + far}" if f",{form.last}" in call.body else ""
        return call.say(re.sub(r"\d+(?:,\d+)?d'", f"{form.first + far}{last}d'", call.body, count=1))
    if isinstance(form, Window):
        return call.say(re.sub(r"\d+:\d+", f"{form.first + far}:{form.last + far}", call.body, count=1))
    return None


def wrong_change(call: Call, context: Context) -> Action | None:
    """The right place, and one condition, constant or sign of the new text turned round."""
    form = call.form
    if isinstance(form, Replace):
        kept = set(form.old.split("\n"))
        new = _flip(form.new, skip=kept)
        return call.edited(new_str=new) if new and new != form.old else None
    if isinstance(form, Substitute):
        new = _flip(form.new, skip=set())
        return (
            call.say(call.body.replace(form.new, new, 1))
            if new and form.new not in form.old and new != form.old
            else None
        )
    if isinstance(form, Window):
        new = _flip(form.text, skip=set())
        return call.say(call.body.replace(form.text, new, 1)) if new else None
    return None


def wrong_token(call: Call, context: Context) -> Action | None:
    """One condition, constant or sign of a written file turned round."""
    form = call.form
    if isinstance(form, Write) and form.path.endswith(".py"):
        new = _flip(form.text, skip=set())
        if new and call.is_shell:
            return call.say(call.body.replace(form.text, new, 1))
        return call.edited(file_text=new) if new else None
    return wrong_change(call, context)


def no_effect(call: Call, context: Context) -> Action | None:
    """The right place, exchanged for what stands there already."""
    form = call.form
    if isinstance(form, Replace):
        return call.edited(new_str=form.old) if form.new.strip() != form.old.strip() else None
    if isinstance(form, Substitute) and not re.search(r"[.*\[\]\\^$&]", form.old.replace(".", "")):
        return call.say(
            call.body.replace(
                f"{form.delimiter}{form.new}{form.delimiter}", f"{form.delimiter}{form.old}{form.delimiter}", 1
            )
        )
    return None


def truncated(call: Call, context: Context) -> Action | None:
    """The new text without its last 20 to 60 percent, cut in the middle of a line."""
    form = call.form
    share = context.rng.uniform(0.4, 0.8)
    if isinstance(form, Replace):
        return call.edited(new_str=form.new[: int(share * len(form.new))]) if len(form.new) > 80 else None
    text = form.text if isinstance(form, Write | Window) else ""
    if len(text) <= 80:
        return None
    cut = text[: int(share * len(text))]
    return call.say(call.body.replace(text, cut, 1)) if call.is_shell else call.edited(file_text=cut)


def destructive(call: Call, context: Context) -> Action | None:
    """Where the expert looks at a file of the repository, that file or its lines are lost."""
    if not call.is_shell or not isinstance(call.form, View | Search):
        return None
    path = harmless.target(call.form)
    if not path.endswith(".py") or "/" not in rootless(path):
        return None
    ways = [f"rm {path}", f"rm -rf {path.rpartition('/')[0]}", f"git rm -f {path}", f"> {path}"]
    if isinstance(call.form, View) and call.form.first is not None:
        ways += [f"sed -i '{call.form.first},{call.form.last}d' {path}"] * 3
    return call.say(context.rng.choice(ways), tail="")


def wrong_tool(call: Call, context: Context) -> Action | None:
    """The right file, another deed: read for run, overwritten for edited or looked at."""
    form = call.form
    if isinstance(form, Run):
        return call.say(context.rng.choice([f"cat {form.path}", f"rm {form.path}", f"ls -la {form.path}"]), tail="")
    if isinstance(form, Replace):
        ways = [{"command": "view", "path": form.path}, {"command": "create", "path": form.path, "file_text": form.new}]
        return Action(name=call.action.name, arguments=context.rng.choice(ways))
    if isinstance(form, Tests) and form.targets[0].endswith(".py"):
        return call.say(f"cat {form.targets[0]}", tail="")
    if isinstance(form, Write) and call.is_shell and re.match(r"cat[^\n]*>", call.body):
        return call.say(f"cat {form.path}")
    return None


def unrelated(call: Call, context: Context) -> Action | None:
    """An action of a run on another repository."""
    return context.foreign


def after_the_same_prefix(call: Call, context: Context) -> Action | None:
    """`cd X && ` as the expert has it or might, then something else."""
    if not call.is_shell:
        return None
    prefix = call.prefix or "cd /testbed && "
    body = context.rng.choice(["git status", "ls", "pwd", "git log --oneline -5", "ls -la"])
    return call.say(body, prefix=prefix, tail="") if body != call.body else None


def _flip(text: str, *, skip: set[str]) -> str:
    """`text` with the first condition, constant or sign outside comments and unchanged lines turned round, or empty."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        code = line.partition("#")[0]
        if line in skip or '"' in code or "'" in code or not _CODE.search(code) or "import" in code:
            continue
        for old, new in FLIPS:
            if old in code:
                lines[number] = line.replace(old, new, 1)
                return "\n".join(lines)
    return ""


def _is_test(path: str) -> bool:
    return "test" in path.rpartition("/")[2] or "/tests/" in path


def _same(left: str, right: str) -> bool:
    """One path may be the end of the other: the same file from another folder."""
    return left == right or left.endswith(f"/{right}") or right.endswith(f"/{left}")


def _overlap(left: str, right: str) -> bool:
    """Patterns that may find the same lines."""
    words = set(re.findall(r"\w{3,}", left)) - {"def", "class", "import", "self"}
    return left in right or right in left or any(w in right for w in words)
