"""A pytest plugin that runs inside the sandbox: writes down which functions of the package each test calls.

Loaded with `-p`; configured by the variable AGENT_SRL_COVER: JSON with `modules` (files, relative to the working
folder) and `out`. Calls outside any test (imports, collection) are under the empty test id. Left out: other threads.
"""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

CONFIG = json.loads(os.environ["AGENT_SRL_COVER"])
FILES = {str(Path.cwd() / file): file for file in CONFIG["modules"]}
OUT = Path(CONFIG["out"]).open("w")  # noqa: SIM115 - opened early: a test may replace `open`
CALLED: dict[str, set[types.CodeType]] = {"": set()}
current = CALLED[""]


def trace(frame: types.FrameType, event: str, arg: Any) -> None:
    """Called for every new frame; returning None keeps lines untraced."""
    code = frame.f_code
    if code not in current and code.co_filename in FILES:
        current.add(code)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    """Switch to the set of this test, fixtures included."""
    global current
    current = CALLED.setdefault((item.nodeid.split() or [""])[0], set())
    sys.settrace(trace)
    try:
        return (yield)
    finally:
        current = CALLED[""]


def pytest_unconfigure() -> None:
    """Write it all: test id -> [file, qualified name] pairs."""
    sys.settrace(None)
    rows = {test: sorted((FILES[c.co_filename], c.co_qualname) for c in codes) for test, codes in CALLED.items()}
    json.dump(rows, OUT)
    OUT.close()


sys.settrace(trace)
