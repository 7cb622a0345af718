"""The rewards under test, by name: our kinds, the paper's ratio on the wrapped call, and NeMo-Gym's rule."""

from __future__ import annotations

from collections.abc import Callable

from agent_srl.data.actions import XmlFormat
from agent_srl.rewards.kinds import score
from agent_srl.rewards.similarity import ratio
from benchmarks.reward_ranking.nemo_gym import swe_pivot
from env_server.schema import Action

Scorer = Callable[[Action, Action], float]
OURS = ("ratio", "tokens", "structured", "exact", "tool_name")


def kind(name: str) -> Scorer:
    """One of our kinds as a function of (candidate, expert)."""

    def value(candidate: Action, expert: Action) -> float:
        return score(name, candidate, expert).value

    return value


def ratio_wrapped(candidate: Action, expert: Action) -> float:
    """The ratio with the XML of the call left on."""
    return ratio(_XML.write(candidate), _XML.write(expert))


_XML = XmlFormat()
SCORERS: dict[str, Scorer] = {
    **{name: kind(name) for name in OURS},
    "ratio_wrapped": ratio_wrapped,
    "nemo_gym": swe_pivot,
}
