"""OpenHands' event streams (`output.jsonl`, saved sessions): actions and observations, paired by `cause`.

Old streams have no ids: there an observation follows its action. A model's reply that called several tools is several
actions with one response id; they are steps of one turn. With `tool_call_metadata` the call is the model's own; without
it, the event's name and arguments.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from agent_srl.data.formats.messages import Call, Message, plain_text, read_call
from agent_srl.data.formats.steps import make_step
from env_server.schema import Step, Trajectory

NAME = "openhands-events"

_NO_TURN = frozenset(
    {
        "system",
        "recall",
        "condensation",
        "condensation_request",
        "change_agent_state",
        "null",
        "push",
        "send_pr",
        "start_delegate",
    }
)
"""Events of the agent's that no reply of the model stands behind."""
_ABOUT = frozenset(
    {
        "id",
        "timestamp",
        "source",
        "message",
        "action",
        "thought",
        "final_thought",
        "timeout",
        "blocking",
        "keep_prompt",
        "is_confirmed",
        "confirmation_state",
        "security_risk",
        "action_risk",
        "kernel_init_code",
        "is_input",
        "is_static",
        "hidden",
        "cwd",
        "tool_call_metadata",
        "llm_metrics",
        "images_urls",
        "image_urls",
        "wait_for_response",
    }
)
"""What an old event holds besides the arguments of its call."""


def is_events(record: dict[str, Any]) -> bool:
    """Its history holds events, or the pairs of them that OpenHands wrote before 0.10."""
    first = next(_events(record), {})
    return "role" not in first and bool(first.keys() & {"action", "observation"})


def read_events(record: dict[str, Any], origin: Origin) -> Trajectory:
    """A trajectory from an event stream. Raises ValueError where it names no task."""
    events = list(_events(record))
    record = _with_issue(record)
    instance_id = instance_of(record, origin)
    return Trajectory(
        instance_id=instance_id,
        repo=repo_in(record, instance_id),
        problem_statement=problem_in(record, _asked(record, events)),
        steps=list(_steps(events)),
        source=f"{NAME}/{model_in(record)}",
        resolved=resolved_in(record),
        patch=patch_in(record),
    )


def _with_issue(record: dict[str, Any]) -> dict[str, Any]:
    """The resolver's output names its task by an issue; told as SWE-bench tells its instances."""
    issue = record.get("issue")
    if not isinstance(issue, dict) or not all(issue.get(key) for key in ("owner", "repo", "number")):
        return record
    told = {
        "repo": f"{issue['owner']}/{issue['repo']}",
        "instance_id": f"{issue['owner']}__{issue['repo']}-{issue['number']}",
        "problem_statement": "\n".join(plain_text(issue.get(key)) for key in ("title", "body")).strip(),
    }
    return told | record


def _asked(record: dict[str, Any], events: list[dict[str, Any]]) -> list[Message]:
    """The first message of the user's, else the instruction that the record keeps."""
    said = [_said(event) for event in events if event.get("action") == "message" and not _by_agent(event)]
    said = [text for text in said if text.strip()] or [plain_text(record.get("instruction"))]
    return [Message("user", said[0])]


def _events(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    history = record.get("history")
    for item in history if isinstance(history, list) else []:
        yield from (event for event in (item if isinstance(item, list) else [item]) if isinstance(event, dict))


def _steps(events: list[dict[str, Any]]) -> Iterator[Step]:
    outputs, response = _outputs(events), None
    for i, event in enumerate(events):
        if not _by_agent(event):
            continue
        call, thought, previous = _call(event), _thought(event), response
        response = _response_id(event)
        if call is None:
            yield Step(thought=thought, action=None, observation=outputs.get(i, ""))
            continue
        same_turn = response is not None and response == previous
        yield make_step(call, "" if same_turn else thought, outputs.get(i, ""), same_turn=same_turn)


def _by_agent(event: dict[str, Any]) -> bool:
    """The event is a turn of the agent's."""
    name = event.get("action")
    if not isinstance(name, str) or name in _NO_TURN:
        return False
    return bool(event.get("source", "user" if name == "message" else "agent") == "agent")


def _call(event: dict[str, Any]) -> Call | None:
    """The tool call behind an event; None for a message."""
    metadata = event.get("tool_call_metadata")
    if isinstance(metadata, dict):
        for call in _model_calls(metadata):
            if call.id == str(metadata.get("tool_call_id")):
                return call
    if event["action"] == "message":
        return None
    name = metadata.get("function_name") if isinstance(metadata, dict) else None
    arguments = event.get("args")
    if not isinstance(arguments, dict):
        arguments = event
    given = {k: v for k, v in arguments.items() if k not in _ABOUT and v is not None and v != {}}
    return Call(str(name or event["action"]), given)


def _model_calls(metadata: dict[str, Any]) -> list[Call]:
    response = metadata.get("model_response")
    choices = response.get("choices") if isinstance(response, dict) else None
    message = (
        choices[0].get("message") if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    )
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    return [read_call(call) for call in calls] if isinstance(calls, list) else []


def _response_id(event: dict[str, Any]) -> str | None:
    metadata = event.get("tool_call_metadata")
    response = metadata.get("model_response") if isinstance(metadata, dict) else None
    return str(response["id"]) if isinstance(response, dict) and response.get("id") else None


def _thought(event: dict[str, Any]) -> str:
    arguments = event.get("args")
    place = arguments if isinstance(arguments, dict) else event
    keys = ("content",) if event["action"] == "message" else ("thought", "final_thought")
    return next((plain_text(place[key]).strip() for key in keys if place.get(key)), "")


def _said(event: dict[str, Any]) -> str:
    arguments = event.get("args")
    return plain_text(arguments.get("content") if isinstance(arguments, dict) else event.get("content"))


def _outputs(events: list[dict[str, Any]]) -> dict[int, str]:
    """What came back, by the position of the action. A user's message answers the agent's message before it."""
    ids = {event.get("id"): i for i, event in enumerate(events) if "action" in event and event.get("id") is not None}
    outputs: dict[int, list[str]] = {}
    last = None
    for i, event in enumerate(events):
        if _by_agent(event):
            last = i
        elif event.get("action") == "message" and last is not None:
            outputs.setdefault(last, []).append(_said(event))
        elif "observation" in event and event["observation"] not in (None, "null", "agent_state_changed"):
            cause = ids.get(event.get("cause"), last if event.get("cause") is None else None)
            if cause is not None:
                outputs.setdefault(cause, []).append(plain_text(event.get("content")))
    return {i: "\n".join(filter(None, texts)) for i, texts in outputs.items()}
