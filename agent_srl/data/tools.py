"""Which tools an agent has: OpenAI function schemas, declared by trajectories or inferred from their calls.

The declared types matter beyond the prompt: the XML format writes what is declared a string as it stands, and
everything else as JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from env_server.schema import Trajectory

Tool = dict[str, Any]
"""`{"type": "function", "function": {"name": ..., "parameters": JSON schema}}`."""

_JSON_TYPES = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}
_TEXT = {"type": "string"}


def _tool(name: str, properties: dict[str, Any], required: list[str]) -> Tool:
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


DEFAULT_TOOLS: tuple[Tool, ...] = (
    _tool("bash", {"command": _TEXT}, ["command"]),
    _tool(
        "str_replace_editor",
        {
            "command": {"type": "string", "enum": ["view", "create", "str_replace", "insert"]},
            "path": _TEXT,
            "file_text": _TEXT,
            "old_str": _TEXT,
            "new_str": _TEXT,
            "insert_line": {"type": "integer"},
            "view_range": {"type": "array", "items": {"type": "integer"}},
        },
        ["command", "path"],
    ),
    _tool("submit", {}, []),
)
"""SWE-agent's, which are our sessions' too."""


def tools_of(trajectories: Iterable[Trajectory]) -> tuple[Tool, ...]:
    """The tools that the trajectories declare, and those that their target calls use beside them.

    With none declared these are the default tools where they explain every call, else one schema per tool as its calls
    show it.
    """
    declared: dict[str, Tool] = {}
    calls: dict[str, list[dict[str, Any]]] = {}
    for trajectory in trajectories:
        for tool in trajectory.tools:
            declared.setdefault(tool["function"]["name"], _normal(tool["function"]))
        for step in trajectory.steps:
            if step.is_target and step.action is not None:
                calls.setdefault(step.action.name, []).append(step.action.arguments)
    known = {tool["function"]["name"]: tool for tool in DEFAULT_TOOLS}
    explained = all(name in known and all(_explains(known[name], c) for c in found) for name, found in calls.items())
    if not declared and explained:
        return DEFAULT_TOOLS
    return tuple((declared | {n: _inferred(n, found) for n, found in calls.items() if n not in declared}).values())


def text_parameters(tools: Iterable[Tool]) -> set[tuple[str, str]]:
    """(tool, parameter) of every parameter that is a string and nothing else."""
    return {
        (tool["function"]["name"], name)
        for tool in tools
        for name, schema in tool["function"]["parameters"]["properties"].items()
        if schema.get("type") == "string"
    }


def signature(tool: Tool) -> str:
    """One line for a prompt: `name(parameter, choice=a|b)`."""
    parameters = [
        f"{name}={'|'.join(map(str, schema['enum']))}" if "enum" in schema else name
        for name, schema in tool["function"]["parameters"]["properties"].items()
    ]
    return f"{tool['function']['name']}({', '.join(parameters)})"


def _normal(function: dict[str, Any]) -> Tool:
    """Without the nulls that tables of records leave in schemas; a tool without parameters has an empty object."""
    kept: dict[str, Any] = _without_nulls(function)
    parameters = {"type": "object", "properties": {}, "required": []} | kept.get("parameters", {})
    return {"type": "function", "function": kept | {"parameters": parameters}}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value if v is not None] if isinstance(value, list) else value


def _explains(tool: Tool, call: dict[str, Any]) -> bool:
    properties = tool["function"]["parameters"]["properties"]
    return all(name in properties and properties[name]["type"] == _json_type(value) for name, value in call.items())


def _inferred(name: str, calls: list[dict[str, Any]]) -> Tool:
    types: dict[str, set[str]] = {}
    for call in calls:
        for parameter, value in call.items():
            types.setdefault(parameter, set()).add(_json_type(value))
    given = Counter(parameter for call in calls for parameter in call)
    properties = {p: {"type": next(iter(t)) if len(t) == 1 else sorted(t)} for p, t in types.items()}
    return _tool(name, properties, [p for p in types if given[p] == len(calls)])


def _json_type(value: Any) -> str:
    return _JSON_TYPES.get(type(value), "string")
