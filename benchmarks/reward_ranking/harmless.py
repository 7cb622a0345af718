"""Rewrites that change how an action is written and not what it does. None where a rewrite does not apply.

They make the better half of many triples and, applied to the expert's own held-out actions, show what a reward takes
away for style alone. Two are harmless by a small margin and are named so that a reader can discount them: `| head
-100` can hide the end of a long output, and `2>&1` adds messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from agent_srl.data.actions import SUBMIT_COMMAND
from benchmarks.reward_ranking.corpus import root
from benchmarks.reward_ranking.forms import (
    Call,
    Form,
    ListDir,
    Run,
    Search,
    Tests,
    View,
    Write,
    raw_words,
)
from env_server.schema import Action

WORKDIR = "/testbed"
_BUNDLE = re.compile(r"-[rniElwHoRvh]{2,}")
"""Of flags of grep that take no value."""
_SINGLE = re.compile(r"-[rniElwHoRvh]")


def target(form: Form | None) -> str:
    """The path that a form is about; empty where there is none."""
    match form:
        case Search(paths=paths):
            return paths[-1]
        case Tests(targets=targets):
            return targets[0] if "/" in targets[0] or targets[0].endswith(".py") else ""
        case None:
            return ""
    return str(getattr(form, "path", ""))


def with_path(call: Call, path: str) -> Action | None:
    """The same action on another path."""
    old = target(call.form)
    if not old or old == path:
        return None
    if not call.is_shell:
        return call.edited(path=path)
    count = 1 if isinstance(call.form, Write) else 0
    body, found = re.subn(rf"(?<![\w./-]){re.escape(old)}(?![\w/-]|\.\w)", lambda _: path, call.body, count=count)
    return call.say(body) if found else None


def cd_prefix(call: Call) -> Action | None:
    """Enter the working folder first, or leave that out where the expert does it."""
    if not call.is_shell or call.body.startswith("cd ") or SUBMIT_COMMAND in call.body:
        return None
    if call.prefix:
        return call.say(call.body, prefix="") if call.prefix == f"cd {WORKDIR} && " else None
    return call.say(call.body, prefix=f"cd {WORKDIR} && ")


def dot_slash(call: Call) -> Action | None:
    """`a/b.py` becomes `./a/b.py`."""
    path = target(call.form)
    if not call.is_shell or not path or path.startswith((".", "/", "*")) or not re.match(r"[\w-]", path):
        return None
    return with_path(call, f"./{path}")


def absolute_path(call: Call) -> Action | None:
    """`a/b.py` becomes `/testbed/a/b.py`. Only where no other folder is entered first."""
    path = target(call.form)
    if not path or root(path) or not re.match(r"[\w-]", path) or call.prefix not in ("", f"cd {WORKDIR} && "):
        return None
    return with_path(call, f"{WORKDIR}/{path}")


def quotes(call: Call) -> Action | None:
    """Other quotes around a pattern, or quotes around a path."""
    if not call.is_shell:
        return None
    if isinstance(call.form, Search):
        pattern = call.form.pattern
        inner = pattern[1:-1] if pattern[0] in "\"'" else pattern
        if not inner or re.search(r"[\"'$`\\!]", inner):
            return None
        other = f"'{inner}'" if pattern[0] == '"' else f'"{inner}"'
        return call.say(call.body.replace(pattern, other, 1))
    if isinstance(call.form, View | Run):
        return with_path(call, f'"{call.form.path}"')
    return None


def flag_order(call: Call) -> Action | None:
    """Flags split, merged, in reverse order or after the targets."""
    match call.form:
        case Search(flags=flags) if call.is_shell and call.body.startswith("grep "):
            new = _other_order(flags)
            return call.say(" ".join(["grep", *new, call.form.pattern, *call.form.paths])) if new else None
        case ListDir(flags=flags, path=path) if len(flags) > 2 and re.fullmatch(r"-\w+", flags):
            return call.say(f"ls -{flags[:0:-1]} {path}")
        case Tests(runner=runner, flags=flags, targets=targets) if flags and call.is_shell:
            flags_last = call.say(" ".join([runner, *targets, *flags]))
            return flags_last if flags_last != call.action else call.say(" ".join([runner, *flags, *targets]))
    return None


def head_pipe(call: Call) -> Action | None:
    """` | head -100` after what only prints."""
    return call.say(call.body, tail=" | head -100") if _prints(call) and not call.tail else None


def stderr(call: Call) -> Action | None:
    """` 2>&1` after what only prints, or left out before a pipe."""
    if not _prints(call):
        return None
    if not call.tail:
        return call.say(call.body, tail=" 2>&1")
    return call.say(call.body, tail=call.tail.replace(" 2>&1", "")) if "2>&1 |" in call.tail else None


def extra_spaces(call: Call) -> Action | None:
    """Two spaces for one between words, and one at the end."""
    words = raw_words(call.body) if call.is_shell else None
    return call.say("  ".join(words), tail=call.tail + " ") if words and len(words) > 1 else None


def final_newline(call: Call) -> Action | None:
    """One more empty line at the end of a written file."""
    if not isinstance(call.form, Write):
        return None
    if not call.is_shell:
        return call.edited(file_text=call.form.text.rstrip("\n") + "\n\n")
    return call.say(re.sub(r"\nEOF\s*\Z", "\n\nEOF", call.body))


HARMLESS: dict[str, Callable[[Call], Action | None]] = {
    "cd prefix added or dropped": cd_prefix,
    "./ before a path": dot_slash,
    "absolute path": absolute_path,
    "other quotes": quotes,
    "flags reordered": flag_order,
    "| head -100": head_pipe,
    "2>&1": stderr,
    "extra spaces": extra_spaces,
    "final empty line": final_newline,
}


def rewrites(call: Call) -> dict[str, Action]:
    """Every harmless rewrite that applies and changes something."""
    found = {name: rewrite(call) for name, rewrite in HARMLESS.items()}
    return {name: action for name, action in found.items() if action is not None and action != call.action}


def _prints(call: Call) -> bool:
    return call.is_shell and isinstance(call.form, View | Search | Run | Tests | ListDir)


def _other_order(flags: tuple[str, ...]) -> list[str]:
    """Bundles split in reverse; several single letters merged into one bundle; else reversed. Empty if nothing
    changes."""
    if any(_BUNDLE.fullmatch(f) for f in flags):
        return [part for f in flags for part in ([f"-{c}" for c in f[:0:-1]] if _BUNDLE.fullmatch(f) else [f])]
    singles = [f for f in flags if _SINGLE.fullmatch(f)]
    if len(singles) > 1:
        return ["-" + "".join(f[1] for f in reversed(singles)), *[f for f in flags if f not in singles]]
    return list(reversed(flags)) if len(flags) > 1 else []
