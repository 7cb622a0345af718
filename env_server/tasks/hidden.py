"""Take failing tests out of test files, as text: the functions with their decorators and comments, nothing else.

Left out: tests that are made at run time or inherited from another file; such a test has no function to take out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from env_server.errors import TaskError

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def without_tests(source: bytes, tests: Iterable[str]) -> bytes:
    """A test file without the functions of some tests.

    Args:
        source: the test file, UTF-8.
        tests: what follows the file in a pytest id: `test_x`, `TestA::test_x` or `test_x[1-2]`.

    Raises:
        TaskError: a test has no function in this file, or the file would not parse any more.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise TaskError(f"a test file does not parse: {error}") from None
    doomed = {_find(tree, test.split("[")[0].split("::")): None for test in tests}
    blocks = [body for node in ast.walk(tree) for body in _blocks(node)]
    lines = source.splitlines(keepends=True)
    removed: set[int] = set()
    for body in blocks:
        gone = [node for node in body if node in doomed]
        for node in gone:
            first, last = _range(node, lines)
            removed.update(range(first, last))
            if len(gone) == len(body) and node is gone[-1]:
                indent = lines[node.lineno - 1][: node.col_offset]
                lines[first] = indent + b"pass\n"
                removed.discard(first)
    changed = b"".join(line for number, line in enumerate(lines) if number not in removed)
    try:
        ast.parse(changed)
    except SyntaxError as error:
        raise TaskError(f"a test file does not parse once its failing tests are out: {error}") from None
    return changed


def function_of(test: str) -> str:
    """The id of the function behind a test id: without the parameters."""
    return test.split("[")[0]


def _blocks(node: ast.AST) -> list[list[ast.stmt]]:
    found = [getattr(node, name, None) for name in ("body", "orelse", "finalbody")]
    return [block for block in found if isinstance(block, list) and block and isinstance(block[0], ast.stmt)]


def _find(tree: ast.Module, path: list[str]) -> ast.stmt:
    """The function of a test: in its class, or in a base class of the same file."""
    scope: ast.AST = tree
    for position, name in enumerate(path):
        last = position == len(path) - 1
        node = _member(tree, scope, name, _Function if last else ast.ClassDef)
        if node is None:
            raise TaskError(f"test {'::'.join(path)} has no function of its own")
        scope = node
    assert isinstance(scope, ast.stmt)
    return scope


def _member(tree: ast.Module, scope: ast.AST, name: str, kind: type | object) -> ast.AST | None:
    direct = [
        node
        for node in _statements(scope)
        if isinstance(node, kind) and getattr(node, "name", "") == name  # type: ignore[arg-type]
    ]
    if direct:
        return direct[-1]
    for base in scope.bases if isinstance(scope, ast.ClassDef) else ():
        parent = _member(tree, tree, base.id, ast.ClassDef) if isinstance(base, ast.Name) else None
        if parent not in (None, scope) and (found := _member(tree, parent, name, kind)):
            return found
    return None


def _statements(scope: ast.AST) -> list[ast.stmt]:
    """Statements of a block and of the `if`, `try` and `with` blocks in it."""
    found: list[ast.stmt] = []
    todo = [node for block in _blocks(scope) for node in block]
    while todo:
        node = todo.pop(0)
        found.append(node)
        if isinstance(node, ast.If | ast.Try | ast.With):
            todo += [child for block in _blocks(node) for child in block]
    return found


def _range(node: ast.stmt, lines: list[bytes]) -> tuple[int, int]:
    """First line and the one after the last, from 0: decorators, the comment above and the blank lines below
    included."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1
    while first > 0 and lines[first - 1].lstrip().startswith(b"#") and _indent(lines[first - 1]) == node.col_offset:
        first -= 1
    assert node.end_lineno is not None
    last = node.end_lineno
    while last < len(lines) and not lines[last].strip():
        last += 1
    return first, last


def _indent(line: bytes) -> int:
    return len(line) - len(line.lstrip())
