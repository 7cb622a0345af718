"""Python that edits files: `open(PATH)`, `.replace(OLD, NEW)`, `.write(...)`, read off its syntax tree."""

from __future__ import annotations

import ast

from agent_srl.rewards.reading.intents import Change, Intent, places

_MAX_CODE = 20_000
_MAX_EDITS = 20


def scripted_edits(text: str, folder: str) -> list[Intent]:
    """Replacements in a file, or a file whose text is given; an empty list for any other code."""
    if ".write" not in text or len(text) > _MAX_CODE:
        return []
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []
    script = _Script()
    for node in ast.walk(tree):
        script.read(node)
    if not script.path or not script.writes:
        return []
    targets = places([script.path], folder)
    if script.changes:
        return [Intent("edit", targets=targets, change=change) for change in script.changes[:_MAX_EDITS]]
    whole = "".join(script.written)
    return [Intent("create", targets=targets, change=Change(whole))] if whole else []


class _Script:
    """What the calls of a script say. `ast.walk` meets the assignments of the module before the calls in them."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.path = ""
        self.changes: list[Change] = []
        self.writes = False
        self.written: list[str] = []

    def read(self, node: ast.AST) -> None:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self.names[name] = self._text(value) or ""
            case ast.Call(func=ast.Attribute(attr=called) | ast.Name(id=called), args=args):
                self._call(called, [self._text(argument) for argument in args])

    def _call(self, called: str, given: list[str | None]) -> None:
        match called, given:
            case "open" | "Path", [str(path), *_] if not self.path:
                self.path = path
            case ("replace", [str(old), str(new), *_]) | ("sub", [str(old), str(new), _, *_]) if old:
                self.changes.append(Change(new, old))
            case "write" | "write_text" | "writelines", _:
                self.writes = True
                self.written += [text for text in given[:1] if text]

    def _text(self, node: ast.expr) -> str | None:
        """The string that an expression is, where it is a constant or a name of one."""
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.Name(id=name):
                return self.names.get(name)
        return None
