"""Calls as JSON: `{"name": ..., "arguments": {...}}`; the arguments are an object or, as in OpenAI's, a JSON string."""

from __future__ import annotations

import json
from typing import Any

from env_server.schema import Action


def read_calls(value: Any) -> list[Action]:
    """One call, or a list of parallel calls. Raises ValueError with a reason."""
    return [read_call(one) for one in value] if isinstance(value, list) else [read_call(value)]


def read_call(value: Any) -> Action:
    """One call, bare or inside OpenAI's `{"type": "function", "function": CALL}`. Raises ValueError with a reason."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ValueError('a call is {"name": ..., "arguments": {...}}')
    arguments = value.get("arguments")
    if isinstance(arguments, str):
        arguments = read_json(arguments or "{}")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of {value['name']!r} are no JSON object")
    return Action(name=value["name"], arguments=arguments)


def read_json(text: str | bytes) -> Any:
    """Raises ValueError with a reason in one line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
