"""What the service needs from a kind of task, whatever the kind; and task files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from env_server.errors import TaskError
from env_server.schema import Action, Observation, Task, Verdict


class Attempt(Protocol):
    """One attempt at one task: what its actions do and how it is judged.

    The session around it counts steps, keeps the lease, and lets one call run at a time.
    """

    tools: tuple[dict[str, Any], ...]
    """OpenAI function schemas."""

    async def act(self, action: Action) -> Observation:
        """Carry out an action; `done` if it ends the attempt. Raises SandboxError if the sandbox is lost."""
        ...

    async def evaluate(self) -> Verdict:
        """Judge what was done so far. Raises SandboxError if the sandbox is lost."""
        ...

    async def close(self) -> None:
        """Let go of everything. Idempotent; ends an action that is running."""
        ...


def load_tasks(path: Path) -> list[Task]:
    """The tasks of a file: one JSON object per line, or one JSON list; plain SWE-bench rows are fine.

    Raises:
        TaskError: the file is missing, unreadable or empty, a row is broken (named by its line, or its place in
            the list), or two rows share an `instance_id`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise TaskError(f"no such file: {path}; make one with `agent-srl tasks make --out DIR`") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise TaskError(f"cannot read {path}: {reason}; give a JSONL file of tasks") from None
    tasks: dict[str, Task] = {}
    for where, row in _rows(text, path):
        task = _task(row, where)
        if task.instance_id in tasks:
            raise TaskError(f"{where}: a second task is called {task.instance_id}; remove one")
        tasks[task.instance_id] = task
    if not tasks:
        raise TaskError(f"{path} holds no task; make some with `agent-srl tasks make --out DIR`")
    return list(tasks.values())


def _rows(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    if text.lstrip().startswith("["):
        rows = _parsed(text, str(path))
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows, start=1))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", _parsed(line, f"{path}:{number}")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more digits than Python takes
        raise TaskError(f"{where}: not JSON ({error}); mend or remove the line") from None


def _task(row: Any, where: str) -> Task:
    try:
        return Task.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the row"
        raise TaskError(f"{where}: {field}: {first['msg']}; mend or remove the line") from None
    except RecursionError:
        raise TaskError(f"{where}: JSON in a column is nested too deeply; mend or remove the line") from None
