"""The rewards as TRL's `GRPOTrainer` takes them (TRL 1.16): `reward_funcs=[make_reward("structured", FORMATS["xml"])]`.

TRL itself is not imported: a reward function is a plain callable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent_srl.data.actions import ActionFormat
from agent_srl.rewards.calls import read_calls, read_json
from agent_srl.rewards.kinds import REWARDS, Weights, score_calls
from agent_srl.rewards.parse import parse_reply
from agent_srl.rewards.similarity import INVALID_REWARD
from env_server.schema import Action

Completion = str | Sequence[Mapping[str, Any]]
RewardFunction = Callable[..., list[float | None]]


def make_reward(
    kind: str | Weights, fmt: ActionFormat, *, column: str = "expert", min_thought_words: int = 1
) -> RewardFunction:
    """A reward function over the dataset column that holds the expert's call.

    The function takes `prompts`, `completions` and the dataset's columns, as TRL gives them, and returns one reward per
    completion: the score in [0, 1], -1 for a broken format, None where the column is None. A completion is a text, read
    in `fmt`, or chat messages: then the last message's `tool_calls` are scored, or its content in `fmt` if it has none.
    The column holds a call or a list of parallel calls, as JSON.

    Raises:
        KeyError: an unknown kind; when called, a dataset without the column.
        ValueError: when called, a column that is no call.
    """
    for name in [kind] if isinstance(kind, str) else kind:
        if name not in REWARDS:
            raise KeyError(f"unknown reward {name!r}: choose from {', '.join(REWARDS)}")

    def reward(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> list[float | None]:
        values: list[float | None] = []
        for completion, expert in zip(completions, columns[column], strict=True):
            if expert is None:
                values.append(None)
                continue
            calls = _calls(completion, fmt, min_thought_words)
            expected = read_calls(read_json(expert) if isinstance(expert, str) else expert)
            values.append(score_calls(kind, calls, expected).value if calls else INVALID_REWARD)
        return values

    reward.__name__ = f"srl_{kind if isinstance(kind, str) else '_'.join(kind)}"
    return reward


def _calls(completion: Completion, fmt: ActionFormat, min_thought_words: int) -> list[Action]:
    """The calls of a completion; none where the format is broken."""
    if not isinstance(completion, str):
        message = completion[-1] if completion else {}
        if message.get("tool_calls"):
            try:
                return read_calls(list(message["tool_calls"]))
            except ValueError:
                return []
        completion = str(message.get("content") or "")
    parsed = parse_reply(completion, fmt, min_thought_words=min_thought_words)
    return [parsed[1]] if parsed else []
