"""A command line as pipelines of simple commands, by tree-sitter's grammar of bash. Any text is read; nothing raises.

Only the order and the joints of commands are kept (`|` against `&&`, `||`, `;`): loops, conditions and subshells give
their commands in order. What the grammar cannot read is split at spaces. The first `MAX_BYTES` and
`MAX_COMMANDS` are read.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from functools import cache

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

MAX_BYTES = 40_000
MAX_COMMANDS = 100
_MAX_DEPTH = 60
_MAX_CHECKS = 150
"""Of the parser's progress, counted and not timed, so that a score is the same everywhere. No real action took 100."""
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED_IN_QUOTES = re.compile(r'\\([$`"\\\n])')
_ANSI = {"\\n": "\n", "\\t": "\t", "\\'": "'", "\\\\": "\\"}
_FALSE, _TRUE = re.compile(r"\s*(?:false|!\s*true)\s*"), re.compile(r"\s*(?:true|:|!\s*false)\s*")
_OPPOSITES = {"true": "false", "false": "true"}
_NEVER = {"if": _FALSE, "while": _FALSE, "until": _TRUE}
_JOINTS = frozenset({"|", "|&", "&&", "||", ";", "&", ";;", "\n"})


@dataclass
class Command:
    """A simple command: its words without quotes, where it writes, what is fed to it."""

    words: list[str] = field(default_factory=list)
    writes: list[tuple[str, str]] = field(default_factory=list)
    """(`>` or `>>`, path); streams and /dev/null are left out."""
    stdin: str | None = None
    """Of a here-document or here-string."""
    joint: str = ";"
    """What stands before it: `|`, `&&`, `||` or `;`."""
    hidden: bool = False
    """Inside a command substitution."""


def read_commands(text: str) -> list[list[Command]]:
    """The pipelines of a command line, in order; an empty list where there is no command."""
    reader = _Reader()
    root = _parse(text.encode("utf-8", errors="replace")[:MAX_BYTES])
    if root is not None:
        reader.visit(root, 0)
    if not any(command.words or command.writes for command in reader.commands):
        reader.commands = [Command(_split(text))] if text.strip() else []
    pipelines: list[list[Command]] = []
    for command in reader.commands:
        if command.joint == "|" and pipelines and not command.hidden:
            pipelines[-1].append(command)
        else:
            pipelines.append([command])
    return pipelines


@cache
def _bash() -> Language:
    return Language(tree_sitter_bash.language())


def _parse(source: bytes) -> Node | None:
    """The tree, or None if it takes too long: pipelines of hundreds of programs are quadratic in the grammar.

    A parser of its own for every call: one must not be shared by threads.
    """
    checks = 0

    def too_long(*_: object) -> bool:
        nonlocal checks
        checks += 1
        return checks > _MAX_CHECKS

    try:
        return Parser(_bash()).parse(lambda at, _: source[at:], progress_callback=too_long).root_node
    except ValueError:
        return None


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text[:MAX_BYTES])
    except ValueError:
        return text[:MAX_BYTES].split()


