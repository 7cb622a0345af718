"""Which bugs can be planted in a package: every edit of `edits` that leaves valid code, and no copy of the old code.

Left out: whether a test notices (`make`).
"""

from __future__ import annotations

import ast
import functools
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from env_server.tasks.edits import KINDS, Scope, Text

MAX_TEXT_BYTES = 1024 * 1024
"""Larger files are data; they are not searched for copies."""
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Edit:
    """One planted mistake: bytes `start` to `end` of `file` become `text`."""

    file: str
    kind: str
    function: str
    """Qualified name, as in `code.co_qualname`."""
    function_lines: int
    start: int
    end: int
    text: bytes


def candidates(file: str, source: bytes) -> list[Edit]:
    """Every edit of the functions of one module. Whether it leaves valid code is left to `is_change`, which is slow.

    Args:
        file: its path, kept in the edits.
        source: UTF-8 text; anything else has no candidates.
    """
    try:
        source.decode()
        tree = ast.parse(source)
    except (UnicodeDecodeError, SyntaxError, ValueError):
        return []
    text = Text(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found: dict[tuple[int, int, bytes], Edit] = {}
    for name, function in _functions(tree, ""):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        scope = Scope(text, _locals(function), parents)
        for node in _own_nodes(function):
            for kind, mutations in KINDS.items():
                for span in mutations(node, scope):
                    edit = Edit(file, kind, name, lines, span.start, span.end, span.text)
                    found.setdefault((span.start, span.end, span.text), edit)
    return list(found.values())


def is_change(source: bytes, edit: Edit) -> bool:
    """Whether the edit leaves valid code that means something else."""
    try:
        return ast.dump(ast.parse(splice(source, [edit]))) != ast.dump(ast.parse(source))
    except (SyntaxError, ValueError):
        return False


def splice(source: bytes, edits: Sequence[Edit]) -> bytes:
    """Apply edits of one file; they must not overlap."""
    for edit in sorted(edits, key=lambda e: e.start, reverse=True):
        source = source[: edit.start] + edit.text + source[edit.end :]
    return source


def overlap(edits: Sequence[Edit]) -> bool:
    """Whether two edits touch or adjoin each other."""
    ordered = sorted(edits, key=lambda e: (e.file, e.start))
    return any(a.file == b.file and b.start <= a.end for a, b in pairwise(ordered))


class Copies:
    """Tells which functions stand a second time in what an agent can see.

    Args:
        tree: path -> content of every file of the package.
        site_packages: of the environment that the agent sees.
    """

    def __init__(self, tree: Mapping[str, bytes], site_packages: Path) -> None:
        self._tree = tree
        self._texts = [
            *(text for text in tree.values() if _is_text(text)),
            *_python_files(str(site_packages)),
        ]
        self._texts += _standard_library()
        self._unique: dict[tuple[str, str], bool] = {}
        self._squeezed: dict[int, str] = {}

    def unique(self, edit: Edit) -> bool:
        """Whether the function's text stands nowhere else: in the tree, a dependency, the standard library."""
        key = (edit.file, edit.function)
        if key not in self._unique:
            needles = _function_texts(self._tree[edit.file], edit.function)
            self._unique[key] = bool(needles) and all(self._count(needle) == 1 for needle in needles)
        return self._unique[key]

    def _count(self, needle: str) -> int:
        head = needle.partition("(")[0].encode()
        return sum(self._squeeze(i).count(needle) for i, text in enumerate(self._texts) if head in text)

    def _squeeze(self, index: int) -> str:
        if index not in self._squeezed:
            self._squeezed[index] = _squeeze(self._texts[index])
        return self._squeezed[index]


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, _Function]]:
    """Functions and methods with their qualified names; what runs only under `__main__` or a type checker is left
    out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
            yield from _functions(child, f"{prefix}{child.name}.<locals>.")
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        elif not (isinstance(child, ast.If) and any(w in ast.dump(child.test) for w in ("__main__", "TYPE_CHECKING"))):
            yield from _functions(child, prefix)


def _own_nodes(function: _Function) -> Iterator[ast.AST]:
    """Nodes of the body and the defaults; not annotations, f-strings, nested functions or classes."""
    yield function.args
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.JoinedStr):
            continue
        yield node
        if isinstance(node, ast.AnnAssign):
            todo += [child for child in (node.value,) if child is not None]
        else:
            todo.extend(ast.iter_child_nodes(node))


def _locals(function: _Function) -> dict[str, int]:
    every = function.args
    names = [*every.posonlyargs, *every.args, *every.kwonlyargs]
    found = {argument.arg: function.lineno - 1 for argument in names}
    for node in _own_nodes(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found[node.id] = min(node.lineno, found.get(node.id, node.lineno))
    return found


def _function_texts(source: bytes, name: str) -> list[str]:
    """The text of every function of that name: overloads and `if` branches make more than one."""
    text = Text(source)
    return [_squeeze(text.of(node)) for found, node in _functions(ast.parse(source), "") if found == name]


def _is_text(content: bytes) -> bool:
    return len(content) <= MAX_TEXT_BYTES and b"\0" not in content


def _squeeze(content: bytes) -> str:
    """Without indentation and blank lines, so that a copy inside a class or a document is found too."""
    lines = (line.strip() for line in content.decode(errors="replace").splitlines())
    return "\n".join(line for line in lines if line)


@functools.lru_cache(maxsize=4)
def _python_files(folder: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(folder).rglob("*.py"))]


@functools.cache
def _standard_library() -> list[bytes]:
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "ensurepip"}
    files = [p for p in sorted(root.rglob("*.py")) if not skipped & set(p.relative_to(root).parts)]
    return [path.read_bytes() for path in files]
