"""Trajectories to files: ATIF (canonical), OpenAI chat with tools, SWE-smith XML.

What a target cannot hold is lost; `LOST` says what. A step that is no target is marked by `weight: 0`, as in OpenAI's
fine-tuning files.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from agent_srl.data.formats.atif import write_atif
from agent_srl.errors import DataError
from env_server.schema import Action, Step, Trajectory

_OWN_LINES = ("old_str", "new_str", "file_text")
"""Arguments that SWE-smith writes on lines of their own."""


def write_trajectories(
    path: Path, trajectories: Iterable[Trajectory], to: str = "atif", *, strict: bool = True
) -> list[str]:
    """Write JSON lines (gzipped if the name ends in `.gz`), whole or not at all.

    Returns:
        Why trajectories were left out, which only happens without `strict`: the format cannot hold them.

    Raises:
        DataError: the file cannot be written, or (with `strict`) the format cannot hold a trajectory.
    """
    lines, unwritten = [], []
    for trajectory in trajectories:
        try:
            lines.append(json.dumps(WRITERS[to](trajectory), ensure_ascii=False) + "\n")
        except DataError as error:
            if strict:
                raise
            unwritten.append(str(error))
    _write(path, "".join(lines).encode())
    return unwritten


def write_chat(trajectory: Trajectory) -> dict[str, Any]:
    """OpenAI messages: `arguments` are JSON text, `tools` the schemas, derived from the calls where there are none."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": trajectory.problem_statement}]
    for i, step in enumerate(trajectory.steps):
        if step.action is None:
            messages += [_reply(step), {"role": "user", "content": step.observation}]
            continue
        function = {
            "name": step.action.name,
            "arguments": json.dumps(step.action.arguments, ensure_ascii=False),
        }
        call = {"id": f"call_{i}", "type": "function", "function": function}
        if step.same_turn and i and _joins(trajectory.steps[i - 1], step):
            next(m for m in reversed(messages) if m["role"] == "assistant")["tool_calls"].append(call)
        else:
            messages.append(_reply(step) | {"tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"call_{i}", "content": step.observation})
    return _head(trajectory) | {"messages": messages, "tools": trajectory.tools or _tools(trajectory.steps)}


def write_swe_smith_xml(trajectory: Trajectory) -> dict[str, Any]:
    """Roles user and assistant only; each call is a turn of its own. Raises DataError where it cannot be written."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": trajectory.problem_statement}]
    for step in trajectory.steps:
        call = _xml(step.action, trajectory.instance_id) if step.action is not None else ""
        content = "\n\n".join(filter(None, [step.thought, call]))
        messages.append(_reply(step) | {"content": content})
        messages.append({"role": "user", "content": f"OBSERVATION:\n{step.observation}"})
    return _head(trajectory) | {"messages": messages}


WRITERS: dict[str, Callable[[Trajectory], dict[str, Any]]] = {
    "atif": write_atif,
    "chat": write_chat,
    "swe-smith-xml": write_swe_smith_xml,
}
_LOST_IN_TEXT = (
    "why a step is no target, token ids, log-probabilities, rewards of steps, space around thoughts and tasks"
)
LOST = {
    "atif": "",
    "chat": _LOST_IN_TEXT,
    "swe-smith-xml": f"{_LOST_IN_TEXT}, which calls shared a turn, tool schemas, types of arguments (all become text: "
    "False is `false`)",
}
"""What reading back what was written does not give again."""


def _write(path: Path, data: bytes) -> None:
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error.strerror or error}; choose another --out") from error


def _head(trajectory: Trajectory) -> dict[str, Any]:
    head = {
        "instance_id": trajectory.instance_id,
        "repo": trajectory.repo,
        "resolved": trajectory.resolved,
        "source": trajectory.source,
        "model_patch": trajectory.patch,
    }
    return head | ({} if trajectory.reward is None else {"reward": trajectory.reward})


def _reply(step: Step) -> dict[str, Any]:
    reply: dict[str, Any] = {"role": "assistant", "content": step.thought}
    return reply if step.is_target else reply | {"weight": 0}


def _joins(before: Step, step: Step) -> bool:
    """One message has one weight."""
    return before.action is not None and before.is_target == step.is_target


def _tools(steps: list[Step]) -> list[dict[str, Any]]:
    """Schemas with the names that were used: of the tools and of their arguments."""
    names: dict[str, dict[str, Any]] = {}
    for action in (step.action for step in steps if step.action is not None):
        properties = names.setdefault(action.name, {})
        for key, value in action.arguments.items():
            properties.setdefault(key, {"type": _json_type(value)})
    return [
        {"type": "function", "function": {"name": n, "parameters": {"type": "object", "properties": p}}}
        for n, p in names.items()
    ]


def _json_type(value: Any) -> str:
    kinds = ((bool, "boolean"), (int, "integer"), (float, "number"), (list, "array"), (dict, "object"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "string")


def _xml(action: Action, instance_id: str) -> str:
    lines = [f"<function={action.name}>"]
    for key, value in action.arguments.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if "</parameter>" in text or "</function>" in text:
            raise DataError(
                f"{instance_id}: an argument holds </parameter> or </function>, which SWE-smith's XML cannot"
            )
        if key in _OWN_LINES or text != text.strip("\n"):
            text = f"\n{text}\n"
        lines.append(f"<parameter={key}>{text}</parameter>")
    return "\n".join([*lines, "</function>"])
