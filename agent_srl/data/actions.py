"""How an action is written in a reply, and read back. One format per family of expert data.

- `xml`: function calls as SWE-agent and SWE-smith write them.
- `hermes`: JSON in `<tool_call>` tags, as the chat templates of Qwen2.5 and Qwen3 write tool calls.
- `bash`: one fenced bash block (mini-swe-agent); submitting is a command too.
- `text`: the action is plain text (a step of a math solution).

`read` is exact: anything around the action is a broken format. `write` is exact too: what `read` would not give back is
refused, never changed.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from agent_srl.data.tools import DEFAULT_TOOLS, Tool, signature, text_parameters, tools_of
from agent_srl.errors import DataError
from env_server.schema import Action, Trajectory

SUBMIT_COMMAND = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
_THOUGHT = "<think>why</think>"


class ActionFormat(ABC):
    """Writes and reads actions."""

    name: str
    tools: tuple[Tool, ...] = ()
    """What the system prompt offers; empty where the format fixes it."""
    system_prompt: str

    @abstractmethod
    def show(self, action: Action) -> str:
        """The action as text; where it cannot be said exactly, as near as the format comes."""

    @abstractmethod
    def read(self, text: str) -> Action | None:
        """The action, or None if `text` is not exactly one action."""

    def write(self, action: Action) -> str:
        """Text that `read` gives back as the same action. Raises DataError where there is none."""
        text = self.show(action)
        back = self.read(text)
        if back is None or _canonical(back) != _canonical(action):
            raise DataError(f"a call of {action.name!r} cannot be written exactly in the format {self.name!r}")
        return text

    def observe(self, text: str) -> str:
        """What came back, as the content of a user's turn."""
        return text


class XmlFormat(ActionFormat):
    """`<function=NAME>` with one `<parameter=NAME>` per argument.

    A parameter that its tool declares a string stands as it is. Any other value is JSON, and so is a string that would
    read as JSON.
    """

    name = "xml"
    _call = re.compile(r"<function=([\w.-]+)>\n(.*?)</function>", re.DOTALL)
    _parameter = re.compile(r"<parameter=([\w.-]+)>(.*?)</parameter>\n", re.DOTALL)

    def __init__(self, tools: Sequence[Tool] = DEFAULT_TOOLS) -> None:
        self.tools, self._text = tuple(tools), text_parameters(tools)
        first = tools[0]["function"]
        parameters = "".join(f"<parameter={p}>...</parameter>\n" for p in first["parameters"]["required"])
        self.system_prompt = (
            "You fix issues in the repository at /testbed. Each reply is a short thought and exactly one function "
            f"call:\n{_THOUGHT}\n<function={first['name']}>\n{parameters}</function>\n"
            f"Functions: {'; '.join(map(signature, tools))}."
        )

    def show(self, action: Action) -> str:
        parameters = "".join(
            f"<parameter={name}>{self._said(action.name, name, value)}</parameter>\n"
            for name, value in action.arguments.items()
        )
        return _encodable(f"<function={action.name}>\n{parameters}</function>")

    def read(self, text: str) -> Action | None:
        call = self._call.fullmatch(text)
        if call is None:
            return None
        arguments: dict[str, Any] = {}
        end = 0
        for match in self._parameter.finditer(call[2]):
            if match.start() != end or match[1] in arguments:
                return None
            arguments[match[1]] = match[2] if (call[1], match[1]) in self._text else _value(match[2])
            end = match.end()
        return Action(name=call[1], arguments=arguments) if end == len(call[2]) else None

    def _said(self, tool: str, parameter: str, value: Any) -> str:
        if isinstance(value, str) and ((tool, parameter) in self._text or _value(value) == value):
            return value
        return _dumps(value)


