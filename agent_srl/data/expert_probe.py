"""What the expert finds out about a repository before it starts; this file runs inside the sandbox.

It is sent as text and uses the standard library alone. It answers: which function holds each edit, which
name of the issue leads there and over which calls, how many lines a file has, and which old text is unique
for each edit.

Left out: types, so a method is known by its bare name.
"""

from __future__ import annotations

import ast
import json
import keyword
import re
import sys
from collections import deque
from pathlib import Path
from typing import Any

Definition = dict[str, Any]
"""name, owner (class or empty), path, line, end, kind (def, class or constant), calls."""

MAX_HOPS = 4
MAX_HITS = 12


def definitions(root: Path) -> list[Definition]:
    """Every function, class and module constant outside of tests."""
    found: list[Definition] = []
    for file in sorted(root.rglob("*.py")):
        path = file.relative_to(root).as_posix()
        if is_test(path) or path.startswith((".", "docs/", "build/")) or path in ("setup.py", "conftest.py"):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, OSError):
            continue
        found += _of_body(tree.body, path, "")
    return found


def is_test(path: str) -> bool:
    """Whether a path looks like tests."""
    return bool(re.search(r"(^|/)(tests?|testing)/|(^|/)(test_[^/]*|[^/]*_test|tests?|conftest)\.py$", path))


def _of_body(body: list[ast.stmt], path: str, owner: str) -> list[Definition]:
    found: list[Definition] = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(_definition(node.name, owner, path, node, "def", _used_names(node)))
        elif isinstance(node, ast.ClassDef):
            inner = _of_body(node.body, path, node.name)
            calls = [d["name"] for d in inner] + [b.id for b in node.bases if isinstance(b, ast.Name)]
            found.append(_definition(node.name, owner, path, node, "class", calls))
            found += inner
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            found += [_definition(name, owner, path, node, "constant", _used_names(node)) for name in names]
        elif isinstance(node, ast.If | ast.Try):
            found += _of_body([*node.body, *node.orelse], path, owner)
    return found


def _definition(name: str, owner: str, path: str, node: ast.stmt, kind: str, calls: list[str]) -> Definition:
    line, end = node.lineno, node.end_lineno or node.lineno
    return {
        "name": name,
        "owner": owner,
        "path": path,
        "line": line,
        "end": end,
        "kind": kind,
        "calls": calls,
    }


def _used_names(node: ast.AST) -> list[str]:
    names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
    return names + [n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)]


def enclosing(found: list[Definition], path: str, line: int) -> Definition | None:
    """The innermost definition around a line."""
    around = [d for d in found if d["path"] == path and d["line"] <= line <= d["end"]]
    return max(around, key=lambda d: int(d["line"]), default=None)


def route(found: list[Definition], named: list[str], goal: Definition) -> list[Definition]:
    """The shortest way over calls from a named definition to the goal, or the first named and the goal."""
    by_name: dict[str, list[Definition]] = {}
    for definition in found:
        by_name.setdefault(definition["name"], []).append(definition)
    starts = [d for name in named for d in by_name.get(name, [])]
    seen = {id(d) for d in starts}
    queue = deque([d] for d in starts)
    while queue:
        way = queue.popleft()
        if way[-1] is goal:
            return way
        if len(way) > MAX_HOPS:
            continue
        for name in way[-1]["calls"]:
            candidates = by_name.get(name, [])
            near = [d for d in candidates if d["path"] == way[-1]["path"]] or candidates
            for definition in near:
                if id(definition) not in seen:
                    seen.add(id(definition))
                    queue.append([*way, definition])
    return [*starts[:1], goal]


def unique_edit(text: str, start: int, old: list[str], new: list[str]) -> tuple[str, str]:
    """Whole lines around an edit until their text occurs once. `start` counts from 0."""
    lines = text.split("\n")
    first, last = start, start + len(old)
    while True:
        block = "\n".join(lines[first:last])
        anchored = bool(new) or last - first > len(old)  # else an empty line would stay behind
        if anchored and block.strip() and text.count(block) == 1:
            after = "\n".join([*lines[first:start], *new, *lines[start + len(old) : last]])
            return block, after
        if first == 0 and last >= len(lines):
            raise ValueError("the edit cannot be told from the rest of the file")
        above, below = start - first, last - start - len(old)
        blank = first > 0 and not lines[first - 1].strip()
        if first > 0 and (last >= len(lines) or above + blank <= below):
            first -= 1
        else:
            last += 1


def telling_word(text: str, block: str, named: list[str]) -> str:
    """A name in the block that a search in its file would find with few other hits; those of the issue first."""
    words = [word for word in dict.fromkeys(re.findall(r"[A-Za-z_]\w{3,}", block)) if not keyword.iskeyword(word)]
    counts = {word: len(re.findall(rf"\b{word}\b", text)) for word in words}
    few = [word for word in words if counts[word] <= MAX_HITS]
    return min(few, key=lambda word: (word not in named, counts[word]), default="")


def probe(root: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Answer `edits`, [path, start from 0, old lines, new lines] in file order, and `named`."""
    found = definitions(root)
    texts: dict[str, str] = {}
    shifts: dict[str, int] = {}
    edits = []
    for path, start, old, new in request["edits"]:
        text = texts.setdefault(path, (root / path).read_text(encoding="utf-8"))
        before, after = unique_edit(text, start + shifts.get(path, 0), old, new)
        texts[path] = text.replace(before, after, 1)
        shifts[path] = shifts.get(path, 0) + len(new) - len(old)
        word = telling_word(text, before, request["named"])
        edits.append({"path": path, "old": before, "new": after, "word": word})
    path, start, old, _ = request["edits"][0]
    goal = enclosing(found, path, start + (1 if old else 0)) or {
        **_definition("", "", path, ast.Pass(lineno=start + 1, end_lineno=start + 1), "constant", []),
    }
    way = route(found, request["named"], goal)
    return {
        "edits": edits,
        "way": [{k: v for k, v in d.items() if k != "calls"} for d in way],
        "homonyms": {d["name"]: sum(o["name"] == d["name"] for o in found) for d in way},
        "lengths": {d["path"]: (root / d["path"]).read_text(encoding="utf-8").count("\n") for d in way},
        "places": [_place(found, edit) for edit in request["edits"]],
    }


def _place(found: list[Definition], edit: list[Any]) -> dict[str, Any]:
    holder = enclosing(found, edit[0], edit[1] + 1)
    keys = ("name", "owner", "line", "end", "kind")
    return {key: holder[key] for key in keys} if holder else dict.fromkeys(keys, "") | {"line": 1, "end": 1}


if __name__ == "__main__":
    print(json.dumps(probe(Path.cwd(), json.loads(sys.argv[1]))))
