"""Kinds of planted bugs: each turns one syntax node into small, plausible mistakes. Pure functions of the syntax tree.

An edit replaces a span of the source, so the formatting around it stays. Left out: choosing among them (`mutate`), and
edits inside f-strings, whose positions Python 3.11 does not know.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """Bytes `start` to `end` of the source become `text`."""

    start: int
    end: int
    text: bytes


class Text:
    """Source bytes, with the byte offsets of syntax nodes."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def offset(self, line: int, column: int) -> int:
        """Of a position; lines count from 1, columns are bytes."""
        return self._lines[line - 1] + column

    def line_start(self, line: int) -> int:
        """Offset of the first byte of a line."""
        return self._lines[line - 1]

    def span(self, node: ast.AST) -> tuple[int, int]:
        """First byte of a node and the one after its last."""
        assert isinstance(node, ast.expr | ast.stmt | ast.excepthandler)
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def of(self, node: ast.AST) -> bytes:
        """The source of a node."""
        start, end = self.span(node)
        return self.source[start:end]

    def replace(self, node: ast.AST, text: bytes) -> Span:
        """The edit that puts `text` in place of a node."""
        return Span(*self.span(node), text)

    def between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> Iterator[Span]:
        """The edit that changes an operator between two operands."""
        start, end = self.span(left)[1], self.span(right)[0]
        gap = self.source[start:end]
        if b"#" not in gap and (match := re.search(old.encode(), gap)):
            yield Span(start + match.start(), start + match.end(), new.encode())


@dataclass(frozen=True)
class Scope:
    """What a kind may know of the function around a node."""

    text: Text
    locals: dict[str, int]
    """Parameters and variables of the function -> first line where each is bound."""
    parents: dict[ast.AST, ast.AST]


Kind = Callable[[ast.AST, Scope], Iterator[Span]]