class HermesFormat(ActionFormat):
    """`{"name": ..., "arguments": {...}}` in `<tool_call>` tags. The texts are those of Qwen2.5's chat template, so
    they equal what it makes of `tools`, of messages with `tool_calls` and of the role `tool`."""

    name = "hermes"
    instruction = (
        "You fix issues in the repository at /testbed. Each reply is a short thought and exactly one function call:\n"
        f'{_THOUGHT}\n<tool_call>\n{{"name": ..., "arguments": {{...}}}}\n</tool_call>'
    )
    _call = re.compile(r"<tool_call>\n(.*)\n</tool_call>", re.DOTALL)

    def __init__(self, tools: Sequence[Tool] = DEFAULT_TOOLS) -> None:
        self.tools = tuple(tools)
        self.system_prompt = (
            f"{self.instruction}\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
            + "\n".join(map(_dumps, tools))
            + "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
            '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": '
            "<args-json-object>}\n</tool_call>"
        )

    def show(self, action: Action) -> str:
        # The template puts the name between quotes as it is.
        call = f'{{"name": "{action.name}", "arguments": {_dumps(action.arguments)}}}'
        return _encodable(f"<tool_call>\n{call}\n</tool_call>")

    def read(self, text: str) -> Action | None:
        match = self._call.fullmatch(text)
        call = _loads(match[1]) if match else None
        if not isinstance(call, dict) or call.keys() != {"name", "arguments"}:
            return None
        if not isinstance(call["name"], str) or not isinstance(call["arguments"], dict):
            return None
        return Action(name=call["name"], arguments=call["arguments"])

    def observe(self, text: str) -> str:
        return f"<tool_response>\n{text}\n</tool_response>"


class BashFormat(ActionFormat):
    """One fenced bash block."""

    name = "bash"
    system_prompt = (
        "You fix issues in the repository at /testbed. Each reply is a short thought and exactly one command:\n"
        f"{_THOUGHT}\n```bash\ncommand\n```\n"
        f"When the issue is fixed, run: {SUBMIT_COMMAND}"
    )
    _block = re.compile(r"```bash\n(.+?)\n```", re.DOTALL)

    def show(self, action: Action) -> str:
        command = SUBMIT_COMMAND if action.name == "submit" else _only_text(action, "command")
        return _encodable(f"```bash\n{command}\n```")

    def read(self, text: str) -> Action | None:
        block = self._block.fullmatch(text)
        if block is None or "```" in block[1] or not block[1].strip():
            return None
        if block[1].startswith(SUBMIT_COMMAND):
            return Action(name="submit")
        return Action(name="bash", arguments={"command": block[1]})


class TextFormat(ActionFormat):
    """The action is the text itself: the next step of a solution."""

    name = "text"
    system_prompt = (
        "You solve a math problem one step at a time. Each reply is a short thought and exactly the next step:\n"
        f"{_THOUGHT}\nthe next step\nPut the final answer in \\boxed{{}}."
    )

    def show(self, action: Action) -> str:
        return _encodable(_only_text(action, "text"))

    def read(self, text: str) -> Action | None:
        step = text.strip()
        return Action(name="step", arguments={"text": step}) if step and "<think>" not in step else None


def _only_text(action: Action, parameter: str) -> str:
    """The one argument that a format without names can say; the others only where it is missing."""
    arguments = action.arguments
    return str(arguments[parameter]) if parameter in arguments else "\n".join(map(str, arguments.values()))


def _value(text: str) -> Any:
    """What `text` says: JSON where it is JSON, else itself."""
    found = _loads(text)
    return text if found is _NOT_JSON else found


_NOT_JSON = object()


def _loads(text: str) -> Any:
    """Strict JSON, or `_NOT_JSON`: no constants beyond the standard, no key twice."""

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _dumps(value: Any) -> str:
    """JSON as chat templates print it."""
    return json.dumps(value, ensure_ascii=False)


def _canonical(action: Action) -> str:
    return f"{action.name}\n{json.dumps(action.arguments)}"


def _encodable(text: str) -> str:
    """Lone surrogates, which no tokenizer takes, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def make_format(name: str, tools: Sequence[Tool] = DEFAULT_TOOLS) -> ActionFormat:
    """The format of that name, offering `tools` where it offers any."""
    if name in ("xml", "hermes"):
        return (XmlFormat if name == "xml" else HermesFormat)(tools)
    return {"bash": BashFormat, "text": TextFormat}[name]()


FORMATS = {name: make_format(name) for name in ("xml", "hermes", "bash", "text")}
"""Each with the default tools."""


def choose_format(name: str, trajectories: list[Trajectory]) -> ActionFormat:
    """The named format, or with `auto` the simplest that can write the target actions; with the trajectories' tools."""
    tools = tools_of(trajectories)
    if name != "auto":
        return make_format(name, tools)
    used = {step.action.name for t in trajectories for step in t.steps if step.is_target and step.action is not None}
    if used == {"step"}:
        return make_format("text")
    return make_format("bash" if tools == DEFAULT_TOOLS and used <= {"bash", "submit"} else "xml", tools)
