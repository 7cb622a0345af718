"""Event streams of OpenHands' SDK (1.x): `kind` names the event, an answer names the call by its id.

A reply of several calls is several `ActionEvent`s with one `llm_response_id`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from agent_srl.data.formats.identity import (
    Origin,
    instance_of,
    model_in,
    patch_in,
    problem_in,
    repo_in,
    resolved_in,
)
from agent_srl.data.formats.messages import Message, plain_text, read_call, turns
from agent_srl.data.formats.steps import read_steps, strip_tag
from agent_srl.data.formats.styles import read_tool_calls
from env_server.schema import Trajectory

NAME = "openhands-sdk"


def is_sdk_events(record: dict[str, Any]) -> bool:
    """Its history holds events that say their kind."""
    events = record.get("history")
    first = events[0] if isinstance(events, list) and events else None
    return isinstance(first, dict) and str(first.get("kind", "")).endswith("Event")


def read_sdk_events(record: dict[str, Any], origin: Origin) -> Trajectory:
    """A trajectory from an event stream. Raises ValueError where it names no task."""
    messages = _messages(event for event in record.get("history") or [] if isinstance(event, dict))
    instance_id = instance_of(record, origin)
    instruction = Message("user", plain_text(record.get("instruction")))
    return Trajectory(
        instance_id=instance_id,
        repo=repo_in(record, instance_id),
        problem_statement=problem_in(record, [instruction, *messages]),
        steps=read_steps(turns(messages), read_tool_calls, strip_tag),
        source=f"{NAME}/{model_in(record)}",
        resolved=resolved_in(record),
        patch=patch_in(record),
    )


def _messages(events: Iterable[dict[str, Any]]) -> list[Message]:
    messages: list[Message] = []
    replies: dict[str, int] = {}
    for event in events:
        kind = event.get("kind")
        if kind == "ActionEvent":
            _add_action(event, messages, replies)
        elif kind == "MessageEvent":
            said = event.get("llm_message")
            text = plain_text(said.get("content")) if isinstance(said, dict) else ""
            messages.append(Message("assistant" if event.get("source") == "agent" else "user", text))
        elif kind in ("ObservationEvent", "AgentErrorEvent", "UserRejectObservation"):
            messages.append(Message("tool", _output(event), answers=(str(event.get("tool_call_id")),)))
    return messages


def _add_action(event: dict[str, Any], messages: list[Message], replies: dict[str, int]) -> None:
    """A reply of its own, or a further call of the reply that it belongs to."""
    called = event.get("tool_call")
    call = read_call(
        called if isinstance(called, dict) else {"name": event.get("tool_name"), "arguments": _given(event)}
    )
    response = event.get("llm_response_id")
    if isinstance(response, str) and response in replies:
        at = replies[response]
        messages[at] = replace(messages[at], calls=(*messages[at].calls, call))
        return
    thought = plain_text(event.get("thought")) or plain_text(event.get("reasoning_content"))
    if isinstance(response, str):
        replies[response] = len(messages)
    messages.append(Message("assistant", thought, (call,)))


def _given(event: dict[str, Any]) -> dict[str, Any]:
    action = event.get("action")
    return {key: value for key, value in action.items() if key != "kind"} if isinstance(action, dict) else {}


def _output(event: dict[str, Any]) -> str:
    observation = event.get("observation")
    content = observation.get("content") if isinstance(observation, dict) else observation
    return plain_text(content) or plain_text(event.get("error", event.get("rejection_reason")))