class _Reader:
    """Collects commands in the order of the text, not by nesting: the grammar reads `a && b | c` as `(a && b) | c`."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.joint = ";"
        self.hidden = False
        self.functions: dict[str, Node | None] = {}
        """Bodies by name; None once read, so that no script calls itself for ever."""

    def visit(self, node: Node, depth: int) -> None:
        if depth > _MAX_DEPTH or len(self.commands) >= MAX_COMMANDS:
            return
        match node.type:
            case "command" | "declaration_command" | "unset_command" | "test_command":
                self._command(node, depth)
            case "variable_assignment":
                self._add(Command(["export", _text(node)]))
                self._substitutions(node, depth)
            case "file_redirect":
                self._redirect(node)
            case "heredoc_redirect" | "herestring_redirect":
                self._feed(node, depth)
            case "comment" | "heredoc_body":
                pass
            case "program":
                for child in node.children:
                    self.visit(child, depth + 1)
                    if child.type == "command" and _text(child).split()[:1] == ["exit"]:
                        break
            case "negated_command" if _text(node.children[-1]) in _OPPOSITES:
                self._add(Command([_OPPOSITES[_text(node.children[-1])]]))
            case "function_definition":
                self.functions[_text(node.children_by_field_name("name")[0])] = node.child_by_field_name("body")
            case "if_statement" | "while_statement" if _never(node):
                self._otherwise(node, depth)
            case kind if kind in _JOINTS:
                self.joint = "|" if kind == "|&" else kind
            case _:
                for child in node.children:
                    self.visit(child, depth + 1)

    def _add(self, command: Command) -> None:
        command.joint, command.hidden, self.joint = self.joint, self.hidden, ";"
        self.commands.append(command)

    def _otherwise(self, node: Node, depth: int) -> None:
        """What runs where the condition is known to be false."""
        for child in node.children:
            if child.type in ("elif_clause", "else_clause"):
                self.visit(child, depth + 1)

    def _command(self, node: Node, depth: int) -> None:
        name = _text(node.children[0]) if node.children else ""
        if name in self.functions:
            body, self.functions[name] = self.functions[name], None
            if body is not None:
                self.visit(body, depth + 1)
            return
        parts = [
            c for c in node.children if c.type not in ("variable_assignment", "file_redirect", "herestring_redirect")
        ]
        only_assigns = not parts or node.type == "declaration_command"
        self._add(Command(["export"] if only_assigns else [word(part) for part in parts]))
        for child in node.children:
            if child.type in ("file_redirect", "herestring_redirect"):
                self.visit(child, depth + 1)
        self._substitutions(node, depth)

    def _substitutions(self, node: Node, depth: int) -> None:
        """Commands inside words run too."""
        if depth > _MAX_DEPTH:
            return
        for child in node.children:
            if child.type in ("command_substitution", "process_substitution"):
                outer, self.hidden = self.hidden, True
                self.visit(child, depth + 1)
                self.hidden = outer
            elif child.child_count:
                self._substitutions(child, depth + 1)

    def _last(self) -> Command:
        if not self.commands or self.joint != ";":
            self._add(Command())
        return self.commands[-1]

    def _redirect(self, node: Node) -> None:
        kinds = [child.type for child in node.children]
        target = word(node.children[-1]) if node.children else ""
        sign = next((k for k in kinds if k in (">", ">>", ">|", "&>", "&>>")), None)
        if sign is None or target.startswith("/dev/") or target.startswith("&"):
            return
        self._last().writes.append((">>" if sign.endswith(">>") else ">", target))

    def _feed(self, node: Node, depth: int) -> None:
        command = self._last()
        for child in node.children:
            if child.type == "heredoc_body":
                command.stdin = _text(child)
            elif node.type == "herestring_redirect" and child.type != "<<<":
                command.stdin = word(child)
            elif child.type == "file_redirect":
                self._redirect(child)
        for child in node.children:
            if child.type not in ("heredoc_body", "file_redirect"):
                self.visit(child, depth + 1)


def _never(node: Node) -> bool:
    """`if false` and `while ! true`: a body that never runs."""
    condition = node.child_by_field_name("condition")
    return condition is not None and _NEVER[_text(node.children[0])].fullmatch(_text(condition)) is not None


def word(node: Node) -> str:
    """A word as the program sees it: quotes and escapes gone, expansions as written."""
    text = _text(node)
    match node.type:
        case "raw_string":
            return text[1:-1]
        case "string":
            return _ESCAPED_IN_QUOTES.sub(lambda m: "" if m[1] == "\n" else m[1], text[1:-1])
        case "ansi_c_string":
            return re.sub(r"\\[nt'\\]", lambda m: _ANSI[m[0]], text[2:-1])
        case "concatenation" | "command_name":
            return "".join(word(child) for child in node.children) or text
        case "word":
            return _ESCAPED.sub(r"\1", text)
        case _:
            return text


def _text(node: Node) -> str:
    return (node.text or b"").decode("utf-8", errors="replace")
