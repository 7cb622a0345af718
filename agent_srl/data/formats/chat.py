"""Conversations: every format that is a list of messages, told apart by how its replies write their calls.

SWE-smith (XML, back-ticks, tool calls), SWE-Gym and OpenHands chat, nebius and nvidia runs of OpenHands,
mini-swe-agent, plain OpenAI chat with tool calls, ShareGPT. The names differ, the reading does not: what a record is
called is the style of its replies.
"""

from __future__ import annotations

import json
from typing import Any

from agent_srl.data.formats import mini
from agent_srl.data.formats.identity import (
    Origin,
    instance_of,
    model_in,
    patch_in,
    problem_in,
    read_tools,
    repo_in,
    resolved_in,
    reward_in,
)
from agent_srl.data.formats.messages import Message, read_messages, turns
from agent_srl.data.formats.steps import read_steps, strip_tag
from agent_srl.data.formats.styles import STYLES, choose_style
from env_server.schema import Step, Trajectory

NEBIUS = "nebius-swe-agent"
LISTS = ("messages", "conversations", "conversation", "trajectory")
"""Keys under which a record keeps its messages."""


def style_of(record: dict[str, Any]) -> str:
    """The name of a conversation's format. Raises ValueError where it is none."""
    raw = raw_messages(record)
    if any(isinstance(item, dict) and "text" in item and "role" in item for item in raw):
        return NEBIUS
    messages = read_messages(raw)
    style = choose_style(messages)
    said = str(record.get("trajectory_format", "")).startswith("mini-swe-agent")
    if style == "chat" and any(message.calls for message in messages):
        return "mini-swe-agent-v2" if said or mini.wrote(messages) else style
    return "mini-swe-agent-v1" if said and style not in mini.NAMES else style


def read_chat(record: dict[str, Any], origin: Origin, style: str) -> Trajectory:
    """A trajectory from messages in `style`. Raises ValueError where no reply or no task is found."""
    messages = read_messages(raw_messages(record))
    instance_id = instance_of(record, origin)
    source = record.get("source")
    return Trajectory(
        instance_id=instance_id,
        repo=repo_in(record, instance_id),
        problem_statement=problem_in(record, messages),
        steps=_steps(messages, style),
        source=source if isinstance(source, str) and source else f"{style}/{model_in(record)}",
        resolved=resolved_in(record),
        patch=patch_in(record),
        reward=reward_in(record),
        tools=read_tools(record.get("tools")),
    )


def raw_messages(record: dict[str, Any]) -> list[Any]:
    """The list of messages; some data sets keep it as JSON text. Raises ValueError where there is none."""
    for key in LISTS:
        raw = record.get(key)
        if isinstance(raw, str) and raw.lstrip().startswith("["):
            raw = json.loads(raw)
        if isinstance(raw, list):
            return raw
    raise ValueError("no list of messages")


def _steps(messages: list[Message], style: str) -> list[Step]:
    if style in mini.NAMES:
        read = STYLES["chat" if style == "mini-swe-agent-v2" else style]
        return mini.end_by_submit(read_steps(turns(messages), read, mini.clean))
    return read_steps(turns(messages), STYLES["swe-smith-ticks" if style == NEBIUS else style], strip_tag)
