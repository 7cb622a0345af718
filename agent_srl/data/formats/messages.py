"""Chat messages of every dialect in one shape, and their grouping into turns.

Dialects: OpenAI chat (tool calls, the older `function_call`, lists of content parts, answers of the Responses API),
Anthropic content blocks, ShareGPT (`from`, `value`), nebius (`role`, `text`). What follows a reply up to the next one
is its answer. mini-swe-agent 2 keeps a reply that it refused only inside its complaint: it is put back before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "assistant": "assistant",
    "ai": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""Every other role is a user's, but for `exit`, by which mini-swe-agent ends."""


_COMPLAINT = re.compile(
    r"\A\s*(?:Please always provide EXACTLY ONE|Your output was not formatted correctly|Format error:|Tool call error:"
    r"|Your previous response reached the output token limit)"
)
_NEW_TASK = "UserNewTask"
"""The one interruption of mini-swe-agent that blames nothing: a further task after a run that was handed in."""


@dataclass(frozen=True)
class Call:
    """A tool call as the expert wrote it."""

    name: str
    arguments: dict[str, Any] | None
    """None if they are no JSON object."""
    id: str = ""


@dataclass(frozen=True)
class Message:
    """One message. `answers` holds the ids of the calls that a tool's message answers."""

    role: Role
    text: str = ""
    calls: tuple[Call, ...] = ()
    answers: tuple[str, ...] = ()
    untrained: bool = False
    """The source says that this reply must not be learnt from (`weight: 0`, as in OpenAI's fine-tuning files)."""
    interrupts: bool = False
    """The harness or its user stopped the reply before it (mini-swe-agent's `interrupt_type`)."""

    @property
    def complains(self) -> bool:
        """Says that a reply was refused, so it is neither a task nor what a tool said."""
        return self.interrupts or bool(_COMPLAINT.match(self.text))


@dataclass(frozen=True)
class Turn:
    """A reply and what came back before the next one."""

    reply: Message
    answers: tuple[Message, ...]


def read_messages(raw: Iterable[Any]) -> list[Message]:
    """Messages in order, demonstrations left out. Raises ValueError where one is no object."""
    messages: list[Message] = []
    for item in raw:
        if not isinstance(item, dict):
            raise ValueError("a message is not a JSON object")
        if not item.get("is_demo"):
            messages += _read(item)
    return messages


def turns(messages: Iterable[Message]) -> Iterator[Turn]:
    """A turn for each reply."""
    reply: Message | None = None
    answers: list[Message] = []
    for message in messages:
        if message.role != "assistant":
            answers.append(message)
            continue
        if reply is not None:
            yield Turn(reply, tuple(answers))
        reply, answers = message, []
    if reply is not None:
        yield Turn(reply, tuple(answers))


def read_call(raw: Any) -> Call:
    """A call in OpenAI's or Anthropic's form. Arguments that are null were not given. Raises ValueError."""
    function = raw.get("function") if isinstance(raw, dict) else None
    body = function if isinstance(function, dict) else raw
    name = body.get("name") if isinstance(body, dict) else None
    if not isinstance(name, str) or not name:
        raise ValueError("a tool call without a name")
    arguments = body.get("arguments", body.get("input", body.get("parameters")))
    identity = raw.get("id") or raw.get("call_id") or ""
    return Call(name, read_arguments(arguments), str(identity))


