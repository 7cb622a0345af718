"""Split a reply into thought and action. The whole reply must be exactly that, ended by the end token."""

from __future__ import annotations

import re

from agent_srl.data.actions import ActionFormat
from env_server.schema import Action

_REPLY = re.compile(r"\s*<think>(.*?)</think>\s*(.*?)\s*", re.DOTALL)


def write_reply(thought: str, action: Action, fmt: ActionFormat) -> str:
    """The reply that an expert's step becomes; the inverse of `parse_reply`."""
    return f"<think>{thought}</think>\n{fmt.write(action)}"


def parse_reply(text: str, fmt: ActionFormat, *, min_thought_words: int = 1) -> tuple[str, Action] | None:
    """Thought and action, or None where the format is broken (a thought of too few words counts as broken)."""
    match = _REPLY.fullmatch(text)
    if match is None or "<think>" in match[1] or len(match[1].split()) < min_thought_words:
        return None
    action = fmt.read(match[2])
    return (match[1].strip(), action) if action is not None else None
