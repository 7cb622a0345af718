"""A pytest plugin that runs inside the sandbox: writes down which calls a test makes into the package, and what
comes out.

Loaded with `-p`; needs nothing but pytest and the standard library, on the sandbox's Python. Configured by the variable
AGENT_SRL_TRACE: JSON with `tests` and `modules` (files, relative to the working folder), `edited` ([file, qualified
name] pairs) and `out`. Left out: generators and coroutines, whose outcome is not one value.
"""

from __future__ import annotations

import datetime
import decimal
import dis
import fractions
import inspect
import json
import os
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

CONFIG = json.loads(os.environ["AGENT_SRL_TRACE"])
HERE = Path.cwd()
OUT = Path(CONFIG["out"]).open("a")  # noqa: SIM115 - opened early: a test may replace `open`
TESTS = {str(HERE / file) for file in CONFIG["tests"]}
MODULES = {str(HERE / file) for file in CONFIG["modules"]} - TESTS
EDITED = {(str(HERE / file), name) for file, name in CONFIG["edited"]}
MAX_CALLS = 400
MAX_REPR = 300
SUSPENDS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
SELF_MADE = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, fractions.Fraction)
"""Their `repr` is code, once the module is imported."""


class Recorder:
    """The calls of one test."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.distance: int | None = None
        self.open: dict[types.FrameType, dict[str, Any]] = {}
        self.made: dict[int, tuple[object, str]] = {}
        """id -> object (kept alive) and the code that makes it."""

    def trace(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        file = frame.f_code.co_filename
        if event != "call" or file not in MODULES:
            return None
        if (file, frame.f_code.co_qualname) in EDITED:
            self.measure(frame)
        if "<locals>" in frame.f_code.co_qualname:
            return None  # a decorator's wrapper: what it wraps is the call that a reader knows
        caller = frame.f_back
        while caller is not None and caller.f_code.co_filename in MODULES and "<locals>" in caller.f_code.co_qualname:
            caller = caller.f_back
        direct = caller is not None and caller.f_code.co_filename in TESTS
        if not direct or frame.f_code.co_flags & SUSPENDS or len(self.calls) >= MAX_CALLS:
            return None
        if frame.f_code.co_name.startswith("<"):
            return None
        frame.f_trace_lines = False
        self.open[frame] = self.begin(frame)
        return self.outcome

    def measure(self, frame: types.FrameType) -> None:
        """Frames between the test and an edited function; the shortest way counts."""
        depth, current = 0, frame.f_back
        while current is not None and current.f_code.co_filename not in TESTS:
            depth, current = depth + 1, current.f_back
        if current is not None:
            self.distance = depth if self.distance is None else min(depth, self.distance)

    def begin(self, frame: types.FrameType) -> dict[str, Any]:
        values = inspect.getargvalues(frame)
        arguments = [(name, values.locals[name]) for name in values.args]
        star = list(values.locals.get(values.varargs, ())) if values.varargs else []
        extra = dict(values.locals.get(values.keywords, {})) if values.keywords else {}
        call: dict[str, Any] = {
            "name": frame.f_code.co_qualname,
            "module": frame.f_globals.get("__name__", ""),
        }
        bound = arguments[0][1] if arguments and arguments[0][0] in ("self", "cls") else None
        self.describe(call, frame, bound, arguments, star, extra)
        return call

    def describe(
        self,
        call: dict[str, Any],
        frame: types.FrameType,
        bound: Any,
        arguments: list[tuple[str, Any]],
        star: list[Any],
        extra: dict[str, Any],
    ) -> None:
        """`text` is what a reader sees, `code` is what runs or None; both without the outcome."""
        code = frame.f_code
        name = code.co_name
        if bound is not None:
            arguments = arguments[1:]
        only_positional = code.co_argcount - (bound is not None)
        defaults = self.defaults(frame, bound)
        words, skipped = [], False
        for key, value in arguments[:only_positional]:
            if not star and key in defaults and same(defaults[key], value):
                skipped = True  # most likely not given
                continue
            prefix, made = f"{key}=" if skipped else "", self.code(value)
            words.append((prefix + text(value), None if made is None else prefix + made))
        words += [(text(value), self.code(value)) for value in star]
        for key, value in [*arguments[only_positional:], *extra.items()]:
            if key in defaults and same(defaults[key], value):
                continue
            made = self.code(value)
            words.append((f"{key}={text(value)}", None if made is None else f"{key}={made}"))
        shown, target = self.target(frame, bound, name)
        inner = ", ".join(word for word, _ in words)
        call["text"] = f"{shown}({inner})" if target != "property" else shown
        whole = [made for _, made in words]
        call["code"] = None
        if target and target != "property" and None not in whole:
            call["code"] = f"{target}({', '.join(w for w in whole if w is not None)})"
        call["self"] = bound if name == "__init__" else None

    def defaults(self, frame: types.FrameType, bound: Any) -> dict[str, Any]:
        owner = bound if isinstance(bound, type) else type(bound)
        found = getattr(owner, frame.f_code.co_name, None) if bound is not None else None
        found = found or frame.f_globals.get(frame.f_code.co_name)
        try:
            parameters = inspect.signature(found).parameters if found is not None else {}
        except (TypeError, ValueError):
            return {}
        return {k: p.default for k, p in parameters.items() if p.default is not inspect.Parameter.empty}

    def target(self, frame: types.FrameType, bound: Any, name: str) -> tuple[str, str | None]:
        """How the callee is written: for a reader, and in code (None if it cannot be)."""
        module = frame.f_globals.get("__name__", "")
        if bound is None:
            place = public_place(module, frame.f_code.co_qualname)
            return (place or f"{module}.{frame.f_code.co_qualname}"), place
        if name == "__init__":
            place = public_place(type(bound).__module__, type(bound).__qualname__)
            return (place or type(bound).__qualname__), place
        if isinstance(bound, type):
            place = public_place(bound.__module__, bound.__qualname__)
            return f"{place or bound.__qualname__}.{name}", place and f"{place}.{name}"
        made = self.code(bound)
        shown = made if made is not None and len(made) < 120 else text(bound)
        if isinstance(getattr(type(bound), name, None), property):
            return f"{shown}.{name}", "property"
        if name == "__call__":
            return shown, made
        return f"{shown}.{name}", None if made is None else f"{made}.{name}"

    def code(self, value: Any, depth: int = 0) -> str | None:
        """Code that makes an equal value, or None."""
        if depth > 4:
            return None
        if id(value) in self.made and self.made[id(value)][0] is value:
            return self.made[id(value)][1]
        kind = type(value)
        if value is None or kind in (bool, int, float, str, bytes, complex):
            plain = repr(value)
            return plain if len(plain) < 2000 and plain not in ("nan", "inf", "-inf") else None
        if kind in (list, tuple, set, frozenset):
            parts = [self.code(item, depth + 1) for item in list(value)[:50]]
            return None if None in parts or len(value) > 50 else sequence(kind, [p for p in parts if p is not None])
        if kind is dict:
            pairs = [(self.code(k, depth + 1), self.code(v, depth + 1)) for k, v in list(value.items())[:50]]
            return None if any(None in p for p in pairs) else "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + "}"
        if isinstance(value, SELF_MADE) and kind.__module__ in ("datetime", "decimal", "fractions"):
            plain = repr(value)
            return plain if kind.__module__ == "datetime" else f"{kind.__module__}.{plain}"
        if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
            return public_place(value.__module__ or "", value.__qualname__)
        return None

    def outcome(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        """The local trace function of a direct call: only its end matters."""
        if event == "exception":
            self.open[frame]["raised"] = arg
        elif event == "return" and frame in self.open:
            call = self.open.pop(frame)
            raised = call.pop("raised", None)
            made = call.pop("self")
            if arg is None and raised is not None and not returned(frame):
                call["outcome"] = ["raises", raised[0].__name__, text(str(raised[1]))]
            else:
                result = made if made is not None else arg
                call["outcome"] = ["returns", type(result).__name__, text(result)]
                if call["code"] is not None and type(result).__module__ in packages():
                    self.made.setdefault(id(result), (result, call["code"]))
            self.calls.append(call)
        return self.outcome


def sequence(kind: type, parts: list[str]) -> str:
    inner = ", ".join(parts)
    if kind is list:
        return f"[{inner}]"
    if kind is tuple:
        return f"({inner},)" if len(parts) == 1 else f"({inner})"
    return f"{kind.__name__}([{inner}])" if kind is frozenset or not parts else f"{{{inner}}}"


def packages() -> set[str]:
    """Modules of the package that are loaded now."""
    return {name for name, module in list(sys.modules.items()) if getattr(module, "__file__", None) in MODULES}


def public_place(module: str, qualname: str) -> str | None:
    """The shortest module path under which the object is reachable, such as `pkg.f` for `pkg._impl.f`."""
    if module == "builtins":
        return qualname
    if "<locals>" in qualname or module not in sys.modules:
        return None
    target = reach(module, qualname)
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        place = ".".join(parts[:end])
        if target is not None and not parts[end - 1].startswith("_") and reach(place, qualname) is target:
            return f"{place}.{qualname}"
    return f"{module}.{qualname}" if target is not None else None


def reach(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return getattr(found, "__func__", found)


def same(left: Any, right: Any) -> bool:
    return left is right or (
        type(left) is type(right) and isinstance(left, int | str | float | bytes) and left == right
    )


def returned(frame: types.FrameType) -> bool:
    """Whether the frame ended with a `return`, not with an exception passing through."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN")


def text(value: Any) -> str:
    """A bounded `repr` without memory addresses."""
    try:
        plain = repr(value)
    except Exception as error:
        plain = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    plain = re.sub(r" at 0x[0-9a-fA-F]+", "", plain)
    return plain if len(plain) <= MAX_REPR else plain[: MAX_REPR - 3] + "..."


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """Trace one test and append its calls to the output."""
    recorder = Recorder()
    sys.settrace(recorder.trace)
    try:
        return (yield)
    finally:
        sys.settrace(None)
        row = {"test": item.nodeid, "calls": recorder.calls, "distance": recorder.distance}
        OUT.write(json.dumps(row) + "\n")
        OUT.flush()
