"""The kinds of reward, and how they are put together: a weighted mean, parallel calls by assignment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent_srl.rewards.assignment import assign, matched_share
from agent_srl.rewards.similarity import bare_call, ratio
from agent_srl.rewards.structured import structured
from agent_srl.rewards.tokens import token_ratio
from env_server.schema import Action


@dataclass(frozen=True)
class Score:
    """A reward in [0, 1] and what it is made of, each in [0, 1]."""

    value: float
    parts: dict[str, float] = field(default_factory=dict)


Reward = Callable[[Action, Action], Score]
Weights = Mapping[str, float]


def _ratio(candidate: Action, expert: Action) -> Score:
    return Score(ratio(bare_call(candidate), bare_call(expert)))


def _tokens(candidate: Action, expert: Action) -> Score:
    return Score(token_ratio(bare_call(candidate), bare_call(expert)))


def _structured(candidate: Action, expert: Action) -> Score:
    return Score(*structured(candidate, expert))


def _exact(candidate: Action, expert: Action) -> Score:
    same = candidate.name == expert.name and bare_call(candidate) == bare_call(expert)
    return Score(float(same or candidate == expert))


def _tool_name(candidate: Action, expert: Action) -> Score:
    return Score(float(candidate.name == expert.name))


REWARDS: dict[str, Reward] = {
    "ratio": _ratio,
    "tokens": _tokens,
    "structured": _structured,
    "exact": _exact,
    "tool_name": _tool_name,
}
"""(candidate, expert) -> Score. `ratio` is the paper's; `exact` and `tool_name` are there to compare with."""


def score(kind: str | Weights, candidate: Action, expert: Action) -> Score:
    """The score of one kind, or the mean of several by their weights; each kind's value is a part.

    Raises:
        KeyError: an unknown kind.
    """
    weights = {kind: 1.0} if isinstance(kind, str) else kind
    total, value = sum(weights.values()), 0.0
    parts: dict[str, float] = {}
    for name, weight in weights.items():
        one = REWARDS[name](candidate, expert)
        value += weight * one.value / total
        parts |= {name: one.value} | {f"{name}.{part}": v for part, v in one.parts.items()}
    return Score(min(1.0, value), parts)


def score_calls(kind: str | Weights, candidates: Sequence[Action], experts: Sequence[Action]) -> Score:
    """Parallel calls: the assignment that is worth most; a call without a partner costs, on either side (F1).

    Two empty lists are equal. Parts are means over the matched pairs.
    """
    if len(candidates) == len(experts) == 1:
        return score(kind, candidates[0], experts[0])
    table = [[score(kind, candidate, expert) for expert in experts] for candidate in candidates]
    worth = [[cell.value for cell in row] for row in table]
    value = matched_share(worth, [1.0] * len(candidates), [1.0] * len(experts))
    matched = [table[i][j].parts for i, j in assign(worth)]
    names = matched[0] if matched else ()
    return Score(value, {name: sum(parts[name] for parts in matched) / len(matched) for name in names})
