"""Why a pair scores as it does: every kind's value, the parts, what each call is taken for, the matching blocks."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent_srl.rewards.blocks import matching_blocks
from agent_srl.rewards.kinds import REWARDS, score_calls
from agent_srl.rewards.reading.intents import Intent
from agent_srl.rewards.reading.tools import read_action
from agent_srl.rewards.similarity import MAX_CHARS, bare_call
from env_server.schema import Action

_SHOWN = 60


def explanation(candidates: Sequence[Action], experts: Sequence[Action]) -> Group:
    """What rich prints; one block of text per side, with what matches in green."""
    left, right = ("\n".join(bare_call(action) for action in side)[:MAX_CHARS] for side in (candidates, experts))
    parts: list[RenderableType] = [_values(candidates, experts), _intents(candidates, experts)]
    return Group(*parts, Text("matching blocks (of ratio)", style="bold"), *_blocks(left, right))


def _values(candidates: Sequence[Action], experts: Sequence[Action]) -> Table:
    table = Table("reward", "value", "parts")
    for kind in REWARDS:
        scored = score_calls(kind, candidates, experts)
        inner = {k.partition(".")[2]: v for k, v in scored.parts.items() if "." in k}
        table.add_row(kind, f"{scored.value:.3f}", "  ".join(f"{k} {v:.2f}" for k, v in inner.items()))
    return table


def _intents(candidates: Sequence[Action], experts: Sequence[Action]) -> Table:
    table = Table("call", "kind", "where", "what", "destroys")
    for side, actions in (("expert", experts), ("candidate", candidates)):
        for intent in (intent for action in actions for intent in read_action(action)):
            lost = ", ".join(loss.path for loss in intent.losses)
            cells = (side, f"{intent.kind} {intent.verb}".strip(), _where(intent), _what(intent), lost)
            table.add_row(*map(Text, cells))  # as text: a path may look like markup
    return table


def _where(intent: Intent) -> str:
    found = []
    for target in intent.targets:
        lines = "" if target.whole else f":{target.first or 1}-{target.last or 'end'}"
        found.append(f"{target.path or '(current file)'}{lines}{'::' if target.symbol else ''}{target.symbol}")
    return "\n".join(found)


def _what(intent: Intent) -> str:
    if intent.change is None:
        return _short(" ".join([intent.content, *sorted(intent.flags)]))
    change = intent.change
    lines = "" if change.first is None else f"lines {change.first}-{change.last}: "
    return lines + (f"{_short(change.old)} -> " if change.old else "") + _short(change.new)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _blocks(left: str, right: str) -> tuple[Text, Text]:
    """Both texts; green where a block of the other matches, red elsewhere."""
    candidate, expert = Text("candidate  "), Text("expert     ")
    at, to = 0, 0
    for i, j, size in [*matching_blocks(left, right), (len(left), len(right), 0)]:
        candidate.append(left[at:i], "red").append(left[i : i + size], "green")
        expert.append(right[to:j], "red").append(right[j : j + size], "green")
        at, to = i + size, j + size
    return expert, candidate