def plain_text(content: Any) -> str:
    """The text of a message's content: a string, a list of parts, or nothing."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(text for part in content if (text := _part_text(part)))
    return json.dumps(content, ensure_ascii=False)


def _read(item: dict[str, Any]) -> Iterator[Message]:
    if item.get("object") == "response":
        yield _response(item)
        return
    if item.get("type") == "function_call_output":
        yield Message("tool", plain_text(item.get("output")), answers=_ids(item.get("call_id")))
        return
    name = item.get("role", item.get("from"))
    if not isinstance(name, str):
        raise ValueError("a message without a role")
    if name == "exit":
        return
    role = ROLES.get(name, "user")
    extra = item["extra"] if isinstance(item.get("extra"), dict) else {}
    interruption = extra.get("interrupt_type")
    if interruption == "FormatError":
        yield _refused(extra)
    content = next((item[key] for key in ("content", "value", "text", "system_prompt") if item.get(key)), None)
    if role == "assistant":
        yield _reply(item, content)
        return
    parts = content if isinstance(content, list) else []
    for part in parts:
        if isinstance(part, dict) and part.get("type") == "tool_result":
            yield Message("tool", plain_text(part.get("content")), answers=_ids(part.get("tool_use_id")))
    text = plain_text(content)
    if text or not parts:
        yield Message(
            role,
            text,
            answers=_ids(item.get("tool_call_ids", item.get("tool_call_id"))),
            interrupts=interruption not in (None, _NEW_TASK),
        )


def _reply(item: dict[str, Any], content: Any) -> Message:
    calls = [read_call(call) for call in _list(item.get("tool_calls"))]
    if not calls and isinstance(item.get("function_call"), dict):
        calls = [read_call(item["function_call"])]
    parts = content if isinstance(content, list) else []
    if not calls:
        calls = [read_call(part) for part in parts if isinstance(part, dict) and part.get("type") == "tool_use"]
    thinking = [_thinking(part) for part in parts] or [plain_text(item.get("reasoning_content"))]
    text = "\n\n".join(filter(None, [*(t.strip() for t in thinking), plain_text(content).strip()]))
    return Message("assistant", text, tuple(calls), untrained=item.get("weight") == 0)


def _response(item: dict[str, Any]) -> Message:
    """A reply that OpenAI's Responses API gave, kept whole by mini-swe-agent."""
    output = [part for part in _list(item.get("output")) if isinstance(part, dict)]
    calls = tuple(
        Call(
            str(part.get("name")),
            read_arguments(part.get("arguments")),
            str(part.get("call_id") or part.get("id") or ""),
        )
        for part in output
        if part.get("type") == "function_call"
    )
    said = [
        plain_text(part.get("content", part.get("summary"))) for part in output if part.get("type") != "function_call"
    ]
    return Message("assistant", "\n\n".join(text.strip() for text in said if text.strip()), calls)


def _refused(extra: dict[str, Any]) -> Message:
    """The reply inside a complaint; without text or calls where it was kept in no form that can be read."""
    response = extra.get("response")
    if isinstance(response, dict) and response.get("object") == "response":
        return _response(response)
    choices = _list(response.get("choices")) if isinstance(response, dict) else []
    reply = choices[0].get("message") if choices and isinstance(choices[0], dict) else None
    if isinstance(reply, dict):
        with suppress(ValueError):  # a call that is broken is one reason to refuse a reply
            return _reply(reply, reply.get("content"))
        return Message("assistant", plain_text(reply.get("content")).strip())
    return Message("assistant", plain_text(extra.get("model_response")).strip())


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type") in ("tool_use", "tool_result", "thinking", "reasoning"):
        return ""
    return part["text"] if isinstance(part.get("text"), str) else ""


def _thinking(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") not in ("thinking", "reasoning"):
        return ""
    return plain_text(part.get("thinking", part.get("text")))


def read_arguments(raw: Any, *, drop_null: bool = True) -> dict[str, Any] | None:
    """Arguments as an object, from an object or its JSON text; None if they are neither."""
    if isinstance(raw, str):
        try:
            raw = json.loads(raw or "{}", strict=False)
        except ValueError:
            return None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        return None
    return {str(key): value for key, value in raw.items() if value is not None or not drop_null}


def _ids(raw: Any) -> tuple[str, ...]:
    if raw is None:
        return ()
    return tuple(str(value) for value in raw) if isinstance(raw, list) else (str(raw),)


def _list(raw: Any) -> list[Any]:
    """A list, or nothing; data sets also keep lists as JSON text."""
    if isinstance(raw, str):
        raw = json.loads(raw or "[]")
    return raw if isinstance(raw, list) else []