_BOUNDARY = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">")}
_FLIP = {
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: (r"\bin\b", "not in"),
    ast.NotIn: (r"\bnot\s+in\b", "in"),
    ast.Is: (r"\bis\b", "is not"),
    ast.IsNot: (r"\bis\s+not\b", "is"),
}
_ARITHMETIC = {
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: (r"\*", "+"),
    ast.FloorDiv: ("//", "*"),
    ast.Div: ("/", "*"),
    ast.Mod: ("%", "//"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: (r"\|", "&"),
}
_SIBLINGS = [
    ("min", "max"),
    ("any", "all"),
    ("startswith", "endswith"),
    ("lstrip", "rstrip"),
    ("lower", "upper"),
    ("keys", "values"),
    ("find", "rfind"),
    ("index", "rindex"),
    ("split", "rsplit"),
    ("partition", "rpartition"),
    ("ljust", "rjust"),
    ("floor", "ceil"),
    ("issubclass", "isinstance"),
    ("match", "search"),
    ("union", "intersection"),
]
_SIBLING = dict(_SIBLINGS) | {b: a for a, b in _SIBLINGS}


def comparison_boundary(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """`a < b` becomes `a <= b`."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _BOUNDARY:
        yield from scope.text.between(node.left, node.comparators[0], *_BOUNDARY[type(node.ops[0])])


def comparison_flip(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """`a == b` becomes `a != b`, `in` becomes `not in`, `is` becomes `is not`."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _FLIP:
        yield from scope.text.between(node.left, node.comparators[0], *_FLIP[type(node.ops[0])])


def boolean_operator(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """`a and b` becomes `a or b`; with three operands only one place changes."""
    if isinstance(node, ast.BoolOp):
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from scope.text.between(left, right, rf"\b{old}\b", new)


def arithmetic_operator(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """`a + b` becomes `a - b`, and so on; never on text, where it would only raise."""
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        if not any(_is_text(side) for side in (node.left, node.right)):
            yield from scope.text.between(node.left, node.right, *_ARITHMETIC[type(node.op)])
    elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub) and not _is_text(node.value):
        old, new = (r"\+=", "-=") if isinstance(node.op, ast.Add) else ("-=", "+=")
        yield from scope.text.between(node.target, node.value, old, new)


def negated_condition(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """`if x` becomes `if not x`."""
    if isinstance(node, ast.If | ast.IfExp) and not _is_not(node.test):
        test = scope.text.of(node.test)
        simple = isinstance(node.test, ast.Name | ast.Attribute | ast.Call)
        yield scope.text.replace(node.test, b"not " + test if simple else b"not (" + test + b")")


def removed_not(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """`not x` becomes `x`."""
    if isinstance(node, ast.UnaryOp) and _is_not(node):
        yield scope.text.replace(node, scope.text.of(node.operand))


def off_by_one(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """A whole number grows or shrinks by one."""
    parent = scope.parents.get(node)
    if isinstance(node, ast.Constant) and type(node.value) is int and not isinstance(parent, ast.Slice | ast.arguments):
        yield scope.text.replace(node, str(node.value + 1).encode())
        if node.value > 0:
            yield scope.text.replace(node, str(node.value - 1).encode())


def slice_bound(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """`a[i:]` becomes `a[i + 1:]`, `a[:n]` becomes `a[:n - 1]`."""
    if not isinstance(node, ast.Slice):
        return
    for bound, step in ((node.lower, 1), (node.upper, -1)):
        if bound is None:
            continue
        if isinstance(bound, ast.Constant) and type(bound.value) is int:
            yield scope.text.replace(bound, str(bound.value + step).encode())
        elif isinstance(bound, ast.Name | ast.Attribute | ast.Call):
            sign = b" + 1" if step > 0 else b" - 1"
            yield scope.text.replace(bound, scope.text.of(bound) + sign)


def swapped_branches(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """The bodies of `if` and `else` change places."""
    if isinstance(node, ast.IfExp):
        body, other = scope.text.span(node.body), scope.text.span(node.orelse)
    elif isinstance(node, ast.If) and node.orelse and not _has_elif(node, scope):
        body = scope.text.span(node.body[0])[0], scope.text.span(node.body[-1])[1]
        other = scope.text.span(node.orelse[0])[0], scope.text.span(node.orelse[-1])[1]
    else:
        return
    source = scope.text.source
    swapped = source[slice(*other)] + source[body[1] : other[0]] + source[slice(*body)]
    yield Span(body[0], other[1], swapped)


def dropped_guard(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """`if ...: return` (or raise, continue, break) goes away."""
    leaves = ast.Return | ast.Raise | ast.Continue | ast.Break
    if isinstance(node, ast.If) and not node.orelse and len(node.body) == 1 and isinstance(node.body[0], leaves):
        yield from _drop(node, scope)


def swapped_arguments(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """`f(a, b)` becomes `f(b, a)`."""
    if not isinstance(node, ast.Call):
        return
    for left, right in zip(node.args, node.args[1:], strict=False):
        first, second = scope.text.of(left), scope.text.of(right)
        if first != second and not any(isinstance(side, ast.Starred | ast.GeneratorExp) for side in (left, right)):
            gap = scope.text.source[scope.text.span(left)[1] : scope.text.span(right)[0]]
            yield Span(scope.text.span(left)[0], scope.text.span(right)[1], second + gap + first)


def changed_default(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """A parameter's default value changes."""
    if not isinstance(node, ast.arguments):
        return
    for default in [*node.defaults, *node.kw_defaults]:
        if isinstance(default, ast.Constant):
            if isinstance(default.value, bool):
                yield scope.text.replace(default, str(not default.value).encode())
            elif type(default.value) is int:
                yield scope.text.replace(default, str(default.value + 1).encode())
            elif isinstance(default.value, str):
                yield from _shorter(default, scope)


def wrong_variable(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """A variable is taken for another one of the same function."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in scope.locals:
        if isinstance(parent := scope.parents.get(node), ast.Call) and parent.func is node:
            return
        others = [n for n, line in scope.locals.items() if n != node.id and line < node.lineno]
        for name in sorted(others, key=lambda n: (n in ("self", "cls"), abs(len(n) - len(node.id)), n))[:2]:
            if name not in ("self", "cls") and node.id not in ("self", "cls"):
                yield scope.text.replace(node, name.encode())


def dropped_statement(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """A call, an update or a second assignment goes away."""
    if (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await)) or isinstance(node, ast.AugAssign):
        yield from _drop(node, scope)
    elif isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        known = isinstance(target, ast.Name) and scope.locals.get(target.id, node.lineno) < node.lineno
        if known or isinstance(target, ast.Subscript):
            yield from _drop(node, scope)


def string_constant(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """A text constant loses its last character, or changes case."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) <= 40:
        parent = scope.parents.get(node)
        if not isinstance(parent, ast.Expr | ast.arguments | ast.JoinedStr) and not _inside_raise(node, scope):
            yield from _shorter(node, scope)


def boolean_constant(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """`True` becomes `False` and the other way round."""
    elsewhere = not isinstance(scope.parents.get(node), ast.arguments | ast.While)
    if elsewhere and isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield scope.text.replace(node, str(not node.value).encode())


def loop_exit(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """`continue` becomes `break`; in a `for` loop, `break` becomes `continue`."""
    if isinstance(node, ast.Continue):
        yield scope.text.replace(node, b"break")
    elif isinstance(node, ast.Break) and isinstance(_loop(node, scope), ast.For):
        yield scope.text.replace(node, b"continue")


def sibling_function(node: ast.AST, scope: Scope) -> Iterator[Span]:
    """A function is taken for its neighbour: `min` for `max`, `lstrip` for `rstrip`."""
    if not isinstance(node, ast.Call):
        return
    if isinstance(node.func, ast.Name) and node.func.id in ("min", "max", "any", "all"):
        yield scope.text.replace(node.func, _SIBLING[node.func.id].encode())
    elif isinstance(node.func, ast.Attribute) and node.func.attr in _SIBLING:
        end = scope.text.span(node.func)[1]
        yield Span(end - len(node.func.attr.encode()), end, _SIBLING[node.func.attr].encode())


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        comparison_boundary,
        comparison_flip,
        boolean_operator,
        arithmetic_operator,
        negated_condition,
        removed_not,
        off_by_one,
        slice_bound,
        swapped_branches,
        dropped_guard,
        swapped_arguments,
        changed_default,
        wrong_variable,
        dropped_statement,
        string_constant,
        boolean_constant,
        loop_exit,
        sibling_function,
    )
}


def _is_not(node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr | ast.List) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def _has_elif(node: ast.If, scope: Scope) -> bool:
    return isinstance(node.orelse[0], ast.If) and scope.text.of(node.orelse[0]).startswith(b"elif")


def _inside_raise(node: ast.AST, scope: Scope) -> bool:
    current: ast.AST | None = node
    while current is not None and not isinstance(current, ast.stmt):
        current = scope.parents.get(current)
    return isinstance(current, ast.Raise | ast.Assert)


def _loop(node: ast.AST, scope: Scope) -> ast.AST | None:
    current: ast.AST | None = node
    while current is not None and not isinstance(current, ast.For | ast.While | ast.AsyncFor):
        current = scope.parents.get(current)
    return current


def _drop(node: ast.stmt, scope: Scope) -> Iterator[Span]:
    """Delete whole lines; a block that would be left empty keeps `pass`."""
    start, end = scope.text.span(node)
    line_start = scope.text.line_start(node.lineno)
    assert node.end_lineno is not None
    after = scope.text.line_start(node.end_lineno + 1)
    alone = not scope.text.source[line_start:start].strip() and not scope.text.source[end:after].strip()
    parent = scope.parents.get(node)
    blocks = [getattr(parent, name, None) for name in ("body", "orelse", "finalbody")]
    block = next((b for b in blocks if isinstance(b, list) and node in b), [node])
    documented = isinstance(block[0], ast.Expr) and isinstance(block[0].value, ast.Constant)
    if alone and len(block) > 1 + documented:
        yield Span(line_start, after, b"")
    else:
        yield Span(start, end, b"pass")


def _shorter(node: ast.Constant, scope: Scope) -> Iterator[Span]:
    """Change a plain one-line text literal: drop its last character, or flip the case of a single one."""
    source = scope.text.of(node)
    match = re.fullmatch(rb"""([rRbBuU]{0,2})(['"])([^\\\n'"]+)\2""", source)
    if match is None:
        return
    try:
        inner = match[3].decode()
    except UnicodeDecodeError:
        return
    changed = inner[:-1] if len(inner) > 1 else inner.swapcase()
    yield scope.text.replace(node, match[1] + match[2] + (changed if changed != inner else "").encode() + match[2])
